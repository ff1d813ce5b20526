"""Token ids of texts: in any chunks, whole again after a kill."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_ir.data.tokens import TokenStore


def by_character(texts: Sequence[str]) -> list[list[int]]:
    return [[ord(character) for character in text] for text in texts]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(st.text(max_size=8), max_size=5), max_size=6).filter(lambda c: any(map("".join, c))))
def test_ids_are_those_of_each_text(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, chunks: list[list[str]]
) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path_factory.mktemp("cache")))
    store = TokenStore.build(chunks, by_character, {"texts": "some"})
    texts = [text for chunk in chunks for text in chunk]
    assert [list(map(int, store[row])) for row in range(len(store))] == by_character(texts)
    assert store.lengths().tolist() == [len(text) for text in texts]
    rows = np.arange(len(texts))[::-1]
    ids, mask = store.padded(rows, pad=-1)
    assert [line[kept.astype(bool)].tolist() for line, kept in zip(ids, mask, strict=True)] == by_character(texts)[::-1]


def test_a_killed_tokenising_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [[f"text {10 * i + j}" for j in range(10)] for i in range(8)]
    program = (
        "import os, signal\n"
        "from hybrid_ir.data.tokens import TokenStore\n"
        "chunks = [[f'text {10 * i + j}' for j in range(10)] for i in range(8)]\n"
        "def tokenize(texts):\n"
        "    if texts[0] == 'text 50': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return [list(map(ord, text)) for text in texts]\n"
        "TokenStore.build(chunks, tokenize, {'texts': 'some'})\n"
    )
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path))
    assert subprocess.run([sys.executable, "-c", program]).returncode == -signal.SIGKILL
    [partial] = (tmp_path / "tokens").glob("*.partial")
    with (partial / "ids.int32").open("ab") as file:  # ids whose lengths were not written any more
        file.write(os.urandom(12))
    asked: list[str] = []

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        asked.extend(texts)
        return by_character(texts)

    def differently() -> Iterator[list[str]]:  # chunks need not be those of before
        texts = [text for chunk in chunks for text in chunk]
        for low in range(0, len(texts), 7):
            yield texts[low : low + 7]

    store = TokenStore.build(differently(), tokenize, {"texts": "some"}, total=80)
    assert asked == [f"text {n}" for n in range(50, 80)]
    assert [list(map(int, store[row])) for row in range(80)] == by_character([f"text {n}" for n in range(80)])
    assert not partial.exists()


@pytest.mark.parametrize("failing", ["save", "remove"])
def test_ids_whose_completion_failed_are_made_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """The disk gets full when all ids are written: before their offsets, or after they were moved."""
    chunks = [[f"text {10 * i + j}" for j in range(10)] for i in range(3)]

    def build() -> dict[str, bytes]:
        store = TokenStore.build(chunks, by_character, {"texts": "some"})
        assert [list(map(int, store[row])) for row in range(30)] == by_character([t for c in chunks for t in c])
        [folder] = (tmp_path / os.environ["HYBRID_IR_CACHE"] / "tokens").glob("*[!.lock]")
        return {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix != ".json"}

    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "undisturbed"))
    expected = build()
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "full"))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        if failing == "save":
            patch.setattr("numpy.save", full)
        else:
            patch.setattr("shutil.rmtree", full)
        with pytest.raises(OSError, match="No space left"):
            TokenStore.build(chunks, by_character, {"texts": "some"})
    assert build() == expected
