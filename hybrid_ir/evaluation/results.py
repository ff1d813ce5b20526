"""Results as one tidy table, with the values of every query beside it.

``results.csv`` has a row for each benchmark, setting, query language, corpus language, metric and step;
``per_query.parquet`` has the same columns and ``query_id``, and there ``value`` is one query's (``num_queries`` is 1).
``language_bias.csv`` has what ``language_bias.py`` measures by query language and document language.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hybrid_ir.cache import write_atomic
from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Setting
from hybrid_ir.run_folder import PER_QUERY_FILE

if TYPE_CHECKING:
    from hybrid_ir.evaluation.metrics import Group, GroupScores  # which imports torch

RESULTS_FILE = "results.csv"
BIAS_FILE = "language_bias.csv"
ROW_GROUP = 2**20


@dataclass(frozen=True, slots=True)
class Row:
    """One mean: a line of ``results.csv``, whose columns are these fields."""

    benchmark: str
    setting: Setting
    query_language: str
    corpus_language: str
    """``all`` in the multilingual setting."""
    metric: str
    value: float
    num_queries: int
    step: int


@dataclass(frozen=True, slots=True)
class BiasRow:
    """One measure of language bias in the multilingual pool: a line of ``language_bias.csv``, whose columns are these
    fields."""

    benchmark: str
    measure: str
    query_language: str
    """``all``: the mean over the query languages."""
    document_language: str
    """``all`` where the measure is about the whole pool."""
    value: float
    num_queries: int
    step: int


COLUMNS = tuple(f.name for f in fields(Row))
BIAS_COLUMNS = tuple(f.name for f in fields(BiasRow))
_AnyRow = TypeVar("_AnyRow", Row, BiasRow)

PER_QUERY_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("setting", pa.string()),
        ("query_language", pa.string()),
        ("corpus_language", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("num_queries", pa.int32()),
        ("step", pa.int64()),
        ("query_id", pa.string()),
    ]
)
_TEXT_COLUMNS = [f.name for f in PER_QUERY_SCHEMA if f.type == pa.string()]
_CODES = pa.dictionary(pa.int32(), pa.string())
_MEMORY_SCHEMA = pa.schema(
    # A million rows repeat a few words: in memory they are codes, in the file plain strings (which Parquet encodes as
    # codes by itself) so that readers do not get categorical columns.
    [pa.field(f.name, _CODES) if f.name in _TEXT_COLUMNS else f for f in PER_QUERY_SCHEMA]
)


@dataclass
class Results:
    """Rows of any number of benchmarks and steps, the values of their queries, and measures of language bias."""

    rows: list[Row] = field(default_factory=list)
    per_query: pa.Table = field(default_factory=lambda: _MEMORY_SCHEMA.empty_table())
    bias: list[BiasRow] = field(default_factory=list)

    @classmethod
    def from_groups(
        cls, benchmark: str, query_ids: Sequence[str], groups: Mapping[Group, GroupScores], step: int
    ) -> Results:
        """Results of one benchmark at one step.

        Args:
            benchmark: its name.
            query_ids: id of each query of the benchmark.
            groups: what ``RetrievalMetrics.compute`` returned; NaN where a metric is not defined for a query, which is
                then left out of that metric's rows and means.
            step: training step of the model.
        """
        rows: list[Row] = []
        tables: list[pa.Table] = []
        ids = np.asarray(query_ids, dtype=object)
        for (setting, query_language, corpus_language), scores in groups.items():
            names = scores.metrics
            count = len(scores.queries)
            defined = ~np.isnan(scores.values)
            for column, metric in enumerate(names):
                values = scores.values[defined[:, column], column]
                if len(values):
                    value = float(values.mean())
                    rows.append(
                        Row(benchmark, setting, query_language, corpus_language, metric, value, len(values), step)
                    )
            size = count * len(names)
            query_id = pa.array(ids[scores.queries], pa.string()).dictionary_encode()
            columns = {
                "benchmark": _constant(benchmark, size),
                "setting": _constant(setting, size),
                "query_language": _constant(query_language, size),
                "corpus_language": _constant(corpus_language, size),
                "metric": _coded(np.repeat(np.arange(len(names)), count), names),
                "value": pa.array(scores.values.T.reshape(-1), pa.float64()),
                "num_queries": pa.array(np.ones(size, dtype=np.int32)),
                "step": pa.array(np.full(size, step, dtype=np.int64)),
                "query_id": pa.DictionaryArray.from_arrays(
                    pa.array(np.tile(query_id.indices.to_numpy(), len(names)), pa.int32()), query_id.dictionary
                ),
            }
            tables.append(pa.table(columns, schema=_MEMORY_SCHEMA).filter(pa.array(defined.T.reshape(-1))))
        return cls(rows, _concatenate(tables))

    # ------------------------------------------------------------------------------------------------ combination

    def merge(self, other: Results, per_query: bool = True) -> None:
        """Takes up other results; where both have a benchmark at a step, the other's replace these.

        Args:
            other: is left as it is.
            per_query: also take up the queries' values (a million rows for the eleven languages of XQuAD-R).
        """
        replaced = {(row.benchmark, row.step) for row in other.rows}
        self.rows = [row for row in self.rows if (row.benchmark, row.step) not in replaced] + other.rows
        self.bias = [row for row in self.bias if (row.benchmark, row.step) not in replaced] + other.bias
        self.per_query = _without(self.per_query, replaced)
        if per_query:
            self.per_query = _concatenate([self.per_query, other.per_query])

    def at_step(self, step: int) -> Results:
        """The results of one step."""
        return self._where(lambda row: row.step == step, pc.equal(self.per_query["step"], step))

    def until(self, step: int) -> Results:
        """The results up to a step, itself included."""
        return self._where(lambda row: row.step <= step, pc.less_equal(self.per_query["step"], step))

    def _where(self, keep: Callable[[Row | BiasRow], bool], mask: pa.ChunkedArray) -> Results:
        return Results(
            [row for row in self.rows if keep(row)],
            self.per_query.filter(mask),
            [row for row in self.bias if keep(row)],
        )

    def benchmarks(self) -> list[str]:
        """Names of the benchmarks, in order of appearance."""
        return list(dict.fromkeys(row.benchmark for row in self.rows))

    # ------------------------------------------------------------------------------------------------------ means

    def macro(self) -> dict[str, dict[str, dict[str, float]]]:
        """Macro means ``{benchmark: {setting: {metric: value}}}`` of each benchmark's last step.

        Monolingual (Mo.): mean over the languages, query language = corpus language. Cross-lingual (Cr.): mean over
        the ordered pairs of different languages. Multilingual (Mul.): each query language against the union of all
        corpora, mean over the query languages (as in arXiv 2408.10536).
        """
        return {
            benchmark: {
                setting: {metric: _mean(cells.values()) for metric, cells in metrics.items()}
                for setting, metrics in settings.items()
            }
            for benchmark, settings in self._cells().items()
        }

    def by_language(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """Means ``{benchmark: {setting: {query language: {metric: value}}}}`` of each benchmark's last step; in the
        cross-lingual setting a language's value is the mean over the corpus languages."""
        table: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
        for benchmark, settings in self._cells().items():
            for setting, metrics in settings.items():
                for metric, cells in metrics.items():
                    values: dict[str, list[float]] = {}
                    for (query_language, _), value in cells.items():
                        values.setdefault(query_language, []).append(value)
                    for query_language, over in values.items():
                        languages = table.setdefault(benchmark, {}).setdefault(setting, {})
                        languages.setdefault(query_language, {})[metric] = _mean(over)
        return table

    def pairs(self, benchmark: str, metric: str) -> dict[tuple[str, str], float]:
        """``{(query language, corpus language): value}`` at the last step, monolingual and cross-lingual together."""
        settings = self._cells().get(benchmark, {})
        return {
            pair: value
            for setting in ("monolingual", "cross_lingual")
            for pair, value in settings.get(setting, {}).get(metric, {}).items()
        }

    def logged(self) -> dict[str, float]:
        """Values by logged name: ``val/<benchmark>/<setting>/<metric>`` (macro means) and
        ``val/<benchmark>/<setting>/<query_language>/<metric>``, with ``recall_at_10`` for ``recall@10``."""
        values: dict[str, float] = {}
        for benchmark, settings in self.macro().items():
            for setting, metrics in settings.items():
                for metric, value in metrics.items():
                    values[f"val/{benchmark}/{setting}/{logged_metric(metric)}"] = value
        for benchmark, by_setting in self.by_language().items():
            for setting, languages in by_setting.items():
                for language, metrics in languages.items():
                    for metric, value in metrics.items():
                        values[f"val/{benchmark}/{setting}/{language}/{logged_metric(metric)}"] = value
        return values

    def _cells(self) -> dict[str, dict[str, dict[str, dict[tuple[str, str], float]]]]:
        cells: dict[str, dict[str, dict[str, dict[tuple[str, str], float]]]] = {}
        steps: dict[str, int] = {}
        for row in self.rows:
            steps[row.benchmark] = max(row.step, steps.get(row.benchmark, row.step))
        for row in self.rows:
            if row.step == steps[row.benchmark]:
                metrics = cells.setdefault(row.benchmark, {}).setdefault(row.setting, {})
                metrics.setdefault(row.metric, {})[row.query_language, row.corpus_language] = row.value
        return cells

    # ------------------------------------------------------------------------------------------------------ files

    def write(self, folder: Path) -> None:
        """Writes ``results.csv``, ``per_query.parquet`` and, where language bias was measured, ``language_bias.csv``
        into a folder (made if absent), in place of what is there.

        To add to what is there: ``read``, ``merge``, ``write``.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.write_per_query(folder / PER_QUERY_FILE)
        self.write_bias(folder / BIAS_FILE)
        self.write_csv(folder / RESULTS_FILE)

    def write_csv(self, path: Path) -> None:
        """Writes the rows, atomically: a reader sees the old content or the new."""
        _write_rows(path, COLUMNS, self.rows)

    def write_bias(self, path: Path) -> None:
        """Writes the measures of language bias, atomically; where there are none, there is no file afterwards."""
        if self.bias:
            _write_rows(path, BIAS_COLUMNS, self.bias)
        else:
            path.unlink(missing_ok=True)

    def write_per_query(self, path: Path) -> None:
        """Writes the queries' values as Parquet (zstd), atomically."""
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with pq.ParquetWriter(partial, PER_QUERY_SCHEMA, compression="zstd") as writer:
                # In pieces: as plain strings the table is several times larger than as codes.
                for start in range(0, len(self.per_query), ROW_GROUP):
                    writer.write_table(self.per_query.slice(start, ROW_GROUP).cast(PER_QUERY_SCHEMA))
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as error:
            error.filename = str(path)  # which a failed write does not know
            raise
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def read(cls, folder: Path) -> Results:
        """The results in a run's folder, with the queries' values and language bias where they were written.

        Raises:
            DataError: a file is missing or is not what ``write`` writes.
        """
        results = cls.read_csv(folder / RESULTS_FILE)
        if (folder / PER_QUERY_FILE).exists():
            results.per_query = read_per_query(folder / PER_QUERY_FILE)
        if (folder / BIAS_FILE).exists():
            results.bias = read_bias(folder / BIAS_FILE)
        return results

    @classmethod
    def read_csv(cls, path: Path) -> Results:
        """The rows of a ``results.csv``, without the queries' values.

        Raises:
            DataError: the file is missing or is not what ``write_csv`` writes (file and line).
        """
        return cls(_read_rows(path, COLUMNS, _row))


