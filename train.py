"""Trains a retriever; the same as ``python -m hybrid_ir.train``."""

from hybrid_ir.train import main

if __name__ == "__main__":
    raise SystemExit(main())
