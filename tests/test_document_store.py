"""Documents on disk: the same as a list, in the order of their ids, made once."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hybrid_ir import cache
from hybrid_ir.errors import DataError, UserError
from hybrid_ir.evaluation.benchmarks import document_store
from hybrid_ir.evaluation.benchmarks.document_store import (
    ROW_GROUP,
    Concatenated,
    ConcatenatedArrays,
    Document,
    DocumentStore,
    Selected,
    check_space,
)


def parse(line: bytes) -> Document:
    return Document(*json.loads(line))


def write(path: Path, documents: Sequence[tuple[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    return path


def build(*files: Path) -> DocumentStore:
    return DocumentStore.build(files, parse, "pairs")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))


# --------------------------------------------------------------------------------------------------------- equality

characters = st.characters(exclude_categories=("Cs",))
texts = st.text(characters | st.sampled_from("\n\r\t\u2028\u0085\ufeff\x00𐍈😀"), max_size=20)
identifiers = st.text(characters, min_size=1, max_size=6).filter(lambda value: value.split() == [value])


@settings(max_examples=60)
@given(st.lists(st.tuples(identifiers, texts), min_size=1, max_size=30, unique_by=lambda pair: pair[0]), st.data())
@example([("\uffff", ""), ("😀", "a\u2028b"), ("é", "\n")], None)  # UTF-16 would sort 😀 before U+FFFF
def test_a_store_is_the_list_that_it_was_made_of(documents: list[tuple[str, str]], data: st.DataObject | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cut = data.draw(st.integers(1, len(documents))) if data is not None else 1
        parts = [part for part in (documents[:cut], documents[cut:]) if part]
        store = build(*[write(Path(folder, f"{i}.gz"), part) for i, part in enumerate(parts)])
    ids, expected = [i for i, _ in documents], [text for _, text in documents]
    assert len(store) == len(store.ids) == len(store.texts) == len(documents)
    assert list(store.ids) == ids
    assert list(store.texts) == expected
    ascending = sorted(range(len(ids)), key=lambda i: ids[i].encode())
    assert store.order[ascending].tolist() == list(range(len(ids)))
    assert [ids[i] for i in ascending] == sorted(ids)
    wanted = [ids[-1], "not there", ids[0]] if len(ids) > 1 else ["not there", ids[0]]
    assert store.find(wanted).tolist() == [ids.index(i) if i in ids else -1 for i in wanted]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[tuple[str, str]], DocumentStore]]:
    """A store of several row groups, whose files end inside them."""
    folder = tmp_path_factory.mktemp("large")
    rng = np.random.default_rng(0)
    documents = [(f"{i % 1009}#{i}", f"text {i} " + "x" * int(rng.integers(0, 40))) for i in range(3 * ROW_GROUP + 100)]
    bounds = [0, 10, 5000, len(documents)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_IR_CACHE", str(folder / "cache"))
        files = [write(folder / f"{i}.gz", documents[bounds[i] : bounds[i + 1]]) for i in range(3)]
        yield documents, build(*files)


@settings(max_examples=40)
@given(*[st.integers(-3 * ROW_GROUP - 200, 3 * ROW_GROUP + 200)] * 3)
def test_any_index_and_range(
    large: tuple[list[tuple[str, str]], DocumentStore], start: int, stop: int, place: int
) -> None:
    documents, store = large
    for values, stored in (([i for i, _ in documents], store.ids), ([text for _, text in documents], store.texts)):
        assert stored[start:stop] == values[start:stop]
        assert stored[start : start + 50 : 7] == values[start : start + 50 : 7]
        if -len(values) <= place < len(values):
            assert stored[place] == stored[np.int64(place)] == values[place]
        else:
            with pytest.raises(IndexError):
                stored[place]


def test_two_threads_read_the_same(large: tuple[list[tuple[str, str]], DocumentStore]) -> None:
    documents, store = large
    read: dict[int, list[str]] = {0: [], 1: []}

    def reader(which: int) -> None:
        places = range(0, len(documents), 500)
        for start in places if which else reversed(places):
            read[which] += store.texts[start : start + 500]

    threads = [threading.Thread(target=reader, args=(which,)) for which in read]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read[1] == [text for _, text in documents]
    assert sorted(read[0]) == sorted(read[1])


@given(st.lists(st.lists(st.text(max_size=3), max_size=6), max_size=5), st.slices(20))
def test_concatenated_is_the_sum_of_its_parts(parts: list[list[str]], cut: slice) -> None:
    whole = [item for part in parts for item in part]
    joined = Concatenated(parts)
    assert len(joined) == len(whole)
    assert list(joined) == whole
    assert joined[cut] == whole[cut]
    arrays = ConcatenatedArrays([np.arange(len(part)) + 100 * i for i, part in enumerate(parts)] or [np.arange(0)])
    array = np.concatenate([np.asarray(part) for part in arrays.parts])
    assert len(arrays) == len(array)
    forward = slice(cut.start, cut.stop, abs(cut.step) if cut.step else None)
    assert arrays[forward].tolist() == array[forward].tolist()


@given(st.lists(st.text(max_size=3), max_size=8), st.data(), st.slices(12))
def test_selected_is_a_list_of_the_chosen_items(items: list[str], data: st.DataObject, cut: slice) -> None:
    places = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=12)) if items else []
    selected = Selected(items, np.array(places, dtype=np.int64))
    expected = [items[place] for place in places]
    assert list(selected) == expected
    assert selected[cut] == expected[cut]


def test_languages_of_documents(tmp_path: Path) -> None:
    assert build(write(tmp_path / "a.gz", [("1", "one")])).document_languages is None
    languages = ["sw", "de", "sw", "yo"] * ROW_GROUP
    file = tmp_path / "b.gz"
    file.write_bytes(gzip.compress("\n".join(json.dumps([str(i), "", c]) for i, c in enumerate(languages)).encode()))
    for store in (build(file), build(file)):  # made, and found
        assert store.languages == ("sw", "de", "yo")
        assert store.document_languages is not None
        assert [store.languages[i] for i in store.document_languages] == languages


# ------------------------------------------------------------------------------------------------------- the cache


def test_a_store_is_made_once_and_recognised_by_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a.gz", [("1", "one"), ("2", "two")])
    store = build(first)
    folder = next(path for path in (tmp_path / "cache" / "documents").iterdir() if path.is_dir())
    made = (folder / cache.MANIFEST).stat().st_mtime_ns
    moved = Path(shutil.move(first, tmp_path / "elsewhere.gz"))
    os.utime(moved, (0, 0))
    again = build(moved)
    assert (folder / cache.MANIFEST).stat().st_mtime_ns == made
    assert list(again.texts) == ["one", "two"]
    assert again.fingerprint == store.fingerprint
    assert cache.read_manifest(folder)["documents"] == 2
    write(moved, [("1", "one"), ("2", "other")])
    changed = build(moved)
    assert list(changed.texts) == ["one", "other"]
    assert changed.fingerprint != store.fingerprint
    assert DocumentStore.build([moved], lambda line: parse(line)._replace(text="x"), "other").texts[0] == "x"


def test_too_little_space_is_found_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.gz", [("1", "one")])
    monkeypatch.setattr(document_store, "DISK_RATIO", 1e18)
    for make in (lambda: build(file), lambda: check_space([[file]], "pairs")):
        with pytest.raises(UserError, match=r"cache: has \d+\.\d GB free, the corpus needs about .*HYBRID_IR_CACHE"):
            make()
    assert not list((tmp_path / "cache").rglob("*.parquet"))
    monkeypatch.undo()
    monkeypatch.setenv("HYBRID_IR_CACHE", str(tmp_path / "cache"))
    build(file)
    monkeypatch.setattr(document_store, "DISK_RATIO", 1e18)
    check_space([[file]], "pairs")  # made already: needs nothing


# ---------------------------------------------------------------------------------------------------------- faults


def spoilt(tmp_path: Path, message: str, *files: Path) -> None:
    """Building fails with one line, and leaves nothing."""
    with pytest.raises(DataError, match=message) as caught:
        build(*files)
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "cache" / "documents").iterdir() if path.is_dir()] == []


def test_a_truncated_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [(str(i), rng.bytes(30).hex()) for i in range(2000)]
    file = write(tmp_path / "a.gz", documents)
    file.write_bytes(file.read_bytes()[:40_000])
    spoilt(tmp_path, r"a\.gz:\d+: the gzip data is damaged or cut off", file)
    damaged = bytearray(write(file, documents).read_bytes())
    damaged[20_000:20_004] = b"\x00\x00\x00\x00"
    file.write_bytes(damaged)
    spoilt(tmp_path, r"a\.gz:\d+: ", file)


def test_files_without_a_document(tmp_path: Path) -> None:
    good = write(tmp_path / "a.gz", [("1", "one")])
    spoilt(tmp_path, r"b\.gz: holds no document", good, write(tmp_path / "b.gz", []))
    (tmp_path / "c.gz").touch()
    spoilt(tmp_path, r"c\.gz: holds no document", good, tmp_path / "c.gz")


def test_bad_ids(tmp_path: Path) -> None:
    for bad in ("", "a b", " a", "a\u2028"):
        documents = [("1", "one"), (bad, "two")]
        spoilt(tmp_path, r"a\.gz:2: the id '.*' is empty or has a space", write(tmp_path / "a.gz", documents))


def test_an_id_that_stands_twice(tmp_path: Path) -> None:
    first = write(tmp_path / "a.gz", [(str(i), "") for i in range(ROW_GROUP + 5)])
    second = write(tmp_path / "b.gz", [("new", ""), ("4098", "")])
    spoilt(tmp_path, r"b\.gz:2: repeats the id '4098' of .*a\.gz:4099; keep one of the two", first, second)


def test_a_line_that_is_no_document(tmp_path: Path) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(gzip.compress(b'["1", "one"]\n\n["2"\n'))
    spoilt(tmp_path, r"a\.gz:3: .*; mend the line, or get the file again", file)
