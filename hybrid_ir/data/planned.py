"""What a run will show of each source, language and pair: counted by planning its batches, before it trains."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from hybrid_ir import cache
from hybrid_ir.data.plan import BatchPlan

PLAN_FILE = "plan.csv"
COLUMNS = ("source", "query_language", "passage_language", "items", "rows", "share", "times")
PLANNED_ROWS = 1_000_000
PLANNED_STEPS = 20_000
"""Rows and steps that are planned beforehand at a run's start, at most; a longer run is counted on from its first
steps."""
MIXED = "every row is of one language, batches mix languages"
_SHOWN = 24


@dataclass(frozen=True)
class Planned:
    """Rows of the batches of a run; those of its first steps where not all were planned."""

    sources: tuple[str, ...]
    languages: tuple[str, ...]
    batch_size: int
    run_steps: int
    """Steps of the run."""
    steps: int
    """Steps that were planned."""
    rows: np.ndarray
    """[sources, languages, languages] int64: rows of the planned steps, by source, query and passage language."""
    items: np.ndarray
    """[sources, languages, languages] int64: items that training may draw for such rows: that have both languages."""
    source_items: np.ndarray
    """[sources] int64: items that training may draw."""
    counts: dict[str, int]
    """Monolingual batches, and rows deferred, unplaced and redrawn in the planned steps (``BatchPlan.counts``)."""
    mixed: bool
    """Whether rows are of one language and batches are not (``x_x``)."""

    @property
    def whole(self) -> bool:
        """Whether all steps of the run were planned: then everything here is exact."""
        return self.steps == self.run_steps

    @property
    def share(self) -> np.ndarray:
        """[sources, languages, languages]: share of all rows."""
        return self.rows / (self.steps * self.batch_size)

    def times(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """How often the run shows each of some items, from the rows of the planned steps; 0 where there is no item."""
        return rows / np.maximum(items, 1) * (self.run_steps / self.steps)

    @property
    def query_times(self) -> np.ndarray:
        """[languages]: how often the run shows a question of each language."""
        items = self.items.sum(0).diagonal()
        return self.times(self.rows.sum((0, 2)), items)

    def lines(self) -> list[dict[str, str | int | float]]:
        """A line with ``COLUMNS`` for each source and pair of languages that has items; one language is a pair with
        itself. ``rows`` are those of the whole run."""
        lines = []
        times, share = self.times(self.rows, self.items), self.share
        for s, q, p in zip(*np.nonzero(self.items), strict=True):
            rows = self.rows[s, q, p] if self.whole else share[s, q, p] * self.run_steps * self.batch_size
            values = (
                self.sources[s], self.languages[q], self.languages[p], int(self.items[s, q, p]), round(float(rows)),
                round(float(share[s, q, p]), 6), round(float(times[s, q, p]), 4),
            )  # fmt: skip
            lines.append(dict(zip(COLUMNS, values, strict=True)))
        return lines


def planned(plan: BatchPlan, steps: int, max_rows: int, max_steps: int) -> Planned:
    """Plans a run's batches and leaves the plan where it was.

    Args:
        plan: of the run, at its first step.
        steps: of the run.
        max_rows: rows to plan at most; a million take a few seconds in large batches.
        max_steps: steps to plan at most; 20,000 take a few seconds, however small.

    Raises:
        DataError: the data cannot fill one of the batches.
    """
    table, languages = plan.eligible.table, len(plan.languages)
    few = min(steps, max_steps, max(1, max_rows // plan.batch_size))
    rows = np.zeros((len(table.sources), languages, languages), dtype=np.int64)
    state = plan.state_dict()
    try:
        for _ in range(few):
            batch = plan.next()
            np.add.at(rows, (table.source[batch.items], batch.query_language, batch.passage_language), 1)
        counts = dict(plan.counts)
    finally:
        plan.load_state_dict(state)
    eligible = plan.eligible
    source_items = np.bincount(eligible.group_source, weights=eligible.group_size, minlength=len(table.sources))
    return Planned(
        table.sources,
        plan.languages,
        plan.batch_size,
        steps,
        few,
        rows,
        eligible.items_with_both(),
        source_items.astype(np.int64),
        counts,
        plan.sampler.preset == "x_x",
    )


def write_plan(found: Planned, file: Path) -> None:
    """Writes ``plan.csv``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(found.lines())
    cache.write_atomic(file, text.getvalue())


def say_plan(found: Planned, console: Console) -> None:
    """Prints the shares in a few lines."""
    share = found.share
    of = f"{found.steps:,} steps" if found.whole else f"the first {found.steps:,} of {found.run_steps:,} steps"
    monolingual = f"{found.counts['monolingual'] / found.steps:.1%} of the batches monolingual"
    lines = [f"plan of {of}: {MIXED if found.mixed else monolingual}; {counted(found)}"]
    if len(found.sources) > 1:
        by_source = share.sum((1, 2))
        lines.append(
            "rows by source: " + ", ".join(f"{s} {v:.1%}" for s, v in zip(found.sources, by_source, strict=True))
        )
    drawn = np.flatnonzero(found.items.sum(0).diagonal())
    by_language, times = share.sum((0, 2)), found.query_times
    if len(drawn) > _SHOWN:
        order = drawn[np.argsort(by_language[drawn], kind="stable")]
        lines.append(
            f"rows by query language, {len(drawn)} languages, least and most (times that each question is shown):"
        )
        drawn = np.concatenate([order[: _SHOWN // 4], order[-_SHOWN // 4 :]])
    else:
        lines.append("rows by query language (times that each question is shown):")
    lines[-1] += " " + ", ".join(f"{found.languages[i]} {by_language[i]:.1%} ({_times(times[i])})" for i in drawn)
    lines.append(extremes(found))
    console.print("\n".join(line for line in lines if line), highlight=False, markup=False)


def _times(value: float) -> str:
    return f"{value:.2f}" if value < 0.995 else f"{value:.1f}" if value < 9.95 else f"{value:,.0f}"


def counted(found: Planned) -> str:
    """What happened to rows that could not stand in their batch, in words."""
    counts = found.counts
    return (
        f"rows deferred {counts['deferred']:,}, not placed at the end of a pass {counts['unplaced']:,}, drawn again "
        f"{counts['redrawn']:,}"
    )


def extremes(found: Planned) -> str:
    """The pair of different languages with the most rows, and that with the least; empty without such rows."""
    pairs = found.share.sum(0)
    np.fill_diagonal(pairs, 0.0)
    if not pairs.any():
        return ""
    possible = found.items.sum(0) > 0
    np.fill_diagonal(possible, False)
    places = np.argwhere(possible)
    shares = pairs[possible]
    low, high = int(shares.argmin()), int(shares.argmax())
    names = [f"{found.languages[q]}-{found.languages[p]} {pairs[q, p]:.2%}" for q, p in (places[low], places[high])]
    return f"{len(places)} pairs of languages have {shares.sum():.1%} of the rows, from {names[0]} to {names[1]}"
