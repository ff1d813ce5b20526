"""Any data set that the library ``datasets`` reads, of the hub or of a folder; the configuration names its columns.

Data sets with a loading script are refused by ``datasets`` itself. Of the hub, the files of a configuration and split
are downloaded at one commit; which ones they are is kept, so that a later run needs no network.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from hybrid_ir import cache
from hybrid_ir import languages as _languages
from hybrid_ir.config import HubDatasetConfig
from hybrid_ir.data.sources.base import Example, Negative, refuse_evaluation, refuse_evaluation_folder
from hybrid_ir.data.sources.published import FileSource
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.hub import HUB, HubFile, check_offline, download, offline
from hybrid_ir.lines import identifier


@dataclass(frozen=True, slots=True)
class _Part:
    """Files of one configuration's split, and how they are to be read."""

    configuration: str | None
    language: str | None
    """None where each row says its own."""
    files: Sequence[str]
    """Absolute, or names in the repository."""
    options: Mapping[str, Any]
    """Of the reader, e.g. the separator of CSV."""


class HubDatasetSource(FileSource):
    """Rows of a data set as examples.

    Args:
        config: its section of the configuration.

    Raises:
        DataError: a split, file or configuration is named as evaluation data; a data set of the hub is not to be
            downloaded (``HF_HUB_OFFLINE=1``) and was not before.
    """

    name = "hf"

    def __init__(self, config: HubDatasetConfig) -> None:
        super().__init__(config.on_bad_line)
        self.config = config
        self.local = Path(config.path).expanduser() if Path(config.path).expanduser().exists() else None
        self.source = Path(config.path).name
        if self.local is not None and self.local.is_file():  # a dot in a name has a meaning in settings
            self.source = self.source.partition(".")[0]
        refuse_evaluation(f"data.split={config.split}", config.split)
        for code, named in config.configurations.items():
            refuse_evaluation(f"data.configurations.{code}={named}", named)
        if self.local is not None:
            place = self.local.resolve()
            if place.is_file():
                refuse_evaluation(f"data.path={config.path}", place.name)
            refuse_evaluation_folder(f"data.path={config.path}", place.parent if place.is_file() else place)
            return
        if config.revision is None:
            raise DataError(
                f"data.revision=null: {config.path} is no file or folder here, and of a data set of the hub the commit "
                f"must be given (40 hex digits, on {HUB}/datasets/{config.path}/commits/main)"
            )
        for _, configuration in self._configurations():
            note = self._note(configuration)
            if note.is_file():
                check_offline(self._hub_files(json.loads(note.read_text())["files"]), "data.path")
            elif offline():
                raise DataError(
                    f"data.path={config.path}: no such folder, nor was it downloaded at {config.revision}, and "
                    f"HF_HUB_OFFLINE is set; unset it, or put its files from {HUB}/datasets/{config.path}/tree/"
                    f"{config.revision} into a folder and set data.path to it"
                )

    def settings(self) -> dict[str, Any]:
        """Languages, configurations, split and columns; repository and commit of a data set of the hub."""
        config = self.config
        return {
            "name": self.source,
            "languages": config.languages,
            "configurations": config.configurations,
            "split": config.split,
            "columns": config.columns.model_dump(mode="json"),
            "options": [dict(part.options) for part in self._parts],
            "published": {"repositories": {} if self.local else {config.path: f"{config.revision} (unverified)"}},
        }

    @cached_property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Files of each configuration, downloaded where they must be."""
        found: dict[str, Sequence[Path]] = {}
        for part in self._parts:
            if self.local is not None:
                found[str(part.configuration)] = [Path(file) for file in part.files]
            else:
                found[str(part.configuration)] = download(self._hub_files(part.files), "data.path")
        return found

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the configurations; rows are in the files' order.

        Raises:
            DataError: the data set cannot be read, a column is not there, or a row is bad.
        """
        return map(self._examples, self._parts)

    def _examples(self, part: _Part) -> Iterator[Example]:
        chosen = self.config.languages
        label = "/".join(filter(None, [Path(self.config.path).name, part.configuration]))
        for number, row in enumerate(self._rows(part), start=1):
            if number == 1:
                self._check_columns(row)
            where = f"{label}:row {number}"
            try:
                example = self._example(row, part, f"{part.configuration or ''}/{number}", where)
            except ValueError as error:
                self.bad_lines.leave_out(where, str(error))
                continue
            if chosen is None or example.language in chosen:
                yield example

    # ---------------------------------------------------------------------------------------------------- the files

    def _configurations(self) -> list[tuple[str | None, str | None]]:
        """Language and configuration of each that is to be read."""
        named = self.config.configurations
        chosen = self.config.languages
        if not named:
            return [(None, None)]
        return [(code, named[code]) for code in named if chosen is None or code in chosen]

    @cached_property
    def _parts(self) -> list[_Part]:
        parts = []
        for language, configuration in self._configurations():
            note = self._note(configuration)
            if self.local is None and note.is_file():
                found = json.loads(note.read_text())
            else:
                found = self._resolve(configuration)
                if self.local is None:
                    note.parent.mkdir(parents=True, exist_ok=True)
                    cache.write_atomic(note, json.dumps(found))
            for file in found["files"]:
                refuse_evaluation(file, Path(file).name)
                refuse_evaluation_folder(file, Path(file).parent)
            parts.append(_Part(configuration, language, found["files"], found["options"]))
        return parts

    def _note(self, configuration: str | None) -> Path:
        key = [self.config.path, self.config.revision, configuration, self.config.split]
        return cache.cache_dir() / "hub_files" / f"{cache.fingerprint(key)[:32]}.json"

    def _hub_files(self, names: Sequence[str]) -> list[HubFile]:
        assert self.config.revision is not None
        return [HubFile(self.config.path, self.config.revision, name) for name in names]

    def _resolve(self, configuration: str | None) -> dict[str, Any]:
        """Files of a configuration's split, and the options with which the data set says that they are to be read."""
        from datasets import BuilderConfig, load_dataset_builder

        said = f"data.path={self.config.path}"
        try:
            if self.local is None:
                builder = load_dataset_builder(self.config.path, configuration, revision=self.config.revision)
            elif self.local.is_file():
                builder = load_dataset_builder(str(self.local.parent), data_files={self.config.split: self.local.name})
            else:
                builder = load_dataset_builder(str(self.local), configuration)
        except Exception as error:  # of the hub's client, of fsspec, of the readers
            raise DataError(
                f"{said}: datasets cannot read it ({_reason(error)}); check path and configuration"
            ) from None
        splits = builder.config.data_files or {}
        if self.config.split not in splits:
            there = ", ".join(splits) or "none"
            raise DataError(f"data.split={self.config.split}: {self.config.path} has no such split; it has {there}")
        plain = {field.name for field in fields(BuilderConfig)}
        options = {}
        for field in fields(builder.config):
            value = getattr(builder.config, field.name)
            if field.name not in plain and value != field.default and isinstance(value, (str, int, float, list)):
                options[field.name] = value
        prefix = re.compile(r"^hf://datasets/[^@]+@[^/]+/")
        return {"files": [prefix.sub("", str(file)) for file in splits[self.config.split]], "options": options}

    # ----------------------------------------------------------------------------------------------------- the rows

    def _rows(self, part: _Part) -> Iterator[dict[str, Any]]:
        from datasets import load_dataset_builder

        files = [str(path) for path in self.files[str(part.configuration)]]
        try:
            builder = load_dataset_builder(str(Path(files[0]).parent), data_files={"train": files}, **part.options)
            yield from builder.as_streaming_dataset(split="train")
        except UserError:
            raise
        except Exception as error:
            raise DataError(f"{files[0]}: datasets cannot read it ({_reason(error)}); get the file again") from None

    def _check_columns(self, row: Mapping[str, Any]) -> None:
        columns = self.config.columns
        named = {
            key: getattr(columns, key)
            for key in ("query", "passage", "id", "passage_id", "language")
            if getattr(columns, key) is not None
        }
        for key, column in [*named.items(), *(("negatives", column) for column in columns.negatives)]:
            if column not in row and column.partition(".")[0] not in row:
                raise DataError(
                    f"data.columns.{key}={column}: {self.config.path} has no such column; it has {', '.join(row)}"
                )

    def _example(self, row: Mapping[str, Any], part: _Part, name: str, where: str) -> Example:
        columns = self.config.columns
        texts = {}
        for key in ("query", "passage"):
            value = _value(row, getattr(columns, key))
            if not isinstance(value, str) or not value.strip():
                raise ValueError(f"{getattr(columns, key)!r} is no text")
            texts[key] = value.strip()
        language = part.language
        if language is None:
            language = _languages.check_code(str(_value(row, str(columns.language))))
        if columns.id is not None:
            name = identifier(_value(row, columns.id), columns.id)
        passage_id = None
        if columns.passage_id is not None:
            passage_id = identifier(_value(row, columns.passage_id), columns.passage_id)
        return Example(
            item_id=name,
            language=language,
            query=texts["query"],
            passage=texts["passage"],
            passage_id=passage_id,
            source=self.source,
            negatives=tuple(_negatives(row, columns.negatives)),
            where=where,
        )


def _value(row: Mapping[str, Any], column: str) -> Any:
    """Value of a column, or of a field of one (``column.field``)."""
    if column in row:
        return row[column]
    outer, _, inner = column.partition(".")
    value = row.get(outer)
    return _value(value, inner) if inner and isinstance(value, Mapping) else None


def _negatives(row: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Negative]:
    for column in columns:
        value = _value(row, column)
        for text in value if isinstance(value, list) else [value]:
            if text is None or text == "":  # a row may have fewer than another
                continue
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"{column!r} holds a {type(text).__name__}, not a text")
            yield Negative(text.strip())


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
