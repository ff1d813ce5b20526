"""World facts in codes, the same for every language: what is true, before it is said in any language.

All but the regions come from the Unicode CLDR supplemental data that Babel carries. Babel does not carry CLDR's
territory containment, so the regions (UN M.49, the source of CLDR's containment) stand here as a table.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

# UN M.49 subregion -> territories (ISO 3166-1 alpha-2), as in CLDR's territoryContainment; CLDR's grouping of Kosovo.
_REGIONS = {
    "005": "AR BO BR CL CO EC FK GF GS GY PE PY SR UY VE",
    "011": "BF BJ CI CV GH GM GN GW LR ML MR NE NG SH SL SN TG",
    "013": "BZ CR GT HN MX NI PA SV",
    "014": "BI DJ ER ET IO KE KM MG MU MW MZ RE RW SC SO SS TZ UG YT ZM ZW",
    "015": "DZ EG EH LY MA SD TN",
    "017": "AO CD CF CG CM GA GQ ST TD",
    "018": "BW LS NA SZ ZA",
    "021": "BM CA GL PM US",
    "029": "AG AI AW BB BL BQ BS CU CW DM DO GD GP HT JM KN KY LC MF MQ MS PR SX TC TT VC VG VI",
    "030": "CN HK JP KP KR MN MO TW",
    "034": "AF BD BT IN IR LK MV NP PK",
    "035": "BN ID KH LA MM MY PH SG TH TL VN",
    "039": "AD AL BA ES GI GR HR IT ME MK MT PT RS SI SM VA XK",
    "053": "AU CC CX NF NZ",
    "054": "FJ NC PG SB VU",
    "057": "FM GU KI MH MP NR PW",
    "061": "AS CK NU PF PN TK TO TV WF WS",
    "143": "KG KZ TJ TM UZ",
    "145": "AE AM AZ BH CY GE IL IQ JO KW LB OM PS QA SA SY TR YE",
    "151": "BG BY CZ HU MD PL RO RU SK UA",
    "154": "AX DK EE FI FO GB GG IE IM IS JE LT LV NO SE SJ",
    "155": "AT BE CH DE FR LI LU MC NL",
}
REGION_OF: dict[str, str] = {t: region for region, codes in _REGIONS.items() for t in codes.split()}

MIN_SHARE = 1.0
"""Per cent of a territory's people from which a language is told among its languages."""
MAX_LISTED = 5
"""Members of a list at most: languages of a territory, territories of a currency or language, cities."""

Date = tuple[int, int, int]


@dataclass(frozen=True)
class Territory:
    code: str
    region: str
    currency: str | None
    """Tender in use; of several, the one introduced last."""
    currency_since: int | None
    former_currency: str | None
    former_until: int | None
    languages: tuple[tuple[str, float], ...]
    """(language, per cent of the population), most spoken first."""
    official: tuple[str, ...]
    zones: tuple[str, ...]
    first_weekday: int | None
    """0 is Monday."""


@dataclass(frozen=True)
class Currency:
    code: str
    users: tuple[str, ...]
    """Territories that use it; of a currency out of use, those that used it."""
    since: int | None
    until: int | None
    """None while it is in use."""
    decimals: int
    successor: str | None


@dataclass(frozen=True)
class SpokenLanguage:
    code: str
    territories: tuple[str, ...]
    """Largest share of the population first."""
    official: tuple[str, ...]
    script: str | None


@dataclass(frozen=True)
class City:
    zone: str
    territory: str
    metazone: str | None


@dataclass(frozen=True)
class World:
    """All entities, each dictionary in the order of its codes."""

    cldr_version: str
    territories: dict[str, Territory]
    currencies: dict[str, Currency]
    languages: dict[str, SpokenLanguage]
    cities: dict[str, City]
    scripts: dict[str, tuple[str, ...]]
    """Script -> languages written in it, the ones spoken in most territories first."""


def _first_weekdays() -> dict[str, int]:
    """First day of the week (0 is Monday) by territory; Babel keeps it with the locales of the territory."""
    from babel import localedata

    chosen: dict[str, str] = {}
    for identifier in sorted(localedata.locale_identifiers(), key=lambda name: (len(name), name)):
        territory = identifier.split("_")[-1]
        if territory in REGION_OF:
            chosen.setdefault(territory, identifier)
    days: dict[str, int] = {}
    for territory, identifier in chosen.items():
        week = localedata.load(identifier, merge_inherited=False).get("week_data") or {}
        if "first_day" in week:
            days[territory] = int(week["first_day"])
    return days


