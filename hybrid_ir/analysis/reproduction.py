"""The tables of arXiv 2408.10536 beside those of a sweep, and what of the paper's findings holds there.

The paper has one run of each batching and no test. Here a difference between two batchings has an interval and a paired
test over question ids (``significance.py``); between the paper and here there is only the interval of ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from hybrid_ir.analysis.aggregation import Aggregate, Difference, Estimate, aggregate
from hybrid_ir.analysis.comparison import HIERARCHICAL_SEEDS
from hybrid_ir.analysis.runs import metrics_in
from hybrid_ir.analysis.sweep_tables import primary
from hybrid_ir.analysis.sweeps import MODEL, Group, Job, Sweep
from hybrid_ir.analysis.tables import SETTING_NAMES, interval_text, metric_name, number, p_text, signed
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, SETTINGS, Setting
from hybrid_ir.run_folder import CONFIG_FILE

Batching = Literal["x_x_mono", "x_y", "hybrid"]
Model = Literal["xlmr", "labse"]

BATCHINGS: tuple[Batching, ...] = ("x_x_mono", "x_y", "hybrid")
"""In the order of the paper's columns."""
NAMES: dict[Batching, str] = {"x_x_mono": "X-X-mono", "x_y": "X-Y", "hybrid": "Hybrid"}
MODELS: dict[Model, str] = {"xlmr": "XLM-R", "labse": "LaBSE"}
PAIRS: tuple[tuple[Batching, Batching], ...] = (("hybrid", "x_x_mono"), ("hybrid", "x_y"), ("x_y", "x_x_mono"))
"""What is compared: the second is the baseline."""
MEAN = "mean"
"""Row of a table: the mean over its languages."""
RATIO = 0.5
"""Share of monolingual batches of the paper's Hybrid."""

_Measure = tuple[Setting, str]
_Pair = tuple[Setting, str, Batching, Batching]

_MAP: tuple[_Measure, ...] = tuple((setting, "map") for setting in SETTINGS)
_RECALL: tuple[_Measure, ...] = tuple(zip(SETTINGS, ("recall@1", "recall@1", "recall@10"), strict=True))
_DISTANCE: tuple[_Measure, ...] = (("multilingual", "rank_distance"),)
_MIRACL: tuple[_Measure, ...] = (("monolingual", "ndcg@10"), ("monolingual", "recall@100"))

_TABLES: dict[Model, tuple[tuple[str, str, int, tuple[_Measure, ...]], ...]] = {
    "xlmr": (
        ("T3_XLMR_XQuADR_mAP", "xquad_r", 0, _MAP),
        ("T3_XLMR_XQuADR_Recall", "xquad_r", 0, _RECALL),
        ("T7_RankDist_XQuADR", "xquad_r", 0, _DISTANCE),
        ("T4_XLMR_MLQAR_mAP", "mlqa_r", 0, _MAP),
        ("T4_XLMR_MLQAR_Recall", "mlqa_r", 0, _RECALL),
        ("T8_RankDist_MLQAR", "mlqa_r", 0, _DISTANCE),
        ("T12_XLMR_MIRACL", "miracl", 0, _MIRACL),
    ),
    "labse": (
        ("T5_LaBSE_XQuADR_mAP", "xquad_r", 0, _MAP),
        ("T5_LaBSE_XQuADR_Recall", "xquad_r", 0, _RECALL),
        ("T7_RankDist_XQuADR", "xquad_r", 3, _DISTANCE),
        ("T6_LaBSE_MLQAR_mAP", "mlqa_r", 0, _MAP),
        ("T6_LaBSE_MLQAR_Recall", "mlqa_r", 0, _RECALL),
        ("T8_RankDist_MLQAR", "mlqa_r", 3, _DISTANCE),
        ("T13_LaBSE_MIRACL", "miracl", 0, _MIRACL),
    ),
}
"""Of each model: key in ``paper_tables.json``, benchmark, first column, and what three columns each are of."""
METRICS = tuple(dict.fromkeys(metric for tables in _TABLES.values() for *_, parts in tables for _, metric in parts))


