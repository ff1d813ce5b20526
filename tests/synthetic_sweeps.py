"""Folders of sweeps as the launcher and its runs write them, with made-up values of queries."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hybrid_ir.composition import composer
from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.evaluation.benchmarks.base import SETTINGS
from hybrid_ir.evaluation.metrics import Group, GroupScores, metrics_of
from hybrid_ir.evaluation.results import BiasRow, Results
from hybrid_ir.launching.sweep import LOG_FILE
from hybrid_ir.launching.sweep_folder import record
from hybrid_ir.run_folder import SUMMARY_FILE, write_run_files

LANGUAGES = ("de", "en", "sw", "th")
RATIOS = (0.0, 0.5, 1.0)
SEEDS = (1, 2, 3)
QUESTIONS = 40
BIAS = ("own_language_share@10", "mrc@10")


@cache
def base_config() -> TrainConfig:
    """Configuration of a run on CLDR facts."""
    with composer("train") as composing:
        config = composing.validate(composing.compose(["benchmark=[cldr]"]))
    assert isinstance(config, TrainConfig)
    return config


def changed(config: TrainConfig, settings: Mapping[str, Any]) -> TrainConfig:
    """The configuration with other values at dotted keys."""
    raw = config.model_dump(mode="json")
    for key, value in settings.items():
        *path, last = key.split(".")
        section = raw
        for name in path:
            section = section[name]
        section[last] = value
    return TrainConfig.model_validate(raw)


def effect(setting: str, ratio: float) -> float:
    """What a ratio does to the values of a setting: the middle is best within a language and across."""
    return {"monolingual": -0.12 * (1 - ratio) ** 2, "cross_lingual": -0.2 * ratio**3}.get(setting, -0.1 * ratio**4)


def scores(
    ratio: float,
    seed: int,
    questions: int = QUESTIONS,
    languages: Sequence[str] = LANGUAGES,
    absent: int = 4,
    spread: float = 0.01,
    shift: float = 0.0,
    further: Sequence[str] = (),
) -> dict[Group, GroupScores]:
    """Values of every query. The questions' difficulty is the same in all runs; the last language has ``absent``
    questions less. ``further``: metrics beside the standard ones."""
    difficulty = np.random.default_rng(99).random(questions)
    rng = np.random.default_rng([seed, round(1000 * ratio)])
    of_run = spread * rng.standard_normal()
    groups = {}
    for setting in SETTINGS:
        names = (*dict.fromkeys([*metrics_of(setting), *further]), *(BIAS if setting == "multilingual" else ()))
        for place, language in enumerate(languages):
            corpora = {"monolingual": [language], "multilingual": ["all"]}.get(
                setting, [code for code in languages if code != language]
            )
            for corpus in corpora:
                asked = np.arange(questions - (absent if languages[-1] in (language, corpus) else 0))
                values = 0.35 + 0.3 * difficulty[asked, None] + 0.1 * rng.standard_normal((len(asked), len(names)))
                values = np.clip(values + effect(setting, ratio) + of_run + shift - 0.03 * place, 0, 1)
                for column, name in enumerate(names):
                    if name in ("rank_distance", "max_rank"):
                        values[:, column] = np.round(400 * (1 - values[:, column]))
                groups[Group(setting, language, corpus)] = GroupScores(place * questions + asked, values, names)
    return groups


def write_job(
    folder: Path,
    overrides: Sequence[str],
    config: TrainConfig | EvaluateConfig,
    groups: Mapping[Group, GroupScores],
    benchmarks: Sequence[str] = ("cldr",),
    environment: Mapping[str, Any] | None = None,
    step: int = 100,
    questions: int = QUESTIONS,
) -> Results:
    """A complete run."""
    write_run_files(config.model_copy(update={"output_dir": str(folder)}), list(overrides), folder)
    languages = list(dict.fromkeys(group.query_language for group in groups))
    ids = [f"q{i % questions}" for i in range(questions * len(languages))]
    results = Results()
    mono_ratio = config.sampler.mono_ratio if isinstance(config, TrainConfig) else 0.0
    for benchmark in benchmarks:
        of_benchmark = Results.from_groups(benchmark, ids, groups, step)
        gap = 0.2 * mono_ratio
        of_benchmark.bias = [BiasRow(benchmark, "alignment_gap", "all", "all", gap, questions, step)]
        results.merge(of_benchmark)
    results.write(folder)
    exposure = ["language,items,query_rows,passage_rows,monolingual_rows,query_tokens,passage_tokens,queries_per_item"]
    exposure += [f"{code},300,{100 + i},{110 + i},{50 + i},900,1800,0.3" for i, code in enumerate(languages)]
    (folder / "exposure.csv").write_text("\n".join(exposure) + "\n")
    content = {name: {"content_sha256": "b" * 64} for name in benchmarks}
    described = {
        "hybrid_ir": "0.1.0", "python": "3.11", "git_revision": None, "packages": {"torch": "2.13.0"},
        "machine": {"system": "Linux", "processor": "x", "cores": 2, "threads": 2, "devices": []},
        "data": {"content_sha256": "a" * 64, "items": 300}, "benchmarks": content, **(environment or {}),
    }  # fmt: skip
    (folder / "environment.json").write_text(json.dumps(described))
    summary = {
        **results.macro(), "benchmarks": list(benchmarks), "wall_seconds": 61.5, "samples_per_second": 1234.5,
        "drawn_mono_share": mono_ratio, "masked_share": 0.01, "steps": step, "stopped_early": False,
        "exported_step": step, "monitor_value": 0.5,
    }  # fmt: skip
    (folder / SUMMARY_FILE).write_text(json.dumps(summary))
    return results


def job_record(name: str, overrides: Sequence[str], state: str = "completed") -> dict[str, Any]:
    """A job as ``sweep.json`` has it."""
    code = {"completed": 0, "not started": None}.get(state, 2)
    return {
        "name": name, "overrides": list(overrides), "state": state, "exit_code": code, "seconds": 62.0,
        "monitor_value": 0.5 if state == "completed" else None,
    }  # fmt: skip


def write_sweep(
    folder: Path,
    ratios: Sequence[float] = RATIOS,
    seeds: Sequence[int] = SEEDS,
    failed: Sequence[tuple[float, int]] = (),
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> dict[tuple[float, int], Results]:
    """A sweep over ratios and seeds; ``failed`` jobs leave a log alone, as one does that finds a fault in the data.

    Args:
        folder: of the sweep.
        ratios: swept.
        seeds: swept.
        failed: (ratio, seed) of jobs.
        settings: other keys with their values, in all jobs.
        options: of ``scores``.
    """
    written: dict[tuple[float, int], Results] = {}
    records = []
    for ratio in ratios:
        for seed in seeds:
            overrides = [f"sampler.mono_ratio={ratio:g}", f"seed={seed}"]
            fixed = [f"{key}={value}" for key, value in (settings or {}).items()]
            name = ",".join(overrides)
            if (ratio, seed) in failed:
                (folder / name).mkdir(parents=True)
                (folder / name / LOG_FILE).write_text("error: batch_size=9999: too many rows; take fewer\n")
                records.append(job_record(name, [*overrides, *fixed], "failed"))
                continue
            config = changed(base_config(), {"sampler.mono_ratio": ratio, "seed": seed, **(settings or {})})
            groups = scores(ratio, seed, **options)
            written[ratio, seed] = write_job(
                folder / name, [*overrides, *fixed], config, groups, questions=options.get("questions", QUESTIONS)
            )
            records.append(job_record(name, [*overrides, *fixed]))
    record(folder, "train", records)
    return written
