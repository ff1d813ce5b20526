"""The contrastive loss: against sentence-transformers, against a naive reference, and on 1, 2 and 4 processes."""

from __future__ import annotations

import itertools
import math
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hybrid_ir.config import LossConfig
from hybrid_ir.modeling.losses import ContrastiveLoss, LossOutput


def unit(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)


# ------------------------------------------------------------------------------------------ sentence-transformers


@pytest.mark.parametrize("num_negatives", [0, 3])
@pytest.mark.parametrize("both_directions", [False, True])
def test_equals_multiple_negatives_ranking_loss(num_negatives: int, both_directions: bool) -> None:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    temperature = 0.02
    # The peer's cosine normalises by itself, so both are given the raw outputs of a model and gradients reach these.
    blocks = [torch.randn(12, 16, dtype=torch.float64, requires_grad=True) for _ in range(2 + num_negatives)]
    peer = MultipleNegativesRankingLoss(
        model=None,
        scale=1 / temperature,
        directions=("query_to_doc", "doc_to_query") if both_directions else ("query_to_doc",),
        partition_mode="per_direction",
    )
    theirs = peer.compute_loss_from_embeddings(blocks, None)
    their_gradients = torch.autograd.grad(theirs, blocks)

    config = LossConfig(temperature=temperature, num_negatives=num_negatives, both_directions=both_directions)
    queries, positives, *negatives = (nn.functional.normalize(block, dim=-1) for block in blocks)
    ours = ContrastiveLoss(config)(
        queries, positives, torch.arange(12), torch.stack(negatives, dim=1) if negatives else None
    )
    our_gradients = torch.autograd.grad(ours.loss, blocks)
    torch.testing.assert_close(ours.loss, theirs, rtol=1e-12, atol=1e-12)
    for mine, other in zip(our_gradients, their_gradients, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-12)


# ------------------------------------------------------------------------------------------------ naive reference


def reference(
    config: LossConfig,
    queries: np.ndarray,
    positives: np.ndarray,
    ids: list[int],
    negatives: np.ndarray | None,
    negative_ids: list[list[int]] | None,
) -> tuple[float, float, float]:
    """Loss, accuracy and masked share by loops over rows and candidates."""
    batch = len(queries)
    forward, backward, correct, masked, possible = [], [], 0, 0, 0
    for i in range(batch):
        own = float(queries[i] @ positives[i]) / config.temperature
        others = []
        for j in range(batch):
            if j == i or not config.other_positives:
                continue
            possible += 1
            if config.mask_same_passage and ids[j] == ids[i]:
                masked += 1
            else:
                others.append(float(queries[i] @ positives[j]) / config.temperature)
        if negatives is not None:
            for j, n in itertools.product(range(batch), range(negatives.shape[1])):
                possible += 1
                if config.mask_same_passage and negative_ids is not None and negative_ids[j][n] == ids[i]:
                    masked += 1
                else:
                    others.append(float(queries[i] @ negatives[j, n]) / config.temperature)
        forward.append(math.log(sum(math.exp(score) for score in [own, *others])) - own)
        correct += all(own > score for score in others)
        scores = [
            float(queries[j] @ positives[i]) / config.temperature
            for j in range(batch)
            if j == i or not (config.mask_same_passage and ids[j] == ids[i])
        ]
        backward.append(math.log(sum(math.exp(score) for score in scores)) - own)
    loss = sum(forward) / batch
    if config.both_directions:
        loss = (loss + sum(backward) / batch) / 2
    return loss, correct / batch, masked / possible if possible else 0.0


@settings(max_examples=150)
@given(data=st.data())
def test_equals_the_naive_reference(data: st.DataObject) -> None:
    batch = data.draw(st.integers(1, 7))
    num_negatives = data.draw(st.integers(0, 3))
    config = LossConfig(
        temperature=data.draw(st.sampled_from([0.02, 0.05, 0.5, 1.0])),
        other_positives=data.draw(st.booleans()) if num_negatives else True,
        num_negatives=num_negatives,
        both_directions=data.draw(st.booleans()),
        mask_same_passage=data.draw(st.booleans()),
        learn_temperature=data.draw(st.booleans()),
    )
    ids = data.draw(st.lists(st.integers(0, 4), min_size=batch, max_size=batch))
    negative_ids = None
    if num_negatives and data.draw(st.booleans()):
        row = st.lists(st.integers(-1, 4), min_size=num_negatives, max_size=num_negatives)
        negative_ids = data.draw(st.lists(row, min_size=batch, max_size=batch))
    seed = data.draw(st.integers(0, 1000))
    queries, positives = unit(batch, 8, seed=seed), unit(batch, 8, seed=seed + 1)
    negatives = unit(batch, num_negatives, 8, seed=seed + 2) if num_negatives else None
    output = ContrastiveLoss(config).double()(
        queries,
        positives,
        torch.tensor(ids),
        negatives,
        None if negative_ids is None else torch.tensor(negative_ids),
    )
    expected = reference(
        config,
        queries.numpy(),
        positives.numpy(),
        ids,
        None if negatives is None else negatives.numpy(),
        negative_ids,
    )
    # A learned temperature passes through fp32's logarithm.
    tolerance = 1e-5 if config.learn_temperature else 1e-9
    assert output.loss.item() == pytest.approx(expected[0], rel=tolerance, abs=tolerance)
    assert output.accuracy.item() == pytest.approx(expected[1])
    assert output.masked_share.item() == pytest.approx(expected[2])
    assert output.temperature.item() == pytest.approx(config.temperature, rel=1e-6)
    assert not (output.accuracy.requires_grad)
    assert not (output.masked_share.requires_grad)
    assert not (output.temperature.requires_grad)


