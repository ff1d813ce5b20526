"""Evaluates a retriever; the same as ``python -m hybrid_ir.evaluate``."""

from hybrid_ir.evaluate import main

if __name__ == "__main__":
    raise SystemExit(main())
