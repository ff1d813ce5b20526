"""MLQA translate-train (Lewis et al. 2020, arXiv 1910.07475): SQuAD's train set, machine-translated into 6 languages.

A question is an item in all languages that have it, its passage the whole paragraph. Where an answer was lost in
translation the question is missing: languages are ragged, and joined by SQuAD's question id. The English original is
SQuAD v1.1's own ``train-v1.1.json``. The files named ``-dev-`` are SQuAD's dev set, the source of XQuAD: never read.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from hybrid_ir import cache
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.published import PublishedSource
from hybrid_ir.errors import DataError
from hybrid_ir.hub import HubFile, offline, say
from hybrid_ir.languages import MLQA

ARCHIVE = "https://dl.fbaipublicfiles.com/MLQA/mlqa-translate-train.tar.gz"
"""The translations, 63 MB."""
SQUAD = "https://rajpurkar.github.io/SQuAD-explorer/dataset/train-v1.1.json"
"""The English original, 30 MB."""
_FOLDER = "mlqa-translate-train"
_ENGLISH = "train-v1.1.json"


@dataclass(frozen=True, slots=True)
class _WebFile(HubFile):
    """A file that is not of the hub; ``revision`` is its address, or that of the archive that holds it."""

    @property
    def address(self) -> str:
        return self.revision


class MlqaTranslateTrainSource(PublishedSource):
    """Train questions and paragraphs.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that the data set does not have.
        DataError: a file is not there.
    """

    name = "mlqa_translate_train"
    license = "cc-by-sa-3.0 (MLQA); SQuAD's English: cc-by-sa-4.0 (unverified)"
    languages_by_name: ClassVar[Mapping[str, str]] = {code: code for code in MLQA}

    def language_files(self, code: str) -> list[HubFile]:
        """One file."""
        if code == "en":
            return [_WebFile("", SQUAD, _ENGLISH)]
        return [_WebFile("", ARCHIVE, f"{_FOLDER}/{code}_squad-translate-train-train-v1.1.json")]

    def check_download(self) -> None:
        """Checks what can be checked of files that are to be downloaded.

        Raises:
            DataError: one was not downloaded yet, and nothing is to be (``HF_HUB_OFFLINE=1``).
        """
        if offline():
            for file in self.wanted:
                archived = file.name != _ENGLISH and (_downloads() / Path(ARCHIVE).name).is_file()
                if not archived and not (_downloads() / file.name).is_file():
                    raise DataError(
                        f"{file.name}: cannot be downloaded from {file.address} (HF_HUB_OFFLINE is set); unset it, or "
                        f"put it by hand as {file.name} into a folder and set data.path to that folder"
                    )

    @cached_property
    def files(self) -> Mapping[str, Sequence[Path]]:
        """Files by the name that they are published under, downloaded where they must be."""
        if self.folder is not None:
            return {file.name: [self.folder / file.name] for file in self.wanted}
        return {file.name: [self._downloaded(file)] for file in self.wanted}

    def _downloaded(self, file: HubFile) -> Path:
        from hybrid_ir.evaluation.benchmarks.lareqa import download

        target = _downloads() / file.name
        if target.is_file():
            return target
        if file.name == _ENGLISH:
            return download(SQUAD, target, None, "data.path")
        archive = _downloads() / Path(ARCHIVE).name
        if not archive.is_file():
            say(f"downloading {ARCHIVE}: 63 MB into {archive.parent}")
        download(ARCHIVE, archive, None, "data.path")
        try:
            with tarfile.open(archive) as members:
                found = members.extractfile(file.name)
                assert found is not None
                target.parent.mkdir(parents=True, exist_ok=True)
                cache.write_atomic(target, found.read())
        except (tarfile.TarError, zlib.error, KeyError, EOFError) as error:
            raise DataError(f"{archive}: has no {file.name} ({error}); delete it to download it again") from None
        return target

    def read(self) -> Iterator[Iterator[Example]]:
        """Yields the languages; questions are in the files' order.

        Raises:
            DataError: a file is not of SQuAD's format.
        """
        return map(self._examples, self.languages)

    def _examples(self, code: str) -> Iterator[Example]:
        for question in read_squad(self.files[self.language_files(code)[0].name][0]):
            yield Example(
                item_id=question.id,
                language=code,
                query=question.text,
                passage=question.context,
                passage_id=None,  # a paragraph's versions are joined by its questions
                source=self.name,
                where=question.where,
            )


def _downloads() -> Path:
    return cache.cache_dir() / "downloads"


# ------------------------------------------------------------------------------------------------------------ SQuAD


@dataclass(frozen=True, slots=True)
class Question:
    """A question of a file in SQuAD's format, and its paragraph."""

    id: str
    text: str
    context: str
    title: str
    where: str
    """``file:place``, for messages."""


def read_squad(file: Path) -> Iterator[Question]:
    """Questions of a file in SQuAD v1.1's format, in its order. Texts are stripped, of U+FEFF too.

    Raises:
        DataError: it cannot be read, is not of this format (file and position), or has no question.
    """
    try:
        root = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file}: is not JSON ({error}); get the file again") from None
    count = 0
    for article, place in _listed(file, "", root, "data"):
        title = article.get("title", "")
        for paragraph, inside in _listed(file, place, article, "paragraphs"):
            context = _text(file, inside, paragraph, "context")
            for question, where in _listed(file, inside, paragraph, "qas"):
                count += 1
                yield Question(
                    id=_text(file, where, question, "id"),
                    text=_text(file, where, question, "question"),
                    context=context,
                    title=title if isinstance(title, str) else "",
                    where=f"{file}:{where}",
                )
    if not count:
        raise DataError(f"{file}: holds no question; expected SQuAD's format: data[].paragraphs[].qas[]")


def _listed(file: Path, place: str, value: Any, key: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Objects in a list, and where each stands."""
    inside = f"{place}.{key}" if place else key
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise DataError(f"{file}: {inside}: is no list; expected SQuAD's format: data[].paragraphs[].qas[]")
    for number, each in enumerate(found):
        if not isinstance(each, dict):
            raise DataError(f"{file}: {inside}[{number}]: is no object; expected SQuAD's format")
        yield each, f"{inside}[{number}]"


def _text(file: Path, place: str, value: dict[str, Any], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str) or not text.strip().strip("\ufeff").strip():
        raise DataError(f"{file}: {place}.{key}: is no text; get the file again")
    return text.strip().strip("\ufeff").strip()
