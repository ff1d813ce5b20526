"""The model card: the hub's own parser reads it, its code runs, its numbers are the run's, and it tells on nobody."""

from __future__ import annotations

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from small_runs import LANGUAGES, small_run, write_corpus
from torch import nn

from hybrid_ir.config import ParallelJsonlConfig, PretrainedModelConfig, SmallModelConfig, TrainConfig
from hybrid_ir.data.sources import licenses
from hybrid_ir.errors import DataError
from hybrid_ir.evaluation.results import Results
from hybrid_ir.modeling.card import MODEL_ID, model_card, write_card
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model

USER = "wilhelmina"
"""Whose folder everything is in."""
QUERIES = ["What is the capital of Kenya?"]
DOCUMENTS = ["Nairobi is the capital of Kenya.", "Mji mkuu wa Tanzania ni Dodoma."]


def train(*settings: str, folder: Path | None = None) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_ir.train", *settings], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def settings(data: Path, out: Path) -> list[str]:
    return [
        *(setting for setting in small_run(data, out) if setting != "benchmark=[]"),
        "data.licenses.facts=cc-by-4.0",
        "sampler.mono_ratio=0.25",
        "model.query_prefix='query: '",
        "benchmark=[cldr]",
        f"benchmark.cldr.languages=[{','.join(LANGUAGES)}]",
        "benchmark.cldr.limit=5",
        "trainer.max_steps=6",
        "trainer.val_check_interval=3",
        "logger=csv",
        f"logger.entity={USER}",
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home") / USER
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def data(home: Path) -> Path:
    return write_corpus(home)


@pytest.fixture(scope="module")
def run(home: Path, data: Path) -> Path:
    out = home / "run"
    train(*settings(data, out))
    return out


def read(run: Path) -> tuple[TrainConfig, list[str], dict[str, Any], Results]:
    """What a run writes its card from."""
    config = TrainConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    overrides = yaml.safe_load((run / "overrides.yaml").read_text())
    summary = json.loads((run / "summary.json").read_text())
    final = Results.read(run).at_step(summary["exported_step"])
    return config, overrides, summary, final


def card_text(run: Path) -> str:
    return (run / "model" / "README.md").read_text(encoding="utf-8")


def tables(text: str, heading: str) -> list[list[list[str]]]:
    """The cells of the tables below a heading."""
    section = re.split(r"\n#+ ", text.partition(f"# {heading}\n")[2])[0]
    found = re.findall(r"(?:^\|.*\|\n)+", section, re.M)
    return [[[cell.strip() for cell in line[1:-2].split(" |")] for line in f"{each}".splitlines()] for each in found]


# ---------------------------------------------------------------------------------------------------- front matter


def test_the_hub_reads_the_front_matter(run: Path) -> None:
    card = ModelCard.load(run / "model" / "README.md")
    assert card.data.language == sorted(LANGUAGES)
    assert card.data.library_name == "sentence-transformers"
    assert card.data.pipeline_tag == "sentence-similarity"
    assert {"sentence-transformers", "feature-extraction", "multilingual"} <= set(card.data.tags)
    assert card.data.base_model is None
    assert card.data.license is None
    # to the hub's form and back, and to text and back
    results = card.data.eval_results
    assert model_index_to_eval_results(eval_results_to_model_index(card.data.model_name, results)) == (
        card.data.model_name,
        results,
    )
    assert ModelCard(str(card)).data.to_dict() == card.data.to_dict()
    summary = json.loads((run / "summary.json").read_text())
    assert {(r.dataset_type, r.dataset_config, r.metric_type): r.metric_value for r in results} == {
        ("cldr", setting, metric): value
        for setting, values in summary["cldr"].items()
        for metric, value in values.items()
        if metric in card.data.metrics
    }
    assert "map" in card.data.metrics
    assert "trust_remote_code" not in card.text


def test_codes_that_yaml_reads_as_something_else(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    exposure = (copy / "exposure.csv").read_text()
    (copy / "exposure.csv").write_text(exposure.replace("\nsw,", "\nno,"))
    text = model_card(copy, *read(copy))
    assert ModelCard(text).data.language == ["de", "en", "no", "zh"]
    assert "Norwegian (no)" in text


def test_a_base_model_is_named_only_by_its_name_on_the_hub(run: Path) -> None:
    config, _, summary, final = read(run)

    def card_of(name: str) -> tuple[ModelCard, str]:
        model = PretrainedModelConfig(name_or_path=name, revision="abc123")
        typed = ["model=pretrained", f"model.name_or_path={name}"]
        text = model_card(run, config.model_copy(update={"model": model}), typed, summary, final)
        return ModelCard(text), text

    card, text = card_of("intfloat/multilingual-e5-small")
    assert card.data.base_model == "intfloat/multilingual-e5-small"
    assert "abc123" in text
    assert "model.name_or_path=intfloat/multilingual-e5-small" in text
    card, text = card_of(f"/home/{USER}/models/e5")
    assert card.data.base_model is None
    assert USER not in text
    assert "model.name_or_path=MODEL_DIR" in text


def test_nothing_of_the_machine_is_in_it(run: Path, home: Path) -> None:
    text = card_text(run)
    assert "facts.jsonl" in text
    for word in (USER, str(home), str(Path.home()), home.parent.name, "/tmp"):
        assert word not in text


# ------------------------------------------------------------------------------------------------------- the code


def codes(text: str, folder: Path) -> list[str]:
    found = re.findall(r"```python\n(.*?)```", text, re.S)
    assert all(MODEL_ID in code for code in found)
    return [code.replace(MODEL_ID, str(folder)) for code in found]


def executed(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("with_dense", [False, True])
def test_its_code_gives_the_models_embeddings(run: Path, tmp_path: Path, pooling: str, with_dense: bool) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    torch.manual_seed(0)
    config = SmallModelConfig(
        vocab_size=400,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        pooling=pooling,  # type: ignore[arg-type]
        query_prefix='what "it\\s": ',
        passage_prefix="ans`er: ",
        max_query_length=40,
        max_passage_length=48,
    )
    encoder = BiEncoder.from_config(config, [*QUERIES, *DOCUMENTS] * 3).eval()
    if with_dense:
        encoder.dense = nn.Linear(32, 24)
    save_model(encoder, copy / "model")
    write_card(copy, *read(copy))
    text = card_text(copy)
    assert f"{encoder.dim}-dimensional" in text
    for code in codes(text, copy / "model")[:2]:
        found = executed(code)
        for name, texts, kind in (
            ("query_embeddings", QUERIES, "query"),
            ("document_embeddings", DOCUMENTS, "passage"),
        ):
            ours = encoder.encode(texts, kind)  # type: ignore[arg-type]
            torch.testing.assert_close(torch.as_tensor(found[name]), ours, atol=1e-5, rtol=0)
        assert found["similarities"].shape == (len(QUERIES), len(DOCUMENTS))


def test_its_code_evaluates_with_mteb(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mteb_small_task as small

    small.register()
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path))
    first, _, code = codes(card_text(run), run / "model")
    found = executed(code.replace("XQuADRetrieval", small.NAME))
    assert found["model"].model_prompts["query"] == "query: "
    with_prompts = executed(first)["query_embeddings"]
    assert (found["model"].model.encode_query(QUERIES) == with_prompts).all()
    (result,) = found["results"].task_results
    assert {score["hf_subset"] for score in result.scores["test"]} == {"en-en", "en-sw", "sw-en", "sw-sw"}


@pytest.mark.slow
def test_its_command_gives_the_same_model(run: Path, data: Path, tmp_path: Path) -> None:
    (typed,) = re.findall(r"```bash\n(.*?)\n```", card_text(run), re.S)
    words = shlex.split(typed.replace("\\\n", ""))
    assert words[:3] == ["python", "-m", "hybrid_ir.train"]
    train(*words[3:], f"output_dir={tmp_path / 'again'}", folder=data.parent)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "again")]
    assert weights[0] == weights[1]
    assert card_text(tmp_path / "again") == card_text(run)


