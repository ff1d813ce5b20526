"""The model card of a run: ``model/README.md``, with the front matter that the Hugging Face hub reads.

All that it says is in the run's folder; what the run does not know, the card does not say. Data files stand in it by
their names, other paths not at all: it is published. Headings and metadata are those of sentence-transformers' cards.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from huggingface_hub import EvalResult, ModelCardData

from hybrid_ir import languages as _languages
from hybrid_ir.analysis import significance
from hybrid_ir.analysis.runs import MACRO, read_run
from hybrid_ir.cache import write_atomic
from hybrid_ir.composition import quote, show
from hybrid_ir.config import (
    HubDatasetConfig,
    MixtureConfig,
    PartConfig,
    PretrainedModelConfig,
    PublishedDataConfig,
    TrainConfig,
    data_sections,
)
from hybrid_ir.data.validation import NAME as VALIDATION
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Setting
from hybrid_ir.schema_keys import flatten

if TYPE_CHECKING:
    from hybrid_ir.evaluation.results import Results

CARD_FILE = "README.md"
MODEL_ID = "hybrid_ir_model_id"
"""Stands in the card's code where the model's name on the hub, or its folder, is to stand."""

RESAMPLES = 2000
_METRICS = {"map": "mAP", "ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "recall@10": "Recall@10"}
"""Metrics of the front matter, by their names in ``results.csv``."""
_HEADINGS: dict[Setting, str] = {
    "monolingual": "Monolingual",
    "cross_lingual": "Cross-lingual",
    "multilingual": "Multilingual",
}
_TITLES = {
    VALIDATION: "Held-out items of the training data",
    "cldr": "CLDR facts on held-out entities",
    "xquad_r": "XQuAD-R",
    "mlqa_r": "MLQA-R",
    "miracl": "MIRACL",
    "beir": "Own data in BEIR's layout",
}
_BATCHES = {
    "hybrid": "a batch is monolingual (queries and passages in one language) with probability {ratio:g}, otherwise "
    "cross-lingual (in every row the passage is in another language than the query)",
    "x_x_mono": "every batch is monolingual: queries and passages in one language",
    "x_y": "every batch is cross-lingual: in every row the passage is in another language than the query",
    "x_x": "each row is in one language, and a batch mixes languages",
    "english": "every batch is in English",
}
_ALWAYS_SHOWN = (
    "sampler.preset", "sampler.mono_ratio", "batch_size", "trainer.max_steps", "trainer.precision", "seed",
    "loss.temperature", "optimizer.lr", "optimizer.schedule", "optimizer.warmup_ratio", "optimizer.weight_decay",
)  # fmt: skip
_SECTIONS = ("sampler", "model", "loss", "optimizer")
"""Of these the card shows every setting that is not the schema's default."""
_SHOWN_ELSEWHERE = {
    "model.kind", "model.name_or_path", "model.revision", "model.pooling", "model.query_prefix", "model.passage_prefix",
    "model.max_query_length", "model.max_passage_length",
}  # fmt: skip
_OF_A_START = ("output_dir", "resume", "sweep", "dry_run", "logger", "launcher", "hydra")
"""Settings that say where a run was and who watched it, not what it was."""
_PATH = re.compile(r"(?:^|[\s=,:\[{'\"(])(?:~|\.{0,2}/)")


def write_card(
    run_dir: Path, config: TrainConfig, overrides: Sequence[str], summary: Mapping[str, Any], final: Results
) -> None:
    """Writes ``model/README.md`` of a run that is complete but for its summary, atomically.

    Args:
        run_dir: its folder, with ``model/``, ``environment.json``, ``exposure.csv`` and ``per_query.parquet``.
        config: what it was run with.
        overrides: what was typed.
        summary: what ``summary.json`` will say.
        final: the finished model's results; may be empty.
    """
    write_atomic(run_dir / "model" / CARD_FILE, model_card(run_dir, config, overrides, summary, final))


