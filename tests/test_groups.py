"""Means over groups of languages: by tier, family and script."""

from __future__ import annotations

import io
import json
from statistics import fmean

import pytest
from rich.console import Console

from hybrid_ir.evaluation.console import group_tables
from hybrid_ir.evaluation.groups import GROUPINGS, group_languages, group_means
from hybrid_ir.evaluation.results import Results, Row
from hybrid_ir.languages import MIRACL, low_resource


def make_results(
    languages: tuple[str, ...], settings: tuple[str, ...] = ("monolingual",), benchmark: str = "miracl"
) -> Results:
    """A value for each language, setting and metric that occurs nowhere else, and an older step to be passed over."""
    rows = []
    for setting in settings:
        for q, query in enumerate(languages):
            corpora = {"monolingual": [query], "multilingual": ["all"]}.get(
                setting, [c for c in languages if c != query]
            )
            for corpus in corpora:
                for m, metric in enumerate(("map", "ndcg@10", "recall@100")):
                    value = 1 / (2 + q + 30 * m + 100 * settings.index(setting) + len(corpus))
                    rows.append(Row(benchmark, setting, query, corpus, metric, value, 10 + q, 7))  # type: ignore[arg-type]
                    rows.append(Row(benchmark, setting, query, corpus, metric, 0.5, 10 + q, 0))  # type: ignore[arg-type]
    return Results(rows)


def text_of(results: Results, benchmark: str = "miracl", width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO())
    for table in group_tables(results, benchmark, "model", width):
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_groups_of_miracls_languages() -> None:
    groups = group_languages(MIRACL)
    assert groups["tier"] == {
        "low": ["bn", "hi", "sw", "te", "th", "yo"],
        "medium": ["ar", "fa", "fi", "id", "ko", "zh"],
        "high": ["de", "en", "es", "fr", "ja", "ru"],
    }
    assert list(groups["tier"]) == ["low", "medium", "high"]
    assert groups["tier"]["low"] == list(low_resource(MIRACL))
    assert groups["family"]["Indo-European"] == ["bn", "de", "en", "es", "fa", "fr", "hi", "ru"]
    assert groups["family"]["Niger-Congo"] == ["sw", "yo"]
    assert groups["script"]["Arab"] == ["ar", "fa"]
    for grouping in GROUPINGS:
        assert sorted(code for codes in groups[grouping].values() for code in codes) == sorted(MIRACL)
    assert list(groups["family"]) == sorted(groups["family"])


def test_languages_without_a_group_are_left_out() -> None:
    # vi is outside MIRACL, gsw outside the table of families, eng-Latn is no code of ours.
    groups = group_languages(["vi", "gsw", "eng-Latn", "sw", "sw"])
    assert groups == {
        "tier": {"low": ["sw"]},
        "family": {"Austroasiatic": ["vi"], "Niger-Congo": ["sw"]},
        "script": {"Latn": ["gsw", "sw", "vi"]},
    }


@pytest.mark.parametrize("settings", [("monolingual",), ("monolingual", "cross_lingual", "multilingual")])
def test_a_groups_mean_is_that_of_its_languages(settings: tuple[str, ...]) -> None:
    results = make_results(MIRACL, settings)
    means = group_means(results)
    assert json.loads(json.dumps(means)) == means
    assert list(means["miracl"]) == ["tier", "family", "script"]
    for grouping, groups in means["miracl"].items():
        assert {group: own["languages"] for group, own in groups.items()} == group_languages(MIRACL)[grouping]
        for group in groups.values():
            assert group.keys() == {"languages", *settings}
            for setting in settings:
                for metric in ("map", "ndcg@10", "recall@100"):
                    own = [
                        fmean(
                            row.value
                            for row in results.rows
                            if (row.setting, row.query_language, row.metric, row.step) == (setting, code, metric, 7)
                        )
                        for code in group["languages"]
                    ]
                    assert group[setting][metric] == pytest.approx(fmean(own), abs=1e-12)
    # The tiers are a partition into equal parts: their mean is the macro mean.
    tiers = [group["monolingual"]["map"] for group in means["miracl"]["tier"].values()]
    assert fmean(tiers) == pytest.approx(results.macro()["miracl"]["monolingual"]["map"], abs=1e-12)


def test_a_setting_without_the_groups_languages_is_absent() -> None:
    results = make_results(("de", "sw"))
    results.rows += make_results(("de",), ("multilingual",)).rows
    tiers = group_means(results)["miracl"]["tier"]
    assert tiers["low"].keys() == {"languages", "monolingual"}
    assert tiers["high"].keys() == {"languages", "monolingual", "multilingual"}
    assert group_means(Results()) == {}


def test_the_table_shows_the_means() -> None:
    results = make_results(MIRACL)
    shown = text_of(results)
    tier = group_means(results)["miracl"]["tier"]["low"]
    line = next(line for line in shown.splitlines() if line.startswith(" tier low"))
    values = [f"{tier['monolingual'][metric]:.4f}".removeprefix("0") for metric in ("ndcg@10", "recall@100", "map")]
    assert line.split() == ["tier", "low", "bn", "hi", "sw", "te", "th", "yo", *values]
    groups = [line.split()[:2] for line in shown.splitlines() if line.startswith((" family", " script"))]
    # Korean, Japanese and Chinese stand alone in family and script.
    assert groups == [
        ["family", "Indo-European"],
        ["family", "Niger-Congo"],
        ["script", "Arab"],
        ["script", "Latn"],
    ]
    assert "Cr." not in shown  # a setting that was not evaluated has no column
    assert max(map(len, shown.splitlines())) <= 100
    narrow = text_of(make_results(MIRACL, ("monolingual", "cross_lingual", "multilingual")), width=70)
    assert next(line for line in narrow.splitlines() if line.startswith(" tier high")).split()[:3] == [
        "tier",
        "high",
        "6",
    ]
    assert "…" not in narrow


def test_languages_that_share_nothing_have_no_table() -> None:
    assert text_of(make_results(("en",))) == ""
    assert text_of(make_results(("de", "en"))).count("tier high") == 1  # and they share family and script
    assert "family" not in text_of(make_results(("sw", "th")))
    assert "tier low" in text_of(make_results(("sw",)))
    assert text_of(make_results(("de", "en")), "another") == ""