# -------------------------------------------------------------------------------------------------------- numbers


def test_it_follows_from_the_folder(run: Path) -> None:
    assert model_card(run, *read(run)) == card_text(run)


def test_results_by_language_are_the_runs(run: Path) -> None:
    text = card_text(run)
    summary = json.loads((run / "summary.json").read_text())
    values: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    with (run / "results.csv").open() as file:
        for row in csv.DictReader(file):
            if row["metric"] == "map" and int(row["step"]) == summary["exported_step"]:
                values[row["benchmark"], row["setting"], row["query_language"]].append(float(row["value"]))
    for benchmark, heading in (
        ("cldr", "CLDR facts on held-out entities"),
        ("validation", "Held-out items of the training data"),
    ):
        by_language, means = tables(text, heading)
        assert by_language[0] == ["mAP", "Monolingual", "Cross-lingual", "Multilingual"]
        evaluated = sorted({language for name, _, language in values if name == benchmark})
        assert [row[0] for row in by_language[2:]] == ["**mean**", *evaluated]
        for row in by_language[2:]:
            for setting, cell in zip(("monolingual", "cross_lingual", "multilingual"), row[1:], strict=True):
                value, low, high = map(float, re.findall(r"[\d.]+", cell))
                assert low <= value <= high
                if row[0] == "**mean**":
                    expected = summary[benchmark][setting]["map"]
                else:
                    of_language = values[benchmark, setting, row[0]]
                    expected = sum(of_language) / len(of_language)
                assert value == pytest.approx(expected, abs=6e-4)
        column = means[0].index("recall@10")
        assert float(means[2][column]) == pytest.approx(summary[benchmark]["monolingual"]["recall@10"], abs=6e-4)


