"""The values of every query of evaluated runs, as matrices of questions by cells that can be compared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Setting
from hybrid_ir.run_folder import PER_QUERY_FILE
from hybrid_ir.schema_keys import nearest

MACRO = "macro"
"""``query_language`` of a statistic over all query languages."""

_TEXTS = ["benchmark", "setting", "query_language", "corpus_language", "metric", "query_id"]
_COLUMNS = [*_TEXTS, "value", "step"]


class Cell(NamedTuple):
    """Queries of one language against one pool, which have a mean of their own."""

    setting: Setting
    query_language: str
    corpus_language: str
    """``all`` in the multilingual setting."""


@dataclass(frozen=True)
class QueryValues:
    """A metric's values in one run on one benchmark."""

    folder: Path
    benchmark: str
    questions: np.ndarray
    """[questions] text, ascending: ids, shared by the language versions of a question."""
    cells: tuple[Cell, ...]
    values: np.ndarray
    """[questions, cells] float64, NaN where a question does not count in the cell."""

    def in_setting(self, setting: Setting) -> np.ndarray:
        """The values of one setting's cells. [questions, its cells]."""
        return self.values[:, [i for i, cell in enumerate(self.cells) if cell.setting == setting]]

    def of_languages(self, codes: Collection[str]) -> QueryValues:
        """The cells whose query language is among these, and whose corpus is all documents or in one of these."""
        known = {*codes, "all"}
        kept = [i for i, cell in enumerate(self.cells) if {cell.query_language, cell.corpus_language} <= known]
        return replace(self, cells=tuple(self.cells[i] for i in kept), values=self.values[:, kept])

    def weights(self, setting: Setting) -> tuple[list[str], np.ndarray]:
        """The statistics of a setting: the mean over all cells, and the mean over each query language's.

        Returns:
            ``MACRO`` and the query languages, and the weights [cells of the setting, statistics].
        """
        languages = [cell.query_language for cell in self.cells if cell.setting == setting]
        names = list(dict.fromkeys(languages))
        member = np.array([[name in (MACRO, language) for name in (MACRO, *names)] for language in languages])
        return [MACRO, *names], member / member.sum(axis=0)


def read_run(folder: Path, metric: str) -> dict[str, QueryValues]:
    """A metric's values at the last step of each benchmark, by benchmark; benchmarks without the metric are left out.

    Args:
        folder: of a run, with ``per_query.parquet``.
        metric: name as in ``results.csv``.

    Raises:
        DataError: the folder or the file is not there or not a run's, or no benchmark has the metric.
    """
    found = read_metrics(folder, [metric])
    if not found:
        known = metrics_in(folder)
        near = nearest(metric, known)
        hint = f'did you mean "{near}"? ' if near else ""
        raise DataError(
            f"--metric {metric}: not in {folder / PER_QUERY_FILE}; {hint}it has {', '.join(sorted(known)) or 'none'}"
        )
    return found[metric]


def metrics_in(folder: Path) -> list[str]:
    """Names of the metrics that a run has of its queries.

    Raises:
        DataError: the folder or the file is not there or not a run's.
    """
    return pc.unique(_read(folder, ["metric"])["metric"]).to_pylist()


def read_metrics(folder: Path, metrics: Sequence[str]) -> dict[str, dict[str, QueryValues]]:
    """Values at the last step of each benchmark, by metric and benchmark, without the metrics that are not there.

    Raises:
        DataError: the folder or the file is not there or not a run's.
    """
    table = _read(folder, _COLUMNS, pc.field("metric").isin(list(metrics)))
    found: dict[str, dict[str, QueryValues]] = {}
    for metric in metrics:
        of_metric = table.filter(pc.equal(table["metric"], metric))
        for benchmark in pc.unique(of_metric["benchmark"]).to_pylist():
            own = of_metric.filter(pc.equal(of_metric["benchmark"], benchmark))
            last = own.filter(pc.equal(own["step"], pc.max(own["step"])))
            found.setdefault(metric, {})[benchmark] = _query_values(last, folder, benchmark)
    return found


def _read(folder: Path, columns: list[str], rows: pc.Expression | None = None) -> pa.Table:
    path = folder / PER_QUERY_FILE
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give the folder of an evaluated run")
    if not path.is_file():
        raise DataError(f"{folder}: has no {PER_QUERY_FILE}; give the folder of a run that is complete")
    try:
        with pq.ParquetFile(path) as file:
            absent = [name for name in columns if name not in file.schema_arrow.names]
        if absent:
            raise DataError(f"{path}: has no column {absent[0]}; give the folder of a run, and move this file away")
        texts = [name for name in columns if name in _TEXTS]
        # partitioning: folders named seed=1 are no columns
        return pq.read_table(path, columns=columns, filters=rows, read_dictionary=texts, partitioning=None)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: is not a file of query values ({str(error).splitlines()[0]}); move it away") from None


