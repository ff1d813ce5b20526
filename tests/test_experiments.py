"""The ready experiments: what their comments promise, and the small twins with their pages, cut down to seconds."""

from __future__ import annotations

import csv
import re
import shlex
from pathlib import Path

import published_layouts
import pytest
from documents import DOCUMENTS, blocks, commands
from synthetic_sweeps import base_config, changed, scores, write_job

from hybrid_ir.analysis.aggregation import aggregate
from hybrid_ir.analysis.report import main as report
from hybrid_ir.analysis.sweeps import read_sweeps
from hybrid_ir.cli import check_sweep, run_command
from hybrid_ir.composition import composer, conf_dir
from hybrid_ir.data.sources.mmarco import MmarcoSource

QUESTIONS = {
    "miracl_precision_recall": ("precision@10", "Within a language"),
    "miracl_cross_share": ("recall@100", "Zero-shot"),
    "miracl_ndcg_objectives": ("ndcg@10", "Hybrid against both ends"),
    "mteb_scaling": ("ndcg@10", "Across languages"),
    "family_degradation": ("ndcg@10", "Language families"),
}
"""Primary metric, and a statement that the page must have."""

SMALL = (
    "trainer.max_steps=2", "batch_size=16", "model.vocab_size=600", "model.hidden_size=32", "model.num_heads=2",
    "model.intermediate_size=64", "benchmark.cldr.limit=6", "data.cap=400", "threads=1",
)  # fmt: skip


def comment(experiment: str) -> list[str]:
    """Lines of the comment that an experiment's file begins with."""
    lines = (conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#") for line in lines[1 : lines.index("defaults:")]]


def shown_commands(experiment: str) -> list[str]:
    return commands([line for line in comment(experiment) if line.startswith("   ")])


def jobs_of(settings: list[str]) -> list[tuple[str, ...]]:
    with composer("train") as composing:
        return list(check_sweep(composing, settings, composing.hydra_config(settings)))


@pytest.mark.parametrize("experiment", [name + kind for name in QUESTIONS for kind in ("", "_cpu")])
def test_a_comment_says_what_is_asked_swept_measured_needed_and_paid(experiment: str) -> None:
    text = " ".join(" ".join(comment(experiment)).split())
    for part in ("Question: ", "Swept: ", "Primary metric: ", "Compared: ", "Needs"):
        assert part in text, part
    assert ("GPU hours; disk" in text) == (not experiment.endswith("_cpu"))
    assert ("on two cores" in text) == experiment.endswith("_cpu")
    # the commands are those of the page, which tests/test_readme.py runs
    page = {command for block in blocks("docs/experiments.md") for command in commands(block.lines)}
    found = shown_commands(experiment)
    assert set(found) <= page
    metrics = [command.split("--metric ")[1].split() for command in found if "--metric" in command]
    assert [names[0] for names in metrics] == [QUESTIONS[experiment.removesuffix("_cpu")][0]]


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_page_on_experiments_and_their_files_say_the_same(name: str, tmp_path: Path) -> None:
    (row,) = (line for line in DOCUMENTS["docs/experiments.md"].splitlines() if f"| `{name}` |" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    cost = re.search(r"Cost.*?GPU hours", " ".join(comment(name)))
    assert cost is not None
    assert re.findall(r"\d+", cost[0]) == re.findall(r"\d+", cells[4])
    data = published_layouts.write_mmarco(tmp_path / "mmarco", MmarcoSource.languages_by_name)
    jobs = jobs_of([f"experiment={name}", f"data.path={data}"])
    seeds = {setting for job in jobs for setting in job if setting.startswith("seed=")}
    assert f"{len(seeds)} seeds" in cells[2]
    batchings = {setting for job in jobs for setting in job if setting.startswith("sampler")}
    assert len(batchings) == len(jobs) // len(seeds)
    assert len(batchings) == len(cells[2].split(", ")) - 1 or cells[2].startswith((f"{len(batchings)} ratios", "ratio"))


def test_what_is_not_the_ratio_is_compared_with_the_smallest_value(tmp_path: Path) -> None:
    for experiment in ("mteb_scaling", "mteb_scaling_cpu"):
        keys = set()
        for command in shown_commands(experiment):
            for key, values in re.findall(r"(data\.cap|batch_size|model\.hidden_size)=([\d,]+)", command):
                numbers = [int(value) for value in values.split(",")]
                assert len(numbers) == 3
                folder = tmp_path / experiment / key
                for number in reversed(numbers):
                    overrides = ["sampler.mono_ratio=0.5", f"{key}={number}"]
                    config = changed(base_config(), {"sampler.mono_ratio": 0.5, key: number})
                    write_job(folder / str(number), overrides, config, scores(0.5, number))
                found = aggregate(read_sweeps([folder]), ["ndcg@10"], permutations=100, resamples=100)
                assert found.baselines == {"first": f"{key}={min(numbers)}"}
                values_of_groups = [dict(group.variant)[key] for group in found.groups]
                assert values_of_groups == sorted(numbers)
                for group in found.groups:
                    estimate = found.get(group, "cldr", "cross_lingual", "ndcg@10")
                    assert estimate is not None
                    baselines = [dict(d.baseline.variant)[key] for d in estimate.differences.values()]
                    assert baselines == ([] if dict(group.variant)[key] == min(numbers) else [min(numbers)])
                keys.add(key)
        assert len(keys) >= 2


@pytest.mark.slow
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_small_twin_has_a_page_that_answers(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three of its batchings, both ends among them, with one seed."""
    monkeypatch.chdir(tmp_path)
    metric, lead = QUESTIONS[name]
    jobs = [job for job in jobs_of([f"experiment={name}_cpu"]) if "seed=1" in job]
    for job in jobs[:3] if "objectives" in name else jobs[::2]:
        varied = next(setting for setting in job if setting.startswith("sampler"))
        assert run_command("train", [*job, *SMALL, f"output_dir=sweep/{varied}"]) == 0
        assert f"note: experiment={name}_cpu is a sweep (" in capsys.readouterr().err  # of which this is one run
    (shown,) = (command for command in shown_commands(f"{name}_cpu") if "--metric" in command)
    options = shlex.split(shown.partition(" --metric ")[2])
    assert report(["sweep", "--metric", *options, "--permutations", "100", "--resamples", "100"]) == 0
    page = (tmp_path / "sweep" / "report.html").read_text(encoding="utf-8")
    leads = re.findall(r"<dt>(.*?)</dt>", page)
    assert {lead, "Hybrid against both ends", "Other metrics"} <= set(leads)
    unseen = False  # few steps may not come to a language
    for job in Path("sweep").glob("sampler*"):
        with (job / "results.csv").open() as scores_file, (job / "exposure.csv").open() as exposure:
            evaluated = {row["query_language"] for row in csv.DictReader(scores_file)} - {""}
            trained = {row["language"] for row in csv.DictReader(exposure) if int(row["query_rows"])}
        unseen |= not evaluated <= trained
    assert ("Zero-shot" in leads) == unseen
    if name in ("miracl_cross_share", "miracl_ndcg_objectives"):  # as they are meant
        assert unseen
    assert f"Primary metric: {metric}." in page
