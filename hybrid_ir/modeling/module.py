"""The training step: a bi-encoder under in-batch contrastive loss, with AdamW and a step schedule.

A batch comes in chunks of texts of like length. Either all of them are encoded in one graph, which is then traversed
backward; or, with GradCache (Gao et al. 2021, arXiv 2101.06983), they are encoded without a graph, the loss gives the
gradient with respect to their embeddings, and each chunk is encoded once more, with the random states that it had, to
take that gradient on to the weights. The gradient is the same; activations are held of one chunk at a time.

Optimisation is Lightning's manual one in both cases: under automatic optimisation the backward passes of chunks leave
the processes of a distributed run with different gradients, silently.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from hybrid_ir.config import OptimizerConfig
from hybrid_ir.data.chunks import Chunk
from hybrid_ir.errors import UserError
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.losses import ContrastiveLoss, LossOutput
from hybrid_ir.modeling.sharding import ShardedStrategy, average_gradient, clip_grad_norm, copy_whole, shard

Batch = dict[str, Any]
"""What the data module collates: ``query``, ``passage`` and, where the loss takes explicit negatives, ``negative``
(row by row) are lists of `Chunk`; ``passage_id`` [batch] and ``negative_passage_id`` [batch, negatives] are int64."""

_TEXTS = ("query", "passage", "negative")


class BiEncoderModule(LightningModule):
    """Trains one encoder for queries and passages.

    Args:
        encoder: the bi-encoder.
        loss: the contrastive loss; may hold a learned temperature.
        optimizer: AdamW's settings and the schedule.
        max_steps: steps of the whole run, which the schedule spans.
        run_dir: where a batch that gives a NaN loss is saved.
        item_ids: ids of items by integer, to name them in messages.
        grad_cache: keep the activations of one chunk at a time, encoding each chunk twice.
    """

    def __init__(
        self,
        encoder: BiEncoder,
        loss: ContrastiveLoss,
        optimizer: OptimizerConfig,
        max_steps: int,
        run_dir: Path,
        item_ids: Callable[[list[int]], list[str]] | None = None,
        grad_cache: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.grad_cache = grad_cache
        self.encoder, self.loss = encoder, loss
        self.optimizer_config, self.max_steps = optimizer, max_steps
        self.warmup_steps = round(optimizer.warmup_ratio * max_steps)
        self.run_dir, self._item_ids = run_dir, item_ids
        self._whole: list[BiEncoder] = []  # in a list: it is no part of the module
        self.register_buffer("_masked_sum", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_mono_batches", torch.zeros((), dtype=torch.float64))
        self.register_buffer("_batches", torch.zeros((), dtype=torch.float64))

    def configure_model(self) -> None:
        """Divides the encoder among the processes, once, where the strategy shards."""
        if not isinstance(self.trainer.strategy, ShardedStrategy) or self._whole:
            return
        tokenizer = self.encoder.tokenizer
        self._whole.append(copy.deepcopy(self.encoder, {id(tokenizer): tokenizer}))
        shard(self.encoder, self.device_mesh["data_parallel"], self.trainer.precision == "bf16-mixed")
        for parameter in self.loss.parameters():
            parameter.register_post_accumulate_grad_hook(average_gradient)

    @contextmanager
    def whole_encoder(self) -> Iterator[BiEncoder]:
        """The encoder for evaluation and export: where it is sharded, a copy that has all weights in each process.

        The copy is on the device inside, and on the CPU afterwards. Collective where the encoder is sharded; forward
        passes of the copy are not.
        """
        if not self._whole:
            yield self.encoder
            return
        (whole,) = self._whole
        copy_whole(self.encoder, whole)
        try:
            yield whole.to(self.device)
        finally:
            whole.to("cpu")

    def compute_loss(self, batch: Batch) -> LossOutput:
        """Loss of one batch (this process's rows; the negatives of all processes), with its graph."""
        return self._loss([[self._encode(chunk) for chunk in batch[name]] for name in _TEXTS if name in batch], batch)

    def compute_gradients(
        self,
        batch: Batch,
        backward: Callable[[Tensor], None] = Tensor.backward,
        no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
        check: Callable[[LossOutput], None] | None = None,
    ) -> LossOutput:
        """Loss of one batch, whose gradient is added to that of the parameters.

        Args:
            batch: this process's rows.
            backward: called with a scalar, one time or more.
            no_sync: context in which a backward pass leaves gradients to this process; all but the last run in it.
            check: called with the loss before anything is done with it.

        Returns:
            the loss, detached.
        """
        # Autocast is for forward passes: left on, it would round the products of fp32 parts' backward passes too.
        no_autocast = torch.autocast(self.device.type, enabled=False)
        if not self.grad_cache:
            out = self.compute_loss(batch)
            if check is not None:
                check(out)
            with no_autocast:
                backward(out.loss)
            return out._replace(loss=out.loss.detach())

        chunks = [chunk for name in _TEXTS if name in batch for chunk in batch[name]]
        *earlier, last = chunks
        states = []
        with torch.no_grad():
            cached = []
            for chunk in earlier:
                states.append(_random_state(self.device))
                cached.append(self._encode(chunk))
        # Under autocast the weights' casts are kept from one forward pass to the next: these know of no gradient.
        torch.clear_autocast_cache()
        # The last chunk need not be encoded twice.
        with_graph = self._encode(last)
        leaves = [embeddings.detach().requires_grad_() for embeddings in (*cached, with_graph)]
        remaining = iter(leaves)
        out = self._loss([[next(remaining) for _ in batch[name]] for name in _TEXTS if name in batch], batch)
        if check is not None:
            check(out)
        learned = [p for p in self.loss.parameters() if p.requires_grad]
        with no_autocast:
            gradients = torch.autograd.grad(out.loss, [*leaves, *learned])
        out = out._replace(loss=out.loss.detach())
        of_chunks, of_learned = gradients[: len(leaves)], gradients[len(leaves) :]

        def onwards(embeddings: Tensor, gradient: Tensor, is_last: bool) -> None:
            with nullcontext() if is_last else no_sync(), no_autocast:
                surrogate = (embeddings * gradient).sum()
                if is_last:  # what the loss itself learns takes part in the one pass that processes share
                    surrogate = surrogate + sum((p * g).sum() for p, g in zip(learned, of_learned, strict=True))
                backward(surrogate)

        # The graph that is there goes first, so that there are never two.
        onwards(with_graph, of_chunks[-1], is_last=not earlier)
        del with_graph
        for number, (chunk, state) in enumerate(zip(earlier, states, strict=True), 1):
            with _random_state_as(state, self.device):
                embeddings = self._encode(chunk)
            onwards(embeddings, of_chunks[number - 1], is_last=number == len(earlier))
        return out

    def _encode(self, chunk: Chunk) -> Tensor:
        return self.encoder(chunk.input_ids, chunk.attention_mask)

    def _loss(self, embeddings: list[list[Tensor]], batch: Batch) -> LossOutput:
        """Loss of the embeddings of each chunk of the queries, the passages and, where there are any, the negatives."""
        queries, positives, *rest = (
            _in_order(parts, batch[name]) for name, parts in zip(_TEXTS, embeddings, strict=False)
        )
        negatives = negative_ids = None
        if rest:
            negatives = rest[0].view(len(positives), -1, positives.shape[-1])
            negative_ids = batch["negative_passage_id"]
        return self.loss(queries, positives, batch["passage_id"], negatives, negative_ids)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """One step on a global batch: gradient, clipping, optimiser, schedule.

        Returns:
            ``loss``, of all processes' rows, for whoever shows it.

        Raises:
            UserError: the loss is not finite; the batch is saved and named.
        """
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        rate = scheduler.get_last_lr()[0]
        step = self.global_step + 1
        log: dict[str, Tensor] = {}

        def check(out: LossOutput) -> None:
            loss, accuracy, masked_share = _over_processes(out.loss, out.accuracy, out.masked_share)
            if not torch.isfinite(loss):
                self._stop_on_nan(batch, loss)
            self._masked_sum += masked_share
            log.update({"train/loss": loss, "train/accuracy": accuracy, "train/masked_share": masked_share})
            log["train/temperature"] = out.temperature

        optimizer.zero_grad()
        no_sync = getattr(self.trainer.strategy.model, "no_sync", nullcontext)
        self.compute_gradients(batch, self.manual_backward, no_sync, check)
        norm = self._clip(optimizer)
        if norm is not None and not torch.isfinite(norm):  # before the weights are spoilt, and saved
            self._stop_on_nan(batch, norm, "gradient's norm")
        optimizer.step()
        scheduler.step()
        self._batches += 1
        self._mono_batches += float(batch["monolingual"])
        if norm is not None:
            log["train/grad_norm"] = norm
        if step % self.trainer.log_every_n_steps == 0:
            # not by self.log, which writes after the step's checkpoint: a kill between the two would lose the row
            shown = {**{name: float(value) for name, value in log.items()}, "train/lr": rate}
            for each in self.trainer.loggers:
                each.log_metrics(shown, step=step)
        return {"loss": log["train/loss"]}

    @property
    def masked_share(self) -> float:
        """Mean share of in-batch candidates that were left out because they are the row's own passage."""
        return float(self._masked_sum / self._batches.clamp(min=1))

    @property
    def drawn_mono_share(self) -> float:
        """Share of the batches so far that were monolingual."""
        return float(self._mono_batches / self._batches.clamp(min=1))

    def _stop_on_nan(self, batch: Batch, value: Tensor, what: str = "loss") -> None:
        step = int(batch["step"])
        path = self.run_dir / f"nan_batch_step_{step}.rank_{self.global_rank}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: _plain(value) for name, value in batch.items()}, path)
        items = batch["item"].tolist()
        ids = self._item_ids(items) if self._item_ids else [str(i) for i in items]
        shown = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
        raise UserError(
            f"the {what} is {float(value)} at step {step} (items {shown}); the batch is saved in {path}; try a smaller "
            f"optimizer.lr, a larger loss.temperature, or trainer.precision=32"
        )

    def _clip(self, optimizer: Any) -> Tensor | None:
        """Clips the gradient by its L2 norm, which it returns; None where nothing is clipped."""
        limit = self.optimizer_config.max_grad_norm
        if limit is None:
            return None
        return clip_grad_norm([p for group in optimizer.param_groups for p in group["params"]], limit)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["warmup_steps"] = self.warmup_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # a run that is prolonged keeps its warm-up, which is a share of the steps that were first asked for
        self.warmup_steps = checkpoint["warmup_steps"]

    def configure_optimizers(self) -> Any:
        c = self.optimizer_config
        groups = decay_groups(self, c.weight_decay)
        # One pass over the parameters: on the CPU too several times as fast as one tensor after the other.
        optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=c.betas, eps=c.eps, fused=True)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor(c, self.max_steps, self.warmup_steps)(step)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _in_order(parts: Sequence[Tensor], chunks: Sequence[Chunk]) -> Tensor:
    """Embeddings of chunks, ``[texts, dim]`` in the order of the batch."""
    places = torch.cat([chunk.rows for chunk in chunks])
    return torch.cat(list(parts)).index_select(0, places.argsort())


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """States from which dropout draws: the CPU's, and the device's own."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _random_state_as(state: tuple[Tensor, Tensor | None], device: torch.device) -> Iterator[None]:
    """Draws as from ``state`` inside; afterwards all is as it was."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1], device)
        yield


def _plain(value: Any) -> Any:
    """Tensors and containers of them on the CPU, without classes of ours: loads with ``weights_only=True``."""
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, Chunk):
        return {name: _plain(part) for name, part in value._asdict().items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


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
