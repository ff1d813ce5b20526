"""The training step: a bi-encoder under in-batch contrastive loss, with AdamW and a step schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from hybrid_ir.config import OptimizerConfig
from hybrid_ir.errors import UserError
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.losses import ContrastiveLoss, LossOutput

Batch = dict[str, Any]


class BiEncoderModule(LightningModule):
    """Trains one encoder for queries and passages.

    Args:
        encoder: the bi-encoder.
        loss: the contrastive loss; may hold a learned temperature.
        optimizer: AdamW's settings and the schedule.
        max_steps: steps of the whole run, which the schedule spans.
        run_dir: where a batch that gives a NaN loss is saved.
        item_ids: ids of items by integer, to name them in messages.
    """

    def __init__(
        self,
        encoder: BiEncoder,
        loss: ContrastiveLoss,
        optimizer: OptimizerConfig,
        max_steps: int,
        run_dir: Path,
        item_ids: Callable[[list[int]], list[str]] | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.loss = encoder, loss
        self.optimizer_config, self.max_steps = optimizer, max_steps
        self.warmup_steps = round(optimizer.warmup_ratio * max_steps)
        self.run_dir, self._item_ids = run_dir, item_ids
        self.register_buffer("_masked_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_mono_batches", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_batches", torch.zeros((), dtype=torch.float64))

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Loss of one batch (this process's rows; the negatives of all processes)."""
        queries = self.encoder(batch["query_input_ids"], batch["query_attention_mask"])
        positives = self.encoder(batch["passage_input_ids"], batch["passage_attention_mask"])
        negatives = negative_ids = None
        if "negative_input_ids" in batch:
            flat = self.encoder(batch["negative_input_ids"], batch["negative_attention_mask"])
            negatives = flat.view(len(positives), -1, flat.shape[-1])
            negative_ids = batch["negative_passage_id"]
        return self.loss(queries, positives, batch["passage_id"], negatives, negative_ids)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """One step on a global batch.

        Raises:
            UserError: the loss is not finite; the batch is saved and named.
        """
        out = self.compute_loss(batch)
        loss, accuracy, masked_share = _over_processes(out.loss, out.accuracy, out.masked_share)
        if not torch.isfinite(loss):
            self._stop_on_nan(batch, loss)
        self._batches += 1
        self._mono_batches += float(batch["monolingual"])
        self._masked_sum += masked_share
        log = {"train/loss": loss, "train/accuracy": accuracy, "train/masked_share": masked_share}
        log["train/temperature"] = out.temperature
        for name, value in log.items():
            self.log(name, value.float(), batch_size=len(batch["passage_id"]))
        self.log("train/lr", self.lr_schedulers().get_last_lr()[0])
        # Lightning would number the step from 0 here, where evaluations and checkpoints count the steps done; a double
        # holds any number of steps exactly
        self.log("step", torch.tensor(self.global_step + 1, dtype=torch.float64))
        return out.loss

    @property
    def masked_share(self) -> float:
        """Mean share of in-batch candidates that were left out because they are the row's own passage."""
        return float(self._masked_sum / self._batches.clamp(min=1))

    @property
    def drawn_mono_share(self) -> float:
        """Share of the batches so far that were monolingual."""
        return float(self._mono_batches / self._batches.clamp(min=1))

    def _stop_on_nan(self, batch: Batch, loss: Tensor) -> None:
        step = int(batch["step"])
        path = self.run_dir / f"nan_batch_step_{step}.rank_{self.global_rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({k: v.cpu() if isinstance(v, Tensor) else v for k, v in batch.items()}, path)
        items = batch["item"].tolist()
        ids = self._item_ids(items) if self._item_ids else [str(i) for i in items]
        shown = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
        raise UserError(
            f"the loss is {float(loss)} at step {step} (items {shown}); the batch is saved in {path}; try a smaller "
            f"optimizer.lr, a larger loss.temperature, or trainer.precision=32"
        )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clips by the L2 norm; as Lightning does, which refuses to under mixed precision when AdamW is fused.

        That is for the sake of a gradient scaler, which bf16 does not have.
        """
        if gradient_clip_val is None:
            return
        sharded = getattr(self.trainer.strategy.model, "clip_grad_norm_", None)
        if sharded is not None:  # FSDP: a process sees a part of each gradient only
            sharded(gradient_clip_val)
        else:
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["warmup_steps"] = self.warmup_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # a run that is prolonged keeps its warm-up, which is a share of the steps that were first asked for
        self.warmup_steps = checkpoint["warmup_steps"]

    def configure_optimizers(self) -> Any:
        c = self.optimizer_config
        groups = decay_groups(self, c.weight_decay)
        fused = self.device.type == "cuda"
        optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=c.betas, eps=c.eps, fused=fused)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(c, self.max_steps, self.warmup_steps)(step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _over_processes(*values: Tensor) -> Tensor:
    """Means over the processes of scalars, float64: every process logs, and stops on, the global batch's."""
    stacked = torch.stack([value.detach().double() for value in values])
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(stacked)
        stacked /= dist.get_world_size()
    return stacked


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameters in two groups: matrices decay; biases, normalisation weights and scalars do not."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (decayed if parameter.ndim >= 2 else plain).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def rate_factor(config: OptimizerConfig, max_steps: int, warmup: int | None = None) -> Callable[[int], float]:
    """Factor of the peak rate at each step: warm-up from 0, then linear or cosine to 0, or constant.

    Args:
        config: shape and share of the warm-up.
        max_steps: steps of the run.
        warmup: steps of the warm-up; None is the configuration's share of ``max_steps``.
    """
    if warmup is None:
        warmup = round(config.warmup_ratio * max_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        done = (step - warmup) / max(max_steps - warmup, 1)
        if config.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * min(done, 1.0)))
        return max(0.0, 1.0 - done)

    return factor