@dataclass(frozen=True)
class Printed:
    """A part of one of the paper's tables: one metric in one setting."""

    number: int
    benchmark: str
    setting: Setting
    metric: str
    languages: Mapping[str, tuple[float, float, float]]
    """Values of the three batchings, in the order of ``BATCHINGS``, by query language."""
    mean: tuple[float, float, float]
    """As printed, over all of the languages."""

    def mean_over(self, codes: Sequence[str]) -> tuple[float, ...]:
        """Mean over some of its languages: the printed one where they are all."""
        if set(codes) == set(self.languages):
            return self.mean
        return tuple(np.mean([self.languages[code] for code in codes], axis=0).tolist())


@cache
def printed(model: Model) -> tuple[Printed, ...]:
    """The paper's tables of one of its models."""
    file = resources.files("hybrid_ir.analysis") / "paper_tables.json"
    stored = json.loads(file.read_text(encoding="utf-8"))
    found = []
    for key, benchmark, first, parts in _TABLES[model]:
        for place, (setting, metric) in enumerate(parts):
            start = first + 3 * place
            rows = {name: tuple(row[start : start + 3]) for name, row in stored[key].items()}
            mean = rows.pop("Mean")
            found.append(Printed(int(key.partition("_")[0][1:]), benchmark, setting, metric, rows, mean))
    return tuple(found)


@cache
def paper_languages() -> dict[str, tuple[str, ...]]:
    """Languages that the paper has of each benchmark."""
    return {table.benchmark: tuple(table.languages) for table in printed("xlmr")}


# ---------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Order:
    """Two batchings of one mean."""

    first: Batching
    second: Batching
    metric: str
    paper: float | None
    """First less second, as the paper has them; None where it has not."""
    ours: Difference | None
    """The same here; None where one of the two was not trained with the same seeds."""

    @property
    def better(self) -> bool | None:
        """Whether the paper has the first for the better one; None where it has neither."""
        return None if not self.paper else (self.paper > 0) != (self.metric in LOWER_IS_BETTER)

    @property
    def holds(self) -> str:
        """Whether the paper's order holds here: ``yes``, ``(yes)``, ``(no)``, ``no``, in brackets where no difference
        is shown; ``–`` where one of them has no order."""
        if not self.paper or self.ours is None or self.ours.difference == 0:
            return "–"
        same = "yes" if (self.paper > 0) == (self.ours.difference > 0) else "no"
        return same if self.ours.shown else f"({same})"


@dataclass(frozen=True)
class Row:
    """One query language, or the mean."""

    language: str
    paper: tuple[float, ...] | None
    ours: tuple[Estimate | None, ...]
    """Both in the order of ``BATCHINGS``."""
    orders: tuple[Order, ...]
    """Of ``PAIRS``."""


@dataclass(frozen=True)
class Table:
    """One metric in one setting of a benchmark, beside the paper's where it has it."""

    benchmark: str
    setting: Setting
    metric: str
    number: int | None
    """Of the paper's table."""
    languages: tuple[Row, ...]
    mean: Row


@dataclass
class Reproduction:
    """What a sweep has of the paper's tables, for one value of what else than the batching was varied."""

    variant: str
    """``model=labse``; empty where nothing else was varied."""
    model: Model
    encoder: str
    """What the runs began with."""
    groups: Mapping[Batching, Group]
    tables: list[Table]
    selected_on: Collection[str] = ()
    """Benchmarks on which the best step was chosen: nothing is found on them."""
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """``The paper's LaBSE beside model=labse``."""
        ours = self.variant or self.encoder
        in_paper = any(table.number for table in self.tables)
        return f"The paper's {MODELS[self.model]} beside {ours}" if in_paper else f"The paper's batchings, {ours}"

    @property
    def benchmarks(self) -> list[str]:
        """Those that it has tables of."""
        return list(dict.fromkeys(table.benchmark for table in self.tables))

    def order(self, benchmark: str, setting: Setting, metric: str, first: Batching, second: Batching) -> Order | None:
        """How two macro means compare; None where it was not measured."""
        for table in self.tables:
            if (table.benchmark, table.setting, table.metric) == (benchmark, setting, metric):
                return next(order for order in table.mean.orders if (order.first, order.second) == (first, second))
        return None


