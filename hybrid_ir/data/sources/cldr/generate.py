"""Fact sheets and questions in one language, from facts in codes, names and wording."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from hybrid_ir.data.sources.cldr.facts import MAX_LISTED, City, Currency, SpokenLanguage, Territory, World, world
from hybrid_ir.data.sources.cldr.names import Names
from hybrid_ir.data.sources.cldr.wording import KINDS, Wording, wording

HELD_OUT_KINDS = frozenset(
    {"former_currency", "official_languages", "languages_by_currency", "currency_successor", "city_currency"}
)
"""Question kinds that are never trained on; each has trained siblings with the same passages."""
HELD_OUT_SHARE = 0.12
"""Share of the entities whose passages and questions are never trained on."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question and its passage in one language."""

    item_id: str
    passage_id: str
    entity: str
    kind: str
    fact: str
    """Label of the fact that answers."""
    query: str
    passage: str

    @property
    def held_out(self) -> bool:
        return self.kind in HELD_OUT_KINDS or is_held_out(self.entity)


class _Naming(Protocol):
    """What ``Names`` offers; ``_Codes`` too."""

    def territory(self, code: str | None) -> str | None: ...
    def currency(self, code: str | None) -> str | None: ...
    def language_name(self, code: str | None) -> str | None: ...
    def script(self, code: str | None) -> str | None: ...
    def city(self, zone: str) -> str | None: ...
    def zone(self, metazone: str | None) -> str | None: ...
    def weekday(self, day: int | None) -> str | None: ...
    def number(self, value: int) -> str: ...
    def percent(self, value: float) -> str: ...


class _Codes:
    """Names everything by its code: the items that a language with every name would have."""

    def territory(self, code: str | None) -> str | None:
        return code

    currency = language_name = script = zone = territory

    def city(self, zone: str) -> str | None:
        return zone

    def weekday(self, day: int | None) -> str | None:
        return None if day is None else str(day)

    def number(self, value: int) -> str:
        return str(value)

    def percent(self, value: float) -> str:
        return str(value)


@dataclass(frozen=True, slots=True)
class Passage:
    """A fact sheet in one language."""

    entity: str
    text: str
    facts: frozenset[str]
    """Labels of the facts that it states; a language that lacks a name states fewer."""


@dataclass(frozen=True, slots=True)
class _Question:
    kind: str
    fact: str
    """Label of the fact that answers; without it in the passage there is no question."""
    arguments: dict[str, str | None]
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class _Sheet:
    """What one passage says, in one language's names; ``None`` where the language lacks a name."""

    passage_id: str
    entity: str
    head: str | None
    groups: tuple[dict[str, str | None], ...]
    """Facts by label; those of a group stay together (a currency and the year of its introduction)."""
    questions: tuple[_Question, ...]

    def facts(self) -> frozenset[str]:
        return frozenset(label for group in self.groups for label, value in group.items() if value is not None)


