"""The exported folder: the same embeddings in sentence-transformers and here, loadable by transformers."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hybrid_ir.config import PretrainedModelConfig, SavedModelConfig, SmallModelConfig
from hybrid_ir.errors import UserError
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model

QUERIES = ["What is the currency of Kenya?", "日本の通貨は何ですか。", "भारत की राजधानी क्या है?"]
PASSAGES = ["Kenya uses the Kenyan shilling.", "日本の通貨は円です。", "", "La moneda de México es el peso. " * 40]


def small_encoder(**settings: Any) -> BiEncoder:
    torch.manual_seed(0)
    sizes = {"vocab_size": 500, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 64}
    sizes |= {
        "query_prefix": "query: ",
        "passage_prefix": "passage: ",
        "max_query_length": 48,
        "max_passage_length": 64,
    }
    return BiEncoder.from_config(SmallModelConfig(**{**sizes, **settings}), [*QUERIES, *PASSAGES] * 3)


def assert_peer_agrees(encoder: BiEncoder, folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), device="cpu")
    ours, theirs = encoder.encode(QUERIES, "query"), peer.encode_query(QUERIES, convert_to_tensor=True)
    assert max(len(ids) for ids in encoder.tokenize(QUERIES, "query")) < encoder.max_query_length
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    # One passage is longer than the maximum: both cut it at the same token.
    ours, theirs = encoder.encode(PASSAGES, "passage"), peer.encode_document(PASSAGES, convert_to_tensor=True)
    assert max(len(ids) for ids in encoder.tokenize(PASSAGES, "passage")) == encoder.max_passage_length
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
    named = peer.encode(PASSAGES, prompt_name="passage", convert_to_tensor=True)
    torch.testing.assert_close(named, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("with_dense", [False, True])
def test_small_round_trip(tmp_path: Path, pooling: str, with_dense: bool) -> None:
    from transformers import AutoModel, AutoTokenizer

    encoder = small_encoder(pooling=pooling)
    if with_dense:
        encoder.dense = nn.Linear(32, 24)
    folder = tmp_path / "run" / "model"
    encoder.encode(QUERIES, "query")  # leaves nothing behind in the tokenizer that would be saved
    save_model(encoder, folder, {"steps": 7})

    # Here: bit for bit, settings and all.
    for name in (folder, folder.parent):
        back = BiEncoder.from_config(SavedModelConfig(name_or_path=str(name)))
        assert back.extra_repr() == encoder.extra_repr()
        assert back.state_dict().keys() == encoder.state_dict().keys()
        assert all(torch.equal(tensor, encoder.state_dict()[key]) for key, tensor in back.state_dict().items())
        assert torch.equal(back.encode(QUERIES, "query"), encoder.encode(QUERIES, "query"))
        assert torch.equal(back.encode(PASSAGES, "passage"), encoder.encode(PASSAGES, "passage"))
    again = BiEncoder.from_config(
        SavedModelConfig(name_or_path=str(folder), query_prefix="", max_query_length=9, dense=False)
    )
    assert (again.query_prefix, again.max_query_length, again.dense) == ("", 9, None)

    # In the rest of the field.
    assert_peer_agrees(encoder, folder)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    batch = tokenizer(["query: " + query for query in QUERIES], padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**batch).last_hidden_state
        ours = encoder.eval().transformer(**batch).last_hidden_state
    torch.testing.assert_close(theirs, ours, atol=1e-6, rtol=0)
    metadata = json.loads((folder / "hybrid_ir.json").read_text(encoding="utf-8"))
    assert metadata["metadata"] == {"steps": 7}


def test_what_was_saved_twice_is_the_same(tmp_path: Path) -> None:
    encoder = small_encoder()
    save_model(encoder, tmp_path / "one")
    save_model(BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "one"))), tmp_path / "two")
    files = sorted(str(file.relative_to(tmp_path / "one")) for file in (tmp_path / "one").rglob("*") if file.is_file())
    assert files == sorted(
        str(file.relative_to(tmp_path / "two")) for file in (tmp_path / "two").rglob("*") if file.is_file()
    )
    for name in files:
        content = (tmp_path / "two" / name).read_bytes()
        assert (tmp_path / "one" / name).read_bytes() == content, name
        assert str(tmp_path).encode() not in content, name  # nothing of this machine is published with the model


def test_a_model_is_as_public_as_any_file(tmp_path: Path) -> None:
    save_model(small_encoder(), tmp_path / "model")
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {usual}


def test_double_precision_is_exported_in_fp32(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    encoder = small_encoder().double()
    save_model(encoder, tmp_path / "model")
    assert {tensor.dtype for tensor in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.float32}
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "float32"
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float64}
    assert_peer_agrees(encoder.float(), tmp_path / "model")


def test_export_replaces_a_folder_and_leaves_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_model(small_encoder(), folder)
    (folder / "stale").write_text("of the model before")
    save_model(small_encoder(query_prefix="Q: "), folder)
    assert sorted(os.listdir(tmp_path)) == ["model"]
    assert not (folder / "stale").exists()
    assert BiEncoder.from_config(SavedModelConfig(name_or_path=str(folder))).query_prefix == "Q: "
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~umask


def test_a_failed_export_leaves_the_old_model(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    encoder = small_encoder()
    save_model(encoder, folder)
    before = (folder / "hybrid_ir.json").read_bytes()
    with pytest.raises(TypeError):
        save_model(encoder, folder, {"not for JSON": object()})
    assert sorted(os.listdir(tmp_path)) == ["model"]
    assert (folder / "hybrid_ir.json").read_bytes() == before
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save_model(encoder, tmp_path / "file" / "model")


def test_e5_small_round_trip(e5_small: Path, tmp_path: Path) -> None:
    """A real checkpoint, cut to two layers: its fp16 weights come back as fp32, prompts included."""
    config = PretrainedModelConfig(
        name_or_path=str(e5_small), query_prefix="query: ", passage_prefix="passage: ", max_passage_length=64
    )
    encoder = BiEncoder.from_config(config)
    encoder.transformer.encoder.layer = encoder.transformer.encoder.layer[:2]
    encoder.transformer.config.num_hidden_layers = 2
    save_model(encoder, tmp_path / "model")
    assert_peer_agrees(encoder, tmp_path / "model")
    back = BiEncoder.from_config(SavedModelConfig(name_or_path=str(tmp_path / "model")))
    assert back.extra_repr() == encoder.extra_repr()
    assert torch.equal(back.encode(QUERIES, "query"), encoder.encode(QUERIES, "query"))
