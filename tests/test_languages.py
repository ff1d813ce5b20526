"""Languages: the constants, the codes that are known, what a mistaken code is told."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_ir import languages


def test_benchmark_languages_stand_in_the_table() -> None:
    assert (len(languages.MIRACL), len(languages.XQUAD_R), len(languages.MLQA), len(languages.MMARCO)) == (
        18,
        11,
        7,
        14,
    )
    for group in (languages.MIRACL, languages.XQUAD_R, languages.MLQA, languages.MMARCO):
        assert list(group) == sorted(set(group))
        assert set(group) <= set(languages.LANGUAGES)


def test_table_agrees_with_cldr() -> None:
    """Scripts and English names against Babel's own data, an independent source."""
    from babel.core import Locale, get_global

    likely, names = get_global("likely_subtags"), Locale("en").languages
    for code, language in languages.LANGUAGES.items():
        assert likely[code].split("_")[1] == language.script, code
        # CLDR says Bangla; MIRACL and the literature say Bengali.
        assert language.name == {"bn": "Bengali"}.get(code, names[code]), code


def test_tiers_follow_the_corpus_size() -> None:
    sizes = {code: languages.get(code).miracl_passages for code in languages.MIRACL}
    assert all(sizes.values())
    assert languages.low_resource(languages.MIRACL) == ("bn", "hi", "sw", "te", "th", "yo")
    order = {"low": 0, "medium": 1, "high": 2}
    by_size = sorted(languages.MIRACL, key=lambda code: sizes[code] or 0)
    ranks = [order[str(languages.get(code).tier)] for code in by_size]
    assert ranks == sorted(ranks)
    assert languages.get("el").tier is None
    assert languages.low_resource(["el", "sw"]) == ("sw",)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("swahili", "sw"), ("Swahili", "sw"), ("zh-CN", "zh"), ("zh_Hans", "zh"), ("iw", "he"), ("EN", "en"),
        ("deu", "de"), ("swh_Latn", "sw"), ("farsi", "fa"), ("jp", "ja"), ("Yorubá", "yo"), ("Portugese", "pt"),
    ],
)  # fmt: skip
def test_a_mistaken_code_is_told_the_right_one(wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"unknown language code .*did you mean '{right}'"):
        languages.check_code(wrong)


@given(st.text(max_size=12))
def test_any_text_is_a_known_code_or_a_one_line_error(text: str) -> None:
    message = None
    try:
        assert languages.check_code(text) == languages.get(text).code == text
    except ValueError as error:
        message = str(error)
    assert message is None or (message.startswith("unknown language code ") and len(message.splitlines()) == 1)


def test_every_language_with_a_cldr_locale_is_known() -> None:
    from babel.localedata import locale_identifiers

    for code in (name for name in locale_identifiers() if "_" not in name):
        assert languages.get(code).name


def test_import_is_light() -> None:
    program = "import sys, hybrid_ir.languages; print(sorted({'babel', 'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"
