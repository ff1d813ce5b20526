"""Languages: codes, names, scripts, families, MIRACL corpus sizes and resource tiers.

Codes are ISO 639-1 where a language has one (``zh``), else ISO 639-3 as Unicode CLDR writes it (``fil``). The languages
of the supported benchmarks stand in a table here; any other language that CLDR has names for is looked up in Babel when
it is asked for, so that importing this module costs nothing.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

Tier = Literal["low", "medium", "high"]

MEDIUM_FROM = 1_000_000
"""MIRACL passages from which a language is of the medium tier."""
HIGH_FROM = 5_000_000
"""MIRACL passages from which a language is of the high tier."""


@dataclass(frozen=True, slots=True)
class Language:
    """What is known of a language."""

    code: str
    """ISO 639-1 code, or ISO 639-3 where there is no shorter one."""
    name: str
    """English name."""
    script: str
    """ISO 15924 code of the script it is mostly written in, e.g. ``Latn``."""
    family: str
    """Top-level family in the tradition of WALS, e.g. ``Indo-European``; ``unknown`` outside this module's table."""
    branch: str = ""
    """Branch of the family, e.g. ``Romance``; empty where none is given."""
    miracl_passages: int | None = None
    """Passages of the MIRACL v1.0 corpus in this language; None outside MIRACL's languages."""

    @property
    def tier(self) -> Tier | None:
        """Resource tier by the size of the MIRACL corpus, which is the size of the language's Wikipedia.

        ``low`` under 1,000,000 passages, ``medium`` under 5,000,000, else ``high``; None outside MIRACL, where nothing
        comparable was counted.
        """
        if self.miracl_passages is None:
            return None
        if self.miracl_passages < MEDIUM_FROM:
            return "low"
        return "medium" if self.miracl_passages < HIGH_FROM else "high"


MIRACL = ("ar", "bn", "de", "en", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "yo", "zh")
"""The 18 languages of MIRACL."""
XQUAD_R = ("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")
"""The 11 languages of XQuAD-R (LAReQA, arXiv 2004.05484)."""
MLQA = ("ar", "de", "en", "es", "hi", "vi", "zh")
"""The 7 languages of MLQA and MLQA-R."""
MMARCO = ("ar", "de", "en", "es", "fr", "hi", "id", "it", "ja", "nl", "pt", "ru", "vi", "zh")
"""The 14 languages of mMARCO (13 translations and the English original)."""

# Passages of the MIRACL v1.0 corpora (Zhang et al. 2023, TACL; counts as ir_datasets and the project list them).
_MIRACL_PASSAGES = {
    "ar": 2_061_414,
    "bn": 297_265,
    "de": 15_866_222,
    "en": 32_893_221,
    "es": 10_373_953,
    "fa": 2_207_172,
    "fi": 1_883_509,
    "fr": 14_636_953,
    "hi": 506_264,
    "id": 1_446_315,
    "ja": 6_953_614,
    "ko": 1_486_752,
    "ru": 9_543_918,
    "sw": 131_924,
    "te": 518_079,
    "th": 542_166,
    "yo": 49_043,
    "zh": 4_934_368,
}

_IE, _AA, _NC, _TU = "Indo-European", "Afro-Asiatic", "Niger-Congo", "Turkic"
_AN, _DR, _UR, _ST = "Austronesian", "Dravidian", "Uralic", "Sino-Tibetan"

