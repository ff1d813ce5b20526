"""The contrastive loss: InfoNCE with in-batch and explicit negatives, exact for any number of processes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import _functional_collectives as collectives
from torch.utils.checkpoint import checkpoint

from hybrid_ir.config import LossConfig

SCORES_PER_BLOCK = 2**22
"""Scores of rows against candidates that are in memory at a time: 16 MiB of fp32, of which a few copies are made."""


class LossOutput(NamedTuple):
    """What one batch gave; everything but ``loss`` is detached. Of the local rows in a distributed run."""

    loss: Tensor
    """Scalar, fp32 (fp64 for fp64 embeddings): mean over the local rows."""
    accuracy: Tensor
    """Scalar: share of the local queries whose own passage scores above every other candidate."""
    masked_share: Tensor
    """Scalar: share of the candidates other than the query's own passage that equal passage ids left out."""
    temperature: Tensor
    """Scalar: what similarities were divided by."""


class _Candidates(NamedTuple):
    """What the rows of all processes offer: gathered, in the order of ranks."""

    positives: Tensor
    positive_ids: Tensor
    negatives: Tensor | None
    negative_ids: Tensor | None
    queries: Tensor | None
    """Where positives are scored against queries too."""


class ContrastiveLoss(nn.Module):
    """InfoNCE (van den Oord et al. 2018, arXiv 1807.03748, eq. 4) over cosine similarities divided by a temperature.

    With unit vectors ``q``, ``p`` of a row and candidates ``C`` the loss of the row is

        -log(exp(q.p / temperature) / sum over c in C of exp(q.c / temperature))

    and the loss of the batch is the mean over its rows. ``C`` holds ``p``, the other rows' positives
    (``other_positives``) and the explicit negatives of *all* rows, less the passages whose id is that of ``p``
    (``mask_same_passage``). With ``both_directions`` the same is done from each positive over the batch's
    queries, less the other queries that the passage answers too, and the two means are averaged.

    **Several processes.** Each passes its own rows, the same number everywhere. Embeddings are gathered with
    gradient, the loss is that of the local rows: averaging gradients over processes, as DDP does, then gives exactly
    the gradient of one process with all rows, also of a learned temperature. Average ``loss`` over processes for the
    loss of the whole batch.

    **Large batches.** Scores are computed for so many rows at a time that there are never more than
    ``scores_per_block`` of them (one row's at least): memory grows with the candidates, not with their square.

    A learned temperature is kept as its logarithm, projected onto its bounds before each use, so that it is never
    caught outside them with a zero gradient.
    """

    log_temperature: nn.Parameter | None

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.config = config
        start = torch.tensor(math.log(config.temperature), dtype=torch.float32)
        self.log_temperature = nn.Parameter(start) if config.learn_temperature else None
        self.scores_per_block = SCORES_PER_BLOCK

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.config)

    def temperature(self) -> Tensor:
        """The temperature, a scalar in fp32 or better; it carries gradient where it is learned."""
        if self.log_temperature is None:
            # A double: the fixed number of the configuration, not its nearest fp32.
            return torch.tensor(self.config.temperature, dtype=torch.float64)
        with torch.no_grad():
            self.log_temperature.clamp_(math.log(self.config.min_temperature), math.log(self.config.max_temperature))
        return self.log_temperature.to(_at_least_fp32(self.log_temperature)).exp()

    def forward(
        self,
        queries: Tensor,
        positives: Tensor,
        passage_ids: Tensor,
        negatives: Tensor | None = None,
        negative_ids: Tensor | None = None,
    ) -> LossOutput:
        """Computes the loss of this process's rows against the candidates of all processes.

        Args:
            queries: ``[batch, dim]``, L2-normalised.
            positives: ``[batch, dim]``, L2-normalised: the passage of each row.
            passage_ids: ``[batch]`` int64: id of each row's passage, the same for its versions in all languages.
            negatives: ``[batch, num_negatives, dim]``, L2-normalised, where the configuration asks for negatives.
            negative_ids: ``[batch, num_negatives]`` int64: their passage ids; a negative one (-1) is not known
                and never masked. None masks no explicit negative.

        Raises:
            ValueError: shapes do not fit each other or the configuration, or differ between processes.
        """
        self._check_shapes(queries, positives, passage_ids, negatives, negative_ids)
        # Similarities of bf16 vectors have 8 bits; divided by a temperature of .02 the error would be of order 1.
        with torch.autocast(device_type=queries.device.type, enabled=False):
            dtype = _at_least_fp32(queries)
            queries, positives = queries.to(dtype), positives.to(dtype)
            negatives = None if negatives is None else negatives.to(dtype)
            temperature = self.temperature().to(dtype=dtype, device=queries.device)
            return self._forward(queries, positives, passage_ids, negatives, negative_ids, temperature)

    def _forward(
        self,
        queries: Tensor,
        positives: Tensor,
        passage_ids: Tensor,
        negatives: Tensor | None,
        negative_ids: Tensor | None,
        temperature: Tensor,
    ) -> LossOutput:
        config = self.config
        batch, device = len(queries), queries.device
        rank = dist.get_rank() if _world_size() > 1 else 0
        # Positives and explicit negatives are gathered as two blocks: after the gather column rank * batch + i is
        # still row i's positive, whatever the number of negatives.
        candidates = _Candidates(
            positives=_gather(positives),
            positive_ids=_gather_ids(passage_ids),
            negatives=None if negatives is None else _gather(negatives.flatten(0, 1)),
            negative_ids=None if negative_ids is None else _gather_ids(negative_ids.flatten()),
            queries=_gather(queries) if config.both_directions else None,
        )
        own = torch.arange(rank * batch, (rank + 1) * batch, device=device)
        columns = len(candidates.positives) + (0 if candidates.negatives is None else len(candidates.negatives))
        size = max(self.scores_per_block // columns, 1)
        sums = []
        for start in range(0, batch, size):
            part = slice(start, start + size)
            rows = (queries[part], positives[part], passage_ids[part], own[part], candidates, temperature)
            # One block's scores at a time, in the backward pass too: it computes them once more.
            sums.append(
                self._sum_over_rows(*rows)
                if size >= batch
                else checkpoint(self._sum_over_rows, *rows, use_reentrant=False, preserve_rng_state=False)
            )
        loss, correct, masked, others = (torch.stack(values).sum() for values in zip(*sums, strict=True))
        return LossOutput(loss / batch, correct / batch, masked / others.clamp(min=1), temperature.detach())

    def _sum_over_rows(
        self,
        queries: Tensor,
        positives: Tensor,
        passage_ids: Tensor,
        own: Tensor,
        candidates: _Candidates,
        temperature: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of some rows: the sum of the losses, and how many are correct, candidates masked, candidates in all.

        ``own`` [rows] holds the column of each row's positive among all positives.
        """
        config = self.config
        rows = torch.arange(len(queries), device=queries.device)
        scores = queries @ candidates.positives.T / temperature
        target_scores = scores[rows, own]
        same_passage = candidates.positive_ids[None, :] == passage_ids[:, None]
        same_passage[rows, own] = False  # the row's own positive is never masked

        if config.other_positives:
            blocks = [scores]
            masks = [same_passage if config.mask_same_passage else torch.zeros_like(same_passage)]
        else:
            blocks = [target_scores[:, None]]
            masks = [torch.zeros(len(rows), 1, dtype=torch.bool, device=rows.device)]
        if candidates.negatives is not None:
            blocks.append(queries @ candidates.negatives.T / temperature)
            if config.mask_same_passage and candidates.negative_ids is not None:
                masks.append(candidates.negative_ids[None, :] == passage_ids[:, None])
            else:
                masks.append(torch.zeros_like(blocks[-1], dtype=torch.bool))
        mask = torch.cat(masks, dim=1)
        logits = torch.cat(blocks, dim=1).masked_fill(mask, -math.inf)
        loss = (logits.logsumexp(dim=1) - target_scores).sum()

        if candidates.queries is not None:
            backward_scores = positives @ candidates.queries.T / temperature
            if config.mask_same_passage:
                backward_scores = backward_scores.masked_fill(same_passage, -math.inf)
            loss = (loss + (backward_scores.logsumexp(dim=1) - target_scores).sum()) / 2

        with torch.no_grad():
            others = logits.detach().clone()
            others[rows, own if config.other_positives else torch.zeros_like(own)] = -math.inf
            correct = (target_scores > others.max(dim=1).values).to(loss.dtype).sum()
            masked = mask.sum().to(loss.dtype)
            count = torch.full_like(masked, mask.numel() - len(rows))
        return loss, correct, masked, count

    def _check_shapes(
        self,
        queries: Tensor,
        positives: Tensor,
        passage_ids: Tensor,
        negatives: Tensor | None,
        negative_ids: Tensor | None,
    ) -> None:
        if queries.ndim != 2 or positives.shape != queries.shape or not len(queries):
            raise ValueError(
                f"queries and positives must both be [batch, dim] with a row at least, "
                f"got {list(queries.shape)} and {list(positives.shape)}"
            )
        if passage_ids.shape != queries.shape[:1]:
            raise ValueError(f"passage_ids must be [{len(queries)}], one per row, got {list(passage_ids.shape)}")
        count = self.config.num_negatives
        given = 0 if negatives is None else negatives.shape[1] if negatives.ndim == 3 else -1
        if given != count:
            shape = None if negatives is None else list(negatives.shape)
            raise ValueError(
                f"loss.num_negatives={count}: negatives must be [{len(queries)}, {count}, {queries.shape[1]}], "
                f"got {shape}"
            )
        if negatives is not None and negatives.shape != (len(queries), count, queries.shape[1]):
            raise ValueError(
                f"negatives must be [{len(queries)}, {count}, {queries.shape[1]}], got {list(negatives.shape)}"
            )
        if negative_ids is not None and (negatives is None or negative_ids.shape != negatives.shape[:2]):
            raise ValueError(
                f"negative_ids must be [{len(queries)}, {count}], one per negative, got {list(negative_ids.shape)}"
            )
        if _world_size() > 1:
            # Rows are told apart by rank * batch: unequal batches would be gathered into wrong columns or hang.
            has_ids = -1 if negative_ids is None else 1
            local = torch.tensor([[len(queries), queries.shape[1], has_ids]], device=queries.device)
            shapes = _gather_ids(local)
            if not bool((shapes == local).all()):
                rows = shapes[:, 0].tolist()
                raise ValueError(
                    f"every process must pass batches of the same shape, and negative_ids or not: rows are {rows}"
                )


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _at_least_fp32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _gather(tensor: Tensor) -> Tensor:
    """``[rows, dim]`` of every process, in the order of ranks: ``[world * rows, dim]``, with gradient.

    The backward pass sums what all processes' losses send to a row and returns it to the process it came from.
    """
    if _world_size() == 1:
        return tensor
    # Renamed in torch 2.13; the older name still works there, with a warning.
    gather = getattr(collectives, "all_gather_single_autograd", None) or collectives.all_gather_tensor_autograd
    assert dist.group.WORLD is not None
    return gather(tensor.contiguous(), gather_dim=0, group=dist.group.WORLD)


def _gather_ids(ids: Tensor) -> Tensor:
    """The same for integers, without gradient."""
    world = _world_size()
    if world == 1:
        return ids
    gathered = [torch.empty_like(ids) for _ in range(world)]
    dist.all_gather(gathered, ids.contiguous())
    return torch.cat(gathered)
