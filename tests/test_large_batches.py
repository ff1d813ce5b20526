"""Chunks by length, GradCache and the loss in blocks: the gradient of a batch, however it is cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import BertConfig, BertModel

from hybrid_ir.config import LossConfig, OptimizerConfig
from hybrid_ir.data.chunks import Chunk, length_chunks
from hybrid_ir.modeling.encoder import BiEncoder, pad_token_ids
from hybrid_ir.modeling.losses import ContrastiveLoss
from hybrid_ir.modeling.module import Batch, BiEncoderModule

VOCABULARY, ROWS, NEGATIVES = 50, 11, 2


@given(
    st.lists(st.integers(0, 40), max_size=60),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(1, 200),
)
def test_chunks_hold_every_text_once_within_their_limits(
    lengths: list[int], max_rows: int | None, max_tokens: int | None
) -> None:
    chunks = length_chunks(lengths, max_rows, max_tokens)
    assert sorted(place for chunk in chunks for place in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        assert len(chunk) <= (max_rows or len(lengths))
        padded = len(chunk) * max(lengths[place] for place in chunk)
        assert len(chunk) == 1 or max_tokens is None or padded <= max_tokens
    if max_rows is None and max_tokens is None:
        assert len(chunks) <= 1
    else:
        ordered = [lengths[place] for chunk in chunks for place in chunk]
        assert ordered == sorted(lengths, reverse=True)
        for chunk, following in itertools.pairwise(chunks):  # the next text would not have fitted
            assert len(chunk) == max_rows or (
                max_tokens is not None and (len(chunk) + 1) * max(lengths[chunk[0]], 1) > max_tokens
            )
            assert lengths[chunk[-1]] >= lengths[following[0]]


def module_of(
    dtype: torch.dtype, dropout: float = 0.0, grad_cache: bool = False, scores_per_block: int | None = None
) -> BiEncoderModule:
    """The same small encoder each time, with a loss in which everything takes part."""
    torch.manual_seed(1)
    shape: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(
        vocab_size=VOCABULARY,
        intermediate_size=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **shape,
    )
    encoder = BiEncoder(BertModel(config, add_pooling_layer=False), None)
    loss = ContrastiveLoss(LossConfig(num_negatives=NEGATIVES, both_directions=True, learn_temperature=True))
    if scores_per_block is not None:
        loss.scores_per_block = scores_per_block
    module = BiEncoderModule(encoder, loss, OptimizerConfig(), 10, Path(), grad_cache=grad_cache)
    return module.to(dtype).train()


def batch_of(seed: int, max_rows: int | None = None, max_tokens: int | None = None) -> Batch:
    """Texts of many lengths; some rows share a passage, and a negative is some row's passage."""
    random = np.random.default_rng(seed)

    def chunks(count: int) -> list[Chunk]:
        texts = [random.integers(1, VOCABULARY, length).tolist() for length in random.integers(1, 20, count)]
        parts = length_chunks([len(text) for text in texts], max_rows, max_tokens)
        return [Chunk(*pad_token_ids([texts[i] for i in part], 0), torch.from_numpy(part)) for part in parts]

    batch: Batch = {"query": chunks(ROWS), "passage": chunks(ROWS), "negative": chunks(ROWS * NEGATIVES)}
    batch["passage_id"] = torch.from_numpy(random.integers(0, ROWS // 2, ROWS))
    batch["negative_passage_id"] = torch.from_numpy(random.integers(-1, ROWS, (ROWS, NEGATIVES)))
    return batch


def gradient(module: BiEncoderModule, batch: Batch, autocast: bool = False) -> Tensor:
    """[parameters] of the module, all in one."""
    module.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = module.compute_gradients(batch)
    assert float(out.masked_share) > 0
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
    return torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])


def difference(ours: Tensor, reference: Tensor) -> float:
    return float((ours.double() - reference.double()).norm() / reference.double().norm())


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    max_rows=st.none() | st.integers(1, 2 * ROWS),
    max_tokens=st.none() | st.integers(1, 300),
    grad_cache=st.booleans(),
    scores_per_block=st.none() | st.integers(1, 200),
)
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(
    seed: int, max_rows: int | None, max_tokens: int | None, grad_cache: bool, scores_per_block: int | None
) -> None:
    """Every parameter's, the learned temperature's too, with masks, explicit negatives and both directions."""
    whole = gradient(module_of(torch.float64), batch_of(seed))
    cut = module_of(torch.float64, grad_cache=grad_cache, scores_per_block=scores_per_block)
    assert difference(gradient(cut, batch_of(seed, max_rows, max_tokens)), whole) < 1e-10