# code, English name, script, family, branch
_TABLE: tuple[tuple[str, str, str, str, str], ...] = (
    ("af", "Afrikaans", "Latn", _IE, "Germanic"),
    ("am", "Amharic", "Ethi", _AA, "Semitic"),
    ("ar", "Arabic", "Arab", _AA, "Semitic"),
    ("as", "Assamese", "Beng", _IE, "Indo-Aryan"),
    ("az", "Azerbaijani", "Latn", _TU, "Oghuz"),
    ("be", "Belarusian", "Cyrl", _IE, "Slavic"),
    ("bg", "Bulgarian", "Cyrl", _IE, "Slavic"),
    ("bn", "Bengali", "Beng", _IE, "Indo-Aryan"),
    ("bs", "Bosnian", "Latn", _IE, "Slavic"),
    ("ca", "Catalan", "Latn", _IE, "Romance"),
    ("cs", "Czech", "Latn", _IE, "Slavic"),
    ("cy", "Welsh", "Latn", _IE, "Celtic"),
    ("da", "Danish", "Latn", _IE, "Germanic"),
    ("de", "German", "Latn", _IE, "Germanic"),
    ("el", "Greek", "Grek", _IE, "Hellenic"),
    ("en", "English", "Latn", _IE, "Germanic"),
    ("es", "Spanish", "Latn", _IE, "Romance"),
    ("et", "Estonian", "Latn", _UR, "Finnic"),
    ("eu", "Basque", "Latn", "Basque", ""),
    ("fa", "Persian", "Arab", _IE, "Iranian"),
    ("fi", "Finnish", "Latn", _UR, "Finnic"),
    ("fil", "Filipino", "Latn", _AN, "Malayo-Polynesian"),
    ("fr", "French", "Latn", _IE, "Romance"),
    ("ga", "Irish", "Latn", _IE, "Celtic"),
    ("gl", "Galician", "Latn", _IE, "Romance"),
    ("gu", "Gujarati", "Gujr", _IE, "Indo-Aryan"),
    ("ha", "Hausa", "Latn", _AA, "Chadic"),
    ("he", "Hebrew", "Hebr", _AA, "Semitic"),
    ("hi", "Hindi", "Deva", _IE, "Indo-Aryan"),
    ("hr", "Croatian", "Latn", _IE, "Slavic"),
    ("hu", "Hungarian", "Latn", _UR, "Ugric"),
    ("hy", "Armenian", "Armn", _IE, "Armenian"),
    ("id", "Indonesian", "Latn", _AN, "Malayo-Polynesian"),
    ("ig", "Igbo", "Latn", _NC, "Volta-Niger"),
    ("is", "Icelandic", "Latn", _IE, "Germanic"),
    ("it", "Italian", "Latn", _IE, "Romance"),
    ("ja", "Japanese", "Jpan", "Japonic", ""),
    ("jv", "Javanese", "Latn", _AN, "Malayo-Polynesian"),
    ("ka", "Georgian", "Geor", "Kartvelian", ""),
    ("kk", "Kazakh", "Cyrl", _TU, "Kipchak"),
    ("km", "Khmer", "Khmr", "Austroasiatic", "Khmer"),
    ("kn", "Kannada", "Knda", _DR, "South"),
    ("ko", "Korean", "Kore", "Koreanic", ""),
    ("ky", "Kyrgyz", "Cyrl", _TU, "Kipchak"),
    ("lo", "Lao", "Laoo", "Kra-Dai", "Tai"),
    ("lt", "Lithuanian", "Latn", _IE, "Baltic"),
    ("lv", "Latvian", "Latn", _IE, "Baltic"),
    ("mg", "Malagasy", "Latn", _AN, "Malayo-Polynesian"),
    ("mk", "Macedonian", "Cyrl", _IE, "Slavic"),
    ("ml", "Malayalam", "Mlym", _DR, "South"),
    ("mn", "Mongolian", "Cyrl", "Mongolic", ""),
    ("mr", "Marathi", "Deva", _IE, "Indo-Aryan"),
    ("ms", "Malay", "Latn", _AN, "Malayo-Polynesian"),
    ("mt", "Maltese", "Latn", _AA, "Semitic"),
    ("my", "Burmese", "Mymr", _ST, "Burmese-Lolo"),
    ("nb", "Norwegian Bokmål", "Latn", _IE, "Germanic"),
    ("ne", "Nepali", "Deva", _IE, "Indo-Aryan"),
    ("nl", "Dutch", "Latn", _IE, "Germanic"),
    ("no", "Norwegian", "Latn", _IE, "Germanic"),
    ("or", "Odia", "Orya", _IE, "Indo-Aryan"),
    ("pa", "Punjabi", "Guru", _IE, "Indo-Aryan"),
    ("pl", "Polish", "Latn", _IE, "Slavic"),
    ("ps", "Pashto", "Arab", _IE, "Iranian"),
    ("pt", "Portuguese", "Latn", _IE, "Romance"),
    ("ro", "Romanian", "Latn", _IE, "Romance"),
    ("ru", "Russian", "Cyrl", _IE, "Slavic"),
    ("rw", "Kinyarwanda", "Latn", _NC, "Bantu"),
    ("sd", "Sindhi", "Arab", _IE, "Indo-Aryan"),
    ("si", "Sinhala", "Sinh", _IE, "Indo-Aryan"),
    ("sk", "Slovak", "Latn", _IE, "Slavic"),
    ("sl", "Slovenian", "Latn", _IE, "Slavic"),
    ("so", "Somali", "Latn", _AA, "Cushitic"),
    ("sq", "Albanian", "Latn", _IE, "Albanian"),
    ("sr", "Serbian", "Cyrl", _IE, "Slavic"),
    ("sv", "Swedish", "Latn", _IE, "Germanic"),
    ("sw", "Swahili", "Latn", _NC, "Bantu"),
    ("ta", "Tamil", "Taml", _DR, "South"),
    ("te", "Telugu", "Telu", _DR, "South-Central"),
    ("tg", "Tajik", "Cyrl", _IE, "Iranian"),
    ("th", "Thai", "Thai", "Kra-Dai", "Tai"),
    ("tr", "Turkish", "Latn", _TU, "Oghuz"),
    ("uk", "Ukrainian", "Cyrl", _IE, "Slavic"),
    ("ur", "Urdu", "Arab", _IE, "Indo-Aryan"),
    ("uz", "Uzbek", "Latn", _TU, "Karluk"),
    ("vi", "Vietnamese", "Latn", "Austroasiatic", "Vietic"),
    ("xh", "Xhosa", "Latn", _NC, "Bantu"),
    ("yo", "Yoruba", "Latn", _NC, "Volta-Niger"),
    ("zh", "Chinese", "Hans", _ST, "Sinitic"),
    ("zu", "Zulu", "Latn", _NC, "Bantu"),
)

