"""Several data sets as one: the parts of a mixture.

Each part is one source of the corpus, by the part's name, whatever it reads. Ids of items and passages are of their
part, unless ``join_ids``: two data sets that number their questions from 1 have no question in common. Equal passages
without an id are one passage, in two parts as in two files: they answer the same questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

from hybrid_ir.config import MixtureConfig, PartConfig, PublishedDataConfig, said_of_part
from hybrid_ir.data.sources import make_source, source_class
from hybrid_ir.data.sources.base import Example, Negative, Source, StretchSource, stretches, text_bytes
from hybrid_ir.errors import ConfigError, DataError, UserError


class MixtureSource:
    """Examples of all parts, in the order of the parts' names.

    Args:
        config: its section of the configuration.

    Raises:
        ConfigError: a language that a part does not have.
        DataError: files of a part are missing.
    """

    name = "mixture"

    def __init__(self, config: MixtureConfig) -> None:
        self.config = config
        self.parts: dict[str, Source] = {}
        self._inner: dict[str, list[str]] = {}
        self._languages: dict[str, list[str]] = {}
        for name in sorted(config.parts):
            part = _narrowed(name, config.parts[name], config.languages)
            with _said_of(name):
                self.parts[name] = make_source(part)

    def key(self) -> dict[str, Any]:
        """Those of the parts; the order in which they are given means nothing."""
        keys = {}
        for name, source in self.parts.items():
            with _said_of(name):
                keys[name] = source.key()
        return {"source": self.name, "format": 1, "join_ids": self.config.join_ids, "parts": keys}

    def stretches(self) -> Iterator[Iterator[Example]]:
        """Yields the stretches of one part after the other.

        Raises:
            DataError: as the parts; or a part has no example, or none in a language that is asked of it.
        """
        self._inner, self._languages = {}, {}
        for name, source in self.parts.items():
            self._inner[name], self._languages[name] = [], []
            with _said_of(name):
                for stretch in stretches(source):
                    yield self._examples(name, stretch)
            self._check_languages(name)

    def examples(self) -> Iterator[Example]:
        """Yields the examples of one part after the other.

        Raises:
            DataError: as ``stretches``.
        """
        return chain.from_iterable(self.stretches())

    def _examples(self, name: str, examples: Iterator[Example]) -> Iterator[Example]:
        prefix = "" if self.config.join_ids else f"{name}/"
        inner, languages = dict.fromkeys(self._inner[name]), dict.fromkeys(self._languages[name])
        with _said_of(name):
            for example in examples:
                inner[example.source] = languages[example.language] = None
                yield Example(
                    prefix + example.item_id,
                    example.language,
                    example.query,
                    example.passage,
                    None if example.passage_id is None else prefix + example.passage_id,
                    name,
                    tuple(_renamed(negative, prefix) for negative in example.negatives),
                    example.where,
                )
        self._inner[name], self._languages[name] = list(inner), list(languages)

    def _check_languages(self, name: str) -> None:
        languages = self._languages[name]
        if not languages:
            raise DataError(f"data.parts.{name}: gives no examples; check its path and languages, or leave it out")
        missing = [code for code in self.config.parts[name].languages or () if code not in languages]
        if missing:
            raise DataError(
                f"data.parts.{name}.languages: the part has nothing in {', '.join(missing)}; it has "
                f"{', '.join(sorted(languages))}"
            )

    def text_bytes(self) -> int:
        """Bytes of text of all parts, about."""
        total = 0
        for name, source in self.parts.items():
            with _said_of(name):
                total += text_bytes(source)
        return total

    def state(self) -> dict[str, Any]:
        """Sources and languages of each part so far, and what the part counted."""
        return {
            name: {
                "sources": inner,
                "languages": self._languages[name],
                "part": source.state() if isinstance(source := self.parts[name], StretchSource) else None,
            }
            for name, inner in self._inner.items()
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes a state."""
        for name, found in state.items():
            self._inner[name], self._languages[name] = found["sources"], found["languages"]
            source = self.parts[name]
            if isinstance(source, StretchSource):
                source.restore(found["part"])

    def reject(self, example: Example, reason: str) -> None:
        """As the part that it is of.

        Raises:
            DataError: its bad lines are not to be left out.
        """
        with _said_of(example.source):
            self.parts[example.source].reject(example, reason)

    def report(self) -> dict[str, Any]:
        """What was left out of each part, and the sources that a part has of its own."""
        report: dict[str, Any] = {}
        for name, source in self.parts.items():
            found = source.report()
            for key, label in (("bad_lines", "{part}/{what}"), ("left_out", "{what} ({part})")):
                for what, number in found.get(key, {}).items():
                    report.setdefault(key, {})[label.format(part=name, what=what)] = number
            if "first_bad_lines" in found:
                report.setdefault("first_bad_lines", []).extend(found["first_bad_lines"])
        return {**report, "parts": dict(self._inner)}


def _narrowed(name: str, part: PartConfig, chosen: Sequence[str] | None) -> PartConfig:
    """A part with those of its languages that the mixture takes: the others are not even downloaded.

    Raises:
        ConfigError: it has none of them.
    """
    if chosen is None:
        return part
    own: Sequence[str] | None = part.languages
    if own is None and isinstance(part, PublishedDataConfig):
        kind = source_class(part)
        with _said_of(name):
            own = list(kind.languages_by_name) if part.path is None else kind(part).languages
    languages = list(chosen) if own is None else [code for code in own if code in chosen]
    if not languages:
        raise ConfigError(
            f"data.languages=[{','.join(chosen)}]: data.parts.{name} has none of them, it has {', '.join(own or ())}; "
            f"leave the part out"
        )
    return part.model_copy(update={"languages": languages})


def _renamed(negative: Negative, prefix: str) -> Negative:
    return negative if negative.passage_id is None else Negative(negative.text, prefix + negative.passage_id)


@contextmanager
def _said_of(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise type(error)(said_of_part(name, str(error))) from None