def _query_values(table: pa.Table, folder: Path, benchmark: str) -> QueryValues:
    where = f"{folder / PER_QUERY_FILE}: {benchmark}"
    columns = [_codes(table[name]) for name in ("setting", "query_language", "corpus_language")]
    unknown = sorted(set(columns[0][1]) - set(SETTINGS))
    if unknown:
        raise DataError(f"{where}: unknown setting {unknown[0]}; known: {', '.join(SETTINGS)}")
    # one number for each combination: rows of a matrix are much slower to sort
    sizes = [len(names) for _, names in columns]
    combined = np.ravel_multi_index([codes for codes, _ in columns], sizes)
    keys, cell_of_row = np.unique(combined, return_inverse=True)
    places = np.stack(np.unravel_index(keys, sizes), axis=1).tolist()
    cells = [Cell(*(names[code] for (_, names), code in zip(columns, place, strict=True))) for place in places]
    question_of_row, questions = _codes(table["query_id"])
    flat = question_of_row * len(cells) + cell_of_row
    values = np.full(len(questions) * len(cells), np.nan)
    row_values = table["value"].to_numpy()
    repeated = np.bincount(flat, minlength=len(values)) > 1
    for faulty, what in ((repeated[flat], "occurs twice"), (~np.isfinite(row_values), "has a value that is no number")):
        if faulty.any():
            row = table.slice(int(faulty.argmax()), 1).to_pylist()[0]
            group = _said(Cell(row["setting"], row["query_language"], row["corpus_language"]))
            raise DataError(f"{where}, {group}: query {row['query_id']} {what}; evaluate the run again")
    values[flat] = row_values
    return QueryValues(
        folder,
        benchmark,
        np.array(questions, dtype=object),
        tuple(cells),
        values.reshape(len(questions), len(cells)),
    )


def _codes(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Each row's place in the sorted distinct texts, and these."""
    encoded = column.unify_dictionaries().combine_chunks()
    codes = encoded.indices.to_numpy()
    used = np.unique(codes)
    names = [encoded.dictionary[int(code)].as_py() for code in used]
    order = sorted(range(len(names)), key=names.__getitem__)
    place = np.full(len(encoded.dictionary), -1, dtype=np.int64)
    place[used[order]] = np.arange(len(order))
    return place[codes], [names[i] for i in order]


# ------------------------------------------------------------------------------------------------------- comparable


def common_benchmarks(runs: Mapping[Path, Mapping[str, QueryValues]], wanted: list[str] | None) -> list[str]:
    """Benchmarks that every run has, or the wanted ones.

    Args:
        runs: what ``read_run`` returned, by folder.
        wanted: names; None takes all that are common.

    Raises:
        DataError: a run lacks a wanted one, or there is no common one.
    """
    if wanted is not None:
        for name in dict.fromkeys(wanted):
            for folder, found in runs.items():
                if name not in found:
                    near = nearest(name, found)
                    hint = f'did you mean "{near}"? ' if near else ""
                    raise DataError(f"--benchmark {name}: not in {folder}; {hint}it has {', '.join(found)}")
        return list(dict.fromkeys(wanted))
    first = next(iter(runs.values()))
    common = [name for name in first if all(name in found for found in runs.values())]
    if not common:
        each = "; ".join(f"{folder} has {', '.join(found)}" for folder, found in runs.items())
        raise DataError(f"the runs have no benchmark in common: {each}; evaluate them on the same benchmark")
    return common


def check_same_queries(first: QueryValues, other: QueryValues) -> None:
    """Checks that two runs were measured on the same queries in the same cells.

    Raises:
        DataError: they were not; the message names the first difference.
    """
    alike = first.cells == other.cells and np.array_equal(first.questions, other.questions)
    if alike and np.array_equal(np.isnan(first.values), np.isnan(other.values)):
        return
    here, there = dict(_queries(first)), dict(_queries(other))
    for cell in dict.fromkeys([*first.cells, *other.cells]):
        ours, theirs = here.get(cell), there.get(cell)
        if ours is not None and theirs is not None and ours == theirs:
            continue
        start = f"{first.benchmark}, {_said(cell)}: "
        end = "evaluate both on the same queries (languages, limit, version of the benchmark)"
        if ours is None or theirs is None:
            has, lacks = (first, other) if theirs is None else (other, first)
            raise DataError(f"{start}{has.folder} was evaluated there, {lacks.folder} was not; {end}")
        parts = [
            f"{len(only)} only in {folder} (e.g. {min(only)})"
            for only, folder in ((ours - theirs, first.folder), (theirs - ours, other.folder))
            if only
        ]
        raise DataError(f"{start}queries differ: {', '.join(parts)}; {end}")


def _queries(run: QueryValues) -> list[tuple[Cell, set[str]]]:
    present = ~np.isnan(run.values)
    return [(cell, set(run.questions[present[:, i]].tolist())) for i, cell in enumerate(run.cells)]


def _said(cell: Cell) -> str:
    against = "" if cell.corpus_language == cell.query_language else f" against {cell.corpus_language}"
    return f"{cast(str, cell.setting)}, {cell.query_language}{against}"
