"""Properties of the batch plan, on random ragged corpora."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hybrid_ir.config import SamplerConfig, SourceMixConfig
from hybrid_ir.data.items import ItemTable
from hybrid_ir.data.plan import Batch, BatchPlan, _permute
from hybrid_ir.data.planned import planned
from hybrid_ir.errors import DataError

LANGUAGES = ("ar", "de", "en", "sw", "zh")


def make_table(seed: int, items: int, languages: int, sources: int, passages: int, fill: float) -> ItemTable:
    """A ragged corpus: each item in a random set of languages, several items a passage."""
    random = np.random.default_rng(seed)
    has = random.random((items, languages)) < fill
    has[np.arange(items), random.integers(0, languages, items)] = True
    patterns, pattern = np.unique(has, axis=0, return_inverse=True)
    return ItemTable(
        LANGUAGES[:languages],
        tuple(f"source{i}" for i in range(sources)),
        patterns,
        pattern.reshape(-1),
        random.integers(0, sources, items),
        random.integers(0, passages, items),
    )


tables = st.builds(
    make_table,
    seed=st.integers(0, 10_000),
    items=st.integers(60, 300),
    languages=st.integers(2, 5),
    sources=st.integers(1, 3),
    passages=st.integers(40, 300),
    fill=st.floats(0.3, 1.0),
)
samplers = st.builds(
    SamplerConfig,
    preset=st.just("hybrid"),
    mono_ratio=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    mono_draw=st.sampled_from(["bernoulli", "exact"]),
    cross_draw=st.sampled_from(["pair_first", "item_first"]),
    language_exponent=st.sampled_from([0.0, 0.5, 1.0]),
    small_languages=st.just("drop"),
    sources=st.builds(SourceMixConfig, draw=st.sampled_from(["row", "batch"]), exponent=st.sampled_from([0.0, 1.0])),
)


def make_plan(table: ItemTable, sampler: SamplerConfig, batch_size: int, seed: int, **restrict: Any) -> BatchPlan:
    try:
        return BatchPlan(table.restricted(**restrict), sampler, batch_size, seed)
    except DataError:
        assume(False)
        raise


def same(a: Batch, b: Batch) -> bool:
    return (
        a.step == b.step
        and a.monolingual == b.monolingual
        and np.array_equal(a.items, b.items)
        and np.array_equal(a.query_language, b.query_language)
        and np.array_equal(a.passage_language, b.passage_language)
    )


@settings(max_examples=80)
@given(tables, samplers, st.sampled_from([4, 8, 16]), st.integers(0, 1000))
def test_every_batch_is_what_its_kind_says(
    table: ItemTable, sampler: SamplerConfig, batch_size: int, seed: int
) -> None:
    plan = make_plan(table, sampler, batch_size, seed)
    for _ in range(25):
        batch = plan.next()
        assert len(batch) == batch_size
        has = table.patterns[table.pattern[batch.items]]
        rows = np.arange(batch_size)
        assert has[rows, batch.query_language].all()
        assert has[rows, batch.passage_language].all()
        passages = table.passage[batch.items]
        assert len(set(passages.tolist())) == batch_size, "a passage stands twice in a batch"
        if batch.monolingual:
            assert len({*batch.query_language.tolist(), *batch.passage_language.tolist()}) == 1
        else:
            assert (batch.query_language != batch.passage_language).all()
        if sampler.sources.draw == "batch":
            assert len(set(table.source[batch.items].tolist())) == 1


@settings(max_examples=40)
@given(tables, samplers, st.integers(0, 1000), st.integers(1, 30))
def test_a_resumed_plan_goes_on_as_if_uninterrupted(
    table: ItemTable, sampler: SamplerConfig, seed: int, stop: int
) -> None:
    whole = make_plan(table, sampler, 8, seed)
    first = make_plan(table, sampler, 8, seed)
    for _ in range(stop):
        assert same(whole.next(), first.next())
    resumed = make_plan(table, sampler, 8, seed)
    resumed.load_state_dict(first.state_dict())
    advanced = make_plan(table, sampler, 8, seed)
    advanced.advance_to(stop)
    for _ in range(20):
        batch = whole.next()
        assert same(batch, resumed.next())
        assert same(batch, advanced.next())
    assert whole.state_dict() == resumed.state_dict() == advanced.state_dict()


@settings(max_examples=60)
@given(tables, st.integers(0, 1000), st.sampled_from(["pair_first", "item_first"]), st.sampled_from([0.0, 1.0]))
def test_a_pass_shows_each_item_of_a_stream_once(table: ItemTable, seed: int, cross_draw: str, ratio: float) -> None:
    sampler = SamplerConfig(mono_ratio=ratio, cross_draw=cross_draw, small_languages="drop")  # type: ignore[arg-type]
    plan = make_plan(table, sampler, 4, seed)
    drawn: dict[int, list[int]] = {}
    fill = plan._fill

    def recording(draw: Any, random: Any) -> tuple[np.ndarray, np.ndarray]:
        items, streams = fill(draw, random)
        for item, stream in zip(items.tolist(), streams.tolist(), strict=True):
            drawn.setdefault(stream, []).append(item)
        return items, streams

    plan._fill = recording  # type: ignore[method-assign]
    for _ in range(60):
        plan.next()
    streams = plan.streams
    placed = sum(len(items) for items in drawn.values())
    waiting = sum(len(items) for items in streams.deferred.values())
    assert placed + waiting + plan.counts["unplaced"] == int((streams.passes * streams.size + streams.position).sum())
    for stream, items in drawn.items():
        counts = Counter(items)
        # an item deferred over the end of a pass may come in the next one: at most passes begun times
        assert max(counts.values()) <= streams.passes[stream] + (streams.position[stream] > 0)
        if streams.passes[stream] and plan.counts["unplaced"] == 0:
            assert len(counts) + len(streams.deferred.get(stream, [])) >= streams.size[stream]


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_the_order_of_a_pass_is_a_permutation(size: int, key: int) -> None:
    root = int(np.ceil(np.sqrt(size)))
    rows, columns = max(root, 1), -(-size // max(root, 1))

    def full(value: int) -> np.ndarray:
        return np.full(size, value, dtype=np.uint64)

    order = _permute(np.arange(size, dtype=np.uint64), full(size), full(rows), full(columns), full(key))
    assert np.array_equal(np.sort(order), np.arange(size, dtype=np.uint64))


def test_first_places_of_a_pass_are_spread_evenly() -> None:
    """Over many keys, every item is equally likely to be first (chi-square over 50 cells, 5,000 draws)."""
    size, trials = 50, 5000
    keys = np.random.default_rng(0).integers(0, 2**63, trials, dtype=np.uint64)
    one = np.ones(trials, dtype=np.uint64)
    first = _permute(one * np.uint64(0), one * np.uint64(size), one * np.uint64(8), one * np.uint64(7), keys)
    observed = np.bincount(first.astype(np.int64), minlength=size)
    expected = trials / size
    assert ((observed - expected) ** 2 / expected).sum() < 86.7  # .999 quantile at 49 degrees of freedom is 85.4


@settings(max_examples=60)
@given(tables, samplers, st.integers(0, 1000))
def test_shards_of_any_number_of_processes_make_the_same_global_batch(
    table: ItemTable, sampler: SamplerConfig, seed: int
) -> None:
    whole = make_plan(table, sampler, 8, seed)
    plans = {world: [make_plan(table, sampler, 8, seed) for _ in range(world)] for world in (2, 4)}
    for _ in range(10):
        batch = whole.next()
        for world, ranks in plans.items():
            parts = [plan.next() for plan in ranks]
            joined = np.concatenate([p.items[p.shard(r, world)] for r, p in enumerate(parts)])
            assert np.array_equal(joined, batch.items)
            if batch.monolingual:
                languages = {int(lang) for r, p in enumerate(parts) for lang in p.query_language[p.shard(r, world)]}
                assert len(languages) == 1, "ranks of one monolingual batch differ in language"


def test_a_batch_that_does_not_divide_is_refused() -> None:
    table = make_table(0, 200, 3, 1, 200, 1.0)
    batch = BatchPlan(table.restricted(), SamplerConfig(), 8, 1).next()
    with pytest.raises(ValueError, match="not divisible by 3"):
        batch.shard(0, 3)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.9]), st.integers(0, 500), st.integers(1, 300))
def test_exact_draw_keeps_the_ratio_in_every_window(seed: int, ratio: float, start: int, length: int) -> None:
    table = make_table(1, 100, 3, 1, 100, 1.0)
    plan = BatchPlan(table.restricted(), SamplerConfig(mono_ratio=ratio, mono_draw="exact"), 4, seed)
    share = sum(plan.is_monolingual(k) for k in range(start, start + length)) / length
    assert abs(share - ratio) <= 1 / length + 1e-9


@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_bernoulli_draw_has_the_ratio_on_average(ratio: float) -> None:
    table = make_table(1, 100, 3, 1, 100, 1.0)
    plan = BatchPlan(table.restricted(), SamplerConfig(mono_ratio=ratio), 4, 7)
    drawn = np.array([plan.is_monolingual(k) for k in range(4000)])
    assert abs(drawn.mean() - ratio) <= 4 * np.sqrt(ratio * (1 - ratio) / 4000)


def test_ratios_share_their_draws() -> None:
    """With one seed, a batch that is monolingual at a ratio is so at every greater ratio: pairs of runs differ less."""
    table = make_table(1, 100, 3, 1, 100, 1.0)
    plans = [BatchPlan(table.restricted(), SamplerConfig(mono_ratio=r), 4, 3) for r in (0.25, 0.5, 0.75)]
    for k in range(200):
        drawn = [p.is_monolingual(k) for p in plans]
        assert drawn == sorted(drawn)


def test_languages_of_monolingual_batches_are_uniform_or_tempered() -> None:
    random = np.random.default_rng(0)
    has = np.zeros((1000, 2), dtype=bool)
    has[:, 0] = True
    has[:100, 1] = True  # the second language has a tenth
    patterns, pattern = np.unique(has, axis=0, return_inverse=True)
    zero = np.zeros(1000, dtype=np.int64)
    table = ItemTable(("en", "sw"), ("s",), patterns, pattern.reshape(-1), zero, random.permutation(1000))
    shares = {}
    for exponent in (0.0, 0.5, 1.0):
        sampler = SamplerConfig(preset="x_x_mono", mono_ratio=1, language_exponent=exponent)
        plan = BatchPlan(table.restricted(), sampler, 8, 1)
        shares[exponent] = np.mean([plan.next().query_language[0] == 1 for _ in range(4000)])
    for exponent, share in shares.items():
        expected = 100**exponent / (100**exponent + 1000**exponent)
        assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 4000)


@pytest.mark.parametrize("draw", ["pair_first", "item_first"])
def test_cross_lingual_pairs_are_uniform_on_parallel_data(draw: str) -> None:
    table = make_table(3, 600, 4, 1, 10_000, 1.0)
    plan = BatchPlan(table.restricted(), SamplerConfig(preset="x_y", mono_ratio=0, cross_draw=draw), 16, 1)  # type: ignore[arg-type]
    for _ in range(600):
        plan.next()
    rows = plan.exposure
    assert rows.sum() == 600 * 16
    assert np.diag(rows).sum() == 0
    pairs = rows[~np.eye(4, dtype=bool)]
    expected = rows.sum() / 12
    assert (np.abs(pairs - expected) < 5 * np.sqrt(expected)).all()


def test_pair_first_and_item_first_differ_on_ragged_data() -> None:
    has = np.zeros((1100, 3), dtype=bool)
    has[:1000, :2] = True  # a thousand items in a pair, a hundred in another
    has[1000:, 1:] = True
    patterns, pattern = np.unique(has, axis=0, return_inverse=True)
    zero = np.zeros(1100, dtype=np.int64)
    table = ItemTable(("de", "en", "sw"), ("s",), patterns, pattern.reshape(-1), zero, np.arange(1100))
    share = {}
    for draw in ("pair_first", "item_first"):
        plan = BatchPlan(table.restricted(), SamplerConfig(preset="x_y", mono_ratio=0, cross_draw=draw), 16, 1)  # type: ignore[arg-type]
        for _ in range(300):
            plan.next()
        share[draw] = plan.exposure[1, 2] / plan.exposure.sum()
    assert abs(share["pair_first"] - 1 / 4) < 0.03
    assert abs(share["item_first"] - 100 / 1100 / 2) < 0.02


def test_x_x_mixes_languages_in_a_batch_but_not_in_a_row() -> None:
    table = make_table(0, 300, 4, 1, 300, 1.0)
    plan = BatchPlan(table.restricted(), SamplerConfig(preset="x_x", mono_ratio=1), 32, 1)
    for _ in range(20):
        batch = plan.next()
        assert (batch.query_language == batch.passage_language).all()
        assert len(set(batch.query_language.tolist())) > 1
        assert not batch.monolingual


def test_english_draws_english_only() -> None:
    table = make_table(0, 300, 4, 1, 300, 0.8)
    plan = BatchPlan(table.restricted(), SamplerConfig(preset="english", mono_ratio=1), 16, 1)
    english = table.languages.index("en")
    for _ in range(20):
        batch = plan.next()
        assert batch.monolingual
        assert set(batch.query_language.tolist()) == {english}


def test_held_out_items_and_other_languages_are_never_drawn() -> None:
    table = make_table(5, 300, 4, 2, 250, 0.8)
    keep = np.random.default_rng(1).random(300) < 0.7
    plan = BatchPlan(table.restricted(keep, ["ar", "sw"]), SamplerConfig(small_languages="drop"), 8, 1)
    allowed = {table.languages.index("ar"), table.languages.index("sw")}
    for _ in range(100):
        batch = plan.next()
        assert keep[batch.items].all()
        assert {*batch.query_language.tolist(), *batch.passage_language.tolist()} <= allowed


def test_source_weights_are_kept_when_a_batch_has_one_source() -> None:
    table = make_table(2, 900, 3, 3, 3000, 1.0)
    mix = SourceMixConfig(draw="batch", weights={"source0": 3.0, "source1": 0.0, "source2": 1.0})
    plan = BatchPlan(table.restricted(), SamplerConfig(sources=mix), 8, 1)
    for _ in range(800):
        plan.next()
    rows = plan.source_rows()
    assert rows["source1"] == 0
    assert abs(rows["source0"] / sum(rows.values()) - 0.75) < 0.06


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"source0": 1.0}, "no weight for source1, source2"),
        ({"source0": 1.0, "source1": 1.0, "source2": 1.0, "other": 1.0}, "no source named 'other'"),
        ({"source0": 0.0, "source1": 0.0, "source2": 0.0}, "all are 0"),
    ],
)
def test_wrong_source_weights_are_named(weights: dict[str, float], message: str) -> None:
    table = make_table(2, 900, 3, 3, 3000, 1.0)
    with pytest.raises(DataError, match=message):
        BatchPlan(table.restricted(), SamplerConfig(sources=SourceMixConfig(weights=weights)), 8, 1)


# ---------------------------------------------------------------------------------------------- weights of languages

BEFORE_WEIGHTS = {
    "default": ({}, "d8e3bd1484851b41"),
    "x_y": ({"preset": "x_y", "mono_ratio": 0}, "781fe3ca03497ff0"),
    "item_first": ({"mono_ratio": 0.25, "cross_draw": "item_first"}, "dd2451b111379e5a"),
    "x_x": ({"preset": "x_x", "mono_ratio": 1}, "6d25426fd864ace7"),
    "tempered": ({"preset": "x_x_mono", "mono_ratio": 1, "language_exponent": 0.5}, "08b33298a771b342"),
    "one source a batch": ({"sources": {"draw": "batch", "exponent": 0.5}}, "99631dc8638dc4b3"),
    "weights of sources": ({"sources": {"weights": {"source0": 3.0, "source1": 0.5}}}, "879832d29c202454"),
}
"""Settings, and the hash of the rows that they gave before languages had weights."""


@pytest.mark.parametrize("name", BEFORE_WEIGHTS)
def test_without_weights_of_languages_the_rows_are_what_they_were(name: str) -> None:
    more, expected = BEFORE_WEIGHTS[name]
    plan = BatchPlan(make_table(11, 900, 4, 2, 700, 0.7).restricted(), SamplerConfig.model_validate(more), 16, 5)
    digest = hashlib.sha256()
    for _ in range(200):
        batch = plan.next()
        for column in (batch.items, batch.query_language, batch.passage_language):
            digest.update(np.ascontiguousarray(column, dtype="<i8").tobytes())
    assert digest.hexdigest()[:16] == expected


WEIGHTS = {"de": 2.0, "sw": 0.5}
RELATIVE = np.array([1.0, 2.0, 1.0, 0.5])


def chi_square(rows: np.ndarray, expected: np.ndarray, unit: int = 1) -> float:
    """Against shares; rows that are drawn ``unit`` at a time are one draw."""
    drawn, shares = rows / unit, expected / expected.sum()
    cells = shares > 0
    assert not rows[~cells].any()
    return float(((drawn - drawn.sum() * shares)[cells] ** 2 / (drawn.sum() * shares[cells])).sum())


@pytest.mark.parametrize(("exponent", "preset"), [(0.0, "x_x_mono"), (1.0, "x_x_mono"), (0.0, "x_x")])
def test_weights_of_languages_in_the_monolingual_draw(exponent: float, preset: str) -> None:
    table = make_table(4, 800, 4, 2, 3000, 0.6)
    sampler = SamplerConfig.model_validate(
        {"preset": preset, "mono_ratio": 1, "language_exponent": exponent, "language_weights": WEIGHTS}
    )
    plan = BatchPlan(table.restricted(), sampler, 8, 1)
    for _ in range(3000):
        plan.next()
    items = plan.eligible.items_with_both().sum(0).diagonal()
    expected = RELATIVE * items**exponent
    assert chi_square(plan.exposure.diagonal(), expected, unit=1 if preset == "x_x" else 8) < 16.3  # .999 at 3 degrees


@pytest.mark.parametrize("draw", ["pair_first", "item_first"])
def test_a_pair_is_drawn_by_the_product_of_its_languages_weights(draw: str) -> None:
    """On parallel data both draws have the same shares: w_a * w_b over the pairs of different languages."""
    table = make_table(3, 600, 4, 2, 10_000, 1.0)
    sampler = SamplerConfig.model_validate(
        {"preset": "x_y", "mono_ratio": 0, "cross_draw": draw, "language_weights": WEIGHTS}
    )
    plan = BatchPlan(table.restricted(), sampler, 16, 1)
    for _ in range(1500):
        plan.next()
    expected = np.outer(RELATIVE, RELATIVE)
    np.fill_diagonal(expected, 0)
    assert chi_square(plan.exposure, expected) < 31.3  # .999 quantile at 11 degrees of freedom


def test_weighted_pairs_of_ragged_items_are_those_of_their_languages() -> None:
    """``item_first``: whatever an item's languages, its pair is drawn by weight among them (against enumeration)."""
    table = make_table(8, 500, 4, 1, 5000, 0.6)
    sampler = SamplerConfig.model_validate(
        {"preset": "x_y", "mono_ratio": 0, "cross_draw": "item_first", "language_weights": WEIGHTS}
    )
    plan = BatchPlan(table.restricted(), sampler, 16, 2)
    expected = np.zeros((4, 4))
    for _ in range(2500):
        for pattern in table.pattern[plan.next().items]:
            pairs = np.outer(RELATIVE, RELATIVE) * np.outer(table.patterns[pattern], table.patterns[pattern])
            np.fill_diagonal(pairs, 0)
            expected += pairs / pairs.sum()
    assert chi_square(plan.exposure, expected) < 31.3


