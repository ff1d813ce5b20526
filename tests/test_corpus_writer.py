"""A corpus built from parts is, byte for byte, what its lines give one after the other."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from hybrid_ir.config import DataConfig
from hybrid_ir.data import columns, corpus_writer, parts
from hybrid_ir.data.columns import Column, Numbering
from hybrid_ir.data.corpus_writer import write_corpus
from hybrid_ir.data.sources import jsonl, make_source
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.jsonl import ParallelJsonlSource
from hybrid_ir.data.workers import WorkerKilled, Workers
from hybrid_ir.errors import DataError, UserError
from tests.plain_corpus import write_plainly


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def outcome(write: Any, folder: Path) -> Any:
    """Manifest and files, or the error."""
    folder.mkdir()
    try:
        remembered = write(folder)
    except DataError as error:
        return str(error)
    return remembered, files(folder)


class Lazy:
    """A source that has examples alone, as most."""

    def __init__(self, source: ParallelJsonlSource) -> None:
        self.source = source
        self.name = source.name

    def key(self) -> dict[str, Any]:
        return self.source.key()

    def examples(self) -> Iterator[Example]:
        return self.source.examples()

    def reject(self, example: Example, reason: str) -> None:
        self.source.reject(example, reason)

    def report(self) -> dict[str, Any]:
        return self.source.report()


class Stretched(Lazy):
    """One whose lines are read in stretches."""

    def stretches(self) -> Iterator[Iterator[Example]]:
        return self.source.stretches()

    def text_bytes(self) -> int:
        return self.source.text_bytes()

    def state(self) -> dict[str, Any]:
        return self.source.state()

    def restore(self, state: dict[str, Any]) -> None:
        self.source.restore(state)


few = st.text("ab", min_size=1, max_size=2)
texts = st.one_of(few, st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=12)).filter(str.strip)
identifiers = st.none() | st.sampled_from(["p1", "p2", "p3"])
lines = st.fixed_dictionaries(
    {
        "id": st.text("abc", min_size=1, max_size=2),
        "language": st.sampled_from(["zh", "de", "en", "sw"]),
        "query": texts,
        "passage": texts,
    },
    optional={
        "passage_id": identifiers,
        "source": st.sampled_from(["s", "t", "u"]),
        "negatives": st.lists(
            texts | st.fixed_dictionaries({"text": texts, "passage_id": identifiers}), min_size=1, max_size=3
        ),
    },
)
bad_lines = st.sampled_from(['{"id": "a"}', "{", '{"id": "a", "language": "xxx", "query": "q", "passage": "p"}'])
corpora = st.lists(st.lists(st.one_of(lines, lines, lines, bad_lines), max_size=25), min_size=1, max_size=3)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    corpora,
    st.sampled_from(["skip", "skip", "raise"]),
    st.none() | st.just(["en", "zh"]),
    st.dictionaries(st.sampled_from(["s", "t"]), st.integers(1, 3)),
    st.booleans(),
    st.integers(1, 300),
    st.integers(1, 9),
    st.sampled_from([None, Lazy, Stretched]),
)
def test_a_corpus_is_what_its_lines_give_one_after_the_other(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[list[Any]],
    on_bad_line: Any,
    languages: list[str] | None,
    max_items: dict[str, int],
    consistent: bool,
    block: int,
    batch: int,
    kind: Any,
) -> None:
    """Duplicates, contradictions, bad lines, limits, negatives, in blocks and batches of any size."""
    folder = tmp_path_factory.mktemp("corpus")
    seen: dict[tuple[str, str], Any] = {}
    for n, part in enumerate(rows):
        if consistent:  # else hardly any corpus is without a contradiction
            part = [row if isinstance(row, str) else seen.setdefault((row["id"], row["language"]), row) for row in part]
        text = "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in part)
        (folder / f"{n}.jsonl").write_bytes(gzip.compress(text.encode()) if n % 2 else text.encode())

    def source() -> Any:
        made = ParallelJsonlSource(str(folder / "*.jsonl"), languages, on_bad_line, max_items)
        return kind(made) if kind is not None else made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "_BLOCK_BYTES", block)
        patch.setattr(corpus_writer, "_GIVEN", 1 if on_bad_line == "skip" else 4)
        patch.setattr(corpus_writer, "TEXT_BATCH", batch)
        patch.setattr(corpus_writer, "_AT_A_TIME", batch)
        patch.setattr(columns, "_FIRST", 4)
        patch.setattr(columns, "_AT_A_TIME", 3)
        written = outcome(lambda path: write_corpus(source(), path), folder / "written")
    expected = outcome(lambda path: write_plainly(source(), path, batch), folder / "plain")
    assert written == expected


def test_very_many_languages_are_told_apart(tmp_path: Path) -> None:
    """More than the bits of a word."""
    from hybrid_ir.languages import LANGUAGES

    codes = sorted(LANGUAGES)
    assert len(codes) > 62
    random = np.random.default_rng(0)
    rows = [
        {"id": str(i), "language": code, "query": f"q{i}{code}", "passage": f"p{i}{code}"}
        for i in range(30)
        for code in random.permutation(codes)[: random.integers(1, len(codes))].tolist()
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = outcome(lambda folder: write_corpus(ParallelJsonlSource(str(path)), folder), tmp_path / "written")
    expected = outcome(lambda folder: write_plainly(ParallelJsonlSource(str(path)), folder, 65536), tmp_path / "plain")
    patterns = "arrays/patterns.npy", "arrays/item_pattern.npy"  # beyond a word they are in another order
    for one, other in zip(written[1].items(), expected[1].items(), strict=True):
        assert one == other or one[0] in patterns
    either = [
        np.load(tmp_path / name / patterns[0])[np.load(tmp_path / name / patterns[1])] for name in ("written", "plain")
    ]
    np.testing.assert_array_equal(*either)


# ----------------------------------------------------------------------------------------------------- all the cores


@pytest.fixture
def real(shared: Path) -> str:
    return str(shared / "data" / "parallel-qa" / "[bos]*.jsonl.gz")


def test_processes_give_the_same_files(tmp_path: Path, real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(corpus_writer, "TEXT_BATCH", 1000)
    written = outcome(lambda folder: write_corpus(ParallelJsonlSource(real), folder), tmp_path / "written")
    assert written == outcome(lambda folder: write_plainly(ParallelJsonlSource(real), folder, 1000), tmp_path / "plain")
    assert [p.name for p in tmp_path.iterdir()] == ["written", "plain"], "no part stays"


def test_a_killed_preparation_goes_on_where_it_was(tmp_path: Path, real: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from hybrid_ir.data import corpus_writer, parts\n"
        "from hybrid_ir.data.sources import jsonl\n"
        "from hybrid_ir.data.sources.jsonl import ParallelJsonlSource\n"
        "def progress(self, rows, share):\n"
        "    self._rows += 1\n"
        "    if self._rows == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "corpus_writer.RowsProgress.__call__ = progress\n"
        "parts.ALONE_SECONDS = 0.0\n"
        "jsonl._BLOCK_BYTES = 200_000\n"
        "folder = Path(sys.argv[2]); folder.mkdir()\n"
        "corpus_writer.write_corpus(ParallelJsonlSource(sys.argv[1]), folder)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, real, str(tmp_path / "corpus")])
    assert killed.returncode == -signal.SIGKILL
    there = {p: p.stat().st_mtime_ns for p in (tmp_path / "corpus.parts2").glob("*.arrow")}
    assert len(there) >= 7
    damaged = min(there)  # as by a machine that went down before all of it was on its disk
    damaged.write_bytes(damaged.read_bytes()[:1000])

    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 200_000)
    kept: dict[Path, int] = {}
    finish = corpus_writer._Joined.finish

    def look(self: Any) -> Any:
        kept.update({p: p.stat().st_mtime_ns for p in (tmp_path / "corpus.parts2").glob("*.arrow")})
        return finish(self)

    monkeypatch.setattr(corpus_writer._Joined, "finish", look)
    shutil.rmtree(tmp_path / "corpus")
    written = outcome(lambda folder: write_corpus(ParallelJsonlSource(real), folder), tmp_path / "corpus")
    assert {p for p, changed in there.items() if kept[p] != changed} == {damaged}, "the others are not made again"
    plain = outcome(lambda folder: write_plainly(ParallelJsonlSource(real), folder, 65536), tmp_path / "plain")
    assert written == plain
    assert not (tmp_path / "corpus.parts2").exists()


def test_what_was_read_before_a_kill_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a mixture, one part of which is capped and one of which has a bad line."""
    for name, codes in {"a": "de", "b": "de en", "c": "de en sw"}.items():
        rows = [
            {"id": n, "language": code, "query": f"{code} {name} asks {n}", "passage": f"{code} {name} says {n}"}
            for n in range(20)
            for code in codes.split()
        ]
        lines = [json.dumps(row) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines, *(["{"] if name == "b" else [])]) + "\n")
    parts_of: dict[str, dict[str, Any]] = {
        name: {"source": "parallel_jsonl", "path": str(tmp_path / f"{name}.jsonl")} for name in "abc"
    }
    parts_of["b"]["on_bad_line"], parts_of["c"]["cap"] = "skip", 7
    config = {"source": "mixture", "parts": parts_of}

    def source() -> Any:
        return make_source(TypeAdapter(DataConfig).validate_python(config))

    plain = outcome(lambda folder: write_plainly(source(), folder, 65536), tmp_path / "plain")
    assert plain[0]["report"]["bad_lines"] == {"b/b.jsonl": 1}
    assert plain[0]["report"]["left_out"] == {"lines over the caps (c)": 39}
    program = (
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "from pydantic import TypeAdapter\n"
        "from hybrid_ir.config import DataConfig\n"
        "from hybrid_ir.data import corpus_writer, parts\n"
        "from hybrid_ir.data.sources import make_source\n"
        "def progress(self, rows, share):\n"
        "    self._rows += 1\n"
        "    if self._rows == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "corpus_writer.RowsProgress.__call__ = progress\n"
        "parts.ALONE_SECONDS = 0.0\n"
        "corpus_writer._GIVEN = 10\n"
        "folder = Path(sys.argv[2]); folder.mkdir()\n"
        "source = make_source(TypeAdapter(DataConfig).validate_python(json.loads(sys.argv[1])))\n"
        "corpus_writer.write_corpus(source, folder)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, json.dumps(config), str(tmp_path / "corpus")])
    assert killed.returncode == -signal.SIGKILL
    shutil.rmtree(tmp_path / "corpus")
    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(corpus_writer, "_GIVEN", 10)
    damaged, copy = tmp_path / "damaged", tmp_path / "b.jsonl.whole"  # a is not read for it either
    damaged.mkdir()
    shutil.copytree(tmp_path / "corpus.parts2", damaged.with_suffix(".parts2"))
    (damaged.with_suffix(".parts2") / "00000003.arrow").write_bytes(b"of b")

    (tmp_path / "b.jsonl").replace(copy)
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text("was read, and is not to be read again\n")
    assert outcome(lambda folder: write_corpus(source(), folder), tmp_path / "corpus") == plain

    with pytest.raises(UserError, match="a file in it is damaged, as after a machine went down; give the command"):
        write_corpus(source(), damaged)
    copy.replace(tmp_path / "b.jsonl")
    shutil.rmtree(damaged)
    assert outcome(lambda folder: write_corpus(source(), folder), damaged) == plain


def test_no_part_of_a_bad_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ALONE_SECONDS", 0.0)
    monkeypatch.setattr(jsonl, "_BLOCK_BYTES", 1000)
    path = tmp_path / "a.jsonl"
    good = [json.dumps({"id": str(n), "language": "en", "query": f"q{n}", "passage": f"p{n}"}) for n in range(500)]
    path.write_text("\n".join([*good, "{", *good]) + "\n")
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match=r"a\.jsonl:501: not JSON"):
        write_corpus(ParallelJsonlSource(str(path)), tmp_path / "corpus")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl", "corpus"]


