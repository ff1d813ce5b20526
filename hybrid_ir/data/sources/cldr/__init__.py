"""World facts of Unicode CLDR as parallel questions and passages, in any language that CLDR has.

Built in: Babel carries the data, nothing is downloaded. Three layers: ``facts`` (what is true, in codes), ``names``
(what a language calls it, nothing filled in), ``wording`` (the words between the names); ``generate`` joins them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal

from hybrid_ir import languages as _languages
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.cldr.generate import all_items, items
from hybrid_ir.data.sources.cldr.names import has_data
from hybrid_ir.data.sources.cldr.wording import templates_digest
from hybrid_ir.errors import ConfigError, DataError

LICENSE = "Unicode-3.0"
"""Of CLDR's data (SPDX identifier)."""
GENERATOR_VERSION = 1
"""Raised with every change of this package that changes an example; part of the cached corpus' key."""


def check_locales(key: str, languages: Sequence[str]) -> None:
    """Checks that CLDR has a locale for each language.

    Raises:
        ConfigError: it has none for one; the message starts with ``key``.
    """
    for code in languages:
        if not has_data(_languages.check_code(code)):
            raise ConfigError(f"{key}={code}: CLDR has no locale for {_languages.get(code).name}; leave it out")


_ITEM_BYTES = 200
"""Of a question and its passage, about."""


class CldrSource:
    """CLDR world facts as training examples.

    Entities and question kinds are held out: ``train`` has no passage of a held-out entity and no question of a
    held-out kind, ``evaluation`` has all the rest. The split is a hash of the entity's id, the same for any languages.
    A held-out entity's *name* may stand in the passage of another entity.

    Args:
        languages: codes, each with a CLDR locale.
        split: which side of the split to yield.

    Raises:
        ConfigError: CLDR has no locale for a language.
    """

    name = "cldr"

    def __init__(self, languages: Sequence[str], split: Literal["train", "evaluation"] = "train") -> None:
        check_locales("data.languages", languages)
        self.languages = tuple(languages)
        self.split = split
        self._left_out: dict[str, int] = {}

    def key(self) -> dict[str, Any]:
        """Versions of Babel, CLDR and the generator, digest of the templates, languages and split."""
        import babel
        from babel.core import get_global

        return {
            "source": self.name,
            "babel": babel.__version__,
            "cldr": str(get_global("cldr")["version"]),
            "generator": GENERATOR_VERSION,
            "templates": templates_digest(),
            "languages": list(self.languages),
            "split": self.split,
        }

    def stretches(self) -> Iterator[Iterator[Example]]:
        """Yields the languages.

        Raises:
            DataError: CLDR has too few names in a language to make a single question.
        """
        self._left_out = {}
        return map(self._examples, self.languages)

    def examples(self) -> Iterator[Example]:
        """Yields the examples, language by language, in the order of the entities' codes.

        Raises:
            DataError: as ``stretches``.
        """
        return chain.from_iterable(self.stretches())

    def _examples(self, language: str) -> Iterator[Example]:
        held_out = self.split == "evaluation"
        count = 0
        for item in items(language):
            if item.held_out == held_out:
                count += 1
                yield Example(item.item_id, language, item.query, item.passage, item.passage_id, self.name)
        if not count:
            raise DataError(
                f"cldr: CLDR has too few names in {language} ({_languages.get(language).name}) to make questions; "
                "leave the language out"
            )
        self._left_out[language] = sum(item.held_out == held_out for item in all_items()) - count

    def text_bytes(self) -> int:
        """Bytes of all texts, about."""
        return len(self.languages) * len(all_items()) * _ITEM_BYTES

    def state(self) -> dict[str, Any]:
        """Items of each language that do not exist."""
        return dict(self._left_out)

    def restore(self, state: dict[str, Any]) -> None:
        """Takes a state."""
        self._left_out = dict(state)

    def reject(self, example: Example, reason: str) -> None:
        """Never called: an item is made once in each language."""
        raise DataError(f"CLDR facts: {reason}")

    def report(self) -> dict[str, Any]:
        """Items of each language that do not exist for lack of a name (or of a word to ask with)."""
        return {"left_out_items": dict(self._left_out)} if any(self._left_out.values()) else {}
