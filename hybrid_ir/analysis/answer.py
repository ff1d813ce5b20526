"""What a sweep answers, in words: generated from its numbers and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
_WITHIN_SEEDS = "within what seeds alone can do"


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
    not_told = _not_told_apart(found, best, groups)
    if not_told:
        text += f" Not told apart from it: {', '.join(found.sweep.name(group) for group in not_told)}."
    elif len(groups) > 2:
        # with one seed each it is not known what seeds do
        seeds = ", and beyond what seeds alone can do" if found.seed_freedom else ""
        text += f" Told apart from each of the others (95 % intervals{seeds})."
    return Statement(_LEADS[setting], text)


def _not_told_apart(found: Aggregate, best: Estimate, groups: Sequence[Group]) -> list[Group]:
    """Groups whose macro mean may be the best one's: 0 is in the interval of the difference, or seeds alone can do as
    much."""
    draws = found.macro_draws[best.benchmark, best.setting, best.metric]
    not_told = []
    for group in groups:
        other = found.get(group, best.benchmark, best.setting, best.metric)
        if group == best.group or other is None:
            continue
        low, high = significance.interval((draws[best.group] - draws[group])[:, None])
        by_seeds_alone = _by_seeds_alone(found, best, len(best.per_seed), len(other.per_seed))
        if low[0] <= 0 <= high[0] or abs(best.value - other.value) < by_seeds_alone:
            not_told.append(group)
    return not_told


def _against_baselines(found: Aggregate, estimate: Estimate) -> str:
    text = ""
    for key, name in found.baselines.items():
        difference = estimate.differences.get(key)
        if difference is not None:
            text += f" {_against(difference, name, estimate.metric)}"
    return text


def _against(difference: Difference, name: str, metric: str) -> str:
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
    if difference.within_seeds:
        by_seeds_alone = number(difference.by_seeds_alone, metric)
        text += f", but trainings that differ in their seed alone can differ by {by_seeds_alone}"
    return f"{text}."


def _by_seeds_alone(found: Aggregate, estimate: Estimate, *seeds: int) -> float:
    deviation = np.array(estimate.pooled_seed_deviation)
    return float(significance.by_seeds_alone(deviation, found.seed_freedom, *seeds))


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
        if loss.difference - loss.by_seeds_alone < -tolerance:
            text += f" Other seeds may lose more: they alone can do {number(loss.by_seeds_alone, metric)}."
        ratio = f"{_capital(found.sweep.said(best.group))}"
        if gain.shown and gain.difference > 0:
            mixes = [group for group in sure if group != mono]
            others = ", ".join(found.sweep.said(group) for group in _not_told_apart(found, best, mixes))
            caveat = f" ({_WITHIN_SEEDS})" if gain.within_seeds else ""
            headline = (
                f"{ratio} is the best mix{' by its mean' if others else ''}: {signed(gain.difference, metric)} "
                f"{adjective} {metric_name(metric)} against X-X-mono{caveat}, at most {at_most} lost within a language"
                f"{f'; not told apart from {others}' if others else ''}."
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
        differences = {}
        for statistic in found.statistics(benchmark, setting, metric, "language"):
            estimate = found.get(mix, benchmark, setting, metric, statistic)
            if estimate is not None and MONO in estimate.differences:
                differences[statistic.name] = estimate.differences[MONO]
        sentences.append(f"{_LEADS[setting]}: {_where(differences, metric)}.")
    text = f"{_capital(found.sweep.said(mix))} against X-X-mono, by query language. {' '.join(sentences)}"
    return Statement("Which languages", text)


def _where(differences: Mapping[str, Difference], metric: str, numbers: bool = False) -> str:
    """``worse in th; better in de, en; better by no more than seeds alone can do in fi; no difference shown in sw``"""
    alone = "by no more than seeds alone can do "
    kinds: dict[str, list[str]] = {f"{word} {seeds}in": [] for word in ("worse", "better") for seeds in ("", alone)}
    kinds["no difference shown in"] = []
    for name, difference in differences.items():
        word = "better" if difference.difference * _sign(metric) > 0 else "worse"
        kind = f"{word} {alone if difference.within_seeds else ''}in" if difference.shown else "no difference shown in"
        kinds[kind].append(name + (f" ({signed(difference.difference, metric)})" if numbers else ""))
    return "; ".join(f"{kind} {', '.join(names)}" for kind, names in kinds.items() if names)


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
    """``better than X-X-mono (+.0310, within what seeds alone can do) and not told apart from X-Y (-.0020)``; empty for
    a baseline."""
    of_verdict: dict[str, list[str]] = {}
    for key, name in found.baselines.items():
        difference = estimate.differences.get(key)
        if difference is not None:
            sign = np.sign(difference.difference) * _sign(estimate.metric) if difference.shown else 0
            details = [signed(difference.difference, estimate.metric)] if numbers else []
            details += [_WITHIN_SEEDS] if difference.shown and difference.within_seeds else []
            said = f"{name} ({', '.join(details)})" if details else name
            of_verdict.setdefault(_VERDICTS[int(sign) + 1], []).append(said)
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
        ordered = sorted(differences.items(), key=lambda item: _sign(metric) * item[1].difference)
        if ordered:
            said = _where(dict(ordered), metric, numbers=True)
            sentences.append(f"{_capital(found.sweep.said(group))}: {said}.")
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
    """Languages that are evaluated and were not trained on, by batching where they differ; None where there are
    none, or it is not known."""
    metric = primary(found, benchmark)
    trained: dict[Group, set[str]] = {}
    for row in shown:
        if row.group in groups and row.values["query_rows"] > 0:
            trained.setdefault(row.group, set()).add(row.language)
    evaluated = sorted(
        {
            statistic.name
            for setting in found.settings(benchmark, metric)
            for statistic in found.statistics(benchmark, setting, metric, "language")
        }
    )
    of_unseen: dict[tuple[str, ...], list[str]] = {}
    for group, codes in trained.items():
        unseen = tuple(code for code in evaluated if code not in codes)
        of_unseen.setdefault(unseen, []).append(found.sweep.said(group))
    if not any(of_unseen):
        return None
    if len(of_unseen) > 1:
        said = [f"{', '.join(names)}: {', '.join(unseen) or 'none'}" for unseen, names in of_unseen.items()]
        return Statement("Zero-shot", f"Not trained on, of those that are evaluated, by {'; '.join(said)}.")
    (unseen,) = of_unseen
    which = ", all that are evaluated" if list(unseen) == evaluated else "; the others that are evaluated were"
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
    chance = _by_seeds_alone(found, estimate, counts[0], counts[0])
    spread += (
        f" Two means of {counts[0]} seed{'s' if counts[0] > 1 else ''} can differ by {number(chance, metric)} by the "
        "seeds alone (t test, .05)."
    )
    if counts[0] >= HIERARCHICAL_SEEDS:
        text = f"{some} seeds each. Intervals are over questions and seeds. {spread}"
    elif counts[-1] >= HIERARCHICAL_SEEDS:
        text = (
            f"{some} seeds. Intervals of groups with {HIERARCHICAL_SEEDS} seeds or more are over questions and seeds, "
            f"those of the others over questions alone, for these trainings. {spread}"
        )
    else:
        text = (
            f"{some} seed{'s' if counts[-1] > 1 else ''} each, fewer than {HIERARCHICAL_SEEDS}: intervals and tests "
            f"are over questions, for these trainings. {spread}"
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
    """For the start of a sentence; a setting (``data.cap=250``) stays as it is typed."""
    return text if "=" in text.split(" ")[0] else text[:1].upper() + text[1:]
