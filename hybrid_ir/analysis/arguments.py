"""What the command lines of analyses share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

from hybrid_ir.composition import one_line
from hybrid_ir.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """A parser whose errors are those of a user: one line, exit code 2."""

    def __init__(self, module: str, description: str) -> None:
        super().__init__(
            prog=f"python -m {module}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{one_line(message)}; --help explains the options")

    def add_draws(self) -> None:
        """Adds the numbers of permutations and resamples, and their seed."""
        self.add_argument("--permutations", type=_count, default=10_000, metavar="N", help="of the test (10000)")
        self.add_argument("--resamples", type=_count, default=10_000, metavar="N", help="of intervals (10000)")
        self.add_argument("--seed", type=_seed, default=0, metavar="N", help="of permutations and resamples (0)")

    def add_sweeps(self) -> None:
        """Adds folders of sweeps, metrics and benchmarks."""
        self.add_argument("sweeps", nargs="+", metavar="SWEEP", help="folder of a sweep; several are joined")
        self.add_argument(
            "--metric",
            action="extend",
            nargs="+",
            metavar="NAME",
            help="the primary one first (default: map, ndcg@10, recall@10, recall@100, rank_distance and those of "
            "language bias, as far as all runs have them)",
        )
        self.add_argument(
            "--benchmark", action="append", metavar="NAME", help="may be repeated (default: all that are common)"
        )


def output_folder(given: str | None, sweeps: list[str], below: str = "") -> Path:
    """The folder that files are written into: the one given, else (a folder in) that of the sweep.

    Raises:
        ConfigError: it is a file, cannot be made, or must be given since there are several sweeps.
    """
    if given is None and len(sweeps) > 1:
        raise ConfigError(f"--output: give a folder for what comes out of {len(sweeps)} sweeps")
    folder = Path(sweeps[0], below) if given is None else Path(given)
    if folder.expanduser().is_file():
        raise ConfigError(f"--output {folder}: is a file; name a folder")
    folder = folder.expanduser()
    absent = [path for path in (folder, *folder.parents) if not path.exists()]
    try:  # before what takes minutes
        folder.mkdir(parents=True, exist_ok=True)
        for path in absent:
            path.rmdir()
    except OSError as error:
        raise ConfigError(f"--output {folder}: cannot be made ({error.strerror}); name another folder") from None
    return folder


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 100:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 100")
    return int(text)


def _seed(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 0")
    return int(text)