def test_a_disk_without_space_is_known_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"no line\n" * 1000)
    (tmp_path / "corpus").mkdir()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 20_000, 20_000))
    with pytest.raises(UserError, match=r"has 0.0 MB free, the texts need about 0.0 MB; free space") as error:
        write_corpus(ParallelJsonlSource(str(path)), tmp_path / "corpus")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "corpus").iterdir()) == []


def test_the_space_of_its_own_parts_is_not_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    row = {"id": "1", "language": "en", "query": "q" * 1000, "passage": "p"}
    path.write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(100)))
    source = ParallelJsonlSource(str(path))
    free = source.text_bytes()  # a third of what is asked for
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10 * free, 9 * free, free))
    (tmp_path / "corpus").mkdir()
    with pytest.raises(UserError, match="free space"):
        write_corpus(source, tmp_path / "corpus")
    (tmp_path / "corpus.parts2").mkdir()
    (tmp_path / "corpus.parts2" / "00000000.arrow").write_bytes(bytes(2 * free))
    assert write_corpus(source, tmp_path / "corpus")["languages"] == ["en"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="open files are listed on Linux alone")
def test_no_file_of_the_work_is_open_when_it_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    row = {"language": "en", "query": "q", "passage": "p", "negatives": ["n"]}
    path.write_text("".join(json.dumps({**row, "id": str(n)}) + "\n" for n in range(50)))
    held: list[str] = []
    removed: list[str] = []
    rmtree = shutil.rmtree

    def look(folder: Path, **options: Any) -> None:
        removed.append(folder.name)
        held.extend(line for line in Path("/proc/self/maps").read_text().splitlines() if "/corpus/work/" in line)
        held.extend(to for fd in os.listdir("/proc/self/fd") if "/corpus/work/" in (to := target(fd)))
        rmtree(folder, **options)

    def target(fd: str) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # that of the listing
            return ""

    monkeypatch.setattr(shutil, "rmtree", look)
    (tmp_path / "corpus").mkdir()
    write_corpus(ParallelJsonlSource(str(path)), tmp_path / "corpus")
    assert removed[0] == "work"
    assert held == []


