"""Model folders that cannot be evaluated: one line that names the file, exit code 2, and no output folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import evaluate, exported_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return exported_model(tmp_path / "model")


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def holding(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def without_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["model_type"], config["architectures"]
    (folder / "config.json").write_text(json.dumps(config))


HARM = {
    "no config.json": (without("config.json"), ["no config.json"]),
    "config.json is cut off": (cut("config.json"), ["config.json", "cannot be read", "copy it again"]),
    "config.json is empty": (holding("config.json", b""), ["config.json", "cannot be read", "copy it again"]),
    "config.json is no object": (holding("config.json", b"[1]"), ["config.json", "copy it again"]),
    "config.json is no text": (holding("config.json", b"\xff\xfe\x00"), ["config.json", "copy it again"]),
    "config.json names no architecture": (without_kind, ["config.json", "copy it again"]),
    "no tokenizer": (without("tokenizer.json"), ["no tokenizer", "tokenizer.json", "copy the files"]),
    "tokenizer.json is cut off": (cut("tokenizer.json"), ["tokenizer", "copy it again"]),
    "tokenizer_config.json is cut off": (cut("tokenizer_config.json"), ["tokenizer", "copy it again"]),
    "no weights": (without("model.safetensors"), ["weights", "model.safetensors"]),
    "weights are cut off": (cut("model.safetensors"), ["weights", "model.safetensors"]),
    "weights are empty": (holding("model.safetensors", b""), ["weights", "model.safetensors"]),
    "weights are a pointer of git-lfs": (
        holding("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ["weights", "model.safetensors"],
    ),
    "modules.json is cut off": (cut("modules.json"), ["modules.json", "copy it again"]),
    "no pooling settings": (without("1_Pooling/config.json"), ["1_Pooling/config.json", "copy it again"]),
    "1_Pooling/config.json is no object": (
        holding("1_Pooling/config.json", b"[]"),
        ["1_Pooling/config.json", "copy it again"],
    ),
    "prompts are no object": (
        holding("config_sentence_transformers.json", b'"query: "'),
        ["config_sentence_transformers.json", "copy it again"],
    ),
    "hybrid_ir.json is cut off": (cut("hybrid_ir.json"), ["hybrid_ir.json", "copy it again"]),
    "hybrid_ir.json is no object": (holding("hybrid_ir.json", b"[]"), ["hybrid_ir.json", "copy it again"]),
}


@pytest.mark.parametrize("case", HARM)
def test_one_line_exit_code_2_no_folder(
    case: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    harm, said = HARM[case]
    harm(folder)
    out = tmp_path / "out"
    assert evaluate(folder, out) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("error: model.name_or_path=") or str(folder) in captured.err
    for part in said:
        assert part in captured.err
    assert not out.exists()


def test_the_folder_itself_can_be_evaluated(folder: Path, tmp_path: Path) -> None:
    """What the cases above differ from by one file."""
    assert evaluate(folder, tmp_path / "out") == 0
    assert (tmp_path / "out" / "results.csv").exists()


def test_a_folder_that_the_user_made_stays_empty(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "tokenizer.json").unlink()
    (tmp_path / "out").mkdir()
    assert evaluate(folder, tmp_path / "out") == 2
    assert list((tmp_path / "out").iterdir()) == []
    capsys.readouterr()
