"""``--dry-run``: what a run would cost, from a few timed steps; nothing is written but the caches."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import torch
from lightning_fabric.utilities import move_data_to_device
from rich.console import Console
from rich.table import Table

from hybrid_ir.config import TrainConfig
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.launching.costs import disk_at_most, disk_when_complete, free_disk
from hybrid_ir.launching.display import duration
from hybrid_ir.modeling.module import decay_groups

_WARM_UP, _TIMED = 2, 5


def dry_run(config: TrainConfig, console: Console, jobs: int = 1) -> None:
    """Times a few steps and one evaluation of held-out items, and prints tokens, hours and disk.

    Steps are timed on one device; with several, each has its share of the batch and the time is an upper estimate.

    Args:
        config: of the run.
        console: where to print.
        jobs: runs like this one in the sweep that it belongs to.

    Raises:
        UserError: what a real run would raise before its first step.
    """
    from hybrid_ir.training.run import build_module, prepare

    prepared = prepare(config, console)
    data = prepared.data
    steps = min(_WARM_UP + _TIMED, config.trainer.max_steps)
    module = build_module(config, prepared, Path.cwd())
    device = torch.device("cuda" if config.trainer.accelerator != "cpu" and torch.cuda.is_available() else "cpu")
    module.to(device).train()
    groups = decay_groups(module, config.optimizer.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.optimizer.lr, fused=True)
    seconds, tokens, padded = [], [], []
    batches = iter(data.loader())
    for _ in range(steps):
        begin = time.perf_counter()
        batch = move_data_to_device(next(batches), device)
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=config.trainer.precision == "bf16"):
            loss = module.compute_gradients(batch).loss
        optimizer.step()
        float(loss)
        seconds.append(time.perf_counter() - begin)
        masks = [chunk.attention_mask for name in ("query", "passage", "negative") for chunk in batch.get(name, [])]
        tokens.append(sum(int(mask.sum()) for mask in masks))
        padded.append(sum(mask.numel() for mask in masks))
    step_seconds = statistics.median(seconds[_WARM_UP:] or seconds)
    total = config.trainer.max_steps
    interval = config.trainer.val_check_interval
    evaluations = (total // interval if interval else 0) + 2
    evaluation_seconds = 0.0
    if prepared.validation is not None:
        begin = time.perf_counter()
        evaluate(prepared.encoder, prepared.validation, config.evaluation, 0)
        texts = len(prepared.validation.queries) + len(prepared.validation.documents)
        each = (time.perf_counter() - begin) / max(texts, 1)
        pools = [prepared.validation, *(b for b in prepared.benchmarks.values() if isinstance(b, Benchmark))]
        evaluation_seconds = evaluations * each * sum(len(b.queries) + len(b.documents) for b in pools)
    parameters = sum(p.numel() for p in module.parameters())
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    disk = disk_at_most(parameters, trained)
    free = free_disk(Path(config.output_dir or "."))
    table = Table(title="dry run: what this run would cost", title_justify="left", show_header=False)
    rows = [
        ("parameters", f"{parameters / 1e6:.1f} million, {trained / 1e6:.1f} million of them trained"),
        ("tokens", f"{np.mean(tokens) * total / 1e6:.1f} million in {total:,} steps of {config.batch_size} rows"),
        ("padding", f"{1 - sum(tokens) / sum(padded):.1%} of what is encoded"),
        ("one step", f"{step_seconds:.2f} s, {config.batch_size / step_seconds:.0f} samples/s on one {device.type}"),
        ("training", duration(step_seconds * total)),
        ("evaluation", f"{duration(evaluation_seconds)} ({evaluations} times, judged by the held-out items)"),
        ("disk", f"{disk / 2**20:,.0f} MiB at most; free: {free / 2**30:,.1f} GiB"),
    ]
    if jobs > 1:
        side_by_side = min(config.launcher.jobs, jobs)
        total_seconds = (step_seconds * total + evaluation_seconds) * jobs / side_by_side
        kept = jobs * disk_when_complete(parameters, config.checkpoint.keep_optimizer)
        rows += [
            (f"{jobs} jobs like it", f"{duration(total_seconds)}, {side_by_side} side by side"),
            ("their disk", f"{(kept + side_by_side * disk) / 2**20:,.0f} MiB at most"),
        ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
