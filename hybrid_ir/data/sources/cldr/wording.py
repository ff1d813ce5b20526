"""The words between the names: from a hand-written template file, or from CLDR's own words where there is none.

A template file has labels of facts and one or more phrasings of every question kind. For every other language a
question is a line of keywords: the names it is about, then CLDR's name for what is sought, e.g. ``svensk krona: okänd
region?`` (CLDR names the unknown currency, language, region and script in each language). Its passages have no labels.
"""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from hybrid_ir.data.sources.cldr.names import Names

LABELS = (
    "region", "currency", "since", "former_currency", "until", "city", "languages", "official_languages", "cities",
    "week_start", "used_in", "decimals", "successor", "spoken_in", "official_in", "script", "country", "time_zone",
    "main_language",
)  # fmt: skip

KINDS = (
    "currency_of", "currency_since", "former_currency", "country_by_currency_city", "main_language",
    "official_languages", "language_share", "country_by_languages", "region_of", "week_start", "country_by_cities",
    "currency_users", "currency_decimals", "currency_successor", "language_countries", "language_script",
    "language_by_country_script", "city_country", "city_zone", "city_currency", "script_languages",
    "region_by_city", "region_by_currency", "languages_by_currency",
)  # fmt: skip
"""Every question kind."""


@dataclass(frozen=True)
class Wording:
    """How facts and questions are phrased in one language."""

    labels: dict[str, str]
    questions: dict[str, tuple[str, ...]]
    """Kind -> phrasings with the placeholders t, c, l, l2, x, x2, s."""
    colon: str = ": "
    stop: str = "."
    space: str = " "
    comma: str = ", "
    templates: bool = field(default=True, kw_only=True)
    """Whether the phrasings are hand-written."""


def _folder() -> resources.abc.Traversable:
    return resources.files("hybrid_ir.data.sources.cldr") / "templates"


@cache
def template_languages() -> tuple[str, ...]:
    """Languages with hand-written templates."""
    return tuple(sorted(file.name[:-5] for file in _folder().iterdir() if file.name.endswith(".toml")))


@cache
def templates_digest() -> str:
    """SHA-256 of all template files: a changed phrasing is another corpus."""
    digest = hashlib.sha256()
    for code in template_languages():
        digest.update(code.encode() + b"\0" + (_folder() / f"{code}.toml").read_bytes() + b"\0")
    return digest.hexdigest()


def wording(names: Names) -> Wording:
    """The wording of the language of ``names``."""
    if names.language not in template_languages():
        return _keywords(names)
    table = tomllib.loads((_folder() / f"{names.language}.toml").read_text(encoding="utf-8"))
    questions = {kind: tuple(phrasings) for kind, phrasings in table["questions"].items()}
    return Wording(labels=dict(table["labels"]), questions=questions, **table["text"])


def _keywords(names: Names) -> Wording:
    world, territory, currency = names.territory("001"), names.territory("ZZ"), names.currency("XXX")
    language, script = names.language_name("und"), names.script("Zzzz")
    year, week, day = (names.unit(f"duration-{unit}") for unit in ("year", "week", "day"))
    weekday = f"{week}, {day}" if week and day else None
    sought = {
        "currency_of": ("{t}", currency),
        "currency_since": ("{t}, {c}", year),
        "country_by_currency_city": ("{x}, {c}", territory),
        "main_language": ("{t}", language),
        "language_share": ("{t}, {l}", "%"),
        "country_by_languages": ("{l}, {l2}", territory),
        "region_of": ("{t}", territory),
        "region_by_city": ("{x}", f"{world}, {territory}" if world and territory else None),
        "region_by_currency": ("{c}", f"{world}, {territory}" if world and territory else None),
        "languages_by_currency": ("{c}", language),
        "week_start": ("{t}", weekday),
        "country_by_cities": ("{x}, {x2}", territory),
        "currency_users": ("{c}", territory),
        "currency_successor": ("{c}", currency),
        "language_countries": ("{l}", territory),
        "language_script": ("{l}", script),
        "language_by_country_script": ("{t}, {s}", language),
        "city_country": ("{x}", territory),
        "city_currency": ("{x}", currency),
        "script_languages": ("{s}", language),
    }
    questions: dict[str, tuple[str, ...]] = {
        kind: (f"{about}: {word}?",) for kind, (about, word) in sought.items() if word
    }
    return Wording(labels={}, questions=questions, templates=False)