LANGUAGES: dict[str, Language] = {
    code: Language(code, name, script, family, branch, _MIRACL_PASSAGES.get(code))
    for code, name, script, family, branch in _TABLE
}
"""The languages of the supported benchmarks and the larger others, by code. ``get`` knows more."""

# Codes that ISO 639 withdrew, and names in wide use that neither this table nor CLDR spells so.
# Last line: country codes often taken for language codes, where no language has that code.
_ALIASES = {
    "iw": "he",
    "in": "id",
    "ji": "yi",
    "jw": "jv",
    "mo": "ro",
    "tl": "fil",
    "farsi": "fa",
    "mandarin": "zh",
    "bangla": "bn",
    "kiswahili": "sw",
    "castilian": "es",
    "jp": "ja",
    "cn": "zh",
    "cz": "cs",
    "gr": "el",
    "dk": "da",
    "ua": "uk",
    "vn": "vi",
}


def get(code: str) -> Language:
    """The language of a code; languages outside ``LANGUAGES`` come from Babel's CLDR with family ``unknown``.

    Raises:
        ValueError: the code is not known (the message suggests one).
    """
    check_code(code)
    return LANGUAGES[code] if code in LANGUAGES else _from_cldr()[code]


def check_code(code: str) -> str:
    """Returns ``code`` if it is the code of a language known here or to CLDR.

    Raises:
        ValueError: it is not; the message names the nearest code, found through withdrawn and three-letter codes
            (``iw``, ``deu``), region tags (``zh-CN``), English names and near misses.
    """
    if code in LANGUAGES:
        return code
    if code in _ALIASES or code not in _from_cldr():
        raise ValueError(f"unknown language code {code!r}{_hint(code)}")
    return code


def from_iso(code: str) -> str | None:
    """The code that is used here for one of ISO 639-1, 639-2 or 639-3: ``swh`` and ``swa`` give ``sw``, ``arb`` gives
    ``ar``, ``ceb`` stays; None where CLDR does not know the language."""
    if code in LANGUAGES or code in _from_cldr():
        return code
    return _iso_alias(code)


def low_resource(codes: Iterable[str]) -> tuple[str, ...]:
    """Those of ``codes`` whose tier is ``low``, in the order given. Languages without a tier are never among them.

    Raises:
        ValueError: a code is not known.
    """
    return tuple(code for code in codes if get(code).tier == "low")


def _hint(code: str) -> str:
    names = {language.name.lower(): known for known, language in {**_from_cldr(), **LANGUAGES}.items()}
    wanted = str(code).strip().lower()
    base = wanted.replace("_", "-").split("-")[0]
    for guess in (wanted, base):
        found = _ALIASES.get(guess) or (guess if guess in LANGUAGES else None) or names.get(guess) or _iso_alias(guess)
        if found is not None:
            return f"; did you mean {found!r}?"
    if base in _from_cldr():
        return f"; did you mean {base!r}?"
    # Names first: a near miss of a name is a sure guess, a near miss of two letters is not.
    near_name = difflib.get_close_matches(wanted, names, n=1, cutoff=0.75)
    if near_name:
        return f"; did you mean {names[near_name[0]]!r} ({near_name[0].title()})?"
    near_codes = difflib.get_close_matches(wanted, list(LANGUAGES), n=3, cutoff=0.5)
    if near_codes:
        return f"; did you mean {' or '.join(repr(near) for near in near_codes)}?"
    return "; give an ISO 639 code such as 'en', 'sw' or 'zh'"


@cache
def _from_cldr() -> dict[str, Language]:
    """Every language that CLDR names in English and does not list as a synonym of another."""
    from babel.core import Locale, get_global
    from babel.localedata import locale_identifiers

    names = Locale("en").languages
    own_data = {identifier for identifier in locale_identifiers() if "_" not in identifier}
    aliases, likely = get_global("language_aliases"), get_global("likely_subtags")
    known: dict[str, Language] = {}
    for code in sorted(own_data | set(names)):
        if not (2 <= len(code) <= 3 and code.isascii() and code.isalpha() and code.islower()):
            continue  # region and script variants such as en_GB, zh_Hans
        if code in {"und", "mul", "zxx"} or (code in aliases and code not in own_data):
            continue
        tags = likely.get(code, "").split("_")
        known[code] = Language(code, str(names.get(code, code)), tags[1] if len(tags) > 1 else "Zyyy", "unknown")
    return known


def _iso_alias(code: str) -> str | None:
    """The preferred code behind a withdrawn or three-letter one (``deu``: ``de``), as CLDR lists them."""
    from babel.core import get_global

    target = get_global("language_aliases").get(code)
    base = str(target).split("_")[0] if target else None
    return base if base in LANGUAGES or base in _from_cldr() else None
