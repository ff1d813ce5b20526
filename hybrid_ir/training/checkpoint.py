"""Checkpoints from which a run continues exactly.

A checkpoint is Lightning's, with the random states of every process and the plan's cursor beside the weights and the
optimizer; it loads with ``weights_only=True``, so that a stranger's file cannot run code. It is written under another
name, flushed to disk and renamed; the one before is removed only then. A kill at any moment leaves a readable latest.
It says which run it belongs to: what was trained, and on what data.
"""

from __future__ import annotations

import os
import pickle
import random
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer

from hybrid_ir.data.loader import WorkerDied
from hybrid_ir.errors import UserError
from hybrid_ir.training.identity import Identity, differences

FOLDER = "checkpoints"
BEST = "best.step={:08d}.ckpt"
"""The best weights by step: the earlier best stays until a checkpoint knows of the new one, so that a run which is
killed between the two resumes with the best that its checkpoint names."""
_LATEST = re.compile(r"step=(\d+)\.ckpt")
_PARTS = {"state_dict", "global_step", "callbacks", "loops", "random_states", "run", "HybridDataModule"}
_REMEDY = "put a copy of it back, or remove it: the run then goes on from an earlier one, or from its start"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, renames."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        save_atomic(checkpoint, Path(path))


def save_atomic(value: Any, path: Path) -> None:
    """``torch.save`` that leaves the old file or the new one, never a part.

    Raises:
        UserError: the disk is full or the folder cannot be written; what was there before stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _flush_folder(path.parent)  # the new name is on disk before the file of the old one is removed
    except (OSError, RuntimeError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        fault = _disk_fault(error)
        if fault is None:
            raise
        raise UserError(
            f"{path}: the checkpoint could not be written ({fault}); the one before is kept; free some disk space "
            f"and continue with resume={path.parents[1]}"
        ) from error


def _disk_fault(error: BaseException) -> str | None:
    """What the system said, if it is behind an error: torch closes its archive after a failed write, and reports that
    the archive has not the length that it should have."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, ConnectionError):  # a worker's, whose end is being saved
            return seen.strerror or str(seen)
        seen = seen.__cause__ or seen.__context__
    return None


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a network's file system may not know it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checkpoints(run_dir: Path) -> list[tuple[int, Path]]:
    """(step, file) of a run's resumable checkpoints, the latest last."""
    found = []
    for path in (run_dir / FOLDER).glob("step=*.ckpt"):
        match = _LATEST.fullmatch(path.name)
        if match:
            found.append((int(match[1]), path))
    return sorted(found)


def best_file(run_dir: Path, step: int) -> Path:
    """Where the best weights are, if those of a step are the best."""
    return run_dir / FOLDER / BEST.format(step)


def best_files(run_dir: Path) -> list[Path]:
    """Files of best weights that a run's folder has."""
    return sorted((run_dir / FOLDER).glob("best.step=*.ckpt"))


