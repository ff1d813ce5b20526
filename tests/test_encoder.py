"""The bi-encoder: tokens, pooling, encoding in bulk, and what it reads from model folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hybrid_ir.config import PretrainedModelConfig, SavedModelConfig, SmallModelConfig
from hybrid_ir.errors import ConfigError, UserError
from hybrid_ir.modeling.encoder import BiEncoder

TEXTS = [
    "What is the currency of Kenya?",
    "Kenya uses the Kenyan shilling.",
    "日本の通貨は何ですか。",
    "भारत की राजधानी क्या है?",
    "",
    "France",
    "La moneda de México es el peso mexicano, dividido en cien centavos desde hace mucho tiempo.",
]


def small_config(**settings: Any) -> SmallModelConfig:
    sizes = {"vocab_size": 500, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64}
    return SmallModelConfig(**{**sizes, **settings})


def small_encoder(**settings: Any) -> BiEncoder:
    torch.manual_seed(0)
    return BiEncoder.from_config(small_config(**settings), TEXTS * 4)


@pytest.fixture(scope="module")
def encoder() -> BiEncoder:
    return small_encoder(query_prefix="query: ", passage_prefix="passage: ", max_query_length=12, max_passage_length=20)


# ------------------------------------------------------------------------------------------------------ embeddings


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("with_dense", [False, True])
def test_forward_is_pooling_dense_and_normalisation(pooling: str, with_dense: bool) -> None:
    encoder = small_encoder(pooling=pooling).eval()
    if with_dense:
        encoder.dense = nn.Linear(32, 24)
    input_ids, mask = encoder.pad(encoder.tokenize(TEXTS, "passage"))
    output = encoder(input_ids, mask)
    assert output.shape == (len(TEXTS), encoder.dim)
    assert encoder.dim == (24 if with_dense else 32)
    for row, text in enumerate(TEXTS):
        # One text without padding, by numpy.
        states = encoder.transformer(input_ids=torch.tensor([encoder.tokenize([text], "passage")[0]]))
        hidden = states.last_hidden_state[0].detach().double().numpy()
        vector = hidden.mean(axis=0) if pooling == "mean" else hidden[0]
        if encoder.dense is not None:
            weight, bias = (tensor.detach().double().numpy() for tensor in (encoder.dense.weight, encoder.dense.bias))
            vector = torch.tensor(weight @ vector + bias).tanh().numpy()
        expected = torch.tensor(vector / (vector**2).sum() ** 0.5)
        torch.testing.assert_close(output[row].detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_normalised_in_fp32_under_autocast_and_fp64_stays() -> None:
    encoder = small_encoder().eval()
    batch = encoder.pad(encoder.tokenize(TEXTS, "query"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = encoder(*batch)
    assert output.dtype == torch.float32
    torch.testing.assert_close(output.norm(dim=1), torch.ones(len(TEXTS)), atol=1e-6, rtol=0)
    assert encoder.double()(*batch).dtype == torch.float64
    assert encoder.encode(TEXTS, "query").dtype == torch.float32


def test_encode_keeps_the_order_and_does_not_depend_on_the_batches(encoder: BiEncoder) -> None:
    texts = [text + " peso" * (row % 7) for row, text in enumerate(TEXTS * 5)]
    whole = encoder.encode(texts, "passage")
    assert whole.shape == (len(texts), 32)
    assert whole.device.type == "cpu"
    assert not whole.requires_grad
    assert torch.equal(whole, encoder.encode(texts, "passage"))
    for tokens_per_batch in (1, 30, 100):
        torch.testing.assert_close(encoder.encode(texts, "passage", tokens_per_batch), whole, atol=1e-6, rtol=0)
    reversed_order = encoder.encode(texts[::-1], "passage").flip(0)
    torch.testing.assert_close(reversed_order, whole, atol=1e-6, rtol=0)
    assert encoder.encode([], "passage").shape == (0, 32)


def test_encode_obeys_the_token_budget(encoder: BiEncoder) -> None:
    shapes: list[tuple[int, ...]] = []
    handle = encoder.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    try:
        encoder.encode(TEXTS * 6, "passage", tokens_per_batch=64)
    finally:
        handle.remove()
    assert sum(rows for rows, _ in shapes) == len(TEXTS) * 6
    assert all(rows * tokens <= 64 for rows, tokens in shapes)
    assert len(shapes) < len(TEXTS) * 6


def test_encode_is_without_dropout_and_puts_modes_back() -> None:
    encoder = small_encoder(dropout=0.5).train()
    encoder.transformer.embeddings.eval()  # a part that somebody froze
    before = [module.training for module in encoder.modules()]
    assert torch.equal(encoder.encode(TEXTS, "query"), encoder.encode(TEXTS, "query"))
    assert [module.training for module in encoder.modules()] == before
    with pytest.raises(IndexError):
        encoder.encode_token_ids([[10**6]])
    assert [module.training for module in encoder.modules()] == before


# ---------------------------------------------------------------------------------------------------------- tokens


def test_tokens_carry_prefix_and_are_cut(encoder: BiEncoder) -> None:
    tokenizer = encoder.tokenizer
    for kind, prefix, limit in (("query", "query: ", 12), ("passage", "passage: ", 20)):
        ids = encoder.tokenize(TEXTS, kind)  # type: ignore[arg-type]
        assert tokenizer.backend_tokenizer.truncation is None  # nothing of it stays to be saved
        expected = tokenizer([prefix + text for text in TEXTS], truncation=True, max_length=limit)["input_ids"]
        assert ids == expected
        assert max(map(len, ids)) == limit


@settings(max_examples=100)
@given(
    sentence_words=st.integers(0, 30),
    paragraph_words=st.integers(0, 60),
    max_length=st.integers(4, 40),
)
def test_pairs_are_cut_in_the_paragraph(
    encoder: BiEncoder, sentence_words: int, paragraph_words: int, max_length: int
) -> None:
    """Whatever the lengths: within the limit, the sentence first and whole where it fits."""
    sentence, paragraph = "Kenya " * sentence_words, "peso " * paragraph_words
    before = encoder.max_passage_length
    encoder.max_passage_length = max_length
    try:
        ids, alone = encoder.tokenize([(sentence, paragraph), "France"], "passage")
        assert encoder.tokenize(["France"], "passage") == [alone]
    finally:
        encoder.max_passage_length = before
    tokenizer = encoder.tokenizer
    assert 0 < len(ids) <= max_length
    first = tokenizer("passage: " + sentence, add_special_tokens=False)["input_ids"]
    body = ids[1:]
    kept = min(len(first), max_length - 4) or max_length - 2
    assert body[:kept] == first[:kept]
    if len(first) + 4 < max_length:
        # Lists: transformers takes an empty second text for none where it is given one pair.
        expected = tokenizer(["passage: " + sentence], [paragraph], truncation="only_second", max_length=max_length)
        assert ids == expected["input_ids"][0]


# ---------------------------------------------------------------------------------------------------- construction


def test_small_is_decided_by_torchs_seed() -> None:
    one, same = small_encoder().state_dict(), small_encoder().state_dict()
    torch.manual_seed(1)
    other = BiEncoder.from_config(small_config(), TEXTS * 4).state_dict()
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not all(torch.equal(one[key], other[key]) for key in one)
    assert not [key for key in one if "pooler" in key]
    with pytest.raises(ValueError, match="tokenizer_texts"):
        BiEncoder.from_config(small_config(), None)


def test_gradient_checkpointing_gives_the_same_gradient_and_compile_the_same_keys() -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = small_encoder(gradient_checkpointing=checkpointing).train()
        output = encoder(*encoder.pad(encoder.tokenize(TEXTS, "query")))
        (output * torch.arange(32)).sum().backward()
        assert any(getattr(m, "gradient_checkpointing", False) for m in encoder.modules()) == checkpointing
        gradients.append({name: parameter.grad for name, parameter in encoder.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)
    assert small_encoder(compile=True).state_dict().keys() == small_encoder().state_dict().keys()


def save_bert(folder: Path, **settings: Any) -> Any:
    """A two-layer BERT with pooler, and the tokenizer of the small encoder."""
    from transformers import BertConfig, BertModel

    tokenizer = small_encoder().tokenizer
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **{**sizes, **settings})
    bert = BertModel(config).eval()
    bert.save_pretrained(folder)
    return bert


def test_a_half_precision_folder_is_loaded_in_fp32_without_pooler(tmp_path: Path) -> None:
    bert = save_bert(tmp_path)
    bert.half().save_pretrained(tmp_path)
    encoder = BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(tmp_path), dropout=0.25))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}
    assert not [name for name, _ in encoder.named_parameters() if "pooler" in name]
    assert {module.p for module in encoder.modules() if isinstance(module, nn.Dropout)} == {0.25}
    assert encoder.training
    with torch.no_grad():
        hidden = bert.float()(torch.tensor([encoder.tokenize(["France"], "query")[0]])).last_hidden_state
    expected = nn.functional.normalize(hidden.mean(dim=1), dim=-1)
    torch.testing.assert_close(encoder.encode(["France"], "query"), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("published", [True, False])
def test_labse_layout_and_berts_pooler_as_dense(tmp_path: Path, published: bool) -> None:
    """LaBSE as published (0_Transformer, CLS, Dense with tanh), and a BERT's pooler: both are the pooler's output."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    bert = save_bert(tmp_path / "bert")
    if published:
        dense = Dense(32, 32, init_weight=bert.pooler.dense.weight.data, init_bias=bert.pooler.dense.bias.data)
        parts = [Transformer(str(tmp_path / "bert"), max_seq_length=17), Pooling(32, "cls"), dense, Normalize()]
        folder = tmp_path / "labse"
        SentenceTransformer(modules=parts, prompts={"query": "Q: ", "passage": "P: "}).save(str(folder))
        (folder / "0_Transformer").mkdir()
        for file in [file for file in folder.iterdir() if file.is_file()]:
            if file.name not in ("modules.json", "config_sentence_transformers.json", "README.md"):
                file.rename(folder / "0_Transformer" / file.name)
        modules = json.loads((folder / "modules.json").read_text())
        modules[0]["path"] = "0_Transformer"
        (folder / "modules.json").write_text(json.dumps(modules))
        encoder = BiEncoder.from_config(SavedModelConfig(name_or_path=str(folder)))
        assert encoder.pooling == "cls"
        assert (encoder.query_prefix, encoder.passage_prefix) == ("Q: ", "P: ")
        assert (encoder.max_query_length, encoder.max_passage_length) == (17, 17)
        without = BiEncoder.from_config(SavedModelConfig(name_or_path=str(folder), dense=False, query_prefix=""))
        assert without.dense is None
        assert (without.query_prefix, without.passage_prefix) == ("", "P: ")
        peer = SentenceTransformer(str(folder), device="cpu").encode_query(TEXTS, convert_to_tensor=True)
        torch.testing.assert_close(encoder.encode(TEXTS, "query"), peer, atol=1e-5, rtol=0)
    else:
        folder = tmp_path / "bert"
        config = PretrainedModelConfig(name_or_path=str(folder), pooling="cls", dense=True, query_prefix="Q: ")
        encoder = BiEncoder.from_config(config)
        assert BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(folder))).dense is None
    input_ids, mask = encoder.pad(encoder.tokenize(TEXTS, "query"))
    with torch.no_grad():
        expected = nn.functional.normalize(bert(input_ids, attention_mask=mask).pooler_output, dim=-1)
    torch.testing.assert_close(encoder.encode(TEXTS, "query"), expected, atol=1e-5, rtol=0)


