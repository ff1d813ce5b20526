"""Hard negatives: passages that a model ranks high for a query and that do not answer it.

The negatives of a line are passages in the line's language: batches take a row's negatives from the line that its
passage comes from. They are found by exact search among all passages of that language, a shard and a block of lines at
a time, so that memory does not grow with the corpus. What is searched with is the line's own query, or, for
cross-lingual rows, the item's query in another language.

False negatives are kept out by three rules. A passage that the data pairs with the query is none, in any wording or
version (by passage id). Of the others only those in a window of ranks are taken. Among these, one whose score comes
close to the positive's, or exceeds it, probably answers the query too: "positive-aware" mining (NV-Retriever, arXiv
2407.15831, section 3.2), with a margin (TopK-MarginPos) or a share of the positive's score (TopK-PercPos).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import mix
from hybrid_ir.evaluation.benchmarks.base import Text
from hybrid_ir.evaluation.encoding import (
    EmbeddingCache,
    Progress,
    ShardEncoder,
    TextEncoder,
    encode_in_shards,
    finite,
    shard_ranges,
)
from hybrid_ir.evaluation.search import CHUNK, NO_KEY, TopK, key_scores, scores

PLACES = 2**23
"""Places of rankings that are kept at a time: fewer lines are searched for at once when rankings are long."""
_ITEMS = 2**14
_U64 = np.uint64
_LOWEST = float(np.finfo(np.float32).min)
_SPREAD, _OTHER_SPREAD = _U64(0x9E3779B97F4A7C15), _U64(0xD1342543DE82EF95)


@dataclass(frozen=True)
class Rules:
    """Which passages become negatives."""

    negatives: int = 4
    """Of each line; drawn from those that the other rules leave."""
    first_rank: int = 10
    """First rank of the window, from 1; known positives do not count."""
    last_rank: int = 100
    """Last rank of the window."""
    margin: float | None = None
    """A negative scores at most the positive's score minus this; None has no such rule."""
    ratio: float | None = 0.95
    """A negative scores at most this share of the positive's score; None has no such rule."""
    across: bool = False
    """Search with the item's query in another language, drawn for each line, instead of the line's own."""
    seed: int = 1
    """Of the draws."""

    def highest(self, positives: np.ndarray) -> np.ndarray:
        """[lines] float32: the highest score of a negative, by the score of the line's positive."""
        highest = np.full(len(positives), np.inf, dtype=np.float32)
        if self.margin is not None:
            highest = np.minimum(highest, positives - np.float32(self.margin))
        if self.ratio is not None:  # of a score below 0 too a lower one
            highest = np.minimum(highest, positives - np.float32(1 - self.ratio) * np.abs(positives))
        return highest


@dataclass
class Counts:
    """What was mined for the lines of one language."""

    lines: int = 0
    full: int = 0
    """Lines that have all their negatives."""
    fewer: int = 0
    """Lines with fewer than asked for."""
    none: int = 0
    """Lines without any."""
    by_id: int = 0
    """Passages not taken since they are known positives, other than the line's own, up to the last rank."""
    by_score: int = 0
    """Passages in the window not taken for their score."""
    positive_score: float = 0.0
    """Mean score of the positives."""
    negative_score: float = 0.0
    """Mean score of the negatives; NaN where there are none."""