# -------------------------------------------------------------------------------------------------------- details


def test_masked_passages_get_no_gradient() -> None:
    queries = unit(3, 8, seed=0)
    positives = unit(3, 8, seed=1).requires_grad_()
    negatives = unit(3, 1, 8, seed=2).requires_grad_()
    loss_of = ContrastiveLoss(LossConfig(num_negatives=1))
    # Row 0's loss alone: its passage is also row 1's, and the explicit negative of row 2.
    output = loss_of(queries, positives, torch.tensor([7, 7, 8]), negatives, torch.tensor([[1], [2], [7]]))
    scores = queries[0] @ torch.cat([positives[[0, 2]], negatives[:2, 0]]).T / 0.02
    row = scores.logsumexp(0) - scores[0]
    gradient = torch.autograd.grad(row, [positives, negatives])
    assert gradient[0][1].abs().max() == 0
    assert gradient[1][2].abs().max() == 0
    rest = 0.0
    for i in (1, 2):
        same = torch.tensor([7, 7, 8]) == torch.tensor([7, 7, 8])[i]
        keep = [j for j in range(3) if j == i or not same[j]]
        kept_negatives = [j for j, negative in enumerate([1, 2, 7]) if negative != [7, 7, 8][i]]
        others = queries[i] @ torch.cat([positives[keep], negatives[kept_negatives, 0]]).T / 0.02
        rest = rest + others.logsumexp(0) - queries[i] @ positives[i] / 0.02
    torch.testing.assert_close(output.loss, (row + rest) / 3, rtol=1e-12, atol=1e-12)


def test_all_rows_of_one_passage_leave_nothing_but_the_positive() -> None:
    queries, positives = unit(4, 8, seed=0).requires_grad_(), unit(4, 8, seed=1)
    output = ContrastiveLoss(LossConfig(both_directions=True))(queries, positives, torch.zeros(4, dtype=torch.int64))
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.0, abs=1e-12)
    assert output.masked_share.item() == 1.0
    assert torch.isfinite(queries.grad).all()


