"""``python -m hybrid_ir.analysis.paper``: the paper's tables as data, and beside those of sweeps."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import published_layouts
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic_sweeps import LANGUAGES, base_config, changed, job_record, scores, write_job, write_sweep

from hybrid_ir.analysis.aggregation import Difference
from hybrid_ir.analysis.comparison import System, compare
from hybrid_ir.analysis.paper import main
from hybrid_ir.analysis.report import main as report_main
from hybrid_ir.analysis.reproduction import (
    BATCHINGS,
    MODELS,
    PAIRS,
    Model,
    Order,
    Printed,
    aggregate_for_paper,
    findings,
    paper_languages,
    printed,
    reproduce,
)
from hybrid_ir.analysis.sweeps import Group, read_sweeps
from hybrid_ir.cli import check_sweep
from hybrid_ir.composition import composer, conf_dir, parse_settings
from hybrid_ir.data.sources.mmarco import MmarcoSource
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER
from hybrid_ir.languages import MIRACL, MLQA, XQUAD_R
from hybrid_ir.launching.sweep_folder import record

DRAWS = ["--permutations", "200", "--resamples", "200"]
FEW = {"permutations": 200, "resamples": 200}

HEADLINES = """
xlmr   x_x_mono  .792 .674 .547  410   .648 .584 .473  288   .4148 .7683
xlmr   x_y       .755 .700 .593  295   .626 .620 .508  227   .3993 .7487
xlmr   hybrid    .798 .705 .593  287   .648 .623 .512  227   .4054 .7628
labse  x_x_mono  .808 .752 .652  262   .681 .656 .550  225   .4551 .8120
labse  x_y       .801 .762 .679  225   .671 .677 .576  198   .4184 .7768
labse  hybrid    .817 .767 .682  221   .686 .681 .579  195   .4411 .7954
"""
"""The paper's means, rounded or cut off, copied by hand: mAP Mo. Cr. Mul. and rank distance of XQuAD-R and of MLQA-R,
then nDCG@10 and recall@100 of MIRACL."""
MAP = [(setting, "map") for setting in ("monolingual", "cross_lingual", "multilingual")]
MEASURED = [
    *(("xquad_r", *measure) for measure in [*MAP, ("multilingual", "rank_distance")]),
    *(("mlqa_r", *measure) for measure in [*MAP, ("multilingual", "rank_distance")]),
    *(("miracl", "monolingual", metric) for metric in ("ndcg@10", "recall@100")),
]


def write(
    folder: Path,
    benchmark: str = "xquad_r",
    languages: Sequence[str] = XQUAD_R,
    ratios: Sequence[float] = (0.0, 0.5, 1.0),
    seeds: Sequence[int] = (1,),
    encoders: Sequence[str] = (),
    settings: tuple[str, ...] = ("monolingual", "cross_lingual", "multilingual"),
    environment: dict[str, Any] | None = None,
) -> None:
    """A sweep over ratios and seeds, and over encoders where some are given, with values of one benchmark."""
    records = []
    for encoder in encoders or [""]:
        for ratio in ratios:
            for seed in seeds:
                overrides = [f"sampler.mono_ratio={ratio:g}", f"seed={seed}"]
                overrides += [f"model={encoder}"] if encoder else []
                name = ",".join(overrides)
                config = changed(base_config(), {"sampler.mono_ratio": ratio, "seed": seed})
                shift = 0.02 * len(encoder)
                groups = scores(ratio, seed, questions=20, languages=languages, spread=0.02, shift=shift)
                chosen = {group: of_group for group, of_group in groups.items() if group.setting in settings}
                write_job(folder / name, overrides, config, chosen, [benchmark], environment, questions=20)
                if encoder:
                    set_encoder(folder / name, f"/models/{encoder}")
                records.append(job_record(name, overrides))
    record(folder, "train", records)


def set_encoder(job: Path, name: str) -> None:
    config = yaml.safe_load((job / "config.yaml").read_text())
    config["model"]["name_or_path"] = name
    (job / "config.yaml").write_text(yaml.safe_dump(config))


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def results_of(job: Path, setting: str, metric: str, languages: Sequence[str]) -> dict[str, float]:
    """Means by query language, from ``results.csv`` alone, over corpora in these languages."""
    values: dict[str, list[float]] = {}
    for row in rows_of(job / "results.csv"):
        inside = row["query_language"] in languages and row["corpus_language"] in (*languages, "all")
        if inside and (row["setting"], row["metric"]) == (setting, metric):
            values.setdefault(row["query_language"], []).append(float(row["value"]))
    return {language: float(np.mean(found)) for language, found in values.items()}


# ------------------------------------------------------------------------------------------------- the paper's tables


def table(model: Model, benchmark: str, setting: str, metric: str) -> Printed:
    (found,) = (t for t in printed(model) if (t.benchmark, t.setting, t.metric) == (benchmark, setting, metric))
    return found


def test_the_headline_numbers() -> None:
    for line in HEADLINES.strip().splitlines():
        model, batching, *values = line.split()
        for measure, value in zip(MEASURED, values, strict=True):
            stored = table(model, *measure).mean[BATCHINGS.index(batching)]  # type: ignore[arg-type]
            unit = 10.0 ** -len(value.partition(".")[2])
            assert abs(stored - float(value)) < unit, (line, measure)


@pytest.mark.parametrize("model", MODELS)
def test_the_rows_of_a_table_make_its_mean(model: Model) -> None:
    """A digit that was copied wrong in a row or a mean shows."""
    assert len(printed(model)) == 16
    for each in printed(model):
        rounding = 0.051 if each.metric == "rank_distance" else 0.000051
        np.testing.assert_allclose(np.mean(list(each.languages.values()), axis=0), each.mean, atol=rounding)
        assert each.mean_over(list(each.languages)) == each.mean
        one = next(iter(each.languages))
        assert each.mean_over([one]) == pytest.approx(each.languages[one])


def test_the_tables_have_the_languages_of_the_benchmarks() -> None:
    assert {name: set(codes) for name, codes in paper_languages().items()} == {
        "xquad_r": set(XQUAD_R),
        "mlqa_r": set(MLQA),
        "miracl": set(MIRACL) - {"de", "en", "yo"},
    }
    for model in MODELS:
        assert {(t.benchmark, *t.languages) for t in printed(model)} == {(b, *c) for b, c in paper_languages().items()}


# ------------------------------------------------------------------------------------------------------------ orders


@given(
    paper=st.floats(-1, 1),
    ours=st.floats(-1, 1),
    shown=st.booleans(),
    metric=st.sampled_from(["map", *sorted(LOWER_IS_BETTER)]),
)
def test_an_order_holds_where_the_same_one_is_better(paper: float, ours: float, shown: bool, metric: str) -> None:
    ends = (ours - 0.001, ours + 0.001) if shown else (-2.0, 2.0)
    difference = Difference(Group(1.0, None, ()), ours, *ends, 0.001, 0.001, 0.1, 1, 0.1, "questions", math.nan)
    order = Order("hybrid", "x_y", metric, paper, difference)
    if paper == 0 or ours == 0:
        assert order.holds == "–"
        return
    lower = metric in LOWER_IS_BETTER
    better_there = "first" if (paper < 0 if lower else paper > 0) else "second"
    better_here = "first" if (ours < 0 if lower else ours > 0) else "second"
    assert ("yes" in order.holds) == (better_there == better_here)
    assert order.holds.startswith("(") != difference.shown


def test_differences_are_those_of_compare(tmp_path: Path) -> None:
    write(tmp_path, seeds=(1, 2))
    assert main([str(tmp_path), "--seed", "3", *DRAWS]) == 0
    folders = {
        name: [tmp_path / f"sampler.mono_ratio={ratio},seed={seed}" for seed in (1, 2)]
        for name, ratio in (("x_x_mono", "1"), ("x_y", "0"), ("hybrid", "0.5"))
    }
    rows = rows_of(tmp_path / "tables" / "paper_orders.csv")
    compared = 0
    for metric in ("map", "recall@10", "rank_distance"):
        for first, second in PAIRS:
            third = next(name for name in folders if name not in (first, second))  # p Holm of a mean is of both
            systems = [System(name, tuple(folders[name])) for name in (second, first, third)]
            expected = {
                (row.setting, row.query_language.replace("macro", "mean")): row
                for row in compare(systems, metric, seed=3, **FEW).rows  # type: ignore[arg-type]
                if row.system == first
            }
            for row in rows:
                if (row["metric"], row["batching"], row["less"]) == (metric, first, second):
                    other = expected[row["setting"], row["query_language"]]  # type: ignore[index]
                    for name in ("difference", "low", "high"):
                        assert float(row[name]) == pytest.approx(getattr(other, name), abs=1e-12)
                    assert (float(row["p"]), float(row["p_holm"])) == (other.p, other.p_holm)
                    compared += 1
    assert compared == 3 * 12 * (3 + 1 + 1)  # pairs; languages and mean; settings in which the paper has the metrics


# ------------------------------------------------------------------------------------------------------------ values


def test_values_are_means_over_seeds_beside_the_papers(tmp_path: Path) -> None:
    write(tmp_path, seeds=(1, 2))
    assert main([str(tmp_path), "--model", "labse", "--output", str(tmp_path / "out"), *DRAWS]) == 0
    rows = rows_of(tmp_path / "out" / "paper.csv")
    stored = json.loads((conf_dir().parent / "hybrid_ir" / "analysis" / "paper_tables.json").read_text())
    assert len(rows) == 7 * 12 * 3
    ratios = {"x_x_mono": "1", "x_y": "0", "hybrid": "0.5"}
    for row in rows:
        jobs = [tmp_path / f"sampler.mono_ratio={ratios[row['batching']]},seed={seed}" for seed in (1, 2)]
        of_jobs = [results_of(job, row["setting"], row["metric"], XQUAD_R) for job in jobs]
        language = row["query_language"]
        expected = [np.mean(list(of.values())) if language == "mean" else of[language] for of in of_jobs]
        assert float(row["ours"]) == pytest.approx(np.mean(expected))
        assert float(row["difference"]) == pytest.approx(float(row["ours"]) - float(row["paper"]))
        assert (row["paper_outside"] == "True") == (not float(row["low"]) <= float(row["paper"]) <= float(row["high"]))
        assert row["seeds"] == "2"
        if row["metric"] == "map":
            place = ["monolingual", "cross_lingual", "multilingual"].index(row["setting"])
            column = 3 * place + ["x_x_mono", "x_y", "hybrid"].index(row["batching"])
            assert float(row["paper"]) == stored["T5_LaBSE_XQuADR_mAP"][language.replace("mean", "Mean")][column]
            assert (row["paper_model"], row["paper_table"]) == ("LaBSE", "5")


def test_means_are_over_the_languages_that_both_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    passages = {"passages": 1_000, "published_passages": 131_924}
    environment = {"benchmarks": {"miracl": {"content_sha256": "b", "languages": {"sw": passages}}}}
    write(tmp_path, "miracl", ("sw", "th", "yo"), settings=("monolingual",), environment=environment)
    assert main([str(tmp_path), *DRAWS]) == 0
    printed_text = " ".join(capsys.readouterr().out.split())
    rows = rows_of(tmp_path / "tables" / "paper.csv")
    assert {row["query_language"] for row in rows} == {"sw", "th", "mean"}
    (row,) = (r for r in rows if (r["query_language"], r["metric"], r["batching"]) == ("mean", "ndcg@10", "hybrid"))
    ours = results_of(tmp_path / "sampler.mono_ratio=0.5,seed=1", "monolingual", "ndcg@10", ("sw", "th"))
    assert float(row["ours"]) == pytest.approx(np.mean(list(ours.values())))
    languages = table("xlmr", "miracl", "monolingual", "ndcg@10").languages
    assert float(row["paper"]) == pytest.approx((languages["sw"][2] + languages["th"][2]) / 2)
    assert "note: miracl: sw, th alone, of the paper's 15 languages" in printed_text
    assert "note: miracl: yo left out of all means" in printed_text
    assert "a sample of the passages (sw 1,000 of 131,924)" in printed_text


# ---------------------------------------------------------------------------------------------------- which, and what


@pytest.mark.parametrize(
    ("encoder", "model"),
    [
        ("FacebookAI/xlm-roberta-base", "xlmr"),
        ("/data/XLM_R", "xlmr"),
        ("/hub/models--sentence-transformers--LaBSE/snapshots/0123", "labse"),
        ("/labse/multilingual-e5-small", "xlmr"),
    ],
)
def test_the_papers_model_goes_by_the_encoders_name(tmp_path: Path, encoder: str, model: str) -> None:
    write(tmp_path, ratios=(0.0, 1.0), languages=("de", "en"))
    for ratio in (0, 1):
        set_encoder(tmp_path / f"sampler.mono_ratio={ratio},seed=1", encoder)
    (found,) = reproduce(aggregate_for_paper(read_sweeps([tmp_path]), **FEW))
    assert found.model == model
    neither = "note: multilingual-e5-small is neither of the paper's encoders: XLM-R stands beside it"
    assert (neither.removeprefix("note: ") in found.notes) == encoder.endswith("small")
    assert "no complete job of Hybrid" in found.notes
    (forced,) = reproduce(aggregate_for_paper(read_sweeps([tmp_path]), **FEW), "labse")
    assert forced.model == "labse"


def test_of_an_evaluation_the_encoder_is_that_of_its_run(tmp_path: Path) -> None:
    """``evaluate.py -m`` over the models of a sweep."""
    write(tmp_path / "trained", ratios=(0.0, 1.0), languages=("de", "en"), encoders=["labse"])
    write(tmp_path / "evaluated", ratios=(0.0, 1.0), languages=("de", "en"))
    for job in (tmp_path / "evaluated").glob("*=*"):
        config = yaml.safe_load((job / "config.yaml").read_text())
        trained = tmp_path / "trained" / f"{job.name},model=labse" / "model"
        config = {"seed": 1, "model": {"name_or_path": str(trained)}, "benchmark": config["benchmark"]}
        (job / "config.yaml").write_text(yaml.safe_dump(config))
        (job / "overrides.yaml").write_text(yaml.safe_dump([f"model.name_or_path={trained}"]))
    (tmp_path / "evaluated" / "sweep.json").unlink()
    (found,) = reproduce(aggregate_for_paper(read_sweeps([tmp_path / "evaluated"]), **FEW))
    assert (found.encoder, found.model) == ("labse", "labse")
    assert set(found.groups) == {"x_x_mono", "x_y"}


def test_each_swept_encoder_has_its_own_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, encoders=["xlm_roberta_base", "labse"], languages=("de", "en", "th"))
    assert main([str(tmp_path), *DRAWS]) == 0
    out = capsys.readouterr().out
    assert "The paper's XLM-R beside model=xlm_roberta_base" in out
    assert "The paper's LaBSE beside model=labse" in out
    rows = rows_of(tmp_path / "tables" / "paper.csv")
    for name, encoder, number in (("XLM-R", "xlm_roberta_base", "3"), ("LaBSE", "labse", "5")):
        own = [row for row in rows if row["variant"] == f"model={encoder}"]
        assert {row["paper_model"] for row in own} == {name}
        assert {row["paper_table"] for row in own if row["metric"] == "map"} == {number}
        job = tmp_path / f"sampler.mono_ratio=1,seed=1,model={encoder}"
        expected = results_of(job, "multilingual", "map", ("de", "en", "th"))
        for row in own:
            if (row["batching"], row["metric"], row["setting"]) == ("x_x_mono", "map", "multilingual"):
                value = expected.get(row["query_language"], float(np.mean(list(expected.values()))))
                assert float(row["ours"]) == pytest.approx(value)
    assert main([str(tmp_path), "--model", "labse", *DRAWS]) == 0
    assert "The paper's LaBSE beside model=xlm_roberta_base" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("ratios", "taken"),
    [((0.0, 0.25, 0.75, 1.0), 0.25), ((0.0, 0.1, 0.6, 0.8, 1.0), 0.6), ((0.5, 0.4, 1.0), 0.5), ((0.3, 0.7), 0.3)],
)
def test_hybrid_is_the_ratio_nearest_to_the_papers(tmp_path: Path, ratios: Sequence[float], taken: float) -> None:
    write(tmp_path, ratios=ratios, languages=("de", "en"))
    (found,) = reproduce(aggregate_for_paper(read_sweeps([tmp_path]), **FEW))
    assert found.groups["hybrid"].ratio == taken
    said = any(note.startswith(f"Hybrid is ratio {taken}, the one nearest") for note in found.notes)
    assert said == (taken != 0.5)
    assert ("x_y" in found.groups) == (0.0 in ratios)


def test_a_benchmark_that_the_paper_has_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, spread=0.0)
    assert main([str(tmp_path), *DRAWS]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cldr: differences between batchings, macro means, not in the paper" in out
    assert "of the paper (XLM-R) and ours" not in out
    assert "cldr: not in the paper; only the order of the batchings says something about it" in out
    rows = rows_of(tmp_path / "tables" / "paper.csv")
    assert {(row["paper"], row["paper_model"], row["difference"]) for row in rows} == {("", "", "")}
    # the made-up values: ratio 0 loses .12 within a language, ratio 1 loses .2 across; .5 is near the better end
    (found,) = reproduce(aggregate_for_paper(read_sweeps([tmp_path]), **FEW))
    verdicts = {finding.claim: finding.verdict for finding in findings(found, "cldr")}
    assert verdicts["X-Y is below X-X-mono within a language"] == "Holds."
    above = "X-Y and Hybrid are above X-X-mono across languages and in the pool of all languages"
    assert verdicts[above] == "Holds."


def test_findings_follow_the_values(tmp_path: Path) -> None:
    """With values the other way round, what held does not."""
    write(tmp_path / "as_said", languages=("de", "en", "th"), seeds=(1, 2, 3))
    write(tmp_path / "reversed", languages=("de", "en", "th"), seeds=(1, 2, 3))
    swapped = tmp_path / "reversed"
    for seed in (1, 2, 3):
        names = [f"sampler.mono_ratio={ratio},seed={seed}" for ratio in (0, 1)]
        contents = [(swapped / name / "per_query.parquet").read_bytes() for name in names]
        for name, content in zip(names, reversed(contents), strict=True):
            (swapped / name / "per_query.parquet").write_bytes(content)
    claim = "X-Y is below X-X-mono within a language"
    for name, verdict in (("as_said", "Holds."), ("reversed", "Does not hold: the other order is shown.")):
        (found,) = reproduce(aggregate_for_paper(read_sweeps([tmp_path / name]), **FEW))
        said = {finding.claim: finding for finding in findings(found, "xquad_r")}
        assert said[claim].verdict == verdict
        order = found.order("xquad_r", "monolingual", "map", "x_y", "x_x_mono")
        assert order is not None
        assert order.holds == ("yes" if name == "as_said" else "no")
        assert any("ours are means over 3 seeds" in note for note in found.notes)


def test_what_holds_says_what_seeds_alone_could_do(tmp_path: Path) -> None:
    """``Holds.`` only where each difference is one that a t test over the seeds shows too."""
    ends = {True: set[str](), False: set[str]()}
    for spread, seeds in ((0.0, (1, 2, 3)), (0.05, (1, 2, 3)), (0.0, (1,))):
        folder = tmp_path / f"{spread}-{len(seeds)}"
        write_sweep(folder, seeds=seeds, spread=spread)
        of_paper = aggregate_for_paper(read_sweeps([folder]), **FEW)
        (found,) = reproduce(of_paper)
        verdicts = {finding.claim: finding.verdict for finding in findings(found, "cldr")}
        order = found.order("cldr", "monolingual", "map", "x_y", "x_x_mono")
        assert order is not None
        assert order.ours is not None
        assert order.ours.shown
        values = {
            b: [np.mean(list(results_of(job, "monolingual", "map", LANGUAGES).values())) for job in jobs]
            for b, jobs in (
                (r, [folder / f"sampler.mono_ratio={r:g},seed={seed}" for seed in seeds]) for r in (0.0, 0.5, 1.0)
            )
        }
        deviation = math.sqrt(np.mean([np.var(of, ddof=1) for of in values.values()])) if len(seeds) > 1 else math.nan
        limit = stats.t.ppf(0.975, 3 * (len(seeds) - 1)) * deviation * math.sqrt(2 / len(seeds))
        settled = bool(abs(np.mean(values[0.0]) - np.mean(values[1.0])) >= limit)
        ends[settled].add(verdicts["X-Y is below X-X-mono within a language"])
    assert ends == {
        True: {"Holds."},
        False: {
            "Holds for these trainings; seeds alone could do as much.",
            "Holds for these trainings; one seed settles nothing.",
        },
    }


def test_what_the_papers_own_table_has_otherwise_does_not_count(tmp_path: Path) -> None:
    """XLM-R on XQuAD-R: the pool of all languages has X-Y above Hybrid (.5934, .5927)."""
    above = "Hybrid is above both of the others within a language, across languages and in the pool"
    otherwise = table("xlmr", "xquad_r", "multilingual", "map").mean
    assert otherwise[BATCHINGS.index("x_y")] > otherwise[BATCHINGS.index("hybrid")]
    write(tmp_path, seeds=(1, 2))
    aggregated = aggregate_for_paper(read_sweeps([tmp_path]), **FEW)
    for model in MODELS:
        (found,) = reproduce(aggregated, model)
        said = {finding.claim: finding for finding in findings(found, "xquad_r")}[above]
        left_out = [text for text in said.numbers if "not counted: the paper's table has it otherwise" in text]
        assert len(said.numbers) == 6
        expected = ["Hybrid against X-Y, Mul. mAP"] if model == "xlmr" else []
        assert [text.partition(":")[0] for text in left_out] == expected
        assert "of 6" not in said.verdict or model == "labse"


def test_a_benchmark_that_was_selected_on_has_no_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """SQuADShifts, on which the paper's experiment chooses the best step."""
    for ratio in (0.0, 0.5, 1.0):
        overrides = [f"sampler.mono_ratio={ratio:g}"]
        config = changed(base_config(), {"sampler.mono_ratio": ratio})
        job = tmp_path / overrides[0]
        write_job(job, overrides, config, scores(ratio, 1, 20), ["xquad_r", "beir"], questions=20)
        summary = json.loads((job / "summary.json").read_text())
        summary |= {"monitor": "val/beir/monolingual/map", "selected_on_benchmark": True}
        (job / "summary.json").write_text(json.dumps(summary))
    assert main([str(tmp_path), *DRAWS]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "What of the paper's findings holds on xquad_r" in out
    assert "What of the paper's findings holds on beir" not in out
    assert "note: beir: the best step was chosen on it, so nothing is found there" in out
    assert "note: the best step was chosen on beir, which is reported here: its numbers are too good" in out


# ----------------------------------------------------------------------------------------------------------- command


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("x_x", "english")
    for name in names:
        config = changed(base_config(), {"sampler.preset": name, "sampler.mono_ratio": 1.0})
        write_job(tmp_path / f"sampler={name}", [f"sampler={name}"], config, scores(1.0, 1))
    record(tmp_path, "train", [job_record(f"sampler={name}", [f"sampler={name}"]) for name in names])
    for arguments, said in (
        ([str(tmp_path)], "no complete job of one of the paper's batchings; sweep over sampler=x_x_mono,x_y,hybrid"),
        ([str(tmp_path / "absent")], "no such folder"),
        ([str(tmp_path), "--model", "bert"], "invalid choice"),
        ([], "required: SWEEP"),
    ):
        assert main([*arguments, *DRAWS]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert said in err
        assert err.count("\n") == 1
    assert not (tmp_path / "tables").exists()
    write(tmp_path / "others", "miracl", ("de", "en", "yo"), settings=("monolingual",))
    assert main([str(tmp_path / "others"), *DRAWS]) == 2
    said = "miracl: evaluated in none of the paper's languages; evaluate some of them\n"
    assert capsys.readouterr().err.endswith(said)
    assert not (tmp_path / "others" / "tables").exists()


def test_the_page_has_no_section_where_there_is_nothing_to_say(tmp_path: Path) -> None:
    """MIRACL in languages that the paper has not; a metric that no finding is about."""
    write(tmp_path / "others", "miracl", ("de", "en", "yo"), settings=("monolingual",))
    write(tmp_path / "metric", "cldr", ("de", "en"))
    for name, options in (("others", []), ("metric", ["--metric", "recall@10", "precision@10", "precision@10"])):
        assert report_main([str(tmp_path / name), *options, *DRAWS]) == 0
        page = (tmp_path / name / "report.html").read_text()
        assert "Beside the paper" not in page
        assert not (tmp_path / name / "tables" / "paper.csv").exists()
    assert page.count("The highest precision@10: ") == 1


def test_the_page_reads_no_other_benchmark_than_it_is_about(tmp_path: Path) -> None:
    """Runs whose queries of another benchmark differ are put beside the paper all the same."""
    for ratio in (0.0, 1.0):
        overrides = [f"sampler.mono_ratio={ratio:g}"]
        config = changed(base_config(), {"sampler.mono_ratio": ratio})
        results = write_job(tmp_path / overrides[0], overrides, config, scores(ratio, 1, 20), ["xquad_r"], questions=20)
        more = 30 + int(ratio)
        others = scores(ratio, 1, more)
        other = write_job(tmp_path / "scratch", overrides, config, others, ["mlqa_r"], questions=more)
        results.merge(other)
        results.write(tmp_path / overrides[0])
    shutil.rmtree(tmp_path / "scratch")
    assert main([str(tmp_path), *DRAWS]) == 2
    assert report_main([str(tmp_path), "--benchmark", "xquad_r", *DRAWS]) == 0
    assert {row["benchmark"] for row in rows_of(tmp_path / "tables" / "paper.csv")} == {"xquad_r"}


def test_languages_left_out_are_named_on_the_page(tmp_path: Path) -> None:
    write(tmp_path, "miracl", ("sw", "th", "yo"), settings=("monolingual",))
    assert report_main([str(tmp_path), *DRAWS]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<li>miracl: yo left out of all means</li>" in page.partition('<section id="paper">')[2]


def test_tables_fit_a_terminal_of_120_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path)
    assert main([str(tmp_path), *DRAWS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if not line.startswith("tables: ")) <= 120
    assert not any("…" in line for line in lines)
    (row,) = (line.split() for line in lines if line.startswith(" el ") and "%" not in line and ".7749" in line)
    assert len(row) == 13


def test_latex_has_every_table(tmp_path: Path) -> None:
    write(tmp_path, encoders=["labse"])
    assert main([str(tmp_path), *DRAWS]) == 0
    text = (tmp_path / "tables" / "paper.tex").read_text()
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 7 + 1
    assert ".8083" in text
    assert "▲" not in text


def test_it_needs_no_torch(tmp_path: Path) -> None:
    write(tmp_path, languages=("de", "en"))
    code = (
        "import sys; from hybrid_ir.analysis.paper import main; "
        f"assert main([{str(tmp_path)!r}, *{DRAWS!r}]) == 0; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.slow
def test_the_page_has_it_where_there_are_two_of_the_batchings(tmp_path: Path) -> None:
    write(tmp_path / "paper", languages=("de", "en"))
    write(tmp_path / "one", languages=("de", "en"), ratios=(0.5,), seeds=(1, 2))
    for name in ("paper", "one"):
        assert report_main([str(tmp_path / name), *DRAWS]) == 0
        page = (tmp_path / name / "report.html").read_text()
        assert ('<section id="paper">' in page) == ('href="#paper"' in page) == (name == "paper")
        assert (tmp_path / name / "tables" / "paper.csv").exists() == (name == "paper")
    page = (tmp_path / "paper" / "report.html").read_text()
    assert "table 3 of the paper (XLM-R) and ours" in page
    assert "<td>.8033</td>" in page  # the paper's Hybrid, German, Mo. mAP
    tables = {name: (tmp_path / "paper" / "tables" / name).read_bytes() for name in ("paper.csv", "paper_orders.csv")}
    assert main([str(tmp_path / "paper"), *DRAWS]) == 0
    for name, content in tables.items():
        assert (tmp_path / "paper" / "tables" / name).read_bytes() == content


# -------------------------------------------------------------------------------------------------------- experiments


def jobs_of(experiment: str, *settings: str) -> list[dict[str, Any]]:
    """Composed and validated configurations of an experiment's jobs."""
    with composer("train") as composing:
        given = [f"experiment={experiment}", *settings]
        composing.check(parse_settings(given))
        jobs = check_sweep(composing, given, composing.hydra_config(given))
        return [composing.validate(composing.compose(list(job))).model_dump(mode="json") for job in jobs]


def test_the_reproduction_has_what_the_paper_says(tmp_path: Path) -> None:
    (tmp_path / "shifts").mkdir()
    data = published_layouts.write_mmarco(tmp_path / "mmarco", MmarcoSource.languages_by_name)
    jobs = jobs_of("paper_reproduction", f"data.path={data}", f"benchmark.beir.path={tmp_path / 'shifts'}", "seed=1")
    swept = {(job["model"]["name_or_path"], job["sampler"]["preset"]) for job in jobs}
    assert len(swept) == len(jobs) == 2 * 3
    for job in jobs:
        assert (job["batch_size"], job["optimizer"]["lr"], job["optimizer"]["weight_decay"]) == (100, 3e-5, 0.01)
        assert (job["model"]["query_prefix"], job["model"]["passage_prefix"]) == ("Query: ", "Passage: ")
        assert job["model"]["max_passage_length"] == 256
        assert job["sampler"]["mono_ratio"] == {"x_x_mono": 1.0, "x_y": 0.0, "hybrid": 0.5}[job["sampler"]["preset"]]
        assert job["checkpoint"]["monitor"].startswith("val/beir/")
        assert set(job["benchmark"]) == {"xquad_r", "mlqa_r", "miracl", "beir"}
        assert set(job["benchmark"]["miracl"]["languages"]) == set(paper_languages()["miracl"])


def test_the_twin_needs_nothing_and_sweeps_the_same_batchings() -> None:
    jobs = jobs_of("paper_reproduction_cpu", "seed=1")
    assert {job["sampler"]["preset"] for job in jobs} == set(BATCHINGS)
    for job in jobs:
        assert (job["data"]["source"], job["model"]["kind"], set(job["benchmark"])) == ("cldr", "small", {"cldr"})
        assert job["data"]["languages"] == job["benchmark"]["cldr"]["languages"]