def aggregate_for_paper(
    sweep: Sweep, permutations: int = 10_000, resamples: int = 10_000, seed: int = 0, found: Aggregate | None = None
) -> Aggregate:
    """The metrics of the paper in its languages.

    Args:
        sweep: what ``read_sweeps`` found.
        permutations: of the tests.
        resamples: of the intervals.
        seed: of both.
        found: an aggregate of the sweep: of its benchmarks those that the paper has are read again, and it is returned
            where the paper has none; None reads all.

    Raises:
        DataError: runs cannot be compared.
    """
    benchmarks = None
    if found is not None:
        benchmarks = [name for name in found.benchmarks if name in paper_languages()]
        if not benchmarks:
            return found
    folders = [job.folder for job in sweep.jobs if job.complete and job.folder is not None]
    common = set.intersection(*(set(metrics_in(folder)) for folder in folders))
    metrics = [metric for metric in METRICS if metric in common]
    return aggregate(sweep, metrics or None, benchmarks, permutations, resamples, seed, paper_languages())


def batchings_in(found: Aggregate) -> list[tuple[str, dict[Batching, Group]]]:
    """The groups that stand for the paper's batchings, with the name of what else was varied.

    Hybrid is the ratio nearest to the paper's, of two as near the lower one.
    """
    by_variant: dict[str, list[Group]] = {}
    for group in found.groups:
        if group.ratio is not None:
            by_variant.setdefault(group.variant_name, []).append(group)
    result = []
    for name, groups in by_variant.items():
        there: dict[Batching, Group] = {}
        for group in sorted(groups, key=lambda group: (round(abs(float(group.ratio or 0) - RATIO), 9), group.ratio)):
            ends: dict[float | None, Batching] = {1.0: "x_x_mono", 0.0: "x_y"}
            there.setdefault(ends.get(group.ratio, "hybrid"), group)
        result.append((name, there))
    return result


def reproduce(found: Aggregate, model: Model | None = None) -> list[Reproduction]:
    """The paper's tables beside those of a sweep.

    Args:
        found: what ``aggregate_for_paper`` returned.
        model: the paper's; None takes the one that the runs' encoder is named after, else XLM-R.

    Returns:
        One for each value of what else was varied; none without the paper's batchings, or where a benchmark of the
        paper's is evaluated in none of its languages.
    """
    result = []
    for variant, groups in batchings_in(found):
        jobs = [job for group in groups.values() for job in found.groups[group]]
        encoder = encoder_of(jobs[0])
        known = _model_named(encoder)
        chosen: Model = model or known or "xlmr"
        tables = [table for name in found.reported for table in _tables(found, name, chosen, groups)]
        if tables:
            notes = list(_notes(found, groups, jobs, chosen, {table.benchmark for table in tables}))
            if model is None and known is None and any(table.number for table in tables):
                notes.insert(0, f"{encoder} is neither of the paper's encoders: XLM-R stands beside it")
            result.append(Reproduction(variant, chosen, encoder, groups, tables, found.selected_on, notes))
    return result