def test_roberta_counts_positions_from_the_padding_token(tmp_path: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaModel

    tokenizer = small_encoder().tokenizer
    tokenizer.save_pretrained(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = XLMRobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=34, pad_token_id=1, **sizes)
    XLMRobertaModel(config).save_pretrained(tmp_path)
    encoder = BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path)))
    assert encoder.max_passage_length == 32
    assert encoder.encode(["peso " * 100], "passage").isfinite().all()
    with pytest.raises(ConfigError, match=r"model.max_passage_length=128: .* use 32 or less"):
        BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(tmp_path)))


def test_a_run_folder_means_its_model(tmp_path: Path) -> None:
    save_bert(tmp_path / "run" / "model")
    (tmp_path / "run" / "config.yaml").write_text("seed: 1\n")
    encoder = BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "run")))
    assert encoder.dim == 32
    shutil.rmtree(tmp_path / "run" / "model")
    with pytest.raises(UserError, match="not complete"):
        BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "run")))


def test_a_difference_between_configuration_and_folder_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_bert(tmp_path)
    said = {"pooling": "cls", "query_prefix": "Q: ", "passage_prefix": ""}
    (tmp_path / "hybrid_ir.json").write_text(json.dumps(said))
    encoder = BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(tmp_path)))
    assert (encoder.pooling, encoder.query_prefix) == ("mean", "")
    assert [record.args[0] for record in caplog.records if record.name == "hybrid_ir.modeling.model_folder"] == [
        "pooling",
        "query_prefix",
    ]