def read_bias(path: Path) -> list[BiasRow]:
    """The rows of a ``language_bias.csv``.

    Raises:
        DataError: the file is missing or is not what ``Results.write_bias`` writes (file and line).
    """
    return _read_rows(path, BIAS_COLUMNS, lambda line: BiasRow(**_texts(line, BIAS_COLUMNS), **_numbers(line)))


def read_per_query(path: Path) -> pa.Table:
    """The table of a ``per_query.parquet``, texts dictionary-encoded.

    Raises:
        DataError: the file is missing or is not what ``write_per_query`` writes.
    """
    try:
        with pq.ParquetFile(path, read_dictionary=_TEXT_COLUMNS) as file:
            if file.schema_arrow.names != PER_QUERY_SCHEMA.names:
                raise DataError(
                    f"{path}: has columns {','.join(file.schema_arrow.names)} instead of "
                    f"{','.join(PER_QUERY_SCHEMA.names)}; move the file away"
                )
            return file.read().cast(_MEMORY_SCHEMA).unify_dictionaries()
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; is {path.parent} the folder of an evaluated run?") from error
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: is not a Parquet file ({str(error).splitlines()[0]}); move it away") from error


def logged_metric(metric: str) -> str:
    """A metric's name in logs: ``recall@10`` becomes ``recall_at_10``, as W&B sorts only on letters, digits and _."""
    return metric.replace("@", "_at_")


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


