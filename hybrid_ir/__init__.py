"""Hybrid batch training of multilingual retrievers: how much monolingual, how much cross-lingual?"""

__version__ = "0.1.0"