def test_fp32_under_autocast_and_for_bf16_embeddings() -> None:
    queries, positives = unit(6, 8, seed=0, dtype=torch.float32), unit(6, 8, seed=1, dtype=torch.float32)
    loss_of = ContrastiveLoss(LossConfig())
    plain = loss_of(queries, positives, torch.arange(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss_of(queries, positives, torch.arange(6))
        low = loss_of(queries.bfloat16(), positives.bfloat16(), torch.arange(6))
    assert plain.loss.dtype == inside.loss.dtype == low.loss.dtype == torch.float32
    assert torch.equal(plain.loss, inside.loss)
    rounded = loss_of(queries.bfloat16().float(), positives.bfloat16().float(), torch.arange(6))
    assert torch.equal(low.loss, rounded.loss)
    assert loss_of(queries.double(), positives.double(), torch.arange(6)).loss.dtype == torch.float64


def test_learned_temperature_stays_between_its_bounds_and_can_come_back() -> None:
    config = LossConfig(temperature=0.5, learn_temperature=True, min_temperature=0.1, max_temperature=1.0)
    loss_of = ContrastiveLoss(config)
    queries = unit(8, 8, seed=0, dtype=torch.float32)
    ids = torch.arange(8)
    assert loss_of.log_temperature is not None
    optimizer = torch.optim.SGD(loss_of.parameters(), lr=5.0)
    # Right answers sharpen the softmax down to one bound, wrong ones flatten it up to the other, and back again.
    for positives, low, high in ((queries, 0.1, 0.1), (-queries, 1.0, 1.0), (queries, 0.1, 0.1)):
        for _ in range(200):
            optimizer.zero_grad()
            output = loss_of(queries, positives, ids)
            assert 0.1 * (1 - 1e-5) <= output.temperature.item() <= 1.0 * (1 + 1e-5)
            output.loss.backward()
            optimizer.step()
        assert low * (1 - 1e-5) <= loss_of.temperature().item() <= high * (1 + 1e-5)


def test_fixed_temperature_has_no_parameter() -> None:
    assert list(ContrastiveLoss(LossConfig()).parameters()) == []
    assert [name for name, _ in ContrastiveLoss(LossConfig(learn_temperature=True)).named_parameters()] == [
        "log_temperature"
    ]


def test_wrong_shapes_are_refused() -> None:
    q, p, ids = unit(4, 8, seed=0), unit(4, 8, seed=1), torch.arange(4)
    n, n_ids = unit(4, 2, 8, seed=2), torch.arange(8).reshape(4, 2)
    plain, with_negatives = ContrastiveLoss(LossConfig()), ContrastiveLoss(LossConfig(num_negatives=2))
    cases: list[tuple[ContrastiveLoss, tuple[Any, ...], str]] = [
        (plain, (q, p[:3], ids), "queries and positives"),
        (plain, (q[:0], p[:0], ids[:0]), "queries and positives"),
        (plain, (q, p, ids[:3]), "passage_ids"),
        (plain, (q, p, ids, n, n_ids), "num_negatives=0"),
        (with_negatives, (q, p, ids), "num_negatives=2"),
        (with_negatives, (q, p, ids, n[:, :1]), "num_negatives=2"),
        (with_negatives, (q, p, ids, n[:3]), "negatives must be"),
        (with_negatives, (q, p, ids, n, n_ids[:, :1]), "negative_ids"),
    ]
    for loss_of, arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            loss_of(*arguments)


# ------------------------------------------------------------------------------------------------- many processes

OPTIONS = [
    {"other_positives": other, "num_negatives": negatives, "both_directions": both, "learn_temperature": learn}
    for other, negatives, both, learn in itertools.product([True, False], [0, 2], [False, True], [False, True])
    if other or negatives
]
ROWS, FEATURES = 8, 10


class Model(nn.Module):
    """A small shared encoder and the loss, as one module for DDP to wrap."""

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, 6)
        self.loss = ContrastiveLoss(config)

    def embed(self, features: Tensor) -> Tensor:
        return nn.functional.normalize(torch.tanh(self.linear(features)), dim=-1)

    def forward(
        self, queries: Tensor, positives: Tensor, ids: Tensor, negatives: Tensor | None, n_ids: Tensor | None
    ) -> LossOutput:
        negatives = None if negatives is None else self.embed(negatives)
        output: LossOutput = self.loss(self.embed(queries), self.embed(positives), ids, negatives, n_ids)
        return output


def run_options(rank: int, world: int) -> list[dict[str, Tensor]]:
    """Loss and gradients of each option on this process's slice of one global batch."""
    results = []
    for option in OPTIONS:
        config = LossConfig(temperature=0.1, **option)
        torch.manual_seed(0)
        model = Model(config).double()
        queries, positives = torch.randn(2, ROWS, FEATURES, dtype=torch.float64)
        negatives = torch.randn(ROWS, 2, FEATURES, dtype=torch.float64) if config.num_negatives else None
        # Equal passages within a process and across processes, and a negative that is another row's passage.
        ids = torch.tensor([0, 0, 1, 2, 3, 1, 4, 5])
        n_ids = torch.arange(2 * ROWS).reshape(ROWS, 2) if config.num_negatives else None
        mine = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
        wrapped = nn.parallel.DistributedDataParallel(model) if world > 1 else model
        output = wrapped(
            queries[mine],
            positives[mine],
            ids[mine],
            None if negatives is None else negatives[mine],
            None if n_ids is None else n_ids[mine],
        )
        output.loss.backward()
        result = {name: parameter.grad for name, parameter in model.named_parameters()}
        for name, value in output._asdict().items():
            value = value.detach().double()
            if world > 1:
                dist.all_reduce(value)
                value /= world
            result[f"output.{name}"] = value
        results.append(result)
    return results


def worker(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=120)
    )
    try:
        torch.save(run_options(rank, world), f"{folder}/{rank}.pt")
        # Unequal batches: every process must refuse, not hang or pair rows wrongly.
        rows = 2 + (rank == 0)
        with pytest.raises(ValueError, match="every process"):
            ContrastiveLoss(LossConfig())(unit(rows, 4, seed=0), unit(rows, 4, seed=1), torch.arange(rows))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_gradient_of_several_processes_is_that_of_one(world: int) -> None:
    expected = run_options(0, 1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(worker, args=(world, folder), nprocs=world)
        by_rank = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for option, one, *many in zip(OPTIONS, expected, *by_rank, strict=True):
        names = [name for name in one if not name.startswith("output.")]
        whole = torch.cat([one[name].flatten() for name in names])
        assert whole.norm() > 0
        for process in many:
            theirs = torch.cat([process[name].flatten() for name in names])
            assert ((theirs - whole).norm() / whole.norm()).item() < 1e-10, option
            for name in ("output.loss", "output.accuracy", "output.masked_share", "output.temperature"):
                torch.testing.assert_close(process[name], one[name], rtol=1e-10, atol=1e-12)