def test_data_and_exposure_are_the_runs(run: Path, data: Path) -> None:
    text = card_text(run)
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    (sources, counts) = tables(text, "Training Dataset")
    summary = json.loads((run / "summary.json").read_text())
    assert sources[2:] == [["`facts`", "cc-by-4.0", str(summary["source_rows"]["facts"])]]
    assert counts[2:] == [
        [
            code,
            *(
                str(len({line[name] for line in lines if line["language"] == code}))
                for name in ("id", "query", "passage")
            ),
        ]
        for code in sorted(LANGUAGES)
    ]
    with (run / "exposure.csv").open() as file:
        exposed = list(csv.DictReader(file))
    (shown,) = tables(text, "Exposure by Language")
    assert [row[:7] for row in shown[2:]] == [
        [row["language"], *(f"{int(value):,}" for value in list(row.values())[1:7])] for row in exposed
    ]
    assert f"{summary['drawn_mono_share']:.1%}" in text
    assert "- `sampler.mono_ratio`: 0.25" in text
    assert "- `model.dropout`: 0.1" in text  # not the default


@pytest.mark.slow
def test_a_run_without_results_has_a_card(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(*small_run(data, out), "trainer.max_steps=2", "data.validation.queries_per_language=0")
    card = ModelCard.load(out / "model" / "README.md")
    assert card.data.eval_results is None
    assert card.data.metrics is None
    assert card.data.language == sorted(LANGUAGES)
    assert "## Evaluation\n" not in card.text
    assert "evaluated it on nothing" in card.text
    assert "| `facts` | not stated |" in card.text


@pytest.mark.slow
def test_a_run_that_is_finished_later_has_the_same_card(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "summary.json").unlink()
    (copy / "model" / "README.md").unlink()
    train(f"resume={copy}")
    assert card_text(copy) == card_text(run)


# ------------------------------------------------------------------------------------------------- what is unusual


def test_names_of_files_are_shown_letter_by_letter(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    environment = json.loads((copy / "environment.json").read_text())
    names = ["b=1.jsonl.gz", "a|`b`.jsonl", "it's, here.jsonl"]
    environment["data"]["made_from"]["files"] = [[name, "0" * 64] for name in names]
    (copy / "environment.json").write_text(json.dumps(environment))
    text = model_card(copy, *read(copy))
    assert "`b=1.jsonl.gz`" in text
    assert "`` a\\|`b`.jsonl ``" in text
    from hybrid_ir.composition import parse_settings

    (typed,) = re.findall(r"```bash\n(.*?)\n```", text, re.S)
    (path,) = [word for word in shlex.split(typed.replace("\\\n", "")) if word.startswith("data.path=")]
    assert parse_settings([path])[0].value() == names


def test_data_sets_of_the_hub_are_named(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "run")
    environment = json.loads((copy / "environment.json").read_text())
    environment["data"]["made_from"]["published"] = {"repositories": {"unicamp-dl/mmarco": "abc123 (verified)"}}
    environment["data"]["report"]["excluded_overlap"] = {"benchmarks": ["xquad_r"], "words": 8, "items": 1234}
    (copy / "environment.json").write_text(json.dumps(environment))
    card = ModelCard(model_card(copy, *read(copy)))
    assert card.data.datasets == ["unicamp-dl/mmarco"]
    assert "[unicamp-dl/mmarco](https://huggingface.co/datasets/unicamp-dl/mmarco) at abc123 (verified)" in card.text
    assert "1,234 items that share 8 words in a row with XQuAD-R" in card.text


def test_a_licence_is_stated_for_a_source_that_is_there() -> None:
    config = ParallelJsonlConfig(path="x.jsonl", licenses={"forum": "cc-by-sa-4.0"})
    assert licenses(config, ["forum", "wiki"]) == {"forum": "cc-by-sa-4.0", "wiki": None}
    with pytest.raises(DataError, match=r"^data\.licenses\.forum: no source of that name; the data has wiki$"):
        licenses(config, ["wiki"])


def test_cldr_has_its_licence() -> None:
    from hybrid_ir.config import CldrDataConfig

    assert licenses(CldrDataConfig(), ["cldr"]) == {"cldr": "Unicode-3.0"}