def test_a_process_that_is_killed_is_named() -> None:
    with pytest.raises(WorkerKilled, match="a process that prepares text was killed"), Workers() as workers:
        workers.submit(signal.raise_signal, signal.SIGKILL).result()


def test_what_a_process_raises_is_raised() -> None:
    with Workers() as workers:
        assert workers.submit(os.path.basename, "a/b").result() == "b"
        with pytest.raises(ValueError, match="invalid literal"):
            workers.submit(int, "x").result()
        of_its_own = "class Bad(Exception): pass\nraise Bad('line 3')"  # which this process cannot load
        with pytest.raises(RuntimeError, match=r"Bad\('line 3'\)"):
            workers.submit(exec, of_its_own).result()
        assert workers.submit(os.path.basename, "a/b").result() == "b", "it serves on"


def test_a_process_that_ends_by_itself_is_named() -> None:
    with pytest.raises(WorkerKilled, match="ended with exit code 3"), Workers() as workers:
        workers.submit(os._exit, 3).result()


def test_a_process_that_cannot_be_started_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkerKilled, match=r"could not be started \(No such file"), Workers() as workers:
        workers.submit(os.getpid).result()


def test_processes_end_with_the_one_that_started_them() -> None:
    program = (
        "import os, time\n"
        "from hybrid_ir.data.workers import Workers\n"
        "with Workers() as workers:\n"
        "    print(workers.submit(os.getpid).result(), flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        os.kill(worker, 0)
        process.kill()
    for _ in range(100):
        try:
            state = Path(f"/proc/{worker}/stat").read_text().split()[2]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {worker} still runs")


# ---------------------------------------------------------------------------------------------------------- columns


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), max_size=40), max_size=6),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 33)), max_size=20),
    st.booleans(),
)
def test_keys_are_numbered_as_they_first_come(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[Any]], asked: list[Any], wide: bool
) -> None:
    """Keys of two words that agree in one of them, and keys of one."""
    path = tmp_path_factory.mktemp("keys") / "keys"
    known: dict[Any, int] = {}

    def words(keys: list[tuple[int, int]]) -> np.ndarray:
        array = np.array(keys, dtype=np.uint64).reshape(-1, 2)
        return array if wide else array[:, 0] * np.uint64(100) + array[:, 1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "_FIRST", 4)
        patch.setattr(columns, "_AT_A_TIME", 7)
        numbering = Numbering(path, 2 if wide else 1)
        for batch in batches:
            expected, new = [], []
            for key in batch:
                new.append(key not in known)
                expected.append(known.setdefault(key, len(known)))
            numbers, written = numbering.add(words(batch))
            assert numbers.tolist() == expected
            assert written.tolist() == new
            assert len(numbering) == len(known)
        assert numbering.find(words(asked)).tolist() == [known.get(key, -1) for key in asked]


def test_a_column_keeps_what_it_was_given(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    column = Column(tmp_path / "column", "i4", 2)
    given_rows = [random.integers(-9, 9, (n, 2)) for n in (0, 1, 5000, 3, 100_000)]
    for values in given_rows:
        column.append(values)
    np.testing.assert_array_equal(column.values, np.concatenate(given_rows))


def test_a_column_is_closed_though_a_view_of_it_is_still_there(tmp_path: Path) -> None:
    column = Column(tmp_path / "column", "i4")
    column.append(np.arange(10))
    view = column.values[3:6]
    column.close()
    assert view.tolist() == [3, 4, 5]