def test_e5_small(e5_small: Path) -> None:
    """The real encoder against transformers by hand."""
    from transformers import AutoModel, AutoTokenizer

    config = PretrainedModelConfig(name_or_path=str(e5_small), query_prefix="query: ", passage_prefix="passage: ")
    encoder = BiEncoder.from_config(config)
    assert encoder.dim == 384
    model = AutoModel.from_pretrained(e5_small, dtype=torch.float32, add_pooling_layer=False).eval()
    batch = AutoTokenizer.from_pretrained(e5_small)(
        ["query: " + text for text in TEXTS], padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    expected = nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    torch.testing.assert_close(encoder.encode(TEXTS, "query"), expected, atol=1e-5, rtol=0)
    query = encoder.encode(["What is the currency of Japan?"], "query")
    passages = encoder.encode(["日本の通貨は円です。", "日本の首都は東京です。"], "passage")
    assert (query @ passages.T).argmax() == 0


# ---------------------------------------------------------------------------------------------------------- faults


def refuse_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not a model")


def refuse_half(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {key: tensor for key, tensor in weights.items() if "layer.1.output" not in key}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def refuse_layers(folder: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.WordWeights"}]
    (folder / "modules.json").write_text(json.dumps(modules))


def refuse_path(folder: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": "../..", "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(modules))


def refuse_pooling(folder: Path) -> None:
    modules = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_lasttoken": true}')


def refuse_remote(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "somebodys-own", "auto_map": {"AutoModel": "modeling.Model"}}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer"),
        (lambda folder: (folder / "modules.json").write_text("{"), "modules.json"),
        (lambda folder: (folder / "modules.json").write_text("[1]"), "modules.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "weights"),
        (refuse_weights, "weights"),
        (refuse_half, "weights are missing"),
        (refuse_layers, "WordWeights"),
        (refuse_path, "leaves the model folder"),
        (refuse_pooling, "model.pooling"),
        (refuse_remote, "model.trust_remote_code=true"),
    ],
)
def test_a_bad_folder_is_one_line_that_says_what_to_do(tmp_path: Path, harm: Any, message: str) -> None:
    save_bert(tmp_path)
    harm(tmp_path)
    with pytest.raises(UserError) as caught:
        BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere/at/all", "./nowhere", "/nowhere", "no such"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(UserError, match="no such folder"):
        BiEncoder.from_config(SavedModelConfig(name_or_path=name))


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "model.safetensors")))


