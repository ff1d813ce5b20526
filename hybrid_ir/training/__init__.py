"""Training runs: from a validated configuration to a folder with a model, results and their provenance."""

from hybrid_ir.training.run import run_training

__all__ = ["run_training"]
