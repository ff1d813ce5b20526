"""What a sweep answers, in words: generated from its numbers and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hybrid_ir.analysis import significance
from hybrid_ir.analysis.aggregation import Aggregate, Difference, Estimate, Exposure, Statistic, exposure
from hybrid_ir.analysis.comparison import HIERARCHICAL_SEEDS
from hybrid_ir.analysis.sweep_tables import primary
from hybrid_ir.analysis.sweeps import Group
from hybrid_ir.analysis.tables import interval_text, metric_name, number, p_text, signed
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, Setting

_LEADS: dict[Setting, str] = {
    "monolingual": "Within a language",
    "cross_lingual": "Across languages",
    "multilingual": "All languages in one pool",
}
_ADJECTIVES: dict[Setting, str] = {
    "monolingual": "monolingual",
    "cross_lingual": "cross-lingual",
    "multilingual": "multilingual",
}
MONO = "x_x_mono"
_VERDICTS = ("worse than", "not told apart from", "better than")


@dataclass(frozen=True)
class Statement:
    """A few sentences on one matter."""

    lead: str
    text: str


@dataclass(frozen=True)
class Answer:
    """What one benchmark says, for one value of what else was varied."""

    title: str
    headline: str
    statements: list[Statement]


def answers(
    found: Aggregate,
    benchmarks: Sequence[str] | None = None,
    tolerance: float = 0.01,
    further: Sequence[str] = (),
) -> list[Answer]:
    """An answer for each benchmark and each value of what was varied beside the batching.

    Args:
        found: the aggregate.
        benchmarks: names; None takes all.
        tolerance: how much of the primary metric may be lost within a language.
        further: metrics beside the primary one that are spoken of too.
    """
    result = []
    shown = exposure(found)
    for benchmark in benchmarks or found.benchmarks:
        for groups in found.variants().values():
            name = groups[0].variant_name if found.sweep.dial else ""
            title = benchmark + (f", {name}" if name else "")
            result.append(Answer(title, *_answer(found, benchmark, groups, tolerance, further, shown)))
    return result


def _answer(
    found: Aggregate,
    benchmark: str,
    groups: Sequence[Group],
    tolerance: float,
    further: Sequence[str],
    shown: Sequence[Exposure],
) -> tuple[str, list[Statement]]:
    metric = primary(found, benchmark)
    settings = found.settings(benchmark, metric)
    statements = []
    if len(groups) > 1:
        statements += [_best_of(found, benchmark, groups, setting) for setting in settings]
    headline, trade_off, mix = _trade_off(found, benchmark, groups, tolerance)
    if trade_off is not None:
        statements.append(trade_off)
    if not headline:
        headline = _plain_headline(found, benchmark, groups)
    if mix is not None:
        statements.append(_by_language(found, benchmark, mix))
    possible = (
        _both_ends(found, benchmark, groups),
        _low_resource(found, benchmark, groups),
        _families(found, benchmark, groups),
        _further(found, benchmark, groups, further),
        _zero_shot(found, benchmark, groups, shown),
    )
    statements += [statement for statement in possible if statement is not None]
    statements.append(_seeds(found, benchmark, groups))
    if min(len(found.groups[group]) for group in groups) == 1:
        headline += " With one seed, this settles nothing."
    return headline, statements


# ------------------------------------------------------------------------------------------------------ one setting


def _best_of(found: Aggregate, benchmark: str, groups: Sequence[Group], setting: Setting) -> Statement:
    metric = primary(found, benchmark)
    best = _best(found, benchmark, groups, setting)
    text = (
        f"{_capital(found.sweep.said(best.group))} has the {_most(metric)} {metric_name(metric)}: "
        f"{number(best.value, metric)} {interval_text(best.low, best.high, metric)}."
    )
    text += _against_baselines(found, best)
    draws = found.macro_draws[benchmark, setting, metric]
    told: list[Group] = []
    not_told: list[Group] = []
    for group in groups:
        if group != best.group:
            low, high = significance.interval((draws[best.group] - draws[group])[:, None])
            (not_told if low[0] <= 0 <= high[0] else told).append(group)
    if not_told:
        names = ", ".join(found.sweep.name(group) for group in not_told)
        text += f" Not told apart from it: {names}."
    elif len(told) > 1:
        text += " Told apart from each of the others (95 % intervals)."
    of_groups = np.stack([_sign(metric) * draws[group] for group in groups])
    share = float((of_groups.argmax(axis=0) == list(groups).index(best.group)).mean())
    text += f" It comes out first in {_percent(share)} resamples of the questions."
    return Statement(_LEADS[setting], text)


def _against_baselines(found: Aggregate, estimate: Estimate) -> str:
    text = ""
    for key, name in found.baselines.items():
        difference = estimate.differences.get(key)
        if difference is not None:
            by_chance = _by_chance(found, estimate, difference)
            text += f" {_against(difference, name, estimate.metric, by_chance)}"
    return text


def _against(difference: Difference, name: str, metric: str, by_chance: float) -> str:
    """``Against X-Y: +.0310 [.0220, .0400], p < .001: better.``"""
    p = p_text(difference.p_holm)
    p = f"p {p[0]} {p[1:]}" if p.startswith("<") else f"p = {p}"
    text = (
        f"Against {name}: {signed(difference.difference, metric)} "
        f"{interval_text(difference.low, difference.high, metric)}, {p}: "
    )
    if not difference.shown:
        return text + f"no difference shown (smallest detectable {number(difference.smallest_detectable, metric)})."
    text += "better" if difference.difference * _sign(metric) > 0 else "worse"
    if abs(difference.difference) < by_chance:
        text += f", but trainings that differ in their seed alone can differ by {number(by_chance, metric)}"
    return f"{text}."


def _by_chance(found: Aggregate, estimate: Estimate, difference: Difference) -> float:
    """Least difference of two means of as many seeds as a difference is over that a t test over seeds shows, with the
    deviation pooled over all groups; NaN where it cannot be known, 0 where the interval has it in it."""
    of_groups = [len(jobs) for jobs in found.groups.values()]
    freedom = sum(of_groups) - len(of_groups)
    if difference.seeds >= HIERARCHICAL_SEEDS:
        return 0.0
    return _of_seeds(freedom, estimate.pooled_seed_deviation, difference.seeds)


def _of_seeds(freedom: int, deviation: float, seeds: int) -> float:
    if not freedom:
        return math.nan
    return float(stats.t.ppf((1 + significance.LEVEL) / 2, freedom)) * deviation * math.sqrt(2 / seeds)


# ----------------------------------------------------------------------------------------------------- the best mix


def _trade_off(
    found: Aggregate, benchmark: str, groups: Sequence[Group], tolerance: float
) -> tuple[str, Statement | None, Group | None]:
    """The mix that is best in the pool of all languages (else across languages) and loses little within a language:
    headline, statement, and the mix where it is not X-X-mono itself."""
    metric = primary(found, benchmark)
    settings = found.settings(benchmark, metric)
    mono = found.baseline(MONO, groups[0]) if MONO in found.baselines else None
    target: Setting = "multilingual" if "multilingual" in settings else "cross_lingual"
    if mono is None or "monolingual" not in settings or target not in settings or len(groups) < 2:
        return "", None, None
    within = {group: found.get(group, benchmark, "monolingual", metric) for group in groups}
    losses = {group: e.differences.get(MONO) for group, e in within.items() if e is not None}
    sure = [group for group, d in losses.items() if group == mono or (d is not None and d.low >= -tolerance)]
    likely = [group for group, d in losses.items() if group == mono or (d is not None and d.difference >= -tolerance)]
    adjective, at_most = _ADJECTIVES[target], f"{tolerance:g}".removeprefix("0") or "0"
    best = _best(found, benchmark, sure, target)
    start = f"Losing at most {at_most} within a language against X-X-mono, by the whole interval"
    if best.group == mono:
        text = f"{start}: no other ratio than 1 (X-X-mono), or none with a higher {adjective} {metric_name(metric)}."
        headline = f"No mix is shown to beat X-X-mono while losing at most {at_most} within a language."
    else:
        gain, loss = best.differences[MONO], losses[best.group]
        assert loss is not None
        text = (
            f"{start}: {found.sweep.said(best.group)} has the highest {adjective} {metric_name(metric)}, "
            f"{number(best.value, metric)} {interval_text(best.low, best.high, metric)}; within a language it differs "
            f"from X-X-mono by {signed(loss.difference, metric)} {interval_text(loss.low, loss.high, metric)}."
        )
        ratio = f"{_capital(found.sweep.said(best.group))}"
        if gain.shown and gain.difference > 0:
            headline = (
                f"{ratio} is the best mix: {signed(gain.difference, metric)} {adjective} {metric_name(metric)} against "
                f"X-X-mono, at most {at_most} lost within a language."
            )
        elif gain.shown:  # means are over each one's own seeds, differences over those that both have
            headline = (
                f"{ratio} has the highest {adjective} {metric_name(metric)} over its own seeds, but over the "
                f"{gain.seeds} that both have it is worse than X-X-mono ({signed(gain.difference, metric)})."
            )
        else:
            headline = (
                f"{ratio} has the highest {adjective} {metric_name(metric)} of those that lose at most {at_most} "
                "within a language, but no difference to X-X-mono is shown."
            )
    tempting = _best(found, benchmark, likely, target)
    if tempting.group not in sure:
        loss = losses[tempting.group]
        assert loss is not None
        text += (
            f" By the mean alone {found.sweep.said(tempting.group)} would do too: {adjective} "
            f"{number(tempting.value, metric)}, within a language {signed(loss.difference, metric)} "
            f"{interval_text(loss.low, loss.high, metric)}."
        )
    top = _best(found, benchmark, groups, target)
    if top.group not in likely:
        loss = losses.get(top.group)
        cost = "" if loss is None else f": {signed(loss.difference, metric)} within a language"
        text += f" The highest {adjective} value, {found.sweep.said(top.group)}'s, costs more{cost}."
    return headline, Statement("The best mix", text), None if best.group == mono else best.group


def _by_language(found: Aggregate, benchmark: str, mix: Group) -> Statement:
    """In which languages the mix differs from X-X-mono."""
    metric = primary(found, benchmark)
    sentences = []
    for setting in found.settings(benchmark, metric):
        kinds: dict[str, list[str]] = {"better in": [], "worse in": [], "no difference shown in": []}
        for statistic in found.statistics(benchmark, setting, metric, "language"):
            estimate = found.get(mix, benchmark, setting, metric, statistic)
            difference = None if estimate is None else estimate.differences.get(MONO)
            if difference is not None:
                sign = difference.difference * _sign(metric)
                kind = "no difference shown in" if not difference.shown else "better in" if sign > 0 else "worse in"
                kinds[kind].append(statistic.name)
        said = [f"{kind} {', '.join(codes)}" for kind, codes in kinds.items() if codes]
        sentences.append(f"{_LEADS[setting]}: {'; '.join(said)}.")
    text = f"{_capital(found.sweep.said(mix))} against X-X-mono, by query language. {' '.join(sentences)}"
    return Statement("Which languages", text)


def _low_resource(found: Aggregate, benchmark: str, groups: Sequence[Group]) -> Statement | None:
    """The best ratio for the languages of the low tier; None where there are none, or are no others."""
    metric = primary(found, benchmark)
    settings = found.settings(benchmark, metric)
    sentences, codes = [], []
    for setting in dict.fromkeys((settings[0], settings[-1])):
        of_tiers = found.statistics(benchmark, setting, metric, "tier")
        low = next((statistic for statistic in of_tiers if statistic.name == "low"), None)
        if low is None or len(of_tiers) < 2 or len(groups) < 2:
            continue
        best = _best(found, benchmark, groups, setting, low)
        members = found.statistics(benchmark, setting, metric, "language")
        codes = [s.name for s in members if s.language is not None and s.language.tier == "low"]
        sentences.append(
            f"{_LEADS[setting]}, {found.sweep.said(best.group)} has the {_most(metric)} {metric_name(metric)}: "
            f"{number(best.value, metric)} {interval_text(best.low, best.high, metric)}."
            f"{_against_baselines(found, best)}"
        )
    if not sentences:
        return None
    return Statement("Low-resource languages", f"{', '.join(codes)}. {' '.join(sentences)}")


def _both_ends(found: Aggregate, benchmark: str, groups: Sequence[Group]) -> Statement | None:
    """Hybrid batches against both objectives alone; None where the sweep lacks either, or has no ratio between."""
    metric = primary(found, benchmark)
    between = [group for group in groups if group.ratio not in (None, 0.0, 1.0)]
    ends = [found.baseline(key, between[0]) for key in found.baselines] if between else []
    if len(ends) < 2 or None in ends:
        return None
    sentences = []
    for setting in found.settings(benchmark, metric):
        of_verdict: dict[str, list[str]] = {}
        for group in between:
            estimate = found.get(group, benchmark, setting, metric)
            if estimate is not None:
                said = _verdicts(found, estimate, numbers=len(between) == 1)
                of_verdict.setdefault(said, []).append(found.sweep.said(group))
        said = "; ".join(f"{', '.join(names)} {verdict}" for verdict, names in of_verdict.items())
        sentences.append(f"{_LEADS[setting]}: {said}.")
    return Statement("Hybrid against both ends", f"By {metric_name(metric)}. {' '.join(sentences)}")


def _verdicts(found: Aggregate, estimate: Estimate, numbers: bool = True) -> str:
    """``better than X-X-mono (+.0310) and not told apart from X-Y (-.0020)``; empty for a baseline."""
    of_verdict: dict[str, list[str]] = {}
    for key, name in found.baselines.items():
        difference = estimate.differences.get(key)
        if difference is not None:
            sign = np.sign(difference.difference) * _sign(estimate.metric) if difference.shown else 0
            value = f" ({signed(difference.difference, estimate.metric)})" if numbers else ""
            of_verdict.setdefault(_VERDICTS[int(sign) + 1], []).append(f"{name}{value}")
    return " and ".join(f"{verdict} {' and '.join(names)}" for verdict, names in of_verdict.items())


def _families(found: Aggregate, benchmark: str, groups: Sequence[Group]) -> Statement | None:
    """What each batching loses within a language against X-X-mono, by family; None with one family, or nothing to
    compare with."""
    metric = primary(found, benchmark)
    families = found.statistics(benchmark, "monolingual", metric, "family")
    if len(families) < 2 or MONO not in found.baselines:
        return None
    sentences = []
    for group in groups:
        differences = {}
        for family in families:
            estimate = found.get(group, benchmark, "monolingual", metric, family)
            if estimate is not None and MONO in estimate.differences:
                differences[family.name] = estimate.differences[MONO]
        kinds: dict[str, list[str]] = {"worse in": [], "better in": [], "no difference shown in": []}
        for name, difference in sorted(differences.items(), key=lambda item: _sign(metric) * item[1].difference):
            better = difference.difference * _sign(metric) > 0
            kind = "no difference shown in" if not difference.shown else "better in" if better else "worse in"
            kinds[kind].append(f"{name} ({signed(difference.difference, metric)})")
        said = [f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names]
        if said:
            sentences.append(f"{_capital(found.sweep.said(group))}: {'; '.join(said)}.")
    if not sentences:
        return None
    text = f"Within a language, {metric_name(metric)} less that of X-X-mono. {' '.join(sentences)}"
    return Statement("Language families", text)


def _further(found: Aggregate, benchmark: str, groups: Sequence[Group], further: Sequence[str]) -> Statement | None:
    """The best batching by other metrics than the primary one; None where there are none."""
    sentences = []
    for metric in further:
        said = []
        for setting in found.settings(benchmark, metric):
            best = _best(found, benchmark, groups, setting, metric=metric)
            verdicts = _verdicts(found, best)
            said.append(
                f"{_LEADS[setting].lower()} {found.sweep.said(best.group)}, {number(best.value, metric)} "
                f"{interval_text(best.low, best.high, metric)}" + (f", {verdicts}" if verdicts else "")
            )
        if said and metric != primary(found, benchmark):
            sentences.append(f"The {_most(metric)} {metric_name(metric)}: {'; '.join(said)}.")
    return Statement("Other metrics", " ".join(sentences)) if sentences else None


def _zero_shot(
    found: Aggregate, benchmark: str, groups: Sequence[Group], shown: Sequence[Exposure]
) -> Statement | None:
    """Languages that are evaluated and were not trained on; None where all were, or it is not known."""
    metric = primary(found, benchmark)
    trained = {row.language for row in shown if row.group in groups and row.values["query_rows"] > 0}
    evaluated = sorted(
        {
            statistic.name
            for setting in found.settings(benchmark, metric)
            for statistic in found.statistics(benchmark, setting, metric, "language")
        }
    )
    unseen = [code for code in evaluated if code not in trained]
    if not trained or not unseen:
        return None
    which = ", all that are evaluated" if unseen == evaluated else "; the others that are evaluated were"
    return Statement("Zero-shot", f"Not trained on here: {', '.join(unseen)}{which}.")


def _plain_headline(found: Aggregate, benchmark: str, groups: Sequence[Group]) -> str:
    metric = primary(found, benchmark)
    settings = found.settings(benchmark, metric)
    setting = settings[-1]
    best = _best(found, benchmark, groups, setting)
    what = f"{_ADJECTIVES[setting]} {metric_name(metric)}"
    value = f"{number(best.value, metric)} {interval_text(best.low, best.high, metric)}"
    if len(groups) == 1:
        return f"{_capital(what)}: {value}. Nothing was varied but the seed."
    return f"{_capital(found.sweep.said(best.group))} has the {_most(metric)} {what}: {value}."


# ------------------------------------------------------------------------------------------------------------- seeds


def _seeds(found: Aggregate, benchmark: str, groups: Sequence[Group]) -> Statement:
    metric = primary(found, benchmark)
    setting = found.settings(benchmark, metric)[-1]
    counts = sorted({len(found.groups[group]) for group in groups})
    some = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts == [1]:
        text = (
            "One seed each. Intervals and tests say what other questions would change; what another training would "
            "change is not known. One seed settles nothing: train 3, better 5."
        )
        return Statement("Seeds", text)
    estimate = _best(found, benchmark, groups, setting)
    deviation = number(estimate.pooled_seed_deviation, metric)
    spread = f"Standard deviation over seeds: {deviation} ({_ADJECTIVES[setting]} {metric_name(metric)}, pooled)."
    if counts[0] >= HIERARCHICAL_SEEDS:
        text = f"{some} seeds each. Intervals are over questions and seeds. {spread}"
    elif counts[-1] >= HIERARCHICAL_SEEDS:
        text = (
            f"{some} seeds. Intervals of groups with {HIERARCHICAL_SEEDS} seeds or more are over questions and seeds, "
            f"those of the others over questions alone, for these trainings. {spread}"
        )
    else:
        of_groups = [len(jobs) for jobs in found.groups.values()]
        chance = _of_seeds(sum(of_groups) - len(of_groups), estimate.pooled_seed_deviation, counts[0])
        text = (
            f"{some} seed{'s' if counts[-1] > 1 else ''} each, fewer than {HIERARCHICAL_SEEDS}: intervals and tests "
            f"are over questions, for these trainings. {spread} Two means of {counts[0]} "
            f"seed{'s' if counts[0] > 1 else ''} can differ by {number(chance, metric)} by the seeds alone (t test, "
            ".05)."
        )
    return Statement("Seeds", text)


# ------------------------------------------------------------------------------------------------------------- parts


def _best(
    found: Aggregate,
    benchmark: str,
    groups: Sequence[Group],
    setting: Setting,
    statistic: Statistic | None = None,
    metric: str | None = None,
) -> Estimate:
    metric = metric or primary(found, benchmark)
    there = [e for group in groups if (e := found.get(group, benchmark, setting, metric, statistic)) is not None]
    return max(there, key=lambda e: _sign(metric) * e.value)


def _sign(metric: str) -> int:
    return -1 if metric in LOWER_IS_BETTER else 1


def _most(metric: str) -> str:
    return "lowest" if metric in LOWER_IS_BETTER else "highest"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _percent(share: float) -> str:
    if 0.995 <= share < 1:
        return "over 99 % of"
    return "all" if share == 1 else f"{100 * share:.0f} % of"