@pytest.mark.parametrize("max_rows", [1, 3, 8])
def test_the_gradient_in_fp32(max_rows: int) -> None:
    whole = gradient(module_of(torch.float32), batch_of(1))
    cut = gradient(module_of(torch.float32, grad_cache=True, scores_per_block=60), batch_of(1, max_rows))
    assert difference(cut, whole) < 1e-5


@pytest.mark.parametrize("max_rows", [1, 3, 8])
def test_the_gradient_in_bf16(max_rows: int) -> None:
    """Casts that the pass without a graph leaves behind would give no gradient at all."""
    whole = gradient(module_of(torch.float32), batch_of(1), autocast=True)
    cut = gradient(module_of(torch.float32, grad_cache=True), batch_of(1, max_rows), autocast=True)
    assert difference(cut, whole) < 2e-2


@pytest.mark.parametrize("max_rows", [1, 3, 8, None])
def test_dropout_is_drawn_once_for_both_passes(max_rows: int | None) -> None:
    """GradCache equals one graph over the same chunks from the same random state, and leaves that state the same."""
    gradients, states = [], []
    for grad_cache in (False, True):
        module = module_of(torch.float64, dropout=0.3, grad_cache=grad_cache)
        torch.manual_seed(7)
        gradients.append(gradient(module, batch_of(2, max_rows)))
        states.append(torch.get_rng_state())
    assert difference(gradients[1], gradients[0]) < 1e-10
    assert torch.equal(*states)
    torch.manual_seed(8)
    assert difference(gradient(module, batch_of(2, max_rows)), gradients[0]) > 1e-3  # dropout does something here


def test_the_embeddings_are_in_the_order_of_the_batch() -> None:
    """What reaches the loss is what one padded block would give it."""
    seen: list[tuple[Tensor, ...]] = []
    for max_rows in (None, 2):
        module = module_of(torch.float64)
        forward = module.loss.forward
        module.loss.forward = lambda *blocks, forward=forward: (seen.append(blocks), forward(*blocks))[1]  # type: ignore[method-assign]
        module.compute_loss(batch_of(3, max_rows))
    for one, cut in zip(*seen, strict=True):
        torch.testing.assert_close(one, cut, rtol=1e-10, atol=1e-12)


def peak_graph_bytes(module: BiEncoderModule, batch: Batch) -> int:
    """Most bytes that backward passes had saved at a time, weights apart."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    held = peak = 0

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal held, peak
            self.tensor = tensor
            self.bytes = 0 if tensor.untyped_storage().data_ptr() in parameters else tensor.nbytes
            held += self.bytes
            peak = max(peak, held)

        def __del__(self) -> None:
            nonlocal held
            held -= self.bytes

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        module.compute_gradients(batch)
    return peak


def test_grad_cache_keeps_the_activations_of_one_chunk() -> None:
    """What is saved for the backward pass does not grow with the number of chunks."""

    def batch(rows: int) -> Batch:
        chunk = Chunk(torch.ones(4, 30, dtype=torch.int64), torch.ones(4, 30, dtype=torch.int64), torch.arange(4))
        chunks = [chunk._replace(rows=chunk.rows + start) for start in range(0, rows, 4)]
        negatives = [chunk._replace(rows=chunk.rows + start) for start in range(0, rows * NEGATIVES, 4)]
        ids = torch.arange(rows)
        return {
            "query": chunks,
            "passage": chunks,
            "negative": negatives,
            "passage_id": ids,
            "negative_passage_id": torch.full((rows, NEGATIVES), -1),
        }

    cached, whole = (module_of(torch.float32, grad_cache=cache, scores_per_block=200) for cache in (True, False))
    small, large = peak_graph_bytes(cached, batch(8)), peak_graph_bytes(cached, batch(64))
    assert large < 1.2 * small
    assert peak_graph_bytes(whole, batch(64)) > 10 * large
