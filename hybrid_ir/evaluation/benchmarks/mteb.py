"""Retrieval tasks of MTEB, run by mteb's own code (arXiv 2210.07316, arXiv 2502.13595).

Data, search, metrics and result files are mteb's. Ours are the encoder's adapter, the languages' codes, and the rows,
made of the value that mteb computed for each query.
"""

from __future__ import annotations

import copy
import heapq
import itertools
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from hybrid_ir import languages
from hybrid_ir.config import EvaluationConfig, MtebBenchmarkConfig
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.evaluation.benchmarks.base import BenchmarkText, Setting
from hybrid_ir.evaluation.benchmarks.mteb_tasks import CAVEATS, corpus_comes_first, order_is_known
from hybrid_ir.evaluation.encoding import EmbeddingCache, Kind, Progress, encode_in_shards
from hybrid_ir.evaluation.metrics import Group, GroupScores
from hybrid_ir.evaluation.results import Results
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.schema_keys import nearest

METRICS = ("recall@1", "recall@10", "recall@100", "precision@10", "ndcg@10", "mrr@10")
"""Reported of every task, beside ``map@<depth>``: mteb retrieves the 1000 best documents and its mean average precision
counts no others, so it is not ``map``, which has no cut-off."""

_TREC_EVAL = {"map": "map_cut", "ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "hit_rate": "success"}
"""What trec_eval, whose metrics mteb takes, calls them."""

_SAME_SCRIPT = {"Hira": "Jpan", "Kana": "Jpan", "Hrkt": "Jpan", "Hang": "Kore"}
"""Parts of a mixed script, by which some tasks tag their language."""

_TEXTS_AT_A_TIME = 512  # that mteb hands over; the encoder makes batches of its own


def load(config: MtebBenchmarkConfig) -> MtebBenchmark:
    """Looks the tasks up, downloading nothing.

    Raises:
        UserError: mteb is not installed, or several processes would run it.
        ConfigError: there is no such task, it is none of text retrieval, or lacks the languages.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "benchmark=[mteb]: mteb runs in one process; use devices=1, or leave it out and run python evaluate.py "
            "'benchmark=[mteb]' on the finished model"
        )
    with _quiet():
        try:
            import mteb
        except ImportError as error:
            raise UserError(
                f"benchmark=[mteb]: mteb cannot be imported ({error}); install it with pip install 'hybrid-ir[mteb]'"
            ) from error
        tasks = [_task(mteb, name) for name in config.tasks]
    return MtebBenchmark(tasks, config.languages)


def _task(mteb: Any, name: str) -> Any:
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    said = f"benchmark.mteb.tasks=[{name}]"
    try:
        task = mteb.get_task(name)
    except KeyError:
        known = mteb.get_tasks(task_types=["Retrieval"], modalities=["text"], exclude_superseded=False)
        near = nearest(name, [task.metadata.name for task in known])
        raise ConfigError(
            f"{said}: mteb {version('mteb')} has no such task; "
            + (f'did you mean "{near}"?' if near else "`mteb available-tasks` lists its tasks")
        ) from None
    if isinstance(task, AbsTaskAggregate):
        parts = ", ".join(part.metadata.name for part in task.metadata.tasks)
        raise ConfigError(f"{said}: is several tasks in one; name those that you want of {parts}")
    if not isinstance(task, AbsTaskRetrieval) or task.metadata.type != "Retrieval":
        raise ConfigError(f"{said}: is a task of {task.metadata.type}; name tasks of retrieval")
    if set(task.metadata.modalities) != {"text"}:
        raise ConfigError(f"{said}: needs {', '.join(task.metadata.modalities)}; name tasks of text")
    return task


# ------------------------------------------------------------------------------------------------------- languages


def language_label(tag: str) -> str:
    """A language as results call it, from mteb's tag (ISO 639-3 and ISO 15924).

    ``swh-Latn`` gives ``sw``; a script that is not the language's usual one stays, ``hin-Latn`` gives ``hi_Latn``; so
    does a language without a shorter code, ``acm-Arab`` gives ``acm``.
    """
    language, _, script = tag.rpartition("-")
    code = languages.from_iso(language)
    if code is None:
        return re.sub(r"[^A-Za-z0-9_]", "_", language)
    usual = languages.get(code).script
    return code if _SAME_SCRIPT.get(script, script) == usual else f"{code}_{script}"


@dataclass(frozen=True)
class Subset:
    """One of a task's subsets: queries of one language and a corpus of one."""

    name: str
    query_language: str
    corpus_language: str

    @property
    def pair(self) -> tuple[str, str]:
        """Query language and corpus language."""
        return self.query_language, self.corpus_language


def subsets(task: Any) -> list[Subset]:
    """The subsets of an mteb task with the languages of queries and corpus.

    A subset with two languages is a pair, in the task's order (``mteb_tasks.py``); one with another number, or a task
    without subsets, is filed under its first language.
    """
    metadata = task.metadata
    found = []
    for name, tags in metadata.hf_subsets_to_langscripts.items():
        labels = [language_label(tag) for tag in tags]
        query = corpus = labels[0]
        if metadata.is_multilingual and len(labels) == 2:
            corpus, query = labels if corpus_comes_first(metadata.name) else reversed(labels)
        found.append(Subset(name, query, corpus))
    return found


# ------------------------------------------------------------------------------------------------------- benchmark


class MtebBenchmark:
    """Tasks of mteb's, each a benchmark in the results: ``mteb_<task>``, followed by split and subset where a task has
    several splits, or several subsets of the same languages.

    Args:
        tasks: mteb's retrieval tasks, data not loaded.
        codes: languages; subsets are taken whose query and corpus languages are both among them. None takes all.

    Raises:
        ConfigError: a task has no subset of these languages, or no task has one of them.
    """

    name = "mteb"

    def __init__(self, tasks: Sequence[Any], codes: Sequence[str] | None = None) -> None:
        self.tasks = list(tasks)
        self.subsets: dict[str, list[Subset]] = {}
        notes: list[str] = []
        for task in self.tasks:
            metadata = task.metadata
            there = subsets(task)
            chosen = [s for s in there if codes is None or set(s.pair) <= set(codes)]
            if not chosen:
                known = sorted({code for subset in there for code in subset.pair})
                raise ConfigError(
                    f"benchmark.mteb.languages=[{','.join(codes or ())}]: {metadata.name} has no queries and corpus "
                    f"in these languages; it has {', '.join(known)}"
                )
            task.filter_languages(None, hf_subsets=[subset.name for subset in chosen])
            self.subsets[metadata.name] = chosen
            notes.extend(_notes(metadata, chosen, codes))
        everywhere = {code for chosen in self.subsets.values() for subset in chosen for code in subset.pair}
        missing = [code for code in codes or () if code not in everywhere]
        if missing:
            raise ConfigError(
                f"benchmark.mteb.languages=[{','.join(missing)}]: no chosen task has it; they have "
                f"{', '.join(sorted(everywhere))} of those asked for"
            )
        self.notes = tuple(notes)
        self.info: dict[str, Any] = {
            "mteb": version("mteb"),
            "tasks": {
                task.metadata.name: {
                    "dataset": task.metadata.dataset["path"],
                    "revision": task.metadata.dataset["revision"],
                    "splits": list(task.eval_splits),
                    "subsets": [subset.name for subset in self.subsets[task.metadata.name]],
                }
                for task in self.tasks
            },
        }

    def describe(self) -> str:
        """One line: what will be run."""
        parts = [
            f"{name} ({len(task['subsets'])} {'subset' if len(task['subsets']) == 1 else 'subsets'}, "
            f"{', '.join(task['splits'])})"
            for name, task in self.info["tasks"].items()
        ]
        return f"mteb {self.info['mteb']}: {', '.join(parts)}"

    def result_name(self, task: Any, split: str, subset: Subset) -> str:
        """Name of the benchmark in the results; of letters, digits and ``_``, by which Weights & Biases sorts."""
        parts = ["mteb", task.metadata.name]
        if len(task.eval_splits) > 1:
            parts.append(split)
        if sum(other.pair == subset.pair for other in self.subsets[task.metadata.name]) > 1:
            parts.append(subset.name)
        return re.sub(r"[^A-Za-z0-9_]", "_", "_".join(parts))

    def run(
        self,
        encoder: BiEncoder,
        evaluation: EvaluationConfig,
        step: int,
        run_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> Results:
        """Runs the tasks one after the other.

        Args:
            encoder: the model.
            evaluation: sizes of shards, additional metrics, whether embeddings are kept. With ``save_runs`` mteb writes
                its rankings to ``mteb/predictions`` in the run's folder, in its own format.
            step: training step of the model, noted in the results.
            run_dir: mteb's result files go to ``mteb/results`` in it; None keeps none.
            progress: called as ``progress(task, done, total)`` for each subset of a task.

        Raises:
            UserError: a task's data cannot be had, or an embedding is not finite.
        """
        results = Results()
        with _quiet():
            for task in self.tasks:
                results.merge(self._run(task, encoder, evaluation, step, run_dir, progress))
        return results

    def _run(
        self,
        task: Any,
        encoder: BiEncoder,
        evaluation: EvaluationConfig,
        step: int,
        run_dir: Path | None,
        progress: Progress | None,
    ) -> Results:
        import mteb

        metadata = task.metadata
        task = copy.copy(task)  # which takes what is set below, and the data, with it
        depth = max(task.k_values)  # documents that mteb retrieves
        metrics = _metrics(depth, evaluation.metrics, metadata.main_score)
        task.k_values = tuple(sorted({*task.k_values, *(int(name.partition("@")[2]) for name in metrics)}))
        total = len(task.eval_splits) * len(self.subsets[metadata.name])

        def say(done: int) -> None:
            if progress is not None:
                progress(metadata.name, done, total)

        values = _record(task, metrics, say)
        say(0)
        _load_data(task)
        model = MtebEncoder(encoder, evaluation, f"hybrid_ir/{run_dir.name if run_dir else 'model'}", f"step_{step}")
        folder = run_dir / "mteb" if run_dir is not None else None
        mteb.evaluate(
            model,
            task,
            co2_tracker=False,
            encode_kwargs={"batch_size": _TEXTS_AT_A_TIME, "show_progress_bar": False},
            cache=mteb.ResultCache(folder) if folder is not None else None,
            overwrite_strategy="always",
            prediction_folder=folder / "predictions" if folder is not None and evaluation.save_runs else None,
            show_progress_bar=False,
        )
        return self._results(task, values, metrics, step)

    def texts(self) -> Iterator[BenchmarkText]:
        """Queries, and documents relevant to one, of all tasks; ids are ``<task>/<mteb's id>``.

        Raises:
            UserError: a task's data cannot be had.
        """
        for task in self.tasks:
            name, task = task.metadata.name, copy.copy(task)
            with _quiet():
                _load_data(task)
                task.convert_v1_dataset_format_to_v2(num_proc=None)
            there: set[BenchmarkText] = set()  # subsets may share queries or documents
            for split, subset in itertools.product(task.eval_splits, self.subsets[name]):
                data = task.dataset[subset.name][split]
                relevant = {
                    document
                    for judged in data["relevant_docs"].values()
                    for document, gain in judged.items()
                    if gain > 0
                }
                for row in data["queries"]:
                    there.add(BenchmarkText("query", f"{name}/{row['id']}", subset.query_language, str(row["text"])))
                for row in data["corpus"]:
                    if row["id"] in relevant:
                        text = f"{row.get('title') or ''} {row['text']}".strip()
                        there.add(BenchmarkText("document", f"{name}/{row['id']}", subset.corpus_language, text))
            yield from sorted(there)

    def _results(
        self, task: Any, values: Mapping[tuple[str, str], _QueryValues], metrics: Sequence[str], step: int
    ) -> Results:
        collected: dict[str, _Collected] = {}
        for split in task.eval_splits:
            for subset in self.subsets[task.metadata.name]:
                each = collected.setdefault(self.result_name(task, split, subset), _Collected())
                each.add(subset, values[split, subset.name], tuple(metrics))
        results = Results()
        for name, each in collected.items():
            results.merge(Results.from_groups(name, each.query_ids, each.groups, step))
        return results


def _notes(metadata: Any, chosen: Sequence[Subset], codes: Sequence[str] | None) -> Iterator[str]:
    if metadata.name in CAVEATS:
        yield f"{metadata.name}: {CAVEATS[metadata.name]}"
    if metadata.superseded_by:
        yield f"{metadata.name}: mteb has superseded it by {metadata.superseded_by}"
    if metadata.is_beta:
        yield f"{metadata.name}: mteb calls it beta, its data may change"
    if any(subset.query_language != subset.corpus_language for subset in chosen) and not order_is_known(metadata.name):
        subset = next(subset for subset in chosen if subset.query_language != subset.corpus_language)
        yield (
            f"{metadata.name}: which language of a pair is the queries' is assumed; in {subset.name} "
            f"{subset.query_language}, in a corpus of {subset.corpus_language}"
        )
    there = {code for subset in chosen for code in subset.pair}
    absent = [code for code in codes or () if code not in there]
    if absent:
        yield f"{metadata.name}: nothing in {', '.join(absent)}"


# ---------------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True)
class _QueryValues:
    """What mteb found for the queries of one subset."""

    query_ids: list[str]
    values: np.ndarray
    """[queries, metrics] float64."""


@dataclass
class _Collected:
    """Groups of one benchmark of the results."""

    query_ids: list[str] = field(default_factory=list)
    groups: dict[Group, GroupScores] = field(default_factory=dict)

    def add(self, subset: Subset, found: _QueryValues, metrics: tuple[str, ...]) -> None:
        setting: Setting = "monolingual" if subset.query_language == subset.corpus_language else "cross_lingual"
        rows = len(self.query_ids) + np.arange(len(found.query_ids))
        self.query_ids += found.query_ids
        self.groups[Group(setting, *subset.pair)] = GroupScores(rows, found.values, metrics)


def _load_data(task: Any) -> None:
    metadata = task.metadata
    try:
        task.load_data()
    except Exception as error:  # datasets and the hub's client raise from a dozen places
        raise UserError(
            f"benchmark.mteb.tasks=[{metadata.name}]: its data ({metadata.dataset['path']} at "
            f"{metadata.dataset['revision']} on the Hugging Face hub) cannot be loaded ({_one_line(error)}); run "
            f"it once where there is a network, with HF_HUB_OFFLINE unset, and copy the folder that HF_HOME names"
        ) from error


def _metrics(depth: int, extra: Iterable[str], main_score: str) -> tuple[str, ...]:
    """Names of the metrics of a task: the standard ones, those asked for, its own; none below mteb's depth."""
    main = re.fullmatch(rf"({'|'.join(_TREC_EVAL)}|mrr)_at_(\d+)", main_score)
    names = [f"map@{depth}", *METRICS, *extra, *([f"{main[1]}@{main[2]}"] if main else [])]
    return tuple(dict.fromkeys(name for name in names if int(name.partition("@")[2]) <= depth))


def _record(task: Any, metrics: Sequence[str], on_subset: Callable[[int], None]) -> dict[tuple[str, str], _QueryValues]:
    """Values by (split, subset), filled while mteb evaluates the task.

    mteb hands the values of all queries to the task for scores of its own, and writes down their means alone.
    ``on_subset`` is called with the number of those that are there.
    """
    found: dict[tuple[str, str], _QueryValues] = {}
    of_task: Callable[..., dict[str, float]] = task.task_specific_scores

    def task_specific_scores(
        scores: Mapping[str, Mapping[str, float]],
        qrels: Mapping[str, Mapping[str, int]],
        results: Mapping[str, Mapping[str, float]],
        hf_split: str,
        hf_subset: str,
    ) -> dict[str, float]:
        query_ids = list(scores)
        values = [[_value(m, scores[q], qrels[q], results[q]) for m in metrics] for q in query_ids]
        found[hf_split, hf_subset] = _QueryValues(query_ids, np.array(values, dtype=np.float64))
        on_subset(len(found))
        return of_task(scores, qrels, results, hf_split=hf_split, hf_subset=hf_subset)

    task.task_specific_scores = task_specific_scores
    return found


def _value(
    metric: str, scores: Mapping[str, float], judgments: Mapping[str, int], ranking: Mapping[str, float]
) -> float:
    kind, _, k = metric.partition("@")
    if kind != "mrr":
        return scores[f"{_TREC_EVAL[kind]}_{k}"]
    # trec_eval has no cut-off for it; ties as it breaks them, by descending document id, and as mteb does.
    first = heapq.nlargest(int(k), ranking.items(), key=lambda item: (item[1], item[0]))
    ranks = (rank for rank, (document, _) in enumerate(first, 1) if judgments.get(document, 0) > 0)
    return 1 / next(ranks, np.inf)


# --------------------------------------------------------------------------------------------------------- encoder


class MtebEncoder:
    """A ``BiEncoder`` as mteb's ``EncoderProtocol``: queries and documents with the encoder's own prefixes and lengths.

    mteb joins title and text (``title + " " + text``) before it asks for embeddings. Prompts that a task brings are
    instructions to other kinds of models and are not used.

    Args:
        encoder: the model.
        evaluation: sizes of shards, whether embeddings are kept.
        name: under which mteb files the results, ``organisation/model``.
        revision: the same of the weights.
    """

    def __init__(self, encoder: BiEncoder, evaluation: EvaluationConfig, name: str, revision: str) -> None:
        from mteb.models.model_meta import ModelMeta, ScoringFunction

        self.encoder, self.shard_size = encoder, evaluation.shard_size
        self.cache = EmbeddingCache.of(encoder.fingerprint()) if evaluation.cache_embeddings else None
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": name,
                "revision": revision,
                "embed_dim": encoder.dim,
                "max_tokens": encoder.max_passage_length,
                "n_parameters": sum(parameter.numel() for parameter in encoder.parameters()),
                "similarity_fn_name": ScoringFunction.COSINE,
                "framework": ["PyTorch"],
                "use_instructions": bool(encoder.query_prefix or encoder.passage_prefix),
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Tensor:
        """[texts, dim] float32 on the CPU; ``prompt_type`` says whether they are queries or documents."""
        from mteb.types import PromptType

        kind: Kind = "query" if prompt_type == PromptType.query else "passage"
        texts = [text for batch in inputs for text in batch["text"]]
        return encode_in_shards(self.encoder, texts, kind, self.shard_size, self.cache).cpu()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """[n, m] cosines, fp32 whatever the encoder computes in."""
        first, second = (self._tensor(embeddings) for embeddings in (embeddings1, embeddings2))
        with torch.autocast(self.encoder.device.type, enabled=False):
            return first @ second.T

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Tensor:
        """[n] cosines of the rows."""
        first, second = (self._tensor(embeddings) for embeddings in (embeddings1, embeddings2))
        return (first * second).sum(dim=-1)

    def _tensor(self, embeddings: Any) -> Tensor:
        return torch.as_tensor(embeddings, dtype=torch.float32, device=self.encoder.device)


@contextmanager
def _quiet() -> Iterator[None]:
    """mteb and datasets without progress bars, log lines and warnings, and without their seeds: mteb seeds all random
    numbers of the process whenever it makes a task, and the training that goes on would have other ones."""
    import datasets
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    levels = {name: logging.getLogger(name).level for name in ("mteb", "datasets")}
    hub, data = are_progress_bars_disabled(), datasets.are_progress_bars_disabled()
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        disable_progress_bars()
        datasets.disable_progress_bars()
        with isolate_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        if not hub:
            enable_progress_bars()
        if not data:
            datasets.enable_progress_bars()


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