def encoder_of(job: Job) -> str:
    """Name of the encoder that a run began with: of an evaluation of a run, that run's; without a pretrained one
    ``small``."""
    name = job.config.get(MODEL) or (job.folder and _name_in(job.folder))
    for _ in range(8):  # a run may begin with the model of a run
        if not isinstance(name, str):
            return str(job.config.get("model.kind", "small"))
        path = Path(name)
        run = next((folder for folder in (path, path.parent) if (folder / CONFIG_FILE).is_file()), None)
        if run is None:
            return path.parents[1].name if path.parent.name == "snapshots" else path.name  # of the hub's cache
        name = _name_in(run)
    return str(name)


def _name_in(folder: Path) -> Any:
    content = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    return content.get("model", {}).get("name_or_path") if isinstance(content, dict) else None


def _model_named(encoder: str) -> Model | None:
    plain = "".join(character for character in encoder.lower() if character.isalnum())
    names: dict[str, Model] = {"labse": "labse", "xlmr": "xlmr"}  # xlm-roberta-base, XLM-R
    return next((model for name, model in names.items() if name in plain), None)


def _tables(found: Aggregate, benchmark: str, model: Model, groups: Mapping[Batching, Group]) -> list[Table]:
    wanted: list[tuple[Setting, str, Printed | None]] = []
    if benchmark in paper_languages():
        wanted = [(table.setting, table.metric, table) for table in printed(model) if table.benchmark == benchmark]
    elif found.metrics_of(benchmark):
        metrics = dict.fromkeys([primary(found, benchmark), "rank_distance"])
        wanted = [(setting, metric, None) for metric in metrics for setting in found.settings(benchmark, metric)]
    result = []
    for setting, metric, table in wanted:
        statistics = {s.name: s for s in found.statistics(benchmark, setting, metric, "language")}
        codes = [code for code in (table.languages if table else statistics) if code in statistics]
        if not codes:
            continue
        rows = []
        for code in [*codes, MEAN]:
            ours = {b: found.get(g, benchmark, setting, metric, statistics.get(code)) for b, g in groups.items()}
            paper = None if table is None else table.mean_over(codes) if code == MEAN else table.languages[code]
            rows.append(Row(code, paper, tuple(ours.get(b) for b in BATCHINGS), _orders(ours, paper, metric)))
        number_of_table = None if table is None else table.number
        result.append(Table(benchmark, setting, metric, number_of_table, tuple(rows[:-1]), rows[-1]))
    return result


def _orders(
    ours: Mapping[Batching, Estimate | None], paper: tuple[float, ...] | None, metric: str
) -> tuple[Order, ...]:
    orders = []
    for first, second in PAIRS:
        estimate = ours.get(first)
        theirs = None if paper is None else paper[BATCHINGS.index(first)] - paper[BATCHINGS.index(second)]
        difference = estimate.differences.get(second) if estimate is not None and second in ours else None
        orders.append(Order(first, second, metric, theirs, difference))
    return tuple(orders)


