"""SWIM-IR, monolingual (Thakur et al. 2023, arXiv 2311.05800): Wikipedia passages with questions that PaLM 2 wrote.

10 languages, each with passages of its own: no item is parallel. The cross-lingual part of SWIM-IR (a question in one
language, its passage in English) is no data of this form: an item needs question and passage in each of its languages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from hybrid_ir.config import SwimIrConfig
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.published import PublishedSource
from hybrid_ir.errors import DataError
from hybrid_ir.hub import HubFile

REPOSITORY = "nthakur/swim-ir-monolingual"
_CODES = "ar bn de en es fi fr hi id yo"
_COLUMNS = ("_id", "query", "title", "text")


class SwimIrSource(PublishedSource):
    """Pairs of a synthetic question and its passage.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that SWIM-IR does not have.
        DataError: a file is not there.
    """

    name = "swim_ir"
    license = "cc-by-sa-4.0"
    revision_status = "verified"
    languages_by_name: ClassVar[Mapping[str, str]] = {code: code for code in _CODES.split()}
    config: SwimIrConfig

    def language_files(self, code: str) -> list[HubFile]:
        """The Parquet files of a folder."""
        return [HubFile(REPOSITORY, self.config.revision, f"{code}/train-*.parquet")]

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the files, language by language.

        Raises:
            DataError: a file is missing or cannot be read, or a row is bad.
        """
        for code in self.languages:
            for file in self.files[self.language_files(code)[0].name]:
                yield self._examples(code, file)

    def _examples(self, code: str, file: Path) -> Iterator[Example]:
        for row, (name, query, title, text) in enumerate(_rows(file), start=1):
            if not name or not query or not query.strip() or not text or not text.strip():
                self.bad_lines.leave_out(f"{file}:row {row}", "has no _id, query or text")
                continue
            yield Example(
                item_id=f"{code}/{name}",
                language=code,
                query=query.strip(),
                passage=f"{title or ''} {text}".strip(),
                passage_id=None,  # equal passages are joined
                source=self.name,
                where=f"{file}:row {row}",
            )


def _rows(file: Path) -> Iterator[tuple[str | None, ...]]:
    """Values of the columns, row by row."""
    try:
        with pq.ParquetFile(file) as parquet:
            absent = sorted(set(_COLUMNS) - set(parquet.schema_arrow.names))
            if absent:
                raise DataError(
                    f"{file}: has no column {absent[0]!r}, there are {', '.join(parquet.schema_arrow.names)}; get the "
                    f"file of {REPOSITORY}"
                )
            for batch in parquet.iter_batches(columns=list(_COLUMNS), batch_size=4096):
                columns = (batch.column(name).cast(pa.large_string()).to_pylist() for name in _COLUMNS)
                yield from zip(*columns, strict=True)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: cannot be read ({str(error).splitlines()[0]}); get the file again") from None