def model_card(
    run_dir: Path, config: TrainConfig, overrides: Sequence[str], summary: Mapping[str, Any], final: Results
) -> str:
    """The text of the card; arguments as of ``write_card``."""
    environment = _read_json(run_dir / "environment.json")
    data = environment["data"]
    model = _read_json(run_dir / "model" / "hybrid_ir.json")
    dense, dim = _dense_and_dim(run_dir / "model")
    with (run_dir / "exposure.csv").open(encoding="utf-8", newline="") as file:
        exposure = list(csv.DictReader(file))
    codes = [row["language"] for row in exposure]
    base_model = base_revision = None
    pretrained = isinstance(config.model, PretrainedModelConfig)
    trust = ""
    if isinstance(config.model, PretrainedModelConfig):
        trust = ", trust_remote_code=True" if config.model.trust_remote_code else ""
        if not os.path.isabs(config.model.name_or_path):  # the paths of a configuration are absolute
            base_model, base_revision = config.model.name_or_path, config.model.revision
    names = [_languages.get(code).name for code in codes]
    what = names[0] if len(names) == 1 else f"{len(names)} languages"
    title = "SentenceTransformer " + (f"based on {base_model}" if base_model else f"for retrieval in {what}")
    evaluations = _evaluations(run_dir, final)
    results = _eval_results(final)
    shown_metrics = [name for name in _METRICS if any(result.metric_type == name for result in results)]
    card_data = ModelCardData(
        language=codes,
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=[
            "sentence-transformers",
            "sentence-similarity",
            "feature-extraction",
            "dense",
            "information-retrieval",
            *(["multilingual"] if len(codes) > 1 else []),
            "hybrid_ir",
            f"dataset_size:{data['items']}",
            "loss:InfoNCE",
        ],
        base_model=base_model,
        datasets=list(_repositories(data["made_from"])) or None,
        metrics=shown_metrics or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    template = _environment().from_string(Path(__file__).with_name("card_template.md").read_text(encoding="utf-8"))
    return template.render(
        card_data=card_data.to_yaml(),
        title=title,
        model_id=MODEL_ID,
        trust=trust,
        base_model=base_model,
        base_revision=base_revision,
        pretrained=pretrained,
        languages=list(zip(codes, names, strict=True)),
        model=model,
        dim=dim,
        dense=dense,
        version=environment["hybrid_ir"],
        batches=_BATCHES[config.sampler.preset].format(ratio=config.sampler.mono_ratio),
        mono_share=summary["drawn_mono_share"],
        evaluations=evaluations,
        level=f"{significance.LEVEL:.0%}",
        resamples=RESAMPLES,
        limits=[*_limits(config, model, summary, codes, bool(evaluations)), *_bias(final)],
        data=_data(config, data),
        sources=[
            {"name": name, "rows": rows, "license": data["licenses"].get(name)}
            for name, rows in {**dict.fromkeys(data["licenses"], 0), **summary["source_rows"]}.items()
        ],
        counts=data["counts"],
        hyperparameters=_hyperparameters(config, summary),
        exposure_columns=[name.replace("_", " ").capitalize() for name in exposure[0]],
        exposure=[[_number(value) for value in row.values()] for row in exposure],
        command=_command(config, overrides, data["made_from"]),
        versions=_versions(config, environment),
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "code": _code,
        "heading": _HEADINGS.__getitem__,
        "python": lambda text: json.dumps(text, ensure_ascii=False),
    }
    return environment


# --------------------------------------------------------------------------------------------------------- results


@dataclass(frozen=True)
class Evaluation:
    """One benchmark as the card shows it."""

    title: str
    metric: str
    """Of the table by language."""
    settings: tuple[Setting, ...]
    rows: list[tuple[str, list[str]]]
    """Language, and for each setting its value with the interval."""
    metrics: list[str]
    means: list[tuple[Setting, list[str]]]
    """Setting, and its mean of each of ``metrics``."""


def _evaluations(run_dir: Path, final: Results) -> list[Evaluation]:
    found = []
    for benchmark, means in final.macro().items():
        metric = "map" if any("map" in values for values in means.values()) else "ndcg@10"
        values = read_run(run_dir, metric)[benchmark]
        rows: dict[str, dict[Setting, str]] = {}
        settings = [setting for setting in SETTINGS if setting in means]
        for setting in settings:
            own = values.in_setting(setting)
            own = own[~np.isnan(own).all(axis=1)]
            labels, weights = values.weights(setting)
            point = significance.statistics(own, weights)
            low, high = significance.bootstrap_interval(own, weights, RESAMPLES)
            for i, label in enumerate(labels):
                rows.setdefault(label, {})[setting] = f"{point[i]:.3f} [{low[i]:.3f}, {high[i]:.3f}]"
        labels = [MACRO, *sorted(set(rows) - {MACRO})]
        # language bias has lines of its own
        metrics = list(
            dict.fromkeys(
                name for values in means.values() for name in values if name.partition("@")[0] not in _BIAS_METRICS
            )
        )
        found.append(
            Evaluation(
                _title(benchmark),
                _METRICS[metric],
                tuple(settings),
                [
                    ("**mean**" if label == MACRO else label, [rows[label].get(setting, "") for setting in settings])
                    for label in labels
                ],
                metrics,
                [
                    (setting, [_mean(name, means[setting][name]) if name in means[setting] else "" for name in metrics])
                    for setting in settings
                ],
            )
        )
    return found


_BIAS_METRICS = {"own_language_share", "mrc"}


def _mean(metric: str, value: float) -> str:
    return f"{value:,.1f}" if metric in ("rank_distance", "max_rank") else f"{value:.3f}"


def _eval_results(final: Results) -> list[EvalResult]:
    """Macro means for the front matter; those of held-out items are for choosing a checkpoint, not for comparing."""
    return [
        EvalResult(
            task_type="information-retrieval",
            task_name="Information Retrieval",
            dataset_type="own-data" if benchmark == "beir" else benchmark,
            dataset_name=f"{_title(benchmark)} ({_HEADINGS[setting].lower()})",
            dataset_config=setting,
            metric_type=metric,
            metric_name=name,
            metric_value=means[setting][metric],
        )
        for benchmark, means in final.macro().items()
        if benchmark != VALIDATION
        for setting in SETTINGS
        for metric, name in _METRICS.items()
        if metric in means.get(setting, {})
    ]


def _title(benchmark: str) -> str:
    if benchmark.startswith("mteb_"):
        return f"{benchmark.removeprefix('mteb_')} (MTEB)"
    return _TITLES.get(benchmark, benchmark)


# ---------------------------------------------------------------------------------------------------------- limits


def _limits(
    config: TrainConfig,
    model: Mapping[str, Any],
    summary: Mapping[str, Any],
    codes: Sequence[str],
    evaluated: bool,
) -> list[str]:
    plural = "language" if len(codes) == 1 else "languages"
    limits = [f"It was trained on {len(codes)} {plural}; the run says nothing of others."]
    sources = [section.source for section in data_sections(config.data).values()]
    if set(sources) == {"cldr"}:
        limits.append(
            "Its training data are templated questions and one-sentence passages on facts that Unicode CLDR holds "
            "(territories, currencies, languages, ...): other topics and running text were not seen."
        )
    queries, passages = model["max_query_length"], model["max_passage_length"]
    if queries != passages:
        limits.append(
            f"Queries were cut at {queries} tokens and passages at {passages}, prompts and special tokens included; "
            f"sentence-transformers knows one length and cuts both at {max(queries, passages)}."
        )
    else:
        limits.append(f"Texts were cut at {queries} tokens, prompts and special tokens included.")
    steps, exported, monitor = summary["steps"], summary["exported_step"], summary["monitor"]
    of = f"{exported} of {steps}" + (" (stopped early)" if summary["stopped_early"] else "")
    if summary["selected_on_benchmark"]:
        limits.append(
            f"The weights are those of step {of}. `{monitor}` was watched: that benchmark was selected on, its numbers "
            f"are not those of unseen data."
        )
    elif monitor is not None and config.checkpoint.export == "best":
        limits.append(
            f"The weights are those of step {of}, the best by `{monitor}`: held-out items of the training data were "
            f"selected on, benchmarks were not."
        )
    else:
        limits.append(f"The weights are those of step {of}; nothing was selected on.")
    seed = f"It is one training, with one seed ({config.seed})"
    limits.append(f"{seed}: intervals are over questions, not over trainings." if evaluated else f"{seed}.")
    if not evaluated:
        limits.append("The run evaluated it on nothing.")
    return limits


def _bias(final: Results) -> Iterator[str]:
    from hybrid_ir.evaluation.language_bias import bias_table  # imports torch
    from hybrid_ir.evaluation.metrics import ALL

    for benchmark, means in final.macro().items():
        multilingual = means.get("multilingual", {})
        name = next((name for name in multilingual if name.startswith("own_language_share@")), None)
        if name is None:
            continue
        pool = bias_table(final.bias, benchmark, "pool_share")
        of_pool = [pool[ALL, code] for code in final.by_language()[benchmark]["multilingual"]]
        yield (
            f"Language bias on {_title(benchmark)}: in the pool of all languages {multilingual[name]:.1%} of a query's "
            f"first {name.partition('@')[2]} documents are in its own language, which has "
            f"{sum(of_pool) / len(of_pool):.1%} of the pool (means over query languages)."
        )


# -------------------------------------------------------------------------------------------------------- training


def _data(config: TrainConfig, data: Mapping[str, Any]) -> str:
    made_from = data["made_from"]
    if isinstance(config.data, MixtureConfig):
        text = "; ".join(
            f"{_code(name)}: {_read_from(part, made_from['parts'][name])}" for name, part in config.data.parts.items()
        )
        text = f"Parts of a mixture: {text}. Together"
    else:
        text = f"{_read_from(config.data, made_from)}:"
    text += f" {data['items']:,} items, a question and its passage in one language or several."
    bad = sum(data["report"].get("bad_lines", {}).values())
    if bad:
        text += f" {bad:,} bad lines were left out."
    excluded = data["report"].get("excluded_overlap")
    if excluded:
        text += (
            f" {excluded['items']:,} items that share {excluded['words']} words in a row with "
            f"{', '.join(map(_title, excluded['benchmarks']))} are counted here and were not trained on."
        )
    if config.data.validation.queries_per_language:
        text += " Items that were held out for validation are counted here and were not trained on."
    return text


def _read_from(section: PartConfig, made_from: Mapping[str, Any]) -> str:
    """Where one data set comes from."""
    if section.source == "cldr":
        return f"World facts of Unicode CLDR {made_from['cldr']}, worded as questions and passages"
    repositories = _repositories(made_from)
    if repositories:
        return ", ".join(
            f"[{name}](https://huggingface.co/datasets/{name})" + (f" at {commit}" if commit else "")
            for name, commit in repositories.items()
        )
    if isinstance(section, PublishedDataConfig):
        return f"Train questions and passages of {_code(section.source)}, {len(made_from['files'])} files"
    files = ", ".join(f"{_code(name)} (SHA-256 {sha256[:16]})" for name, sha256 in made_from["files"])
    return f"Questions and passages of {files}"


def _repositories(made_from: Mapping[str, Any]) -> dict[str, str | None]:
    """Data sets of the hub that the training data are, with what is known of their commits."""
    if made_from["source"] == "mixture":
        return {name: commit for part in made_from["parts"].values() for name, commit in _repositories(part).items()}
    return dict(made_from.get("published", {}).get("repositories", {}))


def _hyperparameters(config: TrainConfig, summary: Mapping[str, Any]) -> dict[str, str]:
    whole = flatten(config.model_dump(mode="json"))
    changed = flatten(config.model_dump(mode="json", include=set(_SECTIONS), exclude_defaults=True))
    names = [*_ALWAYS_SHOWN, *(name for name in changed if name not in _SHOWN_ELSEWHERE and changed[name] != {})]
    return {**{name: show(whole[name]) for name in dict.fromkeys(names)}, "steps trained": f"{summary['steps']:,}"}


def _command(config: TrainConfig, overrides: Sequence[str], made_from: Mapping[str, Any]) -> str:
    """The command of the run, without what belonged to its start, and files by their names."""
    words = ["python -m hybrid_ir.train"]
    sections = data_sections(config.data)
    for setting in overrides:
        typed, _, value = setting.partition("=")
        key = typed.lstrip("+~")
        if key.partition(".")[0] in _OF_A_START:
            continue
        part = key.split(".")
        section, _, last = key.rpartition(".")
        if last == "path" and part[0] == "data" and section in sections:
            data, read = sections[section], made_from["parts"][part[2]] if len(part) > 2 else made_from
            if isinstance(data, (PublishedDataConfig, HubDatasetConfig)):
                setting = f"{key}={'DIR' if os.path.isabs(str(data.path)) else data.path}"
            else:
                setting = f"{key}=[{','.join(_typed(name) for name, _ in read['files'])}]"
        elif key == "model.name_or_path":
            assert isinstance(config.model, PretrainedModelConfig)
            local = os.path.isabs(config.model.name_or_path)
            setting = f"{key}={'MODEL_DIR' if local else config.model.name_or_path}"
        elif part[0] == "benchmark" and part[-1] == "path":
            setting = f"{key}=DIR"
        elif part[0] == "benchmark" and part[-1] in ("queries", "passage_queries"):
            setting = f"{key}=FILE"
        elif _PATH.search(value) or ("{" in value and "/" in value):
            setting = f"{typed}=..."
        words.append(shlex.quote(setting))
    return " \\\n    ".join(words)


def _typed(name: str) -> str:
    """A file's name as Hydra reads it in a list."""
    if re.fullmatch(r"[\w.-]+", name):
        return name
    return quote(name) if re.search(r"[\"\\]", name) else f'"{name}"'


def _versions(config: TrainConfig, environment: Mapping[str, Any]) -> dict[str, str]:
    revision = environment["git_revision"]
    versions = {
        "hybrid_ir": environment["hybrid_ir"] + (f" (revision {revision})" if revision else ""),
        "Python": environment["python"],
    }
    names = {"torch": "PyTorch", "transformers": "Transformers", "tokenizers": "Tokenizers"}
    names |= {"pytorch-lightning": "PyTorch Lightning", "numpy": "NumPy"}
    if any(section.source == "cldr" for section in data_sections(config.data).values()):
        names["babel"] = "Babel"
    if isinstance(config.model, PretrainedModelConfig) and config.model.lora.rank:
        names["peft"] = "PEFT"
    if "mteb" in config.benchmark:
        names["mteb"] = "MTEB"
    return versions | {shown: environment["packages"][name] for name, shown in names.items()}


# ------------------------------------------------------------------------------------------------------------ files


def _dense_and_dim(folder: Path) -> tuple[str | None, int]:
    """Sub-folder of the model's dense layer, None without one, and the size of the embeddings."""
    for module in _read_json(folder / "modules.json"):
        if module["type"].endswith(".Dense"):
            return module["path"], _read_json(folder / module["path"] / "config.json")["out_features"]
    return None, _read_json(folder / "1_Pooling" / "config.json")["word_embedding_dimension"]


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _code(text: str) -> str:
    """A text as Markdown shows it letter by letter, also in a table."""
    if not text:
        return "none"
    ticks = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return ticks + space + re.sub(r"[\r\n]+", " ", text).replace("|", "\\|") + space + ticks


def _number(text: str) -> str:
    """A number of a CSV file for a table; other texts as they are."""
    if re.fullmatch(r"\d+", text):
        return f"{int(text):,}"
    return f"{float(text):.2f}" if re.fullmatch(r"\d+\.\d+(?:e[+-]?\d+)?", text) else text