def _notes(
    found: Aggregate, groups: Mapping[Batching, Group], jobs: Sequence[Job], model: Model, benchmarks: set[str]
) -> list[str]:
    """What a reader must know before putting the two beside each other."""
    notes = []
    hybrid = groups.get("hybrid")
    if hybrid is not None and hybrid.ratio != RATIO:
        notes.append(f"Hybrid is ratio {hybrid.batching}, the one nearest to the paper's .5")
    notes += [f"no complete job of {NAMES[batching]}" for batching in BATCHINGS if batching not in groups]
    seeds = sorted({len(found.groups[group]) for group in groups.values()})
    if seeds == [1]:
        notes.append("one seed each, as in the paper: what another training would change is not known")
    else:
        many = " to ".join(str(count) for count in dict.fromkeys((seeds[0], seeds[-1])))
        text = f"ours are means over {many} seeds, the paper has one run of each"
        few = "; intervals and tests are over questions, for these trainings"
        notes.append(text + (few if seeds[0] < HIERARCHICAL_SEEDS else ""))
    config, measured = jobs[0].config, jobs[0].environment.get("benchmarks") or {}
    for benchmark, theirs in paper_languages().items():
        if benchmark not in benchmarks:
            continue
        ours = [s.name for s in found.statistics(benchmark, "monolingual", found.metrics_of(benchmark)[0], "language")]
        if set(ours) < set(theirs):
            text = (
                f"{benchmark}: {', '.join(ours)} alone, of the paper's {len(theirs)} languages; the paper's means are "
                "taken over the same"
            )
            if benchmark != "miracl":
                text += ", but its Cr. and Mul. are against the documents of all its languages"
            notes.append(text)
        limit = config.get(f"benchmark.{benchmark}.limit")
        if limit is not None:
            notes.append(f"{benchmark}: the first {limit:,} questions alone")
        samples = [
            f"{code} {counts['passages']:,} of {counts['published_passages']:,}"
            for code, counts in (measured.get(benchmark, {}).get("languages") or {}).items()
            if isinstance(counts, dict) and code in ours
            and counts.get("published_passages") not in (None, counts.get("passages"))
        ]  # fmt: skip
        if samples:
            notes.append(
                f"{benchmark}: a sample of the passages ({', '.join(samples)}), which makes it easier: only the order "
                "of the batchings can be put beside the paper's"
            )
    for benchmark in sorted(benchmarks & found.selected_on):
        notes.append(f"{benchmark}: the best step was chosen on it, so nothing is found there")
    for benchmark in sorted(benchmarks - set(paper_languages()) - found.selected_on):
        notes.append(f"{benchmark}: not in the paper; only the order of the batchings says something about it")
    return notes


# --------------------------------------------------------------------------------------------------------- findings


@dataclass(frozen=True)
class Finding:
    """What the paper finds, and what is found here."""

    claim: str
    verdict: str
    numbers: tuple[str, ...]
    """The differences that the verdict is of."""


@dataclass(frozen=True)
class _Claim:
    """What the paper finds, as pairs of which the first is better."""

    text: str
    pairs: tuple[_Pair, ...]
    keeps: bool = False
    """The claim is only that the first is not worse."""


_ENDS: tuple[Batching, ...] = ("x_x_mono", "x_y")
_CROSS: tuple[Batching, ...] = ("x_y", "hybrid")
_CLAIMS = (
    _Claim(
        "X-Y and Hybrid are above X-X-mono across languages and in the pool of all languages",
        tuple((setting, "map", batching, "x_x_mono") for setting in SETTINGS[1:] for batching in _CROSS),
    ),
    _Claim(
        "X-Y and Hybrid have a smaller rank distance than X-X-mono",
        tuple((*measure, batching, "x_x_mono") for measure in _DISTANCE for batching in _CROSS),
    ),
    _Claim("X-Y is below X-X-mono within a language", (("monolingual", "map", "x_x_mono", "x_y"),)),
    _Claim(
        "Hybrid keeps what X-X-mono has within a language", (("monolingual", "map", "hybrid", "x_x_mono"),), keeps=True
    ),
    _Claim(
        "Hybrid is above both of the others within a language, across languages and in the pool",
        tuple((*measure, "hybrid", other) for measure in _MAP for other in _ENDS),
    ),
)
_MIRACL_CLAIMS = (
    _Claim(
        "Hybrid is above X-Y on MIRACL, whose queries and passages are in one language",
        tuple((*measure, "hybrid", "x_y") for measure in _MIRACL),
    ),
    _Claim(
        "X-X-mono is above Hybrid on MIRACL",
        tuple((*measure, "x_x_mono", "hybrid") for measure in _MIRACL),
    ),
)
"""The text of the paper speaks of Hybrid's gains; these are what its tables say."""


