"""The batch plan: which item, in which two languages, stands in each row of each global batch.

Three batchings are one mechanism (arXiv 2408.10536, section 3; arXiv 2004.05484, section 5). A *stream* is the
sequence of items that can serve one kind of row: those of a source that exist in one language (monolingual rows), or
in both languages of an ordered pair (cross-lingual rows). A batch draws a stream for each of its rows and takes the
stream's next item:

- monolingual batch: one language for the whole batch, hence one stream for each source;
- cross-lingual batch: each row draws an ordered pair of different languages (``pair_first``), or an item and then an
  ordered pair of its languages (``item_first``);
- ``x_x``: each row draws a language, so that languages are mixed in a batch although each row has one.

Each stream is passed through without replacement, in an order that is shuffled anew in every pass. The order is a
keyed permutation that is *computed*, not stored (a Feistel network over [0, size), Black and Rogaway 2002), so that a
plan over 40 million items and hundreds of language pairs needs a cursor for each stream and nothing else.

A row whose passage is in the batch already is deferred: it waits and is the first of its stream in the next batch.
Rows still waiting when their stream's pass ends are counted as ``unplaced``.

Batch k depends on (seed, k) and the items alone: not on devices, workers or a resume.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np

from hybrid_ir.config import SamplerConfig
from hybrid_ir.data.items import EligibleItems
from hybrid_ir.errors import DataError

_ROUNDS = 6
_U64 = np.uint64


@dataclass(frozen=True)
class Batch:
    """One global batch."""

    step: int
    monolingual: bool
    """Drawn as a monolingual batch (an ``x_x`` batch is not one: its rows are, the batch is not)."""
    items: np.ndarray
    """[batch] int64."""
    query_language: np.ndarray
    """[batch] int64, index into the table's languages."""
    passage_language: np.ndarray
    """[batch] int64, index into the table's languages."""

    def __len__(self) -> int:
        return len(self.items)

    def shard(self, rank: int, world_size: int) -> slice:
        """Rows of one process: contiguous, equal shares.

        Raises:
            ValueError: the batch is not divisible by the number of processes.
        """
        if len(self) % world_size:
            raise ValueError(f"a batch of {len(self)} rows is not divisible by {world_size} processes")
        share = len(self) // world_size
        return slice(rank * share, (rank + 1) * share)


