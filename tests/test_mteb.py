"""MTEB's tasks by mteb's own code: our values, languages in the right order, one line for every mistake."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mteb
import mteb_small_task as small
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mteb.abstasks import AbsTaskRetrieval

from hybrid_ir import languages
from hybrid_ir.composition import composer
from hybrid_ir.config import EvaluationConfig, MtebBenchmarkConfig, SavedModelConfig, SmallModelConfig
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.benchmarks.mteb import MtebBenchmark, MtebEncoder, language_label, subsets
from hybrid_ir.evaluation.benchmarks.mteb_tasks import CAVEATS, CORPUS_FIRST, QUERY_FIRST
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model

TESTS = Path(__file__).parent
EVALUATION = EvaluationConfig(shard_size=16, metrics=["recall@7", "precision@5"])


@pytest.fixture(scope="module")
def encoder() -> BiEncoder:
    torch.manual_seed(0)
    documents, queries, _ = small.content()
    texts = [d["title"] + " " + d["text"] for each in documents.values() for d in each]
    texts += [q["text"] for each in queries.values() for q in each]
    config = SmallModelConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=64,
        query_prefix="query: ",
        passage_prefix="passage: ",
        max_query_length=40,
        max_passage_length=40,
    )
    return BiEncoder.from_config(config, texts).eval()


@pytest.fixture(scope="module")
def model_folder(encoder: BiEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "model"
    save_model(encoder, folder)
    return folder


@pytest.fixture
def registered() -> Iterator[None]:
    registry = sys.modules["mteb.get_tasks"]._TASKS_REGISTRY
    small.register()
    yield
    del registry[small.NAME]


# ---------------------------------------------------------------------------------------------------------- values


def test_values_are_those_of_our_own_search_and_metrics(encoder: BiEncoder, tmp_path: Path) -> None:
    """Every query and metric, in both languages and across them; with fewer documents than mteb retrieves, its mean
    average precision is the one without cut-off."""
    theirs = MtebBenchmark([small.SmallParallelRetrieval()]).run(encoder, EVALUATION, 3, tmp_path)
    ours = evaluate(encoder, small.benchmark(), EVALUATION, 3)
    expected = {
        (row.benchmark, row.setting, row.query_language, row.corpus_language, row.metric): row for row in ours.rows
    }
    found = {
        (
            row.benchmark,
            row.setting,
            row.query_language,
            row.corpus_language,
            "map" if row.metric == "map@1000" else row.metric,
        ): row
        for row in theirs.rows
        if row.metric != "ndcg@5"  # the task's main score
    }
    assert found.keys() == expected.keys()
    assert len({key[1:4] for key in found}) == 4
    for key, row in found.items():
        assert row.value == pytest.approx(expected[key].value, abs=1e-12), key
        assert (row.num_queries, row.step) == (expected[key].num_queries, 3)

    def per_query(table: Any) -> dict[tuple[str, ...], float]:
        names = ("query_language", "corpus_language", "metric", "query_id")
        return {tuple(row[n] for n in names): row["value"] for row in table.to_pylist()}

    of_ours = per_query(ours.per_query)
    of_theirs = per_query(theirs.per_query)
    assert len(of_theirs) == 4 * small.QUERIES * 10
    for key, value in of_theirs.items():
        if key[2] != "ndcg@5":
            assert value == pytest.approx(of_ours[(*key[:2], key[2].replace("map@1000", "map"), key[3])], abs=1e-6)


def test_rows_agree_with_mtebs_own_result_files(encoder: BiEncoder, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    evaluation = EVALUATION.model_copy(update={"save_runs": True})
    benchmark = MtebBenchmark([small.SmallParallelRetrieval()], ["en", "sw"])
    results = benchmark.run(encoder, evaluation, 5, run_dir)
    (file,) = (run_dir / "mteb" / "results").rglob(f"{small.NAME}.json")
    assert file.parent.name == "step_5"
    scores = json.loads(file.read_text())["scores"]["test"]
    assert {entry["hf_subset"] for entry in scores} == {"en-en", "en-sw", "sw-en", "sw-sw"}
    compared = 0
    for entry in scores:
        corpus, query = entry["hf_subset"].split("-")
        for row in results.rows:
            if (row.query_language, row.corpus_language) == (query, corpus):
                # mteb rounds to five decimals.
                assert row.value == pytest.approx(entry[row.metric.replace("@", "_at_")], abs=5.1e-6), row
                compared += 1
    assert compared == len(results.rows) == 4 * 10
    (predictions,) = (run_dir / "mteb" / "predictions").iterdir()
    assert len(json.loads(predictions.read_text())["sw-en"]["test"]["q0"]) == small.DOCUMENTS


def test_deeper_metrics_than_mteb_retrieves_are_left_out(encoder: BiEncoder) -> None:
    evaluation = EvaluationConfig(metrics=["recall@1000", "recall@1001"])
    results = MtebBenchmark([small.SmallParallelRetrieval()], ["sw"]).run(encoder, evaluation, 0)
    metrics = {row.metric for row in results.rows}
    assert "recall@1000" in metrics
    assert "recall@1001" not in metrics


def test_embeddings_kept_on_disk_change_nothing(encoder: BiEncoder, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path))
    kept = EVALUATION.model_copy(update={"cache_embeddings": True})
    runs = [MtebBenchmark([small.SmallParallelRetrieval()]).run(encoder, e, 0) for e in (EVALUATION, kept, kept)]
    assert runs[0].rows == runs[1].rows == runs[2].rows
    assert list((tmp_path / "embeddings").rglob("*.npy"))


def test_random_numbers_go_on_as_if_nothing_had_happened(encoder: BiEncoder, registered: None) -> None:
    """mteb seeds the whole process whenever it makes a task, in the middle of a training."""

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))  # noqa: NPY002 - the global state

    def seed() -> None:
        random.seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.manual_seed(5)

    seed()
    expected = draw()
    seed()
    load_benchmark("mteb", MtebBenchmarkConfig(tasks=[small.NAME], languages=["en"])).run(encoder, EVALUATION, 0)
    assert draw() == expected


# ------------------------------------------------------------------------------------------------- exported models


def test_an_exported_folder_in_mteb_itself_has_its_prompts_and_scores(
    encoder: BiEncoder, model_folder: Path, tmp_path: Path
) -> None:
    from datasets import Dataset
    from mteb.models import SentenceTransformerEncoderWrapper
    from mteb.types import PromptType
    from sentence_transformers import SentenceTransformer
    from torch.utils.data import DataLoader

    peer = SentenceTransformer(str(model_folder), device="cpu")
    wrapped = SentenceTransformerEncoderWrapper(peer)
    assert wrapped.model_prompts == {"query": "query: ", "document": "passage: "}
    ours = MtebEncoder(encoder, EVALUATION, "hybrid_ir/model", "step_0")
    documents, queries, _ = small.content()
    task = small.SmallParallelRetrieval()
    for prompt_type, texts in ((PromptType.query, queries["sw"]), (PromptType.document, documents["sw"])):
        loader = DataLoader(Dataset.from_list([{"text": text["text"]} for text in texts]), batch_size=8)
        settings = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "sw-sw"}
        theirs = wrapped.encode(loader, prompt_type=prompt_type, show_progress_bar=False, **settings)
        mine = ours.encode(loader, prompt_type=prompt_type, **settings)
        torch.testing.assert_close(torch.as_tensor(theirs), mine, atol=1e-6, rtol=0)

    scored = mteb.evaluate(peer, task, cache=None, co2_tracker=False, show_progress_bar=False)
    results = MtebBenchmark([task]).run(encoder, EVALUATION, 0)
    for entry in scored.task_results[0].scores["test"]:
        corpus, query = entry["hf_subset"].split("-")
        (row,) = [
            row
            for row in results.rows
            if (row.query_language, row.corpus_language, row.metric) == (query, corpus, "ndcg@10")
        ]
        assert row.value == pytest.approx(entry["ndcg_at_10"], abs=5.1e-6)


def test_scores_are_fp32_whatever_the_encoder_computes_in(encoder: BiEncoder) -> None:
    model = MtebEncoder(encoder, EVALUATION, "hybrid_ir/model", "step_0")
    assert isinstance(model, mteb.EncoderProtocol)
    draw = torch.Generator().manual_seed(0)
    queries, documents = (torch.randn(n, 32, generator=draw) for n in (3, 5))
    with torch.autocast("cpu", torch.bfloat16):
        scores = model.similarity(queries, documents.numpy())
    assert torch.equal(scores, queries @ documents.T)
    torch.testing.assert_close(model.similarity_pairwise(queries, documents[:3]), scores.diagonal())


# ------------------------------------------------------------------------------------------------------- languages


@pytest.mark.parametrize(
    ("tag", "label"),
    [
        ("swh-Latn", "sw"),
        ("swa-Latn", "sw"),
        ("zho-Hans", "zh"),
        ("cmn-Hans", "zh"),
        ("zho-Hant", "zh_Hant"),
        ("jpn-Hira", "ja"),
        ("kor-Hang", "ko"),
        ("arb-Arab", "ar"),
        ("arb-Latn", "ar_Latn"),
        ("hin-Latn", "hi_Latn"),
        ("pes-Arab", "fa"),
        ("npi-Deva", "ne"),
        ("acm-Arab", "acm"),
        ("python-Code", "python"),
        ("c++-Code", "c__"),
    ],
)
def test_language_codes(tag: str, label: str) -> None:
    assert language_label(tag) == label


def test_miracls_languages_have_their_codes() -> None:
    for name in ("MIRACLRetrieval", "MIRACLRetrievalHardNegatives"):
        assert {subset.pair for subset in subsets(mteb.get_task(name))} == {(c, c) for c in languages.MIRACL}


def test_queries_and_corpus_are_the_right_way_round() -> None:
    pairs = {
        ("BelebeleRetrieval", "swh_Latn-eng_Latn"): ("en", "sw"),
        ("MLQARetrieval", "hin-eng"): ("en", "hi"),
        ("CUREv1", "es"): ("es", "en"),
        ("MKQARetrieval", "no"): ("no", "no"),  # three tags, no pair
    }
    for (name, subset), pair in pairs.items():
        assert {s.name: s.pair for s in subsets(mteb.get_task(name))}[subset] == pair


@pytest.mark.parametrize("name", sorted(CORPUS_FIRST | QUERY_FIRST))
def test_the_order_agrees_with_the_lengths_of_texts_that_mteb_ships(name: str) -> None:
    """Texts of a language are about as long in a cross-lingual subset as in the monolingual one."""
    task = mteb.get_task(name)
    compared = 0
    for statistics in task.metadata.descriptive_stats.values():
        of_subset = statistics["hf_subset_descriptive_stats"]
        there = [subset for subset in subsets(task) if subset.name in of_subset]
        alone = {s.query_language: of_subset[s.name] for s in there if s.query_language == s.corpus_language}
        for subset in there:
            for kind, language in (("documents", subset.corpus_language), ("queries", subset.query_language)):
                if subset.query_language != subset.corpus_language and language in alone:
                    lengths = [
                        s[f"{kind}_text_statistics"]["average_text_length"]
                        for s in (of_subset[subset.name], alone[language])
                    ]
                    assert lengths[0] == pytest.approx(lengths[1], rel=0.15), subset
                    compared += 1
    assert compared > 5


def test_every_text_task_of_mteb_gives_rows_of_their_own() -> None:
    """No two subsets or splits fall together, and every name can be logged."""
    tasks = [
        task
        for task in mteb.get_tasks(task_types=["Retrieval"], modalities=["text"], exclude_superseded=False)
        if isinstance(task, AbsTaskRetrieval)
    ]
    assert len(tasks) > 400
    names = set()
    for task in tasks:
        benchmark = MtebBenchmark([task])
        rows = [
            (benchmark.result_name(task, split, subset), *subset.pair)
            for split in task.eval_splits
            for subset in benchmark.subsets[task.metadata.name]
        ]
        assert len(set(rows)) == len(rows), task.metadata.name
        assert not {row[0] for row in rows} & names, task.metadata.name
        names |= {row[0] for row in rows}
        assert all(part.replace("_", "").isalnum() and part.isascii() for row in rows for part in row), rows


def test_languages_choose_subsets_within_them() -> None:
    belebele, mlqa = mteb.get_task("BelebeleRetrieval"), mteb.get_task("MLQARetrieval")
    benchmark = MtebBenchmark([belebele, mlqa], ["sw", "en", "hi"])
    assert {s.pair for s in benchmark.subsets["BelebeleRetrieval"]} == {
        ("sw", "sw"), ("en", "en"), ("hi", "hi"), ("sw", "en"), ("en", "sw"), ("hi", "en"), ("en", "hi"),
    }  # fmt: skip
    assert sorted(belebele.hf_subsets) == sorted(s.name for s in benchmark.subsets["BelebeleRetrieval"])
    assert {s.pair for s in benchmark.subsets["MLQARetrieval"]} == {(q, c) for q in ("en", "hi") for c in ("en", "hi")}
    assert "MLQARetrieval: nothing in sw" in benchmark.notes
    assert benchmark.describe().endswith(
        "BelebeleRetrieval (7 subsets, test), MLQARetrieval (4 subsets, validation, test)"
    )


def test_what_limits_a_number_is_said() -> None:
    assert all(name in sys.modules["mteb.get_tasks"]._TASKS_REGISTRY for name in CAVEATS)
    for name, said in (
        ("XQuADRetrieval", "not XQuAD-R"),
        ("MIRACLRetrievalHardNegatives", "bn, sw and yo"),
        ("MMarcoRetrieval", "superseded it by MMarcoRetrievalMultilingual"),
        ("CrossLingualSemanticDiscriminationWMT19", "is assumed"),
    ):
        assert any(said in note for note in MtebBenchmark([mteb.get_task(name)]).notes), name
    assert not any("is assumed" in note for note in MtebBenchmark([mteb.get_task("BelebeleRetrieval")]).notes)


@pytest.mark.parametrize("option", ["mteb", "mteb_low_resource", "mteb_cross_lingual"])
def test_the_ready_lists_are_tasks_and_languages_of_mteb(option: str) -> None:
    with composer("evaluate") as composing:
        raw = composing.compose([f"benchmark=[{option}]", "model.name_or_path=x/y", "benchmark.mteb.limit=null"])
        config = composing.validate(raw)
    assert set(config.benchmark) == {"mteb"}
    benchmark = load_benchmark("mteb", config.benchmark["mteb"])
    assert isinstance(benchmark, MtebBenchmark)
    settings = {s.query_language == s.corpus_language for chosen in benchmark.subsets.values() for s in chosen}
    assert settings == ({True} if option == "mteb_low_resource" else {True, False})


# ---------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ["BelebeleRetrival"]}, ["tasks=[BelebeleRetrival]", 'did you mean "BelebeleRetrieval"?']),
        ({"tasks": ["qqqqqqqq"]}, ["mteb available-tasks"]),
        ({"tasks": ["Banking77Classification"]}, ["a task of Classification"]),
        ({"tasks": ["VisRAGRetChartQA"]}, ["needs", "image"]),
        ({"tasks": ["CQADupstackRetrieval"]}, ["CQADupstackAndroidRetrieval"]),
        ({"tasks": ["XQuADRetrieval"], "languages": ["sw"]}, ["languages=[sw]", "XQuADRetrieval", "ar, de, el"]),
        ({"tasks": ["BelebeleRetrieval", "XQuADRetrieval"], "languages": ["sw"]}, ["XQuADRetrieval"]),
        ({"tasks": ["XQuADRetrieval"], "languages": ["en", "sw"]}, ["languages=[sw]", "en"]),
    ],
)
def test_a_wrong_choice_is_one_line(settings: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_benchmark("mteb", MtebBenchmarkConfig(**settings))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("benchmark.mteb.")
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "tasks=[]",
        "tasks=[XQuADRetrieval,XQuADRetrieval]",
        "limit=5",
        "during_training_limit=5",
        "during_training=true",
        "queries={file}",
        "passage_queries={file}",
    ],
)
def test_what_mteb_cannot_do_is_refused_at_once(setting: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    key, _, value = setting.format(file=tmp_path / "file").partition("=")
    with composer("evaluate") as composing, pytest.raises(ConfigError, match=rf"^benchmark\.mteb\.{key}="):
        composing.validate(
            composing.compose(["benchmark=[mteb]", "model.name_or_path=x/y", f"benchmark.mteb.{key}={value}"])
        )


def test_language_removal_and_mteb_do_not_go_together() -> None:
    settings = ["benchmark=[mteb]", "model.name_or_path=x/y", "language_removal.method=centring"]
    with composer("evaluate") as composing, pytest.raises(ConfigError, match=r"^language_removal\.method=centring: "):
        composing.validate(composing.compose(settings))


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(UserError, match=r"pip install 'hybrid-ir\[mteb\]'"):
        load_benchmark("mteb", MtebBenchmarkConfig(tasks=["XQuADRetrieval"]))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="devices=1"):
        load_benchmark("mteb", MtebBenchmarkConfig(tasks=["XQuADRetrieval"]))


def test_data_out_of_reach_is_one_line(encoder: BiEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    """The tests run offline (HF_HUB_OFFLINE), and no cache holds this task."""
    with pytest.raises(UserError) as caught:
        MtebBenchmark([mteb.get_task("XQuADRetrieval")]).run(encoder, EVALUATION, 0)
    message = str(caught.value)
    assert "\n" not in message
    revision = "194842d6a49baddf6cd3f4d5130ab3c7756268d2"
    for part in ("XQuADRetrieval", "mteb/XQuADRetrieval", revision, "HF_HUB_OFFLINE", "HF_HOME"):
        assert part in message
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------- the real commands

DRIVER = """
import sys
import mteb_small_task
from hybrid_ir.cli import run_command
mteb_small_task.register()
sys.exit(run_command(sys.argv[1], sys.argv[2:]))
"""


def run(command: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, in which mteb knows the small task."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", DRIVER, command, *settings], env=environment, capture_output=True, text=True, timeout=300
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_evaluate(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "evaluate",
        f"model.name_or_path={model_folder}",
        "benchmark=[mteb]",
        f"benchmark.mteb.tasks=[{small.NAME}]",
        f"output_dir={out}",
        "threads=1",
        "accelerator=cpu",
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert f"{small.NAME} (4 subsets, test)" in done.stdout
    encoder = BiEncoder.from_config(SavedModelConfig(name_or_path=str(model_folder)))
    expected = MtebBenchmark([small.SmallParallelRetrieval()]).run(encoder, EvaluationConfig(), 0)
    found = {(r["setting"], r["query_language"], r["corpus_language"], r["metric"]): r["value"] for r in rows(out)}
    assert len(found) == len(expected.rows) == 4 * 8
    for row in expected.rows:
        assert float(found[row.setting, row.query_language, row.corpus_language, row.metric]) == pytest.approx(
            row.value
        )
    assert len(pq.read_table(out / "per_query.parquet")) == 4 * 8 * small.QUERIES
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary[f"mteb_{small.NAME}"]) == {"monolingual", "cross_lingual"}
    described = json.loads((out / "environment.json").read_text())
    assert described["benchmarks"]["mteb"]["tasks"][small.NAME]["dataset"] == "nobody/nothing"
    assert described["packages"]["mteb"] == described["benchmarks"]["mteb"]["mteb"]
    assert list((out / "mteb" / "results").rglob(f"{small.NAME}.json"))


def test_evaluate_out_of_reach_leaves_no_folder(model_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = run(
        "evaluate",
        f"model.name_or_path={model_folder}",
        "benchmark=[mteb]",
        "benchmark.mteb.tasks=[XQuADRetrieval]",
        "benchmark.mteb.languages=[en]",
        f"output_dir={out}",
        "threads=1",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: benchmark.mteb.tasks=[XQuADRetrieval]")
    assert len(done.stderr.splitlines()) == 1
    assert not out.exists()


@pytest.mark.slow
def test_train_ends_with_mteb(tmp_path: Path) -> None:
    data, out = tmp_path / "pairs.jsonl", tmp_path / "run"
    documents, queries, _ = small.content()
    with data.open("w") as file:
        for code in small.LANGUAGES:
            for number, (query, document) in enumerate(zip(queries[code], documents[code], strict=False)):
                row = {"id": str(number), "language": code, "query": query["text"], "passage": document["text"]}
                file.write(json.dumps(row) + "\n")
    settings = [
        "data=parallel_jsonl",
        f"data.path={data}",
        "data.validation.queries_per_language=2",
        "model.vocab_size=400",
        "model.hidden_size=32",
        "model.intermediate_size=64",
        "batch_size=4",
        "threads=1",
        "trainer.max_steps=4",
        "trainer.val_check_interval=2",
        "benchmark=[mteb]",
        f"benchmark.mteb.tasks=[{small.NAME}]",
    ]
    done = run("train", *settings, f"output_dir={out}")
    assert done.returncode == 0, done.stderr
    of_mteb = [row for row in rows(out) if row["benchmark"] == f"mteb_{small.NAME}"]
    assert len(of_mteb) == 4 * 8
    assert len({row["step"] for row in of_mteb}) == 1  # on the finished model only
    assert f"mteb_{small.NAME}" in json.loads((out / "summary.json").read_text())
    done = run("train", f"resume={out}")
    said = " ".join(done.stdout.split())  # lines are broken where the folder's name has them break
    assert (done.returncode, "is complete" in said) == (0, True), done.stdout + done.stderr
    done = run("train", *settings, "--dry-run")
    assert (done.returncode, "dry run" in done.stdout) == (0, True), done.stderr
    done = run("train", *settings, f"checkpoint.monitor=val/mteb_{small.NAME}/monolingual/ndcg_at_10")
    assert done.returncode == 2
    assert "checkpoint.monitor" in done.stderr