def findings(reproduction: Reproduction, benchmark: str) -> list[Finding]:
    """What the paper finds, and whether it holds on a benchmark; nothing where no pair was measured, or the best step
    was chosen on it. A pair that the paper's own table has otherwise does not count."""
    if benchmark in reproduction.selected_on:
        return []
    found = []
    for claim in _MIRACL_CLAIMS if benchmark == "miracl" else _CLAIMS:
        numbers: list[str] = []
        better: list[int] = []
        differences: list[Difference] = []
        for setting, metric, first, second in claim.pairs:
            pair = (first, second) if (first, second) in PAIRS else (second, first)
            order = reproduction.order(benchmark, setting, metric, *pair)
            if order is None or order.ours is None:
                continue
            as_claimed = pair == (first, second)
            if order.paper is not None and not claim.keeps and order.better is not as_claimed:
                numbers.append(f"{_in_words(order, setting)}, not counted: the paper's table has it otherwise")
                continue
            sign = 1 if (order.ours.difference > 0) != (metric in LOWER_IS_BETTER) else -1
            better.append((sign if as_claimed else -sign) if order.ours.shown else 0)
            differences.append(order.ours)
            numbers.append(_in_words(order, setting))
        if better:
            found.append(Finding(claim.text, _verdict(better, differences, claim.keeps), tuple(numbers)))
    return found


def orders_in_words(reproduction: Reproduction, benchmark: str) -> str:
    """How many of the paper's orders of two macro means are ours too; empty where the paper has not the benchmark."""
    tables = [table for table in reproduction.tables if table.benchmark == benchmark]
    held = [order.holds for table in tables for order in table.mean.orders if order.holds != "–"]
    if not held:
        return ""
    return (
        f"Of {len(held)} orders of two batchings (macro means), the paper's is shown in {held.count('yes')}, comes out "
        f"without being shown in {held.count('(yes)')}; the other order comes out without being shown in "
        f"{held.count('(no)')}, and is shown in {held.count('no')}."
    )


def _verdict(better: Sequence[int], differences: Sequence[Difference], keeps: bool) -> str:
    """In words, of pairs: 1 shown as claimed, -1 the other way round, 0 no difference shown."""
    held, reverse, pairs = better.count(1), better.count(-1), len(better)
    if keeps and not reverse:
        return "Not contradicted: no loss is shown."
    if not held and not reverse:
        return "No difference is shown."
    if keeps:
        text = "Does not hold: a loss is shown"
    elif held == pairs:
        text = "Holds"
    elif reverse == pairs:
        text = "Does not hold: the other order is shown"
    else:
        counts = {"not shown": pairs - held - reverse, "the other way round": reverse}
        text = ", ".join([f"Holds in {held} of {pairs}", *(f"{what} in {n}" for what, n in counts.items() if n)])
    shown = [difference for difference, sign in zip(differences, better, strict=True) if sign]
    within = sum(difference.within_seeds for difference in shown)
    if 0 < within < len(shown):
        return f"{text}; {within} of these {len(shown)} within what seeds alone can do."
    if within:
        return f"{text} for these trainings; seeds alone could do as much."
    if any(math.isnan(difference.by_seeds_alone) for difference in shown):
        return f"{text} for these trainings; one seed settles nothing."
    return f"{text}."


def _in_words(order: Order, setting: Setting) -> str:
    """``Hybrid against X-X-mono, Cr. mAP: +.0175 [.0150, .0201], p < .001 (paper +.0316)``."""
    ours, metric = order.ours, order.metric
    assert ours is not None
    theirs = "" if order.paper is None else f" (paper {signed(order.paper, metric)})"
    p = p_text(ours.p_holm)
    detectable = "" if ours.shown else f", smallest detectable {number(ours.smallest_detectable, metric)}"
    return (
        f"{NAMES[order.first]} against {NAMES[order.second]}, {SETTING_NAMES[setting]} {metric_name(metric)}: "
        f"{signed(ours.difference, metric)} {interval_text(ours.low, ours.high, metric)}, "
        f"p {'< ' + p[1:] if p.startswith('<') else '= ' + p}{detectable}{theirs}"
    )