def test_the_hub_out_of_reach_names_the_model_and_the_way_round() -> None:
    """The tests run offline (HF_HUB_OFFLINE), and no cache holds this model."""
    config = SavedModelConfig(name_or_path="hybrid-ir-tests/no-such-model", revision="abc123")
    with pytest.raises(UserError) as caught:
        BiEncoder.from_config(config)
    message = str(caught.value)
    assert "hf download hybrid-ir-tests/no-such-model --revision abc123" in message
    assert "\n" not in message


def test_dense_without_weights(tmp_path: Path) -> None:
    from transformers import BertModel

    bert = save_bert(tmp_path)
    BertModel(bert.config, add_pooling_layer=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model\.dense=true"):
        BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(tmp_path), dense=True))
    other = {"in_features": 32, "out_features": 32, "bias": True, "activation_function": "torch.nn.ReLU"}
    modules = [{"idx": 0, "name": "0", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "2_Dense").mkdir()
    (tmp_path / "2_Dense" / "config.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match=r"ReLU.*model.dense=false"):
        BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path)))


# ------------------------------------------------------------------------------------------------- strangers' code


class Harm:
    """Pickled, it creates a file when it is read."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.evidence,))


def test_a_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    folder = tmp_path / "model"
    bert = save_bert(folder)
    (folder / "model.safetensors").unlink()
    torch.save({**bert.state_dict(), "more": Harm(evidence)}, folder / "pytorch_model.bin")
    for config in (
        SavedModelConfig(name_or_path=str(folder)),
        PretrainedModelConfig(name_or_path=str(folder), dense=True),
        SavedModelConfig(name_or_path=str(folder), trust_remote_code=True),
    ):
        with pytest.raises(UserError, match="safetensors"):
            BiEncoder.from_config(config)
        assert not evidence.exists()
    # The trap is armed: an ordinary reader does run it.
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert evidence.exists()
    # A pickle of tensors alone is read.
    torch.save(bert.state_dict(), folder / "pytorch_model.bin")
    assert BiEncoder.from_config(PretrainedModelConfig(name_or_path=str(folder), dense=True)).dense is not None


@pytest.mark.parametrize("known", [True, False])
def test_code_in_the_folder_is_not_run(tmp_path: Path, known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture that transformers knows loads with its class; another is refused, naming the key."""
    evidence, folder = tmp_path / "evidence", tmp_path / "model"
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    save_bert(folder)
    code = f"import pathlib\npathlib.Path({str(evidence)!r}).touch()\n"
    for name in ("configuration_own", "modeling_own", "tokenization_own"):
        (folder / f"{name}.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    if not known:
        config["model_type"] = "own"
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_own.OwnTokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if known:
        assert BiEncoder.from_config(SavedModelConfig(name_or_path=str(folder))).dim == 32
    else:
        with pytest.raises(UserError, match=r"model\.trust_remote_code=true"):
            BiEncoder.from_config(SavedModelConfig(name_or_path=str(folder)))
    assert not evidence.exists()
