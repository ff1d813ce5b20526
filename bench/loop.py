"""The training loop's own share of a step, and the start-up from imports to the first step with a warm cache.

A run as ``python train.py`` makes it, callbacks, logger and checkpoints included. Of each step three parts are timed:
forward and backward passes of encoder and loss, the optimiser (clipping and update), and all the rest: plan, collate,
logging, callbacks, Lightning.

    python bench/loop.py --model DIR --data DIR_OF_PARALLEL_JSONL
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.runs import configuration, files, pretrained
from hybrid_ir.modeling.module import BiEncoderModule
from hybrid_ir.training import run


class Timed(BiEncoderModule):
    """Takes the time of the parts of a step."""

    began: list[float] = []  # noqa: RUF012
    parts: list[tuple[float, float]] = []  # noqa: RUF012

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, torch.Tensor]:
        self.began.append(time.perf_counter())
        self.passes = 0.0
        out = super().training_step(batch, batch_idx)
        self.parts.append((self.passes, self.update))
        return out

    def compute_gradients(self, *args: Any, **kwargs: Any) -> Any:
        begin = time.perf_counter()
        out = super().compute_gradients(*args, **kwargs)
        self.passes = time.perf_counter() - begin
        return out

    def _clip(self, optimizer: Any) -> torch.Tensor | None:
        begin = time.perf_counter()
        norm = super()._clip(optimizer)
        self.update = time.perf_counter() - begin
        return norm

    def configure_optimizers(self) -> Any:
        made = super().configure_optimizers()
        stamps: list[float] = []
        made["optimizer"].register_step_pre_hook(lambda *_: stamps.append(time.perf_counter()))

        def after(*_: Any) -> None:
            self.update += time.perf_counter() - stamps[-1]

        made["optimizer"].register_step_post_hook(after)
        return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of parallel JSONL files")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    run.BiEncoderModule = Timed  # type: ignore[misc]
    Path("outputs").mkdir(exist_ok=True)
    starts, shares, table = [], [], Table(title="a step, seconds (medians over its steps)", title_justify="left")
    for name in ("round", "start-up s", "step", "passes", "optimiser", "the loop's own", "own share"):
        table.add_column(name, justify="right")
    for number in range(args.rounds + 1):
        Timed.began, Timed.parts = [], []
        with tempfile.TemporaryDirectory(dir="outputs") as folder:
            settings = [
                *pretrained(args.model, files(args.data), args.length),
                f"batch_size={args.batch}",
                f"trainer.max_steps={args.steps}",
                f"output_dir={folder}/run",
                "logger=csv",
            ]
            begin = time.perf_counter()
            config = configuration(*settings)
            (Path(folder) / "run").mkdir()
            run.run_training(config, settings)
        if number == 0:  # fills the cache
            continue
        starts.append(Timed.began[0] - begin)
        steps = [b - a for a, b in zip(Timed.began[1:], Timed.began[2:], strict=False)]
        passes, update = (statistics.median(part) for part in zip(*Timed.parts[1:-1], strict=True))
        step = statistics.median(steps)
        own = statistics.median(s - p - u for s, (p, u) in zip(steps, Timed.parts[1:], strict=False))
        shares.append(own / step)
        shown = (step, passes, update, own)
        table.add_row(str(number), f"{starts[-1]:.2f}", *(f"{value:.3f}" for value in shown), f"{shares[-1]:.2%}")
    console = Console()
    console.print(table)
    console.print(
        f"medians over rounds: start-up {statistics.median(starts):.2f} s, own share {statistics.median(shares):.2%}"
    )


if __name__ == "__main__":
    main()