def hashed(text: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@cache
def is_held_out(entity: str) -> bool:
    """Whether an entity belongs to evaluation; a hash of its id decides, so the split does not depend on languages."""
    return hashed(f"split/{entity}") % 10_000 < HELD_OUT_SHARE * 10_000


def _join(comma: str, names: Sequence[str | None]) -> str | None:
    """The names that the language has, as a list."""
    return comma.join(name for name in names if name) or None


class _Sheets:
    def __init__(self, facts: World, names: _Naming, comma: str) -> None:
        self.facts, self.names, self.comma = facts, names, comma

    def _number(self, value: int | None) -> str | None:
        return None if value is None else self.names.number(value)

    def all(self) -> Iterator[_Sheet]:
        for territory in self.facts.territories.values():
            yield from self.territory(territory)
        for currency in self.facts.currencies.values():
            yield self.currency(currency)
        for language in self.facts.languages.values():
            yield self.language(language)
        for city in self.facts.cities.values():
            yield self.city(city)
        for script, members in self.facts.scripts.items():
            yield self.script(script, members)

    def territory(self, it: Territory) -> Iterator[_Sheet]:
        n, entity, name = self.names, f"territory-{it.code}", self.names.territory(it.code)
        money, former = n.currency(it.currency), n.currency(it.former_currency)
        city = n.city(it.zones[0]) if it.zones else None
        yield _Sheet(
            f"{entity}/money",
            entity,
            name,
            (
                # A year without its currency's name would be said of nothing.
                {"currency": money, "since": self._number(it.currency_since) if money else None},
                {"former_currency": former, "until": self._number(it.former_until) if former else None},
                {"city": city},
            ),
            (
                _Question("currency_of", "currency", {"t": name}),
                _Question("currency_since", "since", {"t": name, "c": money}),
                _Question("former_currency", "former_currency", {"t": name}),
                _Question("country_by_currency_city", "currency", {"c": money, "x": city}),
            ),
        )
        shares = []
        for code, percent in it.languages:
            language = n.language_name(code)
            shares.append(f"{language} ({n.percent(percent)})" if language else None)
        questions = [
            _Question("official_languages", "official_languages", {"t": name}),
            *(
                _Question("language_share", "languages", {"t": name, "l": n.language_name(code)}, f"-{code}")
                for code, _ in it.languages[:3]
            ),
        ]
        if shares and shares[0]:
            questions.append(_Question("main_language", "languages", {"t": name}))
        # Over two hops: the sheet does not name the currency, so that shared words do not give the answer away.
        alone = money if it.currency and self.facts.currencies[it.currency].users == (it.code,) else None
        questions.append(_Question("languages_by_currency", "languages", {"c": alone}))
        pair = _telling_pairs().get(it.code)
        if pair:
            both = {"l": n.language_name(pair[0]), "l2": n.language_name(pair[1])}
            questions.append(_Question("country_by_languages", "languages", both))
        yield _Sheet(
            f"{entity}/people",
            entity,
            name,
            (
                {"languages": _join(self.comma, shares)},
                {"official_languages": _join(self.comma, [n.language_name(code) for code in it.official])},
            ),
            tuple(questions),
        )
        cities = [n.city(zone) for zone in it.zones[:MAX_LISTED]]
        questions = [
            _Question("region_of", "region", {"t": name}),
            _Question("week_start", "week_start", {"t": name}),
            _Question("region_by_currency", "region", {"c": alone}),
            *(
                _Question("region_by_city", "region", {"x": n.city(zone)}, f"-{zone.replace('/', '-')}")
                for zone in it.zones[:2]
            ),
        ]
        if len(cities) > 1:
            questions.append(_Question("country_by_cities", "cities", {"x": cities[0], "x2": cities[1]}))
        yield _Sheet(
            f"{entity}/place",
            entity,
            name,
            (
                {"region": n.territory(it.region)},
                {"cities": _join(self.comma, cities)},
                {"week_start": n.weekday(it.first_weekday)},
            ),
            tuple(questions),
        )

    def currency(self, it: Currency) -> _Sheet:
        n, entity, name = self.names, f"currency-{it.code}", self.names.currency(it.code)
        return _Sheet(
            entity,
            entity,
            name,
            (
                {"used_in": _join(self.comma, [n.territory(code) for code in it.users])},
                {"since": self._number(it.since), "until": self._number(it.until)},
                {"successor": n.currency(it.successor)},
                {"decimals": self._number(it.decimals)},
            ),
            (
                _Question("currency_users", "used_in", {"c": name}),
                _Question("currency_decimals", "decimals", {"c": name}),
                _Question("currency_successor", "successor", {"c": name}),
            ),
        )

    def language(self, it: SpokenLanguage) -> _Sheet:
        n, entity, name = self.names, f"language-{it.code}", self.names.language_name(it.code)
        script = n.script(it.script)
        questions = [
            _Question("language_countries", "spoken_in", {"l": name}),
            _Question("language_script", "script", {"l": name}),
        ]
        telling = _telling_territories().get(it.code)
        if telling:
            arguments = {"t": n.territory(telling), "s": script}
            questions.append(_Question("language_by_country_script", "script", arguments))
        return _Sheet(
            entity,
            entity,
            name,
            (
                {"spoken_in": _join(self.comma, [n.territory(code) for code in it.territories])},
                {"official_in": _join(self.comma, [n.territory(code) for code in it.official])},
                {"script": script},
            ),
            tuple(questions),
        )

    def city(self, it: City) -> _Sheet:
        n, entity, name = self.names, f"city-{it.zone}", self.names.city(it.zone)
        territory = self.facts.territories[it.territory]
        main = territory.languages[0][0] if territory.languages else None
        return _Sheet(
            entity,
            entity,
            name,
            (
                {"country": n.territory(it.territory)},
                {"time_zone": n.zone(it.metazone)},
                {"currency": n.currency(territory.currency)},
                {"main_language": n.language_name(main)},
            ),
            (
                _Question("city_country", "country", {"x": name}),
                _Question("city_zone", "time_zone", {"x": name}),
                _Question("city_currency", "currency", {"x": name}),
            ),
        )

    def script(self, code: str, members: Sequence[str]) -> _Sheet:
        n, entity, name = self.names, f"script-{code}", self.names.script(code)
        languages = _join(self.comma, [n.language_name(member) for member in members])
        question = _Question("script_languages", "languages", {"s": name})
        return _Sheet(entity, entity, name, ({"languages": languages},), (question,))


@cache
def _telling_pairs() -> dict[str, tuple[str, str]]:
    """Territory -> the first pair of its languages that no other territory's list has."""
    owners: dict[tuple[str, str], list[str]] = {}
    for code, territory in world().territories.items():
        spoken = [language for language, _ in territory.languages]
        for i, first in enumerate(spoken):
            for second in spoken[i + 1 :]:
                owners.setdefault((min(first, second), max(first, second)), []).append(code)
    found: dict[str, tuple[str, str]] = {}
    for pair, codes in owners.items():
        if len(codes) == 1:
            found.setdefault(codes[0], pair)
    return found


@cache
def _telling_territories() -> dict[str, str]:
    """Language -> the first territory of its list where it alone is written in its script."""
    facts, found = world(), {}
    for code, language in facts.languages.items():
        for territory in language.territories:
            spoken = [other for other, _ in facts.territories[territory].languages]
            same = [other for other in spoken if facts.languages[other].script == language.script]
            if language.script and same == [code]:
                found[code] = territory
                break
    return found


def _passage(sheet: _Sheet, words: Wording) -> str:
    """The sheet as text: the head, then the facts, the groups in an order of the sheet's own (so that the place of
    a fact says nothing), the same in all languages."""
    groups = sorted(sheet.groups, key=lambda group: hashed(f"order/{sheet.passage_id}/{next(iter(group))}"))
    clauses = [str(sheet.head)]
    for group in groups:
        for label, value in group.items():
            if value is not None:
                word = words.labels.get(label)
                clauses.append(f"{word}{words.colon}{value}" if word else value)
    return words.space.join(clause + words.stop for clause in clauses)


def _items(sheets: _Sheets, words: Wording, language: str) -> Iterator[Item]:
    for sheet in sheets.all():
        present = sheet.facts()
        if sheet.head is None or not present:
            continue
        passage = _passage(sheet, words)
        for question in sheet.questions:
            phrasings = words.questions.get(question.kind)
            if not phrasings or question.fact not in present or None in question.arguments.values():
                continue
            item_id = f"{sheet.passage_id}/{question.kind}{question.suffix}"
            phrasing = phrasings[hashed(f"phrasing/{language}/{item_id}") % len(phrasings)]
            query = phrasing.format(**question.arguments)
            yield Item(item_id, sheet.passage_id, sheet.entity, question.kind, question.fact, query, passage)


def items(language: str) -> Iterator[Item]:
    """All items that exist in a language, held out or not, in the order of the entities' codes."""
    names = Names(language)
    words = wording(names)
    yield from _items(_Sheets(world(), names, words.comma), words, language)


def passages(language: str) -> dict[str, Passage]:
    """Passage id -> passage, of every passage that exists in a language, also those that no question asks for."""
    names = Names(language)
    words = wording(names)
    return {
        sheet.passage_id: Passage(sheet.entity, _passage(sheet, words), sheet.facts())
        for sheet in _Sheets(world(), names, words.comma).all()
        if sheet.head is not None and sheet.facts()
    }


@cache
def all_items() -> tuple[Item, ...]:
    """Every item that a language with every name has; without texts."""
    words = Wording(labels={}, questions=dict.fromkeys(KINDS, ("",)))
    return tuple(_items(_Sheets(world(), _Codes(), ", "), words, ""))
