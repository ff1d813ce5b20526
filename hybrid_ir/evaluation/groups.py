"""Means over groups of query languages: resource tiers, families, scripts.

A mean over many languages hides what happens to the few with little text; these means show it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from hybrid_ir import languages as _languages
from hybrid_ir.languages import Language

if TYPE_CHECKING:
    from hybrid_ir.evaluation.results import Results

GROUPINGS: dict[str, Callable[[Language], str | None]] = {
    "tier": lambda language: language.tier,
    "family": lambda language: language.family if language.family != "unknown" else None,
    "script": lambda language: language.script if language.script != "Zyyy" else None,
}
"""Group of a language in each grouping; None where it is not known (``Zyyy`` is ISO 15924's undetermined script)."""

_TIERS = ("low", "medium", "high")


def group_languages(codes: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """``{grouping: {group: languages}}``, tiers from low to high, other groups and the languages by name; a code that
    is not known, or whose group is not, is left out of the grouping."""
    found: dict[str, dict[str, list[str]]] = {}
    distinct = sorted(set(codes))
    for grouping, group_of in GROUPINGS.items():
        groups: dict[str, list[str]] = {}
        for code in distinct:
            try:
                group = group_of(_languages.get(code))
            except ValueError:  # benchmarks of other libraries have codes of their own
                continue
            if group is not None:
                groups.setdefault(group, []).append(code)
        order = sorted(groups, key=_TIERS.index if grouping == "tier" else str)
        found[grouping] = {group: groups[group] for group in order}
    return found


def group_means(results: Results) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
    """Means ``{benchmark: {grouping: {group: {"languages": [...], setting: {metric: value}}}}}`` of each benchmark's
    last step.

    A group's value is the mean of its query languages' means (:meth:`Results.by_language`), so that a language with few
    questions weighs as much as one with many. ``languages`` are those with a value in any setting; a group of one
    language is kept.
    """
    table: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for benchmark, settings in results.by_language().items():
        groupings = group_languages(code for means in settings.values() for code in means)
        table[benchmark] = {
            grouping: {
                group: {
                    "languages": codes,
                    **{
                        setting: _mean([means[code] for code in codes if code in means])
                        for setting, means in settings.items()
                        if not means.keys().isdisjoint(codes)
                    },
                }
                for group, codes in groups.items()
            }
            for grouping, groups in groupings.items()
        }
    return table


def _mean(languages: list[dict[str, float]]) -> dict[str, float]:
    metrics = dict.fromkeys(metric for means in languages for metric in means)
    return {metric: float(np.mean([m[metric] for m in languages if metric in m])) for metric in metrics}