def _languages_of(shares: dict[str, Any]) -> tuple[tuple[tuple[str, float], ...], tuple[str, ...]]:
    """Languages of a territory with their shares, and the official ones; ``zh_Hant`` and ``zh`` are one language."""
    percent: dict[str, float] = {}
    official: dict[str, bool] = {}
    for tag, entry in shares.items():
        code = tag.split("_")[0]
        percent[code] = max(percent.get(code, 0.0), float(entry["population_percent"] or 0.0))
        official[code] = official.get(code, False) or entry["official_status"] in {"official", "de_facto_official"}
    order = sorted(percent, key=lambda code: (-percent[code], code))
    told = [code for i, code in enumerate(order) if i == 0 or percent[code] >= MIN_SHARE][:MAX_LISTED]
    return tuple((code, percent[code]) for code in told), tuple(code for code in order if official[code])[:MAX_LISTED]


def _territory(code: str, history: list[Any], shares: dict[str, Any], zones: list[str], day: int | None) -> Territory:
    tender = [(currency, start, end) for currency, start, end, legal in history if legal]
    living = sorted((row for row in tender if row[2] is None), key=lambda row: row[1] or (0, 0, 0))
    ended = sorted((row for row in tender if row[2] is not None), key=lambda row: row[2])
    current = living[-1] if living else None
    former = next((row for row in reversed(ended) if current is None or row[0] != current[0]), None)
    languages, official = _languages_of(shares)
    return Territory(
        code=code,
        region=REGION_OF[code],
        currency=current[0] if current else None,
        currency_since=current[1][0] if current and current[1] else None,
        former_currency=former[0] if former else None,
        former_until=former[2][0] if former else None,
        languages=languages,
        official=official,
        zones=tuple(zones),
        first_weekday=day,
    )


def _currencies(history: dict[str, list[Any]], fractions: dict[str, Any]) -> dict[str, Currency]:
    living: dict[str, list[str]] = {}
    past: dict[str, list[tuple[Date, str]]] = {}
    starts: dict[str, list[int]] = {}
    for territory in sorted(set(history) & set(REGION_OF)):
        for code, start, end, tender in history[territory]:
            if not tender:
                continue
            if start:
                starts.setdefault(code, []).append(start[0])
            if end is None:
                living.setdefault(code, []).append(territory)
            else:
                past.setdefault(code, []).append((end, territory))
    found: dict[str, Currency] = {}
    for code in sorted(set(living) | set(past)):
        users = living.get(code) or [territory for _, territory in past[code]]
        until = None if code in living else max(end for end, _ in past[code])[0]
        # What followed where it ended: the tender that began nearest to the end and outlived it; the commonest wins.
        followers: Counter[str] = Counter()
        for end, territory in past.get(code, []) if until is not None else []:
            later = [
                (abs(start[0] * 372 + start[1] * 31 + start[2] - end[0] * 372 - end[1] * 31 - end[2]), other)
                for other, start, stop, tender in history[territory]
                if tender and other != code and start and (stop is None or stop > end)
            ]
            if later:
                followers[min(later)[1]] += 1
        successor = min(followers, key=lambda other: (-followers[other], other)) if followers else None
        decimals = fractions.get(code, fractions["DEFAULT"])[0]
        since = min(starts[code]) if code in starts else None
        found[code] = Currency(code, tuple(users[:MAX_LISTED]), since, until, decimals, successor)
    return found


@cache
def world() -> World:
    """All facts, read once from Babel's supplemental data (about 0.1 s)."""
    from babel.core import get_global

    history, shares = get_global("territory_currencies"), get_global("territory_languages")
    zones, likely = get_global("territory_zones"), get_global("likely_subtags")
    metazones, weekdays = get_global("meta_zones"), _first_weekdays()
    territories = {
        code: _territory(
            code, list(history.get(code, [])), dict(shares[code]), list(zones.get(code, [])), weekdays.get(code)
        )
        for code in sorted(REGION_OF)
        if code in shares
    }
    spoken: dict[str, list[tuple[float, str]]] = {}
    for code, territory in territories.items():
        for language, percent in territory.languages:
            spoken.setdefault(language, []).append((-percent, code))
    languages: dict[str, SpokenLanguage] = {}
    for language in sorted(spoken):
        tags = str(likely.get(language, "")).split("_")
        official = tuple(code for code in territories if language in territories[code].official)
        order = tuple(code for _, code in sorted(spoken[language]))[:MAX_LISTED]
        languages[language] = SpokenLanguage(language, order, official[:MAX_LISTED], tags[1] if len(tags) > 1 else None)
    cities = {
        zone: City(zone, code, metazones.get(zone))
        for code, territory in territories.items()
        for zone in territory.zones
    }
    written: dict[str, list[tuple[int, str]]] = {}
    for language, facts in languages.items():
        if facts.script:
            written.setdefault(facts.script, []).append((-len(spoken[language]), language))
    scripts = {
        script: tuple(code for _, code in sorted(members))[:MAX_LISTED] for script, members in sorted(written.items())
    }
    return World(
        cldr_version=str(get_global("cldr")["version"]),
        territories=territories,
        currencies=_currencies(dict(history), dict(get_global("currency_fractions"))),
        languages=languages,
        cities=dict(sorted(cities.items())),
        scripts=scripts,
    )