class Miner:
    """Mines the negatives of a corpus with a model.

    Args:
        corpus: queries and passages; explicit negatives that it has are among the passages.
        encoder: the model.
        rules: which passages are taken.
        shard_size: passages that are encoded and compared together.
        cache: embeddings on disk; without it passages are encoded anew for each block of lines.
        progress: called as lines are done.
    """

    def __init__(
        self,
        corpus: ParallelCorpus,
        encoder: TextEncoder,
        rules: Rules,
        shard_size: int,
        cache: EmbeddingCache | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.corpus, self.encoder, self.rules = corpus, encoder, rules
        self.shard_size, self.cache, self.progress = shard_size, cache, progress
        self.shared_query, self.shared_group = _positives_of_shared_queries(corpus)

    def mine(self, chosen: np.ndarray) -> dict[str, Counts]:
        """Mines all lines, language by language.

        Args:
            chosen: [entries, negatives] int32, -1: takes rows of the corpus' passages, the best first.

        Returns:
            Counts by language.

        Raises:
            UserError: an embedding is not finite.
        """
        lines = self.corpus.items_per_language()
        total, done = int(lines.sum()), 0
        counted: dict[str, Counts] = {}
        table = self.corpus.table
        with torch.no_grad():
            for language, code in enumerate(self.corpus.languages):
                rows = np.flatnonzero(self.corpus.passages.language == language)
                items = np.flatnonzero(table.patterns[:, language][table.pattern])
                sums = _Sums()
                for block in shard_ranges(len(items), max(CHUNK, PLACES // (self.rules.last_rank + 256))):
                    self._block(items[block.start : block.stop], language, rows, chosen, sums)
                    done += len(block)
                    if self.progress is not None:
                        self.progress("searching for lines", done, total)
                counted[code] = sums.counts(len(items), self.rules.negatives)
        return counted

    def _block(self, items: np.ndarray, language: int, rows: np.ndarray, chosen: np.ndarray, sums: _Sums) -> None:
        """Lines of some items in one language, against the passages (``rows``) in it."""
        corpus, rules = self.corpus, self.rules
        entries = corpus.entry(items, np.full(len(items), language))
        asked = entries
        if rules.across:
            other = other_language(corpus, items, language, rules.seed)
            items, entries, other = items[other >= 0], entries[other >= 0], other[other >= 0]
            asked = corpus.entry(items, other)
        if not len(items):
            return
        distinct, query = np.unique(corpus.query_rows(asked), return_inverse=True)
        embeddings = encode_in_shards(self.encoder, corpus.queries.take(distinct), "query", self.shard_size, self.cache)
        own = np.searchsorted(rows, corpus.passage_rows(entries))
        line, group = self._known_positives(items)
        top = TopK(len(items), min(rules.last_rank, len(rows)), embeddings.device)
        positives = np.empty(len(items), dtype=np.float32)
        hidden: list[tuple[np.ndarray, np.ndarray]] = []
        order = torch.as_tensor(query, device=embeddings.device)
        for part, passages in self._passages(rows):
            places = torch.arange(part.start, part.stop, device=passages.device)
            groups = corpus.passage_groups(rows[part.start : part.stop])
            at_line, at_place = _members(line, group, groups)
            for chunk in shard_ranges(len(items), CHUNK):
                values = scores(embeddings[order[chunk.start : chunk.stop]], passages)
                here = slice(*np.searchsorted(at_line, [chunk.start, chunk.stop]))
                where = (
                    torch.as_tensor(at_line[here] - chunk.start, device=values.device),
                    torch.as_tensor(at_place[here], device=values.device),
                )
                known = values[where].cpu().numpy()
                is_own = own[at_line[here]] == part.start + at_place[here]
                positives[at_line[here][is_own]] = known[is_own]
                hidden.append((at_line[here][~is_own], known[~is_own]))
                values[where] = _LOWEST
                top.update(slice(chunk.start, chunk.stop), values, places, places)
        keys, documents = top.ranking()
        found = np.where(keys.numpy() == NO_KEY, _LOWEST, key_scores(keys).numpy()).astype(np.float32)
        picked, in_window, too_high = self._pick(found, documents.numpy(), positives, entries)
        taken = picked >= 0
        mined = np.where(taken, rows[np.take_along_axis(documents.numpy(), np.maximum(picked, 0), 1)], -1)
        chosen[entries, : mined.shape[1]] = mined
        sums.add(
            taken.sum(1),
            int((in_window & too_high).sum()),
            _reaching(hidden, found, rules.last_rank),
            positives,
            np.take_along_axis(found, np.maximum(picked, 0), 1)[taken],
        )

    def _pick(
        self, found: np.ndarray, documents: np.ndarray, positives: np.ndarray, entries: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Columns of the ranking that are taken [lines, negatives], -1 where there are none; and, each [lines, depth],
        which are in the window, and which score too high."""
        there = found > _LOWEST
        rank = 1 + np.arange(found.shape[1])
        in_window = there & (rank >= self.rules.first_rank) & (rank <= self.rules.last_rank)
        too_high = found > self.rules.highest(positives)[:, None]
        # the draw depends on seed, line and passage alone, not on what is searched together
        line = mix(entries.astype(_U64) * _SPREAD + _U64(self.rules.seed))
        lot = mix(documents.astype(_U64) * _OTHER_SPREAD + line[:, None])
        lot[~(in_window & ~too_high)] = np.iinfo(_U64).max
        picked = np.sort(np.argsort(lot, axis=1, kind="stable")[:, : self.rules.negatives], axis=1)
        taken = np.take_along_axis(in_window & ~too_high, picked, 1)
        order = np.argsort(~taken, axis=1, kind="stable")
        picked = np.where(np.take_along_axis(taken, order, 1), np.take_along_axis(picked, order, 1), -1)
        return picked, in_window, too_high

    def _known_positives(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lines and passages (as groups) that the data pairs with the query of the line's item, in any of its
        languages, since batches draw them all: pairs, by line. ``items`` ascends."""
        chosen = np.zeros(len(self.corpus), dtype=bool)
        chosen[items] = True
        every, language = self.corpus.entries(chosen)
        queries = self.corpus.query_rows(self.corpus.entry(every, language))
        low, high = np.searchsorted(self.shared_query, queries), np.searchsorted(self.shared_query, queries, "right")
        more = np.repeat(np.searchsorted(items, every), high - low)
        others = self.shared_group[_ranges(low, high)]
        own = np.asarray(self.corpus.table.passage)[items]
        pairs = np.stack([np.concatenate([np.arange(len(items)), more]), np.concatenate([own, others])])
        line, group = np.unique(pairs, axis=1)
        return line, group

    def _passages(self, rows: np.ndarray) -> Iterator[tuple[range, Tensor]]:
        """Places in ``rows`` with their embeddings, a shard at a time."""

        def read(part: range) -> tuple[Sequence[Text], Mapping[int, Sequence[str]]]:
            return self.corpus.passages.take(rows[part.start : part.stop]), {}

        parts = shard_ranges(len(rows), self.shard_size)
        encoded = ShardEncoder(self.encoder, "passage", self.cache).stream([partial(read, part) for part in parts])
        for part in parts:
            with finite("passage", len(rows), lambda place: part[place]):  # noqa: B023
                embeddings = next(encoded)
            yield part, embeddings


class _Sums:
    """Counts of one language as its blocks are mined."""

    def __init__(self) -> None:
        self.found: list[np.ndarray] = []
        self.by_id = self.by_score = self.positives = self.negatives = 0
        self.positive = self.negative = 0.0

    def add(self, found: np.ndarray, by_score: int, by_id: int, positives: np.ndarray, negatives: np.ndarray) -> None:
        self.found.append(found)
        self.by_score += by_score
        self.by_id += by_id
        self.positives += len(positives)
        self.negatives += len(negatives)
        self.positive += float(positives.sum(dtype=np.float64))
        self.negative += float(negatives.sum(dtype=np.float64))

    def counts(self, lines: int, negatives: int) -> Counts:
        found = np.concatenate([*self.found, np.empty(0, dtype=np.int64)])
        full, some = int((found == negatives).sum()), int((found > 0).sum())
        return Counts(
            lines,
            full,
            some - full,
            lines - some,
            self.by_id,
            self.by_score,
            self.positive / self.positives if self.positives else float("nan"),
            self.negative / self.negatives if self.negatives else float("nan"),
        )


def other_language(corpus: ParallelCorpus, items: np.ndarray, language: int, seed: int) -> np.ndarray:
    """[items] a language of each item other than ``language``, drawn by the seed; -1 where it has no other."""
    table = corpus.table
    others = table.patterns[table.pattern[items]].copy()
    others[:, language] = False
    count = others.sum(1)
    lot = mix(items.astype(_U64) * _SPREAD + mix(np.array([seed, language], dtype=_U64) * _OTHER_SPREAD).sum())
    drawn = (lot % np.maximum(count, 1).astype(_U64)).astype(np.int64)
    picked = (others & (np.cumsum(others, axis=1) == drawn[:, None] + 1)).argmax(axis=1)
    return np.where(count > 0, picked, -1)


def _positives_of_shared_queries(corpus: ParallelCorpus) -> tuple[np.ndarray, np.ndarray]:
    """Rows of query texts that several items have, ascending, with the items' passages: pairs."""
    counts = np.zeros(len(corpus.queries), dtype=np.int64)
    nothing = np.zeros(len(corpus.passages), dtype=bool)
    for _, entries in corpus.entries_with(np.ones(len(corpus.queries), dtype=bool), nothing):
        counts += np.bincount(corpus.query_rows(entries), minlength=len(counts))
    queries, groups = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for items, entries in corpus.entries_with(counts > 1, nothing):
        queries.append(corpus.query_rows(entries))
        groups.append(np.asarray(corpus.table.passage)[items].astype(np.int64))
    query, group = np.concatenate(queries), np.concatenate(groups)
    order = np.argsort(query, kind="stable")
    return query[order], group[order]


def _ranges(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """``low[0], ..., high[0] - 1, low[1], ...``: the ranges one after the other."""
    sizes = high - low
    return np.arange(int(sizes.sum())) + np.repeat(low - (np.cumsum(sizes) - sizes), sizes)


def _members(line: np.ndarray, group: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For pairs of a line and a passage, by line: each line with the places where the passage stands in ``groups``."""
    order = np.argsort(groups, kind="stable")
    low, high = np.searchsorted(groups[order], group), np.searchsorted(groups[order], group, "right")
    return np.repeat(line, high - low), order[_ranges(low, high)]


def _reaching(hidden: list[tuple[np.ndarray, np.ndarray]], found: np.ndarray, last_rank: int) -> int:
    """How many known positives would stand above the last place of a line's ranking."""
    last = found[:, -1] if found.shape[1] == last_rank else np.full(len(found), _LOWEST, dtype=np.float32)
    return sum(int((known > last[line]).sum()) for line, known in hidden)


# -------------------------------------------------------------------------------------------------------- the lines


def mined_lines(corpus: ParallelCorpus, chosen: np.ndarray) -> Iterator[str]:
    """The corpus as parallel JSONL with the mined negatives in place of those it has, item by item.

    Args:
        corpus: what was mined.
        chosen: [entries, negatives] rows of passages, -1 where there are none.
    """
    for low in range(0, len(corpus), _ITEMS):
        these = np.zeros(len(corpus), dtype=bool)
        these[low : low + _ITEMS] = True
        items, languages = corpus.entries(these)
        entries = corpus.entry(items, languages)
        rows = corpus.passage_rows(entries)
        negatives = np.asarray(chosen[entries], dtype=np.int64)
        wanted, at = np.unique(np.concatenate([rows, negatives[negatives >= 0]]), return_inverse=True)
        texts = list(zip(corpus.passages.ids(wanted), corpus.passages.take(wanted), strict=True))
        places = iter(at[len(rows) :].tolist())
        columns = zip(
            corpus.item_ids(items),
            languages.tolist(),
            np.asarray(corpus.table.source)[items].tolist(),
            corpus.queries.take(corpus.query_rows(entries)),
            at[: len(rows)].tolist(),
            (negatives >= 0).sum(1).tolist(),
            strict=True,
        )
        for identifier, language, source, query, passage, count in columns:
            passage_id, text = texts[passage]
            line: dict[str, Any] = {"id": identifier}
            if passage_id is not None:
                line["passage_id"] = passage_id
            line |= {"language": corpus.languages[language], "source": corpus.sources[source]}
            line |= {"query": query, "passage": text}
            if count:
                line["negatives"] = [_negative(*texts[place]) for place in itertools.islice(places, count)]
            yield json.dumps(line, ensure_ascii=False) + "\n"


def _negative(passage_id: str | None, text: str) -> dict[str, str]:
    return {"text": text} if passage_id is None else {"passage_id": passage_id, "text": text}
