"""What the jobs of a sweep will need, said before the first starts. Imports no torch, which takes seconds."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

from hybrid_ir.config import EvaluateConfig, SmallModelConfig, TrainConfig

_FP32 = 4


def disk_at_most(parameters: int, trained: int) -> int:
    """Bytes that a run takes at most while it trains.

    Weights and two moments of what is trained, twice while the newer checkpoint is written; the best weights, and the
    earlier best until then; the exported model.
    """
    return _FP32 * (2 * (parameters + 2 * trained) + 2 * parameters + parameters)


def disk_when_complete(parameters: int, keep_optimizer: bool) -> int:
    """Bytes that a complete run keeps: the last checkpoint and the exported model."""
    return _FP32 * (parameters * (3 if keep_optimizer else 1) + parameters)


def parameters_of(config: TrainConfig) -> int | None:
    """Parameters of the encoder, about; None for one that has not been looked at, such as a name on the hub."""
    model = config.model
    if isinstance(model, SmallModelConfig):
        layer = 4 * model.hidden_size**2 + 2 * model.hidden_size * model.intermediate_size
        return model.vocab_size * model.hidden_size + model.num_layers * layer
    folder = Path(model.name_or_path)
    if (folder / "model").is_dir():  # a run's
        folder = folder / "model"
    try:
        return sum(_elements(file) for file in folder.glob("*.safetensors")) or None
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _elements(file: Path) -> int:
    """Numbers that a safetensors file holds, from its header."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > 100_000_000:
            raise ValueError(f"{file}: a header of {length} bytes")
        header = json.loads(opened.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def announcement(folder: Path, todo: Sequence[TrainConfig | EvaluateConfig], complete: int = 0, begun: int = 0) -> str:
    """Jobs, steps and disk of a sweep, in a line or two.

    Args:
        folder: of the sweep.
        todo: configurations of the jobs that will run.
        complete: jobs that are complete already.
        begun: jobs among ``todo`` that go on where they were interrupted.
    """
    training = [config for config in todo if isinstance(config, TrainConfig)]
    parts = [f"{len(todo) + complete} jobs"]
    parts += [f"{complete} of them complete"] if complete else []
    parts += [f"{begun} to go on with"] if begun else []
    parallel = max((min(config.launcher.jobs, len(todo)) for config in todo), default=1)
    parts += [f"{parallel} side by side"] if parallel > 1 else []
    if training:
        parts.append(f"{sum(config.trainer.max_steps for config in training):,} steps")
    line = f"sweep {folder}: {', '.join(parts)}"
    counts = [parameters_of(config) for config in training]
    sizes = [count for count in counts if count is not None]
    if not sizes:
        return line
    largest = max(sizes)  # for those that are not known, too
    kept = [
        disk_when_complete(n or largest, c.checkpoint.keep_optimizer) for n, c in zip(counts, training, strict=True)
    ]
    need = sum(kept) + parallel * (disk_at_most(largest, largest) - min(kept))
    free = free_disk(folder)
    line += f"; disk: about {_gib(need)} at most, {_gib(sum(kept))} when complete, {_gib(free)} free"
    if need > free:
        line += f"\nwarning: {_gib(need - free)} of disk may be missing; make room, or name another hydra.sweep.dir"
    return line


def free_disk(folder: Path) -> int:
    """Bytes that are free where a folder is, or will be."""
    path = Path(os.path.abspath(folder))
    return shutil.disk_usage(next(parent for parent in (path, *path.parents) if parent.exists())).free


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB"