def test_a_weight_of_a_language_that_is_not_there() -> None:
    sampler = SamplerConfig(language_weights={"ko": 2.0})
    with pytest.raises(DataError, match=r"^sampler\.language_weights\.ko=2: the data has no ko; it has ar, de"):
        BatchPlan(make_table(0, 300, 4, 1, 300, 1.0).restricted(), sampler, 8, 1)


# ---------------------------------------------------------------------------------------------- the plan beforehand


@settings(max_examples=30, deadline=None)
@given(tables, samplers, st.integers(0, 1000), st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_what_is_planned_beforehand_is_what_is_drawn(
    table: ItemTable, sampler: SamplerConfig, seed: int, steps: int, few: int, by_steps: bool
) -> None:
    most = (10**6, few) if by_steps else (8 * few, 10**6)
    plan = make_plan(table, sampler, 8, seed)
    try:
        found = planned(plan, steps, *most)
    except DataError:
        assume(False)
    fresh = make_plan(table, sampler, 8, seed)
    assert plan.state_dict() == fresh.state_dict()
    rows = np.zeros_like(found.rows)
    for _ in range(min(steps, few)):
        batch = plan.next()
        assert same(batch, fresh.next())
        for item, q, p in zip(batch.items, batch.query_language, batch.passage_language, strict=True):
            rows[table.source[item], q, p] += 1
    assert (found.steps, found.whole) == (min(steps, few), steps <= few)
    assert np.array_equal(found.rows, rows)
    assert np.array_equal(found.rows.sum(0), plan.exposure)
    assert found.counts == plan.counts
    assert found.share.sum() == pytest.approx(1)
    for s in range(len(table.sources)):
        has = table.patterns[table.pattern[table.source == s]].astype(int)
        assert np.array_equal(found.items[s], has.T @ has)
        assert found.source_items[s] == len(has)
    lines = found.lines()
    assert {(x["source"], x["query_language"], x["passage_language"]) for x in lines} >= {
        (table.sources[s], table.languages[q], table.languages[p]) for s, q, p in np.argwhere(rows)
    }
    assert sum(float(x["rows"]) for x in lines) == pytest.approx(steps * 8, abs=len(lines))
    for line in lines:
        assert line["times"] == pytest.approx(
            float(line["rows"]) / int(line["items"]), abs=0.6 / int(line["items"]) + 1e-4
        )


def test_small_language_is_an_error_that_names_it_or_is_dropped() -> None:
    has = np.ones((100, 3), dtype=bool)
    has[5:, 2] = False
    patterns, pattern = np.unique(has, axis=0, return_inverse=True)
    zero = np.zeros(100, dtype=np.int64)
    table = ItemTable(("de", "en", "yo"), ("s",), patterns, pattern.reshape(-1), zero, np.arange(100))
    with pytest.raises(DataError, match=r"yo \(5\).*small_languages=drop"):
        BatchPlan(table.restricted(), SamplerConfig(), 16, 1)
    plan = BatchPlan(table.restricted(), SamplerConfig(small_languages="drop"), 16, 1)
    assert plan.dropped_languages == {"yo": 5}
    mono = [b.query_language[0] for b in (plan.next() for _ in range(200)) if b.monolingual]
    assert 2 not in mono
    assert plan.exposure[2].sum() > 0, "the language still takes part in cross-lingual rows"


def test_no_shared_item_is_an_error() -> None:
    has = np.zeros((100, 2), dtype=bool)
    has[:50, 0] = True
    has[50:, 1] = True
    patterns, pattern = np.unique(has, axis=0, return_inverse=True)
    zero = np.zeros(100, dtype=np.int64)
    table = ItemTable(("de", "en"), ("s",), patterns, pattern.reshape(-1), zero, np.arange(100))
    with pytest.raises(DataError, match="no item exists in two of the languages"):
        BatchPlan(table.restricted(), SamplerConfig(), 16, 1)


def test_few_passages_are_an_error_even_with_many_questions() -> None:
    table = make_table(0, 300, 3, 1, 6, 1.0)
    with pytest.raises(DataError, match=r"only 6 different passages|fewer distinct passages"):
        BatchPlan(table.restricted(), SamplerConfig(), 8, 1)
    plan = BatchPlan(table.restricted(), SamplerConfig(), 6, 1)  # each batch must hold all six passages
    for _ in range(50):
        assert len(set(table.passage[plan.next().items].tolist())) == 6


def test_a_state_of_other_data_is_refused() -> None:
    plan = BatchPlan(make_table(0, 300, 3, 1, 300, 1.0).restricted(), SamplerConfig(), 8, 1)
    other = BatchPlan(make_table(0, 300, 4, 1, 300, 1.0).restricted(), SamplerConfig(), 8, 1)
    with pytest.raises(DataError, match="belongs to other data"):
        other.load_state_dict(plan.state_dict())
