"""``python -m hybrid_ir.evaluate``: evaluates a retriever."""

from __future__ import annotations

from hybrid_ir.cli import run_command


def main() -> int:
    """Runs the command line; returns the exit code."""
    return run_command("evaluate")


if __name__ == "__main__":
    raise SystemExit(main())