def load_plain(path: Path) -> dict[str, Any]:
    """A checkpoint's content, refusing anything that is not plain data.

    Raises:
        UserError: the file is damaged or holds code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage surfaces as errors of many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):  # torch advises to load it with its code
            code = "it holds more than plain data, which could run code"
            reason = code if "GLOBAL" in str(error) else "it is damaged, or no checkpoint"
        raise UserError(f"{path}: not a readable checkpoint ({reason}); {_REMEDY}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a readable checkpoint (it holds a {type(content).__name__}); {_REMEDY}")
    return content


def check_resumable(path: Path, identity: Identity, max_steps: int) -> None:
    """Checks, before anything is changed, that a checkpoint continues a run.

    Args:
        path: the checkpoint.
        identity: of the run that is to go on.
        max_steps: steps that it shall have.

    Raises:
        UserError: the file is damaged, holds code, is another run's, or has no optimizer's state for further steps.
    """
    content = load_plain(path)
    missing = sorted(_PARTS - content.keys())
    if missing == ["run"]:
        raise UserError(
            f"{path}: was written by an earlier version of hybrid_ir, which counts steps otherwise; go on with that "
            f"version (environment.json names it), or start a new run"
        )
    if missing:
        raise UserError(f"{path}: not a checkpoint to resume from (it has no {', '.join(missing)}); {_REMEDY}")
    named = _LATEST.fullmatch(path.name)
    try:
        before = Identity(**content["run"])
        sound = named is None or int(named[1]) == content["global_step"]
    except TypeError:
        sound = False
    if not sound:
        raise UserError(f"{path}: not a checkpoint of this version, or not of the step in its name; {_REMEDY}")
    found = differences(before, identity)
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(
            f"{path}: does not belong to this run: {'; '.join(found[:3])}{more}; put back what the run began with, or "
            f"start a new run"
        )
    if "optimizer_states" not in content and content["global_step"] < max_steps:
        raise UserError(
            f"{path}: the run was complete and its optimizer state was removed; runs to be prolonged need "
            f"checkpoint.keep_optimizer=true"
        )


def random_states() -> dict[str, Any]:
    """Random states of this process, as plain data."""
    version, words, gauss = random.getstate()
    # libraries may still draw from it
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # noqa: NPY002
    states: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": [version, list(words), gauss],
        "numpy": [
            str(name),
            torch.tensor(np.asarray(keys, dtype=np.int64)),
            int(position),
            int(has_gauss),
            float(cached),
        ],
    }
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def restore_random_states(states: dict[str, Any]) -> None:
    """Sets what ``random_states`` gave."""
    torch.set_rng_state(states["torch"])
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])


class Checkpointing(Callback):
    """Saves the run every n steps and the weights of the best evaluation.

    Args:
        run_dir: the run's folder.
        every_n_steps: steps between resumable checkpoints.
        mode: whether more (``max``) or less (``min``) of the monitor is better.
        patience: stop after this many evaluations without a better monitor; None never does.
        identity: of the run; kept in its checkpoints.
    """

    def __init__(self, run_dir: Path, every_n_steps: int, mode: str, patience: int | None, identity: Identity) -> None:
        self.run_dir, self.every_n_steps, self.patience = run_dir, every_n_steps, patience
        self.identity = identity
        self.sign = 1.0 if mode == "max" else -1.0
        self.best_value: float | None = None
        self.best_step: int | None = None
        self.without_better = 0
        self._saved_step: int | None = None
        self._between_steps = False
        self._restore: dict[str, Any] | None = None

    # ------------------------------------------------------------------------------------------------- the best

    def offer(self, trainer: Trainer, module: LightningModule, value: float, step: int) -> None:
        """Takes the monitor's value at a step; keeps the weights if it is the best so far."""
        if self.best_value is None or self.sign * value > self.sign * self.best_value:
            self.best_value, self.best_step, self.without_better = value, step, 0
            with module.whole_encoder() as encoder:
                weights = {name: tensor.detach().cpu() for name, tensor in encoder.state_dict().items()}
            if trainer.is_global_zero:
                save_atomic({"step": step, "value": value, "encoder": weights}, best_file(self.run_dir, step))
        else:
            self.without_better += 1
            if self.patience is not None and self.without_better >= self.patience:
                trainer.should_stop = True

    # ----------------------------------------------------------------------------------------------- the latest

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._between_steps = True
        if (
            trainer.global_step % self.every_n_steps == 0
            or trainer.global_step >= trainer.max_steps
            or trainer.should_stop
        ):
            self.save(trainer)

    def save(self, trainer: Trainer) -> None:
        """Saves the present step, once; all processes call it."""
        step = trainer.global_step
        if self._saved_step == step:
            return
        trainer.save_checkpoint(self.run_dir / FOLDER / f"step={step:08d}.ckpt")
        self._saved_step = step
        if trainer.is_global_zero:
            for older, path in checkpoints(self.run_dir):
                if older != step:
                    path.unlink(missing_ok=True)
            keep = best_file(self.run_dir, self.best_step) if self.best_step is not None else None
            for path in best_files(self.run_dir):
                if path != keep:
                    path.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.check_step(trainer.world_size, trainer.global_step)

    def check_step(self, world_size: int, step: int) -> None:
        """Compares the steps from which the processes go on: each has looked into the folder by itself. Collective.

        Raises:
            UserError: they differ, as where machines see a shared folder with delay.
        """
        if world_size == 1:
            return
        steps: list[Any] = [None] * world_size
        torch.distributed.all_gather_object(steps, step)
        if len(set(steps)) > 1:
            raise UserError(
                f"{self.run_dir / FOLDER}: the processes found checkpoints of different steps "
                f"({', '.join(map(str, sorted(set(steps))))}); wait until all machines see the same files, then resume"
            )

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        mine = random_states()
        if trainer.world_size > 1:
            everyone: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(everyone, mine)
        else:
            everyone = [mine]
        checkpoint["random_states"] = everyone
        checkpoint["run"] = asdict(self.identity)

    def on_load_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        states = checkpoint["random_states"]
        # with another number of processes the batches are the same, the random states cannot be
        self._restore = states[trainer.global_rank] if len(states) == trainer.world_size else None

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if self._restore is not None:  # only now: making loaders and sanity work may draw numbers
            restore_random_states(self._restore)
            self._restore = None
        self._between_steps = False

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        # saving is collective, and the other processes of a run are in the middle of a step
        if self._between_steps and trainer.world_size == 1 and isinstance(exception, WorkerDied):
            self.save(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_value": self.best_value,
            "best_step": self.best_step,
            "without_better": self.without_better,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_value, self.best_step = state_dict["best_value"], state_dict["best_step"]
        self.without_better = state_dict["without_better"]


def strip_optimizer(path: Path) -> None:
    """Rewrites a checkpoint without the optimizer's and the schedule's state, if it has them."""
    content = load_plain(path)
    if "optimizer_states" not in content:
        return
    for name in ("optimizer_states", "lr_schedulers"):
        content.pop(name, None)
    save_atomic(content, path)