def _constant(text: str, size: int) -> pa.DictionaryArray:
    return _coded(np.zeros(size, dtype=np.int32), (text,))


def _coded(codes: np.ndarray, words: Sequence[str]) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(list(words), pa.string()))


def _concatenate(tables: list[pa.Table]) -> pa.Table:
    return pa.concat_tables([_MEMORY_SCHEMA.empty_table(), *tables]).unify_dictionaries().combine_chunks()


def _without(table: pa.Table, evaluations: set[tuple[str, int]]) -> pa.Table:
    if not evaluations or not len(table):
        return table
    drop = pa.scalar(False)
    for benchmark, step in sorted(evaluations):
        drop = pc.or_(drop, pc.and_(pc.equal(table["benchmark"], benchmark), pc.equal(table["step"], step)))
    return table.filter(pc.invert(drop))


def _write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row | BiasRow]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)  # floats as repr: they come back to the last bit
    write_atomic(path, text.getvalue())


def _read_rows(path: Path, columns: tuple[str, ...], parse: Callable[[Mapping[str, str]], _AnyRow]) -> list[_AnyRow]:
    rows: list[_AnyRow] = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != columns:
                raise DataError(
                    f"{path}:1: has columns {','.join(reader.fieldnames or ()) or 'none'} instead of "
                    f"{','.join(columns)}; move the file away"
                )
            for line in reader:
                try:
                    if None in line or None in line.values():
                        raise ValueError(f"not {len(columns)} fields")
                    rows.append(parse(line))
                except ValueError as error:
                    raise DataError(
                        f"{path}:{reader.line_num}: bad row ({error}); mend it, or move the file away"
                    ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: does not exist; is {path.parent} the folder of an evaluated run?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8; move the file away") from error
    return rows


def _row(line: Mapping[str, str]) -> Row:
    if line["setting"] not in SETTINGS:
        raise ValueError(f"unknown setting {line['setting']!r}")
    return Row(**_texts(line, COLUMNS), **_numbers(line))


def _texts(line: Mapping[str, str], columns: Sequence[str]) -> dict[str, Any]:
    return {name: line[name] for name in columns if name not in ("value", "num_queries", "step")}


def _numbers(line: Mapping[str, str]) -> dict[str, Any]:
    return {"value": float(line["value"]), "num_queries": int(line["num_queries"]), "step": int(line["step"])}
