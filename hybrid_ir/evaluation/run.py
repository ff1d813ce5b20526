"""One evaluation: any model folder on any benchmarks."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console
from transformers.utils import logging as transformers_logging

from hybrid_ir import cache
from hybrid_ir.config import EvaluateConfig
from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.console import make_console, print_results
from hybrid_ir.evaluation.encoding import all_ranks
from hybrid_ir.evaluation.engine import check_language_removal, evaluate
from hybrid_ir.evaluation.groups import group_means
from hybrid_ir.evaluation.progress import EvaluationProgress
from hybrid_ir.evaluation.results import Results
from hybrid_ir.evaluation.search_state import SearchState
from hybrid_ir.launching.ranks import global_rank
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.run_folder import SUMMARY_FILE
from hybrid_ir.training.environment import describe_environment
from hybrid_ir.training.interrupt import SignalHandler

log = logging.getLogger("hybrid_ir")


def run_evaluation(config: EvaluateConfig, overrides: list[str]) -> None:
    """Evaluates a model and writes ``results.csv``, ``per_query.parquet`` and ``summary.json``.

    Args:
        config: validated; ``output_dir`` and ``threads`` are set.
        overrides: what was typed.

    Raises:
        UserError: the model or a benchmark cannot be loaded, or the machine lacks the device.
    """
    SignalHandler().install()
    console = make_console()
    console.quiet = global_rank() != 0  # the processes of a run all say the same
    begin = time.monotonic()
    if config.threads:
        torch.set_num_threads(config.threads)
    assert config.output_dir is not None
    run_dir = Path(config.output_dir)
    device = find_device(config.accelerator)
    with _processes(device):
        _evaluate(config, run_dir, device, console, begin)


def _evaluate(config: EvaluateConfig, run_dir: Path, device: torch.device, console: Console, begin: float) -> None:
    main = global_rank() == 0
    # benchmarks first: a missing file is found before a large model is loaded
    with all_ranks():
        benchmarks = [load_benchmark(name, section) for name, section in config.benchmark.items()]
        for benchmark in benchmarks:
            if isinstance(benchmark, Benchmark):
                check_language_removal(benchmark, config.language_removal)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    with all_ranks():
        encoder = BiEncoder.from_config(config.model).to(device)
        encoder.tokens_per_batch = config.evaluation.tokens_per_batch
        if config.precision == "64":
            encoder.double()
        # prefixes that a folder does not know of are easily forgotten, and cost several points
        console.print(f"{Path(config.model.name_or_path).name}: {encoder.extra_repr()}", highlight=False, markup=False)
        if main:
            text = json.dumps(describe_environment(config, None, benchmarks), indent=1, ensure_ascii=False)
            cache.write_atomic(run_dir / "environment.json", text)
    results = Results()
    states: list[SearchState] = []
    for benchmark in benchmarks:
        console.print(benchmark.describe(), highlight=False)
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"),
            EvaluationProgress(console, benchmark.name) as progress,
        ):
            if isinstance(benchmark, Benchmark):
                found = evaluate(
                    encoder,
                    benchmark,
                    config.evaluation,
                    step=0,
                    run_dir=run_dir,
                    language_removal=config.language_removal,
                    progress=progress,
                    states=states,
                )
            else:
                found = benchmark.run(encoder, config.evaluation, step=0, run_dir=run_dir, progress=progress)
        results.merge(found)
        with all_ranks():
            if main:
                results.write(run_dir)  # a later benchmark that fails does not take it away
        for note in benchmark.notes:
            console.print(f"note: {note}", highlight=False)
    for state in states:
        state.remove()
    if not main:
        return
    if results.bias:
        from hybrid_ir.evaluation.figures import save_figures  # matplotlib takes a second to import

        save_figures(results, run_dir)
    seconds = time.monotonic() - begin
    removal, label = config.language_removal, Path(config.model.name_or_path).name
    summary = {
        **results.macro(),
        "language_groups": group_means(results),
        "language_removal": removal.method,
        "wall_seconds": seconds,
    }
    cache.write_atomic(run_dir / SUMMARY_FILE, json.dumps(summary, indent=1))
    if removal.method != "none":
        label = f"{label} ({removal.method}{'' if removal.components is None else f' {removal.components}'})"
    print_results({label: results}, console)
    console.print(f"{seconds:.0f} s; results: {run_dir / 'results.csv'}", highlight=False)


def find_device(accelerator: str) -> torch.device:
    """The device of this process.

    Raises:
        UserError: the machine lacks it.
    """
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("accelerator=gpu: torch sees no GPU; use accelerator=cpu, or install torch with CUDA")
    if accelerator == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    number, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if max(number + 1, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > there:  # found by every rank, said by the first
        raise UserError(f"devices: torch sees {there} GPU; use devices={there} or less, or accelerator=cpu")
    return torch.device("cuda", number)


@contextmanager
def _processes(device: torch.device) -> Iterator[None]:
    """Joins the processes that share an evaluation, if there are several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Between two exchanges may lie a whole corpus.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=7))
    try:
        yield
    finally:
        dist.destroy_process_group()
