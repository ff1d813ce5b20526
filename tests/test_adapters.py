"""Training a part of an encoder: LoRA against its formula, frozen and left-out layers, and real runs of both."""

from __future__ import annotations

import csv
import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hybrid_ir.cli import run_command
from hybrid_ir.config import EvaluationConfig, ParallelJsonlConfig, PretrainedModelConfig, SavedModelConfig
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.sources import make_source
from hybrid_ir.data.validation import held_out, validation_benchmark
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.modeling.adapters import describe_training, merged_state
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model
from hybrid_ir.modeling.module import decay_groups
from hybrid_ir.modeling.tokenizer import train_tokenizer
from hybrid_ir.training import checkpoint as ckpt

TEXTS = ["What is the currency of Kenya?", "Kenya uses the Kenyan shilling.", "日本の通貨は何ですか。", "France", ""]
LAYERS = 4
SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 48}
KINDS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "xlm-roberta": {**SIZES, "pad_token_id": 1},
    "distilbert": {"dim": 32, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 48},
    "modernbert": {**SIZES, "cls_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "sep_token_id": 0},
    "deberta-v2": {**SIZES, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "electra": {**SIZES, "embedding_size": 16},
    "albert": {**SIZES, "embedding_size": 16},
    "xlm": {"emb_dim": 32, "n_layers": LAYERS, "n_heads": 2},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each kind, as transformers saves it."""
    from transformers import AutoConfig, AutoModel

    tokenizer = train_tokenizer(TEXTS * 4, 400)
    made = {}
    for kind, sizes in KINDS.items():
        folder = made[kind] = tmp_path_factory.mktemp(kind)
        size = {"n_words" if kind == "xlm" else "vocab_size": len(tokenizer)}
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{"pad_token_id": tokenizer.pad_token_id, **size, **sizes})
        AutoModel.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return made


def load(folder: Path, **settings: Any) -> BiEncoder:
    torch.manual_seed(1)
    return BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(folder), **settings))


def draw_adapters(encoder: BiEncoder) -> None:
    """Adapters as training might leave them: B begins at zero, and then adapts nothing."""
    for name, parameter in encoder.named_parameters():
        if ".lora_B." in name:
            nn.init.normal_(parameter, std=0.1)


def backward(encoder: BiEncoder) -> None:
    """A gradient that depends on every component of the embeddings."""
    output = encoder(*encoder.pad(encoder.tokenize(TEXTS, "query")))
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()


# ------------------------------------------------------------------------------------------------------------- LoRA


@pytest.mark.parametrize(
    ("settings", "adapted", "count", "scale"),
    [
        ({"rank": 3}, "query|key|value|dense", 6, 2.0),
        ({"rank": 4, "alpha": 6}, "query|key|value|dense", 6, 1.5),
        (
            {"rank": 2, "alpha": 1, "target_modules": ["query", "attention.output.dense"]},
            "query|attention.output.dense",
            2,
            0.5,
        ),
    ],
)
def test_lora_is_its_formula_and_so_are_its_gradients(
    folders: dict[str, Path], settings: dict[str, Any], adapted: str, count: int, scale: float
) -> None:
    """Embeddings of W + B A alpha / r by hand; with G the gradient of that sum, A's is B'G and B's is GA', scaled."""
    encoder = load(folders["xlm-roberta"], lora=settings, dropout=0.0).double()
    draw_adapters(encoder)
    plain = load(folders["xlm-roberta"], dropout=0.0).double()
    pairs = {}
    with torch.no_grad():
        for name, layer in plain.named_modules():
            if isinstance(layer, nn.Linear) and re.search(rf"\.({adapted})$", name):
                own = encoder.get_submodule(name)
                a, b = (getattr(own, part)["default"].weight for part in ("lora_A", "lora_B"))
                assert a.shape == (settings["rank"], layer.in_features)
                layer.weight += scale * b @ a
                pairs[name] = (layer, a, b)
    assert len(pairs) == count * LAYERS
    assert len([name for name, _ in encoder.named_parameters() if "lora_" in name]) == 2 * len(pairs)
    backward(encoder)
    backward(plain)
    torch.testing.assert_close(encoder.encode(TEXTS, "query"), plain.encode(TEXTS, "query"), atol=1e-7, rtol=0)
    for name, (layer, a, b) in pairs.items():
        gradient = layer.weight.grad
        assert gradient is not None
        torch.testing.assert_close(a.grad, scale * b.T @ gradient, atol=1e-12, rtol=1e-9, msg=name)
        torch.testing.assert_close(b.grad, scale * gradient @ a.T, atol=1e-12, rtol=1e-9, msg=name)
    merged = merged_state(encoder)
    assert merged.keys() == plain.state_dict().keys()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(merged[name], weight, atol=1e-12, rtol=0, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_any_encoder_begins_as_it_is_and_is_exported_merged(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from transformers import AutoModel

    plain = load(folders[kind])
    encoder = load(folders[kind], lora={"rank": 4, "dropout": 0.1})
    before = plain.encode(TEXTS, "query")
    torch.testing.assert_close(encoder.encode(TEXTS, "query"), before, atol=1e-6, rtol=0)
    draw_adapters(encoder)
    backward(encoder)
    for name, parameter in encoder.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.requires_grad == ("lora_" in name)
        assert (parameter.grad is None) == ("lora_" not in name), name
    adapted, keys = encoder.encode(TEXTS, "query"), list(encoder.state_dict())
    assert (adapted - before).abs().max() > 1e-2
    save_model(encoder, tmp_path / "model")
    assert list(encoder.state_dict()) == keys
    assert torch.equal(encoder.encode(TEXTS, "query"), adapted)
    saved = BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "model")))
    assert saved.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(saved.encode(TEXTS, "query"), adapted, atol=1e-5, rtol=0)
    assert not list((tmp_path / "model").glob("adapter*"))
    report = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)[1]
    assert not report["unexpected_keys"]
    assert all("pooler" in key for key in report["missing_keys"])


def test_berts_pooler_as_dense_layer_is_adapted_too(folders: dict[str, Path], tmp_path: Path) -> None:
    encoder = load(folders["bert"], dense=True, pooling="cls", lora={"rank": 4})
    draw_adapters(encoder)
    assert "dense.lora_A.default.weight" in encoder.state_dict()
    save_model(encoder, tmp_path / "model")
    saved = BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "model")))
    assert type(saved.dense) is nn.Linear
    torch.testing.assert_close(saved.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"), atol=1e-5, rtol=0)


def test_an_encoder_without_adapters_is_as_before(folders: dict[str, Path]) -> None:
    """Stored embeddings go by the fingerprint: of a plain encoder it does not change, of an adapted one it does."""
    plain = load(folders["bert"])
    assert merged_state(plain).keys() == plain.state_dict().keys()
    assert all(torch.equal(merged_state(plain)[key], value) for key, value in plain.state_dict().items())
    assert load(folders["bert"], freeze_layers=2).fingerprint() == plain.fingerprint()
    encoder = load(folders["bert"], lora={"rank": 2})
    first = encoder.fingerprint()
    draw_adapters(encoder)
    assert len({first, encoder.fingerprint(), plain.fingerprint()}) == 3


# ------------------------------------------------------------------------------------------- frozen, left out


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "distilbert", "modernbert"])
def test_the_first_layers_of_a_model(kind: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """What the whole model has computed after two layers, and a folder that says so."""
    from transformers import AutoModel

    encoder = load(folders[kind], keep_layers=2)
    rows = torch.tensor([encoder.tokenize(["France"], "query")[0]])
    whole = AutoModel.from_pretrained(folders[kind]).eval()
    with torch.no_grad():
        expected = whole(rows, output_hidden_states=True).hidden_states[2]
        if kind == "modernbert":
            expected = whole.final_norm(expected)
    embedding = nn.functional.normalize(expected.mean(dim=1), dim=-1)
    torch.testing.assert_close(encoder.encode(["France"], "query"), embedding, atol=1e-6, rtol=0)
    save_model(encoder, tmp_path / "model")
    saved = AutoModel.from_pretrained(tmp_path / "model").eval()
    assert saved.config.num_hidden_layers == 2
    with torch.no_grad():
        torch.testing.assert_close(saved(rows).last_hidden_state, expected, atol=1e-5, rtol=0)


FROZEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "embeddings": ({"freeze_embeddings": True}, ("embeddings.",)),
    "layers": ({"freeze_layers": 2}, ("embeddings.", "layer.0.", "layer.1.")),
    "adapters": ({"freeze_layers": 3, "lora": {"rank": 4}}, ("embeddings.", "layer.0.", "layer.1.", "layer.2.")),
}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("case", FROZEN)
def test_what_is_frozen_has_no_gradient_no_state_and_does_not_move(
    case: str, checkpointing: bool, folders: dict[str, Path]
) -> None:
    settings, parts = FROZEN[case]
    encoder = load(folders["bert"], gradient_checkpointing=checkpointing, **settings)
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    optimizer = torch.optim.AdamW(decay_groups(encoder, 0.01), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        backward(encoder)
        optimizer.step()
    frozen = {name for name in before if any(part in name for part in parts)}
    if "lora" in settings:
        assert not [name for name in frozen if "lora_" in name]
        frozen |= {name for name in before if "lora_" not in name}
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad is None) == (name in frozen), name
        assert (parameter not in optimizer.state) == (name in frozen), name
        # The key's bias shifts all of a row's attention alike: its gradient is rounding.
        if name in frozen or not name.endswith("key.bias"):
            assert torch.equal(parameter, before[name]) == (name in frozen), name


def test_checkpointing_gives_the_same_gradient_with_adapters_above_frozen_embeddings(folders: dict[str, Path]) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = load(folders["xlm-roberta"], dropout=0.0, gradient_checkpointing=checkpointing, lora={"rank": 4})
        draw_adapters(encoder)
        assert any(getattr(m, "gradient_checkpointing", False) for m in encoder.modules()) == checkpointing
        backward(encoder)
        gradients.append({name: p.grad for name, p in encoder.named_parameters() if p.requires_grad})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_what_is_trained_is_said(folders: dict[str, Path]) -> None:
    def said(**settings: Any) -> str:
        config = PretrainedModelConfig(name_or_path=str(folders["bert"]), **settings)
        return describe_training(BiEncoder.from_config(config), config)

    sizes = {name: p.numel() for name, p in load(folders["bert"]).named_parameters()}
    total = sum(sizes.values())
    layers = sum(size for name, size in sizes.items() if ".layer." in name)
    adapters = LAYERS * (4 * (32 + 32) + 2 * (32 + 48)) * 4
    assert said() == f"encoder: {total:,} parameters, all trained"
    assert said(freeze_embeddings=True) == f"encoder: {total:,} parameters, {layers:,} trained (embeddings frozen)"
    assert said(freeze_layers=1) == (
        f"encoder: {total:,} parameters, {layers * 3 // 4:,} trained (embeddings and the lowest 1 of 4 layers frozen)"
    )
    assert said(lora={"rank": 4}) == (
        f"encoder: {total + adapters:,} parameters, {adapters:,} trained (LoRA rank 4 on query, key, value, dense)"
    )


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("bert", {"keep_layers": 5}, ["model.keep_layers=5", "has 4 layers; use 4 or less"]),
        ("bert", {"freeze_layers": 5}, ["model.freeze_layers=5", "has 4 layers; use 3 or less"]),
        ("bert", {"freeze_layers": 4}, ["model.freeze_layers=4", "leaves nothing", "use 3 or less"]),
        ("bert", {"freeze_layers": 2, "keep_layers": 2}, ["model.freeze_layers=2", "use 1 or less"]),
        ("albert", {"freeze_layers": 1}, ["model.freeze_layers=1", "no list of layers", "set it to 0"]),
        (
            "bert",
            {"freeze_layers": 4, "lora": {"rank": 2}},
            ["model.lora.rank=2", "query, key, value, dense", "frozen"],
        ),
        ("bert", {"lora": {"rank": 33}}, ["model.lora.rank=33", "32 inputs", "use 32 or less"]),
        (
            "bert",
            {"lora": {"rank": 2, "target_modules": ["query", "q"]}},
            ["model.lora.target_modules=[query,q]", "no linear layer q", "query, key, value, dense"],
        ),
    ],
)
def test_what_the_model_cannot_do(
    kind: str, settings: dict[str, Any], said: list[str], folders: dict[str, Path]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folders[kind], **settings)
    assert "\n" not in str(caught.value)
    for part in said:
        assert part in str(caught.value)


def test_peft_is_named_where_it_is_missing(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    load(folders["bert"], freeze_layers=1)
    with pytest.raises(UserError, match=r"model\.lora\.rank=2: .*pip install 'hybrid-ir\[peft\]'"):
        load(folders["bert"], lora={"rank": 2})


# ------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def _signals_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["model.keep_layers=0"], "model.keep_layers=0: must be a whole number >= 1, or null"),
        (["model.freeze_layers=-1"], "model.freeze_layers=-1: must be a whole number >= 0"),
        (["model.freeze_layers=3", "model.keep_layers=2"], "model.freeze_layers=3: model.keep_layers=2 leaves fewer"),
        (["model.lora.rank=-1"], "model.lora.rank=-1: must be a whole number >= 0"),
        (["model.lora.rnak=8"], 'model.lora.rnak=8: no such key; did you mean "model.lora.rank"?'),
        (["model.lora=8"], "model.lora=8: is a section; set its keys, e.g. model.lora.rank=..."),
        (["model.lora.alpha=16"], "model.lora.alpha=16: has no effect with model.lora.rank=0"),
        (["model.lora.target_modules=[query,value]"], "model.lora.target_modules=[query,value]: has no effect"),
        (["model.lora.rank=8", "model.lora.dropout=1"], "model.lora.dropout=1: must be a number >= 0.0 and < 1.0"),
        (["model.lora.rank=8", "model.lora.target_modules=[]"], "model.lora.target_modules=[]: names no layer"),
        (["model.lora.rank=8"], "model.lora.rank=8: peft is not installed; run pip install 'hybrid-ir[peft]'"),
    ],
)
def test_a_mistake_is_one_line(
    settings: list[str],
    said: str,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    named = ["model=pretrained", f"model.name_or_path={folders['bert']}", f"output_dir={tmp_path / 'run'}"]
    assert run_command("train", [*named, *settings]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith(f"error: {said}"), captured
    assert len(captured.splitlines()) == 1
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------------------- real runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 items in three languages."""
    draw, file = random.Random(0), tmp_path_factory.mktemp("data") / "facts.jsonl"
    words = ["ant", "bee", "cat", "dog", "elk", "fox", "gnu", "hen", "ibis", "jay", "kite", "lark", "mole", "newt"]
    with file.open("w") as lines:
        for item in range(80):
            chosen = draw.sample(words, 4)
            for language in ("de", "en", "sw"):
                text = [f"{language}{word}" for word in chosen]
                row = {"id": f"i{item}", "language": language, "query": f"{text[0]} {text[1]}?"}
                lines.write(json.dumps({**row, "passage": f"{' '.join(text)} {item}."}) + "\n")
    return file


def arguments(folder: Path, data: Path, out: Path, *more: str) -> list[str]:
    return [
        "model=pretrained",
        f"model.name_or_path={folder}",
        "model.max_passage_length=32",
        "data=parallel_jsonl",
        f"data.path={data}",
        "data.validation.queries_per_language=5",
        "benchmark=[]",
        "batch_size=8",
        "threads=1",
        "optimizer.lr=1e-2",
        "trainer.max_steps=24",
        "trainer.val_check_interval=6",
        "checkpoint.every_n_steps=4",
        f"output_dir={out}",
        *more,
    ]


def train(*more: str) -> str:
    done = subprocess.run([sys.executable, "-m", "hybrid_ir.train", *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


LORA = [
    "model.keep_layers=3",
    "model.freeze_layers=1",
    "model.lora.rank=4",
    "model.lora.dropout=0.1",
    "model.gradient_checkpointing=true",
    "checkpoint.keep_optimizer=true",
]


def adapted_encoder(folder: Path, weights: dict[str, torch.Tensor]) -> BiEncoder:
    """The encoder of a run with ``LORA``, with the weights of one of its checkpoints."""
    encoder = load(folder, max_passage_length=32, keep_layers=3, freeze_layers=1, lora={"rank": 4, "dropout": 0.1})
    encoder.load_state_dict(weights)
    return encoder


def last_weights(run: Path) -> dict[str, torch.Tensor]:
    content = ckpt.load_plain(ckpt.checkpoints(run)[-1][1])["state_dict"]
    return {k.removeprefix("encoder."): v for k, v in content.items() if k.startswith("encoder.")}


@pytest.fixture(scope="module")
def run(folders: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with adapters that nothing interrupted; its last weights are exported."""
    out = tmp_path_factory.mktemp("lora") / "run"
    train(*arguments(folders["xlm-roberta"], data, out, *LORA, "checkpoint.export=last", "evaluation.at_start=true"))
    return out


def test_a_run_trains_the_adapters_alone(run: Path, folders: dict[str, Path]) -> None:
    before = load(folders["xlm-roberta"], keep_layers=3).state_dict()
    after = {name.replace(".base_layer", ""): value for name, value in last_weights(run).items()}
    for name, value in before.items():
        assert torch.equal(after.pop(name), value), name
    assert {name.rpartition("lora_")[0].split("layer.")[1].partition(".")[0] for name in after} == {"1", "2"}
    assert all(value.abs().max() > 0 for value in after.values())
    (state,) = ckpt.load_plain(ckpt.checkpoints(run)[-1][1])["optimizer_states"]
    assert len(state["state"]) == len(after) == 2 * 2 * 6


def test_the_exported_folder_needs_no_peft_and_is_the_adapted_encoder(
    run: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    script = f"""
import sys
sys.modules["peft"] = None
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
import torch
model = SentenceTransformer({str(run / "model")!r}, device="cpu")
plain = AutoModel.from_pretrained({str(run / "model")!r}, add_pooling_layer=False)
torch.save([model.encode_document({TEXTS!r}, convert_to_tensor=True), dict(plain.state_dict())], sys.argv[1])
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "out.pt")], check=True, timeout=300)
    embeddings, weights = torch.load(tmp_path / "out.pt")
    adapted = adapted_encoder(folders["xlm-roberta"], last_weights(run))
    torch.testing.assert_close(embeddings, adapted.encode(TEXTS, "passage"), atol=1e-5, rtol=0)
    assert weights.keys() == load(folders["xlm-roberta"], keep_layers=3).transformer.state_dict().keys()
    assert json.loads((run / "model" / "config.json").read_text())["num_hidden_layers"] == 3


def test_evaluations_during_training_are_of_the_adapted_encoder(
    run: Path, folders: dict[str, Path], data: Path
) -> None:
    """The run's numbers at its last step are those of the plain model that it exported."""
    config = ParallelJsonlConfig(path=str(data), validation={"queries_per_language": 5})
    corpus = ParallelCorpus.build(make_source(config))
    benchmark = validation_benchmark(corpus, held_out(corpus, config.validation), config.validation)
    assert benchmark is not None

    def shown(encoder: BiEncoder) -> dict[str, float]:
        results = evaluate(encoder, benchmark, EvaluationConfig(), 0)
        return {f"{r.setting} {r.query_language} {r.corpus_language} {r.metric}": r.value for r in results.rows}

    exported = shown(BiEncoder.from_config(SavedModelConfig(name_or_path=str(run / "model"))))
    untrained = shown(load(folders["xlm-roberta"], max_passage_length=32, keep_layers=3))
    at = {0: untrained, 24: exported}
    for step, values in at.items():
        with (run / "results.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["step"] == str(step)]
        logged = {f"{r['setting']} {r['query_language']} {r['corpus_language']} {r['metric']}": r for r in rows}
        assert logged.keys() == values.keys()
        for name, row in logged.items():
            assert float(row["value"]) == pytest.approx(values[name], abs=1e-9), (step, name)
    assert untrained != exported


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bits_and_exports_its_best(
    run: Path, folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    more = [*LORA, "checkpoint.export=best", "evaluation.at_start=true"]
    command = [sys.executable, "-m", "hybrid_ir.train", *arguments(folders["xlm-roberta"], data, out, *more)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not [step for step, _ in ckpt.checkpoints(out) if step >= 8]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert ckpt.checkpoints(out)[-1][0] < 24
    assert "resuming after step" in train(f"resume={out}")
    whole, resumed = last_weights(run), last_weights(out)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    (best,) = ckpt.best_files(out)
    content = ckpt.load_plain(best)
    assert content["step"] == json.loads((out / "summary.json").read_text())["exported_step"]
    exported = BiEncoder.from_config(SavedModelConfig(name_or_path=str(out / "model")))
    adapted = adapted_encoder(folders["xlm-roberta"], content["encoder"])
    torch.testing.assert_close(exported.encode(TEXTS, "passage"), adapted.encode(TEXTS, "passage"), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_two_processes_train_the_adapters_of_one(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Frozen layers below, gradient checkpointing, no complaint about parameters that got no gradient."""
    more = [
        "model.dropout=0",
        "model.freeze_layers=1",
        "model.lora.rank=4",
        "model.lora.target_modules=[query,value]",
        "model.gradient_checkpointing=true",
        "trainer.max_steps=6",
        "trainer.precision=64",
        "data.validation.queries_per_language=0",
        "trainer.val_check_interval=null",
    ]
    folder = folders["xlm-roberta"]
    train(*arguments(folder, data, tmp_path / "one", *more))
    said = train(*arguments(folder, data, tmp_path / "two", *more, "trainer=ddp", "trainer.devices=2"))
    assert "unused" not in said.lower()
    one, two = last_weights(tmp_path / "one"), last_weights(tmp_path / "two")
    before = load(folder).double().state_dict()
    assert one.keys() == two.keys()
    for name, value in one.items():
        if "lora_" in name:
            torch.testing.assert_close(two[name], value, atol=1e-12, rtol=1e-9, msg=name)
        else:
            assert torch.equal(value, before[name.replace(".base_layer", "")]), name
            assert torch.equal(two[name], value), name
    moved = [value.abs().max() > 1e-3 for name, value in one.items() if "lora_B" in name]
    assert len(moved) == 2 * (LAYERS - 1)
    assert all(moved)
    assert (
        load_file(tmp_path / "two" / "model" / "model.safetensors").keys()
        == load(folder).transformer.state_dict().keys()
    )