class _Streams:
    """Streams of one kind, as flat arrays so that the rows of a batch are looked up in a few vectorised calls."""

    def __init__(self, eligible: EligibleItems, entries: list[tuple[int, int, int, np.ndarray]], key: int) -> None:
        """entries: (source, query language, passage language, groups); languages are -1 where the item decides."""
        self.eligible = eligible
        self.groups = [e[3] for e in entries]
        self.source = np.array([e[0] for e in entries], dtype=np.int64)
        self.query_language = np.array([e[1] for e in entries], dtype=np.int64)
        self.passage_language = np.array([e[2] for e in entries], dtype=np.int64)
        sizes = [eligible.group_size[e[3]] for e in entries]
        self.size = np.array([s.sum() for s in sizes], dtype=np.int64)
        # ranges of all streams in one sorted array: end of each range, offset by the streams before it
        self.base = np.concatenate([[0], np.cumsum(self.size)[:-1]]).astype(np.int64)
        self.range_end = np.cumsum(np.concatenate(sizes)) if entries else np.empty(0, dtype=np.int64)
        self.range_begin = self.range_end - (np.concatenate(sizes) if entries else 0)
        starts = [eligible.group_start[e[3]] for e in entries]
        self.range_start = np.concatenate(starts) if entries else np.empty(0, dtype=np.int64)
        root = np.ceil(np.sqrt(self.size.astype(np.float64))).astype(np.int64)
        self.rows = np.maximum(root, 1).astype(_U64)
        self.columns = np.maximum(-(-self.size // np.maximum(root, 1)), 1).astype(_U64)
        index = np.arange(len(entries), dtype=_U64)
        self.key = mix(index * _U64(0x9E3779B97F4A7C15) + _U64(key))
        self.passes = np.zeros(len(entries), dtype=np.int64)
        self.position = np.zeros(len(entries), dtype=np.int64)
        self.deferred: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self.size)

    def item(self, stream: np.ndarray, passes: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Item at a position of a pass of a stream, all [n]."""
        size = self.size[stream].astype(_U64)
        key = mix(self.key[stream] + passes.astype(_U64) * _U64(0xD1342543DE82EF95))
        shuffled = _permute(position.astype(_U64), size, self.rows[stream], self.columns[stream], key)
        flat = shuffled.astype(np.int64) + self.base[stream]
        part = np.searchsorted(self.range_end, flat, side="right")
        return self.eligible.items_at(self.range_start[part] + flat - self.range_begin[part])


def mix(z: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return z ^ (z >> _U64(31))


def _permute(index: np.ndarray, size: np.ndarray, rows: np.ndarray, columns: np.ndarray, key: np.ndarray) -> np.ndarray:
    """A keyed permutation of [0, size): Feistel rounds on (index // columns, index % columns), walking the cycle.

    rows * columns is the smallest near-square rectangle that holds size, so a second walk is rarely needed.
    """
    value = index
    todo: np.ndarray | None = None
    while True:
        left, right = value // columns, value % columns
        for r in range(_ROUNDS):
            salt = key + _U64((r * 0xA0761D6478BD642F) & 0xFFFFFFFFFFFFFFFF)
            if r % 2 == 0:
                left = (left + mix(right + salt) % rows) % rows
            else:
                right = (right + mix(left + salt) % columns) % columns
        value = left * columns + right
        if todo is None:
            result = value
        else:
            result[todo] = value
        outside = np.flatnonzero(value >= size)
        if not len(outside):
            return result
        todo = outside if todo is None else todo[outside]
        value, size, rows, columns, key = value[outside], size[outside], rows[outside], columns[outside], key[outside]


@dataclass(frozen=True)
class _Draw:
    """Streams that a row may come from, with their probabilities."""

    streams: np.ndarray
    probability: np.ndarray

    @cached_property
    def edges(self) -> np.ndarray:
        edges = np.cumsum(self.probability)
        return edges / edges[-1]

    def pick(self, uniform: np.ndarray) -> np.ndarray:
        if len(self.streams) == 1:
            return np.full(len(uniform), self.streams[0])
        return self.streams[np.minimum(np.searchsorted(self.edges, uniform, side="right"), len(self.streams) - 1)]


class BatchPlan:
    """The sequence of global batches.

    Args:
        eligible: items and languages that training may draw (``ItemTable.restricted``).
        sampler: the batching.
        batch_size: rows of the global batch.
        seed: the run's seed.
        cross_lingual_only: sources of which no monolingual row is made.

    Raises:
        DataError: a language, or the cross-lingual rows, cannot fill a batch with different passages; a weight is of
            no source or language of the data.
    """

    def __init__(
        self,
        eligible: EligibleItems,
        sampler: SamplerConfig,
        batch_size: int,
        seed: int,
        cross_lingual_only: Collection[str] = (),
    ) -> None:
        self.eligible = eligible
        self.sampler = sampler
        self.batch_size = batch_size
        self.seed = seed
        self.languages = eligible.table.languages
        state = np.random.SeedSequence([seed, 0x48594252]).generate_state(4, np.uint64)
        self._philox_key = state[:2]
        self._stream_key = int(state[2])
        ratio = Fraction(str(float(sampler.mono_ratio))).limit_denominator(10**9)
        self._ratio = ratio
        self._phase = int(state[3] % _U64(ratio.denominator))
        self.step = 0
        self.dropped_languages: dict[str, int] = {}
        """Languages left out of the monolingual draw (``small_languages=drop``) -> distinct passages they have."""
        self._cross_lingual_only = [i for i, s in enumerate(eligible.table.sources) if s in cross_lingual_only]
        self._weights = self._source_weights()
        self._language_weights = self._weights_of_languages()
        wants_mono, wants_cross = sampler.mono_ratio > 0, sampler.mono_ratio < 1
        self._mono_draws: list[tuple[float, list[tuple[float, _Draw]]]] = []
        self._mixed_draws: list[tuple[float, _Draw]] = []
        self._cross_draws: list[tuple[float, _Draw]] = []
        mono_entries = self._mono_entries() if wants_mono else []
        cross_entries = self._cross_entries() if wants_cross else []
        self.streams = _Streams(eligible, mono_entries + cross_entries, self._stream_key)
        self._exposure = np.zeros((len(self.languages), len(self.languages)), dtype=np.int64)
        self._source_rows = np.zeros(len(eligible.table.sources), dtype=np.int64)
        self.counts = {"batches": 0, "monolingual": 0, "deferred": 0, "unplaced": 0, "redrawn": 0}
        """Counted since step 0: batches, monolingual batches, rows deferred to a later batch, rows dropped at the end
        of a pass because their passage was in the batch, rows that drew another stream because theirs ran out."""
        mono = np.arange(len(mono_entries))
        cross = np.arange(len(cross_entries)) + len(mono_entries)
        if wants_mono:
            if sampler.preset == "x_x":
                self._mixed_draws = self._by_pair(mono, "rows of one language each")
            else:
                self._mono_draws = self._by_language(mono)
        if wants_cross:
            self._cross_draws = self._by_pair(cross, "cross-lingual rows")
        patterns = eligible.patterns
        self._pattern_count = patterns.sum(1)
        width = int(self._pattern_count.max(initial=0))
        self._pattern_languages = np.zeros((len(patterns), max(width, 1)), dtype=np.int64)
        if sampler.cross_draw == "item_first":
            for p, row in enumerate(patterns):
                found = np.flatnonzero(row)
                self._pattern_languages[p, : len(found)] = found
        self._pair_draws = self._weighted_pairs() if sampler.language_weights else None

    # ------------------------------------------------------------------------------------------- construction

    def _source_weights(self) -> np.ndarray:
        table, mix = self.eligible.table, self.sampler.sources
        sizes = np.array(
            [self.eligible.group_size[self.eligible.group_source == s].sum() for s in range(len(table.sources))],
            dtype=np.float64,
        )
        if mix.weights is None:
            return np.where(sizes > 0, sizes**mix.exponent, 0.0)
        unknown = sorted(set(mix.weights) - set(table.sources))
        if unknown:
            raise DataError(
                f"sampler.sources.weights: no source named {unknown[0]!r} in the data; there are: "
                f"{', '.join(table.sources)}"
            )
        forgotten = [name for name in table.sources if name not in mix.weights]
        if forgotten:
            raise DataError(
                f"sampler.sources.weights: no weight for {', '.join(forgotten)}; give each one (0 leaves it out)"
            )
        weights = np.array([mix.weights[name] for name in table.sources]) * (sizes > 0)
        if not weights.any():
            raise DataError("sampler.sources.weights: all are 0; give one source a weight above 0")
        return weights

    def _weights_of_languages(self) -> np.ndarray:
        weights = np.ones(len(self.languages))
        for code, weight in self.sampler.language_weights.items():
            if code not in self.languages:
                raise DataError(
                    f"sampler.language_weights.{code}={weight:g}: the data has no {code}; it has "
                    f"{', '.join(self.languages)}"
                )
            weights[self.languages.index(code)] = weight
        return weights

    def _weighted_pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """For ordered pairs of an item's languages, drawn in proportion to the product of their weights.

        Returns:
            Of each pattern's languages in their order, [patterns, languages of a pattern] each: the probability of
            being the first of the pair, summed up to the language; and its weight.
        """
        there = np.arange(self._pattern_languages.shape[1]) < self._pattern_count[:, None]
        weights = np.where(there, self._language_weights[self._pattern_languages], 0.0)
        first = np.cumsum(weights * (weights.sum(1, keepdims=True) - weights), axis=1)
        return first / np.maximum(first[:, -1:], np.finfo(np.float64).tiny), weights

    def _drawn_languages(self) -> list[int]:
        allowed = [i for i in range(len(self.languages)) if self.eligible.allowed[i]]
        if self.sampler.preset == "english":
            if "en" not in self.languages or not self.eligible.allowed[self.languages.index("en")]:
                raise DataError("sampler=english: the data has no English (en) items; choose another sampler")
            return [self.languages.index("en")]
        return allowed

    def _mono_entries(self) -> list[tuple[int, int, int, np.ndarray]]:
        entries = []
        for source in np.setdiff1d(np.flatnonzero(self._weights > 0), self._cross_lingual_only):
            for language in self._drawn_languages():
                groups = self.eligible.groups_of(int(source), self.eligible.patterns[:, language])
                if len(groups):
                    entries.append((int(source), language, language, groups))
        return entries

    def _cross_entries(self) -> list[tuple[int, int, int, np.ndarray]]:
        entries = []
        patterns = self.eligible.patterns
        languages = self._drawn_languages()
        for source in np.flatnonzero(self._weights > 0):
            if self.sampler.cross_draw == "item_first":
                groups = self.eligible.groups_of(int(source), patterns.sum(1) >= 2)
                if len(groups):
                    entries.append((int(source), -1, -1, groups))
                continue
            for a in languages:
                for b in languages:
                    if a != b:
                        groups = self.eligible.groups_of(int(source), patterns[:, a] & patterns[:, b])
                        if len(groups):
                            entries.append((int(source), a, b, groups))
        return entries

    def _passages_of(self, streams: np.ndarray) -> int:
        """Distinct passages that these streams can give together, counted up to the batch size."""
        groups = np.unique(np.concatenate([self.streams.groups[s] for s in streams])) if len(streams) else streams
        return self.eligible.distinct_passages(groups, self.batch_size)

    def _shares(self, streams: np.ndarray) -> np.ndarray:
        """Relative weight of the sources of these streams: the given weights, else size to a power."""
        if self.sampler.sources.weights is not None:
            return self._weights[self.streams.source[streams]]
        return self.streams.size[streams].astype(np.float64) ** self.sampler.sources.exponent

    def _by_pair(self, streams: np.ndarray, what: str) -> list[tuple[float, _Draw]]:
        """Draws of batches whose rows choose among many streams, as [(weight of a source or 1, its draw)].

        Rows draw their languages uniformly, or by their weights, then a source among those that have them; with one
        source a batch, the source is drawn first and the languages among its own.
        """
        one_source = self.sampler.sources.draw == "batch"
        source = self.streams.source[streams]
        draws = []
        for s in np.unique(source) if one_source else [None]:
            mine = streams if s is None else streams[source == s]
            if not len(mine):
                continue
            query, passage = self.streams.query_language[mine], self.streams.passage_language[mine]
            _, which = np.unique(query * (len(self.languages) + 1) + passage, return_inverse=True)
            share = self._shares(mine)
            probability = share / np.bincount(which, weights=share)[which]
            if (query >= 0).all():  # with item_first the item decides
                weight = self._language_weights
                probability = probability * np.where(query == passage, weight[query], weight[query] * weight[passage])
            draw = _Draw(mine, probability / probability.sum())
            found = self._passages_of(mine)
            if found < self.batch_size:
                where = "the data" if s is None else f"source {self.eligible.table.sources[int(s)]!r}"
                raise DataError(
                    f"batch_size={self.batch_size}: {where} has only {found} different passages for {what}; use "
                    f"batch_size={max(found, 2)} or less, or more data"
                )
            draws.append((1.0 if s is None else float(self._weights[s]), draw))
        if not draws:
            raise DataError(
                f"sampler.mono_ratio={float(self._ratio):g}: no item exists in two of the languages, so there are no "
                f"{what}; check that the language versions of an item share its id, or use sampler=x_x_mono"
            )
        return draws

    def _by_language(self, streams: np.ndarray) -> list[tuple[float, list[tuple[float, _Draw]]]]:
        """Draws of monolingual batches: [(weight of a source or 1, [(weight of a language, its streams)])]."""
        one_source = self.sampler.sources.draw == "batch"
        source, language = self.streams.source[streams], self.streams.query_language[streams]
        small: dict[str, int] = {}
        result = []
        for s in np.unique(source) if one_source else [None]:
            mine = streams if s is None else streams[source == s]
            options = []
            for code in np.unique(self.streams.query_language[mine]):
                those = mine[self.streams.query_language[mine] == code]
                found = self._passages_of(those)
                if found < self.batch_size:
                    name = self.languages[int(code)]
                    small[name if s is None else f"{name} in {self.eligible.table.sources[int(s)]}"] = found
                    continue
                items = float(self.streams.size[those].sum())
                share = self._shares(those)
                weight = items**self.sampler.language_exponent * float(self._language_weights[code])
                options.append((weight, _Draw(those, share / share.sum())))
            if options:
                result.append((1.0 if s is None else float(self._weights[s]), options))
        missing = [
            code
            for i, code in enumerate(self.languages)
            if i in self._drawn_languages() and i not in set(language.tolist())
        ]
        small.update(dict.fromkeys(missing, 0))
        if small and (self.sampler.small_languages == "error" or not result):
            named = ", ".join(f"{code} ({n})" for code, n in sorted(small.items(), key=lambda kv: kv[1]))
            raise DataError(
                f"batch_size={self.batch_size}: languages with fewer distinct passages than a monolingual batch has "
                f"rows: {named}; use a smaller batch_size, leave them out of data.languages, or "
                f"sampler.small_languages=drop to leave them out of the monolingual draw"
            )
        self.dropped_languages = small
        return result

    # -------------------------------------------------------------------------------------------------- batches

    def is_monolingual(self, step: int) -> bool:
        """Whether batch ``step`` is drawn as monolingual: a function of (seed, step) and the ratio alone."""
        p, q = self._ratio.numerator, self._ratio.denominator
        if p in (0, q):
            return p == q
        if self.sampler.mono_draw == "exact":
            # over any window of n batches the count is floor((k + n) p/q + c) - floor(k p/q + c): within 1 of n p/q
            return ((step + 1) * p + self._phase) // q > (step * p + self._phase) // q
        # the same uniform number for every ratio: runs of a sweep share their draws
        return float(self._random(step, 0).random()) < self.sampler.mono_ratio

    def _random(self, step: int, purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=self._philox_key, counter=[0, 0, purpose, step]))

    def next(self) -> Batch:
        """The batch of the present step; moves on to the next."""
        step = self.step
        random = self._random(step, 1)
        mono = self.is_monolingual(step)
        if mono and self._mono_draws:
            by_source = self._mono_draws
            options = by_source[_choose(random, [w for w, _ in by_source])][1]
            draw = options[_choose(random, [w for w, _ in options])][1]
        else:
            draws = self._mixed_draws if mono else self._cross_draws
            draw = draws[_choose(random, [w for w, _ in draws])][1]
        items, streams = self._fill(draw, random)
        query, passage = self.streams.query_language[streams], self.streams.passage_language[streams]
        if not mono and self.sampler.cross_draw == "item_first":
            pattern = self.eligible.table.pattern[items]
            first, second = self._pair_of(pattern, random.random(len(items)), random.random(len(items)))
            query, passage = self._pattern_languages[pattern, first], self._pattern_languages[pattern, second]
        np.add.at(self._exposure, (query, passage), 1)
        self._source_rows += np.bincount(self.streams.source[streams], minlength=len(self._source_rows))
        self.counts["batches"] += 1
        self.counts["monolingual"] += mono
        self.step = step + 1
        return Batch(step, mono and not self._mixed_draws, items, query, passage)

    def _pair_of(self, pattern: np.ndarray, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An ordered pair of a pattern's languages for each row, as places among them, from two uniform numbers."""
        count = self._pattern_count[pattern]
        if self._pair_draws is None:
            first = (one * count).astype(np.int64)
            second = (other * (count - 1)).astype(np.int64)
            return first, second + (second >= first)
        edges, weights = self._pair_draws
        first = np.minimum((edges[pattern] <= one[:, None]).sum(1), count - 1)
        rest = weights[pattern]
        rest[np.arange(len(first)), first] = 0.0
        sums = np.cumsum(rest, axis=1)
        second = (sums <= other[:, None] * sums[:, -1:]).sum(1)
        return first, np.minimum(second, np.where(first == count - 1, count - 2, count - 1))

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.next()

    def advance_to(self, step: int) -> None:
        """Plans and discards batches up to ``step``; a checkpoint's state is the quicker way."""
        while self.step < step:
            self.next()

    def _fill(self, draw: _Draw, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Items and streams of one batch, [batch] each: no two rows with the same passage."""
        s = self.streams
        size = self.batch_size
        rows = draw.pick(random.random(size))
        items = np.full(size, -1, dtype=np.int64)
        taken = np.empty(0, dtype=np.int64)
        pending = np.arange(size)
        aside: dict[int, list[int]] = {}  # rows that clash with this batch, by stream
        ended: set[int] = set()  # streams whose pass ended in this batch
        exhausted: set[int] = set()  # streams with nothing more for this batch
        while len(pending):
            wanted = rows[pending]
            waiting = s.deferred and not s.deferred.keys().isdisjoint(wanted.tolist())
            candidates, filled = (
                self._take_deferred(wanted) if waiting else self._take_next(wanted, ended, exhausted, aside)
            )
            if exhausted:
                gone = ~filled & np.isin(wanted, list(exhausted))
                if gone.any():
                    rows[pending[gone]] = self._redraw(draw, exhausted, random, int(gone.sum()))
            got = np.flatnonzero(filled)
            if not len(got):
                continue
            passages = self.eligible.table.passage[candidates[got]]
            first = np.zeros(len(got), dtype=bool)
            first[np.unique(passages, return_index=True)[1]] = True
            if len(taken):
                first &= ~np.isin(passages, taken)
            accepted = got[first]
            items[pending[accepted]] = candidates[accepted]
            taken = np.concatenate([taken, passages[first]])
            for index in got[~first]:
                aside.setdefault(int(wanted[index]), []).append(int(candidates[index]))
            keep = np.ones(len(pending), dtype=bool)
            keep[accepted] = False
            pending = pending[keep]
        for stream, waiting_items in aside.items():
            self.counts["deferred"] += len(waiting_items)
            s.deferred[stream] = waiting_items + s.deferred.get(stream, [])
        return items, rows

    def _take_deferred(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items that waited, for the rows whose streams have any: (items [n], which rows got one [n])."""
        deferred = self.streams.deferred
        items = np.full(len(wanted), -1, dtype=np.int64)
        for stream in deferred.keys() & set(wanted.tolist()):
            queue = deferred.pop(stream)
            mine = np.flatnonzero(wanted == stream)[: len(queue)]
            items[mine] = queue[: len(mine)]
            if len(queue) > len(mine):
                deferred[stream] = queue[len(mine) :]
        return items, items >= 0

    def _take_next(
        self, wanted: np.ndarray, ended: set[int], exhausted: set[int], aside: dict[int, list[int]]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The next items of the rows' streams: (items [n], which rows got one [n]).

        A row beyond its stream's end gets none in this round; the stream's next pass begins. A stream ends one pass a
        batch at most: by then each of its passages has been tried, so it has nothing more for this batch.
        """
        s = self.streams
        if len(wanted) == 1 or (wanted == wanted[0]).all():
            rank = np.arange(len(wanted))
            touched, need = wanted[:1], np.array([len(wanted)])
        else:
            order = np.argsort(wanted, kind="stable")
            ordered = wanted[order]
            begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
            need = np.diff(np.append(begins, len(ordered)))
            rank = np.empty(len(wanted), dtype=np.int64)
            rank[order] = np.arange(len(ordered)) - np.repeat(begins, need)
            touched = ordered[begins]
        position = s.position[wanted] + rank
        filled = position < s.size[wanted]
        items = np.full(len(wanted), -1, dtype=np.int64)
        if filled.all():
            items = s.item(wanted, s.passes[wanted], position)
        elif filled.any():
            part = wanted[filled]
            items[filled] = s.item(part, s.passes[part], position[filled])
        s.position[touched] += np.minimum(need, s.size[touched] - s.position[touched])
        for stream in touched[(s.position[touched] >= s.size[touched]) & (need > 0)].tolist():
            if filled[wanted == stream].all():
                continue  # the pass ends exactly here; the next begins when it is wanted
            if stream in ended:
                exhausted.add(stream)
                continue
            ended.add(stream)
            self.counts["unplaced"] += len(aside.pop(stream, []))
            s.passes[stream] += 1
            s.position[stream] = 0
        return items, filled

    def _redraw(self, draw: _Draw, exhausted: set[int], random: np.random.Generator, count: int) -> np.ndarray:
        left = ~np.isin(draw.streams, list(exhausted))
        if not left.any():
            raise DataError(
                f"batch_size={self.batch_size}: the data has too few different passages to fill batch {self.step}; "
                f"use a smaller batch_size"
            )
        self.counts["redrawn"] += count
        return _Draw(draw.streams[left], draw.probability[left]).pick(random.random(count))

    # ---------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The cursor: plain tensors and numbers, as a checkpoint that loads with ``weights_only`` needs."""
        s = self.streams
        return {
            "step": self.step,
            "passes": s.passes.tolist(),
            "position": s.position.tolist(),
            "deferred": {stream: list(items) for stream, items in s.deferred.items()},
            "exposure": self._exposure.tolist(),
            "source_rows": self._source_rows.tolist(),
            "counts": dict(self.counts),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where the state was taken.

        Raises:
            DataError: the state belongs to other data or another batching.
        """
        s = self.streams
        if len(state["passes"]) != len(s):
            raise DataError(
                f"the checkpoint's batch plan has {len(state['passes'])} streams, this data gives {len(s)}: it belongs "
                f"to other data or another batching"
            )
        self.step = state["step"]
        s.passes = np.array(state["passes"], dtype=np.int64)
        s.position = np.array(state["position"], dtype=np.int64)
        s.deferred = {int(stream): list(items) for stream, items in state["deferred"].items()}
        self._exposure = np.array(state["exposure"], dtype=np.int64)
        self._source_rows = np.array(state["source_rows"], dtype=np.int64)
        self.counts = dict(state["counts"])

    # ------------------------------------------------------------------------------------------------- reporting

    @property
    def exposure(self) -> np.ndarray:
        """[languages, languages] int64: rows drawn so far by query language and passage language."""
        return self._exposure.copy()

    def source_rows(self) -> dict[str, int]:
        """Rows drawn so far from each source."""
        return dict(zip(self.eligible.table.sources, self._source_rows.tolist(), strict=True))


def _choose(random: np.random.Generator, weights: list[float]) -> int:
    if len(weights) == 1:
        return 0
    edges = np.cumsum(weights)
    return int(min(np.searchsorted(edges, random.random() * edges[-1], side="right"), len(weights) - 1))
