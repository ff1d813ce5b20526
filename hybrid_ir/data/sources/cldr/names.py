"""Names in one language, from that language's own CLDR data and from nothing else.

Babel merges a locale with its parents; here the locale's own file is read alone, so that a name that the language
lacks is absent, instead of coming from French (the parent of Haitian Creole), from the root locale, or from English.
"""

from __future__ import annotations

from typing import Any

# Norwegian Bokmål has an empty file: CLDR keeps its data under the macrolanguage.
_SAME_DATA = {"nb": "no"}

# First digit of the numbering systems that are a CLDR locale's default; all others write 0-9.
_ZERO = {
    "adlm": 0x1E950, "arab": 0x660, "arabext": 0x6F0, "beng": 0x9E6, "cakm": 0x11136, "deva": 0x966, "hmnp": 0x1E140,
    "mtei": 0xABF0, "mymr": 0x1040, "nkoo": 0x7C0, "olck": 0x1C50, "rohg": 0x10D30, "tibt": 0xF20,
}  # fmt: skip


class Names:
    """Names of entities in one language; ``None`` wherever the language's CLDR data has none.

    Args:
        language: a code with CLDR data (``has_data``).
    """

    def __init__(self, language: str) -> None:
        from babel import localedata

        self.language = language
        self._data: dict[str, Any] = localedata.load(_SAME_DATA.get(language, language), merge_inherited=False)
        zero = _ZERO.get(str(self._data.get("default_numbering_system") or "latn"))
        self._digits = None if zero is None else {ord("0") + i: zero + i for i in range(10)}
        pattern = (self._data.get("percent_formats") or {}).get(None)
        # CLDR's root pattern, #,##0%, holds where a language does not differ from it.
        self._percent = (str(pattern.prefix[0]), str(pattern.suffix[0])) if pattern is not None else ("", "%")

    def _name(self, table: str, code: str | None) -> str | None:
        name = (self._data.get(table) or {}).get(code) if code is not None else None
        # A name that only repeats the code says nothing.
        return name if isinstance(name, str) and name and name != code else None

    def territory(self, code: str | None) -> str | None:
        return self._name("territories", code)

    def currency(self, code: str | None) -> str | None:
        return self._name("currency_names", code)

    def language_name(self, code: str | None) -> str | None:
        return self._name("languages", code)

    def script(self, code: str | None) -> str | None:
        return self._name("scripts", code)

    def city(self, zone: str) -> str | None:
        """The exemplar city of a time zone. English names follow from the zone's id, as CLDR defines (UTS 35)."""
        entry = (self._data.get("time_zones") or {}).get(zone) or {}
        name = entry.get("city")
        if name is None and self.language == "en":
            return zone.split("/")[-1].replace("_", " ")
        return name if isinstance(name, str) else None

    def zone(self, metazone: str | None) -> str | None:
        """The time zone's own name, e.g. East Africa Time."""
        names = ((self._data.get("meta_zones") or {}).get(metazone) or {}).get("long") or {}
        name = names.get("generic") or names.get("standard")
        return name if isinstance(name, str) else None

    def weekday(self, day: int | None) -> str | None:
        """Name of a day of the week, 0 is Monday."""
        days = self._data.get("days") or {}
        for form in ("stand-alone", "format"):
            wide = (days.get(form) or {}).get("wide") if isinstance(days.get(form), dict) else None
            if isinstance(wide, dict) and isinstance(wide.get(day), str):
                return str(wide[day])
        return None

    def unit(self, unit: str) -> str | None:
        """Name of a unit of measurement, e.g. ``duration-year``."""
        forms = (self._data.get("unit_display_names") or {}).get(unit) or {}
        name = forms.get("long") or forms.get("short")
        return name if isinstance(name, str) else None

    def number(self, value: int) -> str:
        """A whole number in the language's digits, without grouping."""
        text = str(value)
        return text.translate(self._digits) if self._digits else text

    def percent(self, value: float) -> str:
        """Per cent, rounded to a whole number."""
        prefix, suffix = self._percent
        return f"{prefix}{self.number(round(value))}{suffix}"


def has_data(language: str) -> bool:
    """Whether CLDR has a locale for the language."""
    from babel import localedata

    return localedata.exists(language)
