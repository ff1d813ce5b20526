"""One process of a run on several devices: takes the configuration that its parent has validated and written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import yaml

from hybrid_ir.cli import execute, report_errors
from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.run_folder import CONFIG_FILE, OVERRIDES_FILE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs ``python -m hybrid_ir.launching.worker COMMAND FOLDER [--resume] [--dry-run]``; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m hybrid_ir.launching.worker", description=__doc__)
    parser.add_argument("command", choices=["train", "evaluate"])
    parser.add_argument("folder", help="folder with config.yaml and overrides.yaml")
    parser.add_argument("--resume", action="store_true", help="continue the run in the folder")
    parser.add_argument("--dry-run", action="store_true", help="only estimate")
    options = parser.parse_args(arguments)
    with open(f"{options.folder}/{CONFIG_FILE}", encoding="utf-8") as file:
        raw = yaml.safe_load(file)
    with open(f"{options.folder}/{OVERRIDES_FILE}", encoding="utf-8") as file:
        overrides = yaml.safe_load(file)
    config: TrainConfig | EvaluateConfig
    if options.command == "train":
        raw.update(resume=options.folder if options.resume else None, dry_run=options.dry_run)
        config = TrainConfig.model_validate(raw)
    else:
        config = EvaluateConfig.model_validate(raw)
    return report_errors(lambda: execute(config, overrides))


if __name__ == "__main__":
    raise SystemExit(main())
