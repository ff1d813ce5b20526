"""Results and exposure as tables, for places that show tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from hybrid_ir.evaluation.results import BIAS_COLUMNS, BiasRow, Results, logged_metric

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table and the name that it is logged under; None is an empty cell."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def markdown(self) -> str:
        """The table as Markdown, floats with four digits."""
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        return "\n".join("| " + " | ".join(map(_shown, line)) + " |" for line in lines)


def result_tables(results: Results) -> list[Table]:
    """``results/<benchmark>``: a row for each setting and query language, a column for each metric.

    Values are those of the benchmark's last step; in the cross-lingual setting they are means over the corpus
    languages.
    """
    tables = []
    for benchmark, settings in results.by_language().items():
        rows = [
            (setting, language, means)
            for setting, languages in settings.items()
            for language, means in languages.items()
        ]
        metrics = list(dict.fromkeys(metric for _, _, means in rows for metric in means))
        tables.append(
            Table(
                f"results/{benchmark}",
                ("setting", "language", *map(logged_metric, metrics)),
                tuple((setting, language, *map(means.get, metrics)) for setting, language, means in rows),
            )
        )
    return tables


def pair_table(pairs: Mapping[tuple[str, str], float], benchmark: str) -> Table:
    """``language_pairs/<benchmark>/map``: mAP by query language (down) and corpus language (across).

    Args:
        pairs: ``{(query language, corpus language): value}``.
        benchmark: its name.
    """
    queries, corpora = (sorted(set(codes)) for codes in zip(*pairs, strict=True))
    rows = tuple((query, *(pairs.get((query, corpus)) for corpus in corpora)) for query in queries)
    return Table(f"language_pairs/{benchmark}/map", ("query_language", *corpora), rows)


def bias_table(bias: Sequence[BiasRow]) -> Table:
    """``language_bias/rows``: the rows of ``language_bias.csv``."""
    return Table("language_bias/rows", BIAS_COLUMNS, tuple(astuple(row) for row in bias))


def exposure_table(exposure: Sequence[Mapping[str, Any]]) -> Table:
    """``exposure/table``: how often each language was shown, as in ``exposure.csv``.

    Args:
        exposure: rows with the same keys, one for each language.
    """
    return Table("exposure/table", tuple(exposure[0]), tuple(tuple(row.values()) for row in exposure))


def _shown(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)
