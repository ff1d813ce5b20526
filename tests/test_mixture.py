"""Mixtures of data sets, samples of them, and the report of what a run will show of each."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from published_layouts import settings_of, write, write_mmarco, write_moses
from pydantic import TypeAdapter
from small_runs import read_csv, refused_line, small_run, write_corpus

from hybrid_ir.cli import prepare, run_command
from hybrid_ir.composition import composer, quote_path
from hybrid_ir.config import DataConfig, TrainConfig, cross_lingual_only
from hybrid_ir.config_command import main as config_main
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.sources import licenses, make_source
from hybrid_ir.data.sources.base import Example
from hybrid_ir.data.sources.capped import CappedSource
from hybrid_ir.errors import ConfigError, DataError
from hybrid_ir.run_folder import to_yaml
from hybrid_ir.training.identity import Identity, differences


def section(**keys: Any) -> Any:
    return TypeAdapter(DataConfig).validate_python(keys)


def mixture(parts: dict[str, Any], **keys: Any) -> Any:
    return section(source="mixture", parts=parts, **keys)


def jsonl(path: Path, **keys: Any) -> dict[str, Any]:
    return {"source": "parallel_jsonl", "path": str(path), **keys}


def write_items(path: Path, codes: Sequence[str], items: int = 20, passage_ids: bool = True) -> Path:
    """Items numbered from 0, as in any file that knows nothing of others; texts have the file's name."""
    rows: list[dict[str, Any]] = []
    for i in range(items):
        for code in codes:
            texts = {"query": f"{code} {path.stem} asks {i}", "passage": f"{code} {path.stem} says {i}"}
            rows.append({"id": i, "language": code, **texts, **({"passage_id": i} if passage_ids else {})})
            if i == 0 and not passage_ids:
                rows[-1]["passage"] = f"{code} the same text"
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {name: write_items(tmp_path / f"{name}.jsonl", codes) for name, codes in
            (("forum", ["de", "en"]), ("wiki", ["de", "en", "sw"]))}  # fmt: skip


def command(files: dict[str, Path]) -> list[str]:
    words = ["data=mixture"]
    for name, path in files.items():
        words += [f"data.parts.{name}.source=parallel_jsonl", f"data.parts.{name}.path={path}"]
    return words


def composed(*words: str) -> TrainConfig:
    with composer("train") as composing:
        config, _ = prepare(composing, [quote_path(word) for word in words])
    assert isinstance(config, TrainConfig)
    return config


# ------------------------------------------------------------------------------------------------------- the settings


def test_parts_by_the_command_line_and_by_yaml_are_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    typed = composed(*command(files), "data.parts.forum.cap=5", "data.parts.mmarco.path=" + str(write_mmarco(tmp_path)))
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data" / "ours.yaml").write_text(
        yaml.safe_dump(
            {
                "defaults": ["mixture"],
                "parts": {
                    "forum": jsonl(files["forum"], cap=5),
                    "wiki": jsonl(files["wiki"]),
                    "mmarco": {"path": str(tmp_path)},
                },
            }
        )
    )
    with composer("train", searchpath=[str(tmp_path)]) as composing:
        written, _ = prepare(composing, ["data=ours"])
    assert isinstance(written, TrainConfig)
    assert written.data == typed.data
    assert {part.source for part in typed.data.parts.values()} == {"parallel_jsonl", "mmarco"}  # type: ignore[union-attr]
    stored = yaml.safe_load(to_yaml(typed))
    assert TrainConfig.model_validate(stored) == typed
    assert "validation" not in stored["data"]["parts"]["forum"], "a part has no hold-out of its own"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("data.parts.wiki.pth=x", 'data.parts.wiki.pth=x: no such key; did you mean "data.parts.wiki.path"?'),
        ("data.parts.wiki.cap=0", "data.parts.wiki.cap=0: must be a whole number >= 1, or null"),
        ("data.parts.wiki.on_bad_line=skp", 'must be one of raise, skip; did you mean "skip"?'),
        ("data.parts.wiki.num_workers=2", "data.parts.wiki.num_workers=2: is for all parts together; set data.num_w"),
        ("data.parts.wiki.languages=[ax]", "data.parts.wiki.languages=[ax]: unknown language code 'ax'"),
        ("data.parts.c.source=paralel_jsonl", 'no such option of data; did you mean "parallel_jsonl"? options: '),
        ("data.parts.c.cap=3", "data.parts.c.source=null: must be given, since no option has the part's name"),
        ("data.parts.c.source=parallel_jsonl", "data.parts.c.path: must be given, e.g. data.parts.c.path="),
        ("data.parts.wiki.path=/no/file", "data.parts.wiki.path=/no/file: no such file"),
        ("data.parts.mmarco.path=/no", "data.parts.mmarco.path=/no: no such folder"),
        ("data.parts.mmarco.path={folder}", "data.parts.mmarco.path={folder}: has no data/google"),
        ("data.parts.mmarco.revision=main", "data.parts.mmarco.revision=main: is not a commit"),
        ("data.parts.wiki={{source: hf, path: x}}", "nothing says which language a row is in; name the column, or the "
         "configuration of each language (data.parts.wiki.configurations.sw=NAME)"),
        ("data.parts=3", "data.parts=3: must be a mapping"),
        ("sampler.sources.weights.forom=2", 'no part of this name; did you mean "forum"? the mixture has forum, wiki'),
        ("sampler.sources.weights.forum=2", "sampler.sources.weights.wiki: must be given, as of every part"),
        ("sampler.language_weights.sw=0", "sampler.language_weights.sw=0: must be above 0; leave a language out"),
        ("sampler.language_weights.sx=2", "sampler.language_weights.sx=2: unknown language code 'sx'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_key_that_was_typed(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], more: str, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    more, message = (text.format(folder=tmp_path / "empty") for text in (more, message))
    settings = [word for word in command(files) if more.partition("=")[0] not in word]
    assert message in refused_line(config_main, capsys, "validate", *settings, more)


def test_rules_that_hold_over_the_parts(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = [*settings_of("miracl_train", tmp_path)[1:2], *settings_of("mr_tydi", tmp_path)[1:2]]
    parts = [
        f"data.parts.{name}.{word.removeprefix('data.')}"
        for name, word in zip(("miracl_train", "mr_tydi"), alone, strict=True)
    ]
    refused = refused_line(config_main, capsys, "validate", "data=mixture", *parts)
    assert "sampler.mono_ratio=0.5: cross-lingual rows need items in two languages" in refused
    composed("data=mixture", *parts, "sampler=x_x_mono")
    composed(*command(files), *parts)  # others are parallel
    few = refused_line(config_main, capsys, "validate", *command(files), *parts, "loss.num_negatives=1")
    assert "data.parts.miracl_train.negatives=0 keeps fewer of each question" in few
    assert "has no part" in refused_line(config_main, capsys, "validate", "data=mixture")


def test_describe_explains_the_keys_of_the_parts(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert config_main(["describe", "data.parts", *command(files)]) == 0
    shown = capsys.readouterr().out
    for key in ("data.parts = ", "data.parts.wiki.source = parallel_jsonl", "data.parts.wiki.cap = null",
                "data.parts.forum.max_items = {}"):  # fmt: skip
        assert key in shown
    assert "data.parts.wiki.validation" not in shown


@pytest.mark.parametrize("name", ["b=1.jsonl", "it's, here.jsonl", "[x].jsonl"])
def test_a_path_of_a_part_that_exists_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    path = write_items(tmp_path / name, ["de", "en"])
    config = composed(*command({"own": path}))
    assert config.model_dump()["data"]["parts"]["own"]["path"] == str(path)


# -------------------------------------------------------------------------------------------------------- the corpus


def test_equal_ids_of_two_parts_mean_nothing_unless_asked(files: dict[str, Path]) -> None:
    parts = {name: jsonl(path) for name, path in files.items()}
    corpus = ParallelCorpus.build(make_source(mixture(parts)))
    assert (len(corpus), corpus.sources) == (40, ("forum", "wiki"))
    assert len(set(np.asarray(corpus.table.passage).tolist())) == 40
    assert corpus.item_ids([0, 20]) == ["forum/0", "wiki/0"]
    with pytest.raises(DataError, match=r"id '0' stands twice in language 'de' with different texts"):
        ParallelCorpus.build(make_source(mixture(parts, join_ids=True)))
    parts["wiki"]["languages"] = ["sw"]  # further versions of the same items
    joined = ParallelCorpus.build(make_source(mixture(parts, join_ids=True)))
    assert len(joined) == len(set(np.asarray(joined.table.passage).tolist())) == 20
    assert joined.counts()["sw"]["items"] == joined.counts()["de"]["items"] == 20


def test_equal_texts_without_an_id_are_one_passage_over_parts(tmp_path: Path) -> None:
    parts = {name: jsonl(write_items(tmp_path / f"{name}.jsonl", ["de"], 20, False)) for name in ("one", "two")}
    passage = np.asarray(ParallelCorpus.build(make_source(mixture(parts))).table.passage)
    assert len(set(passage.tolist())) == 39
    assert passage[0] == passage[20]


def test_parts_are_read_in_one_order_and_cached_once(files: dict[str, Path]) -> None:
    parts = {name: jsonl(path) for name, path in files.items()}
    one, other = (make_source(mixture(dict(order))) for order in (parts.items(), reversed(list(parts.items()))))
    key = one.key()
    assert key == other.key()
    assert list(one.examples()) == list(other.examples())
    changed = make_source(mixture({**parts, "wiki": jsonl(files["wiki"], cap=19)}))
    assert changed.key() != key
    files["wiki"].write_text(files["wiki"].read_text().replace("says 3", "says three"))
    assert make_source(mixture(parts)).key() != key


def test_languages_of_the_whole_leave_out_those_that_a_part_has_not(files: dict[str, Path], tmp_path: Path) -> None:
    parts = {"wiki": jsonl(files["wiki"]), "mmarco": {"path": str(write_mmarco(tmp_path / "mm"))}}
    corpus = ParallelCorpus.build(make_source(mixture(parts, languages=["de", "sw"])))
    assert {code: n["items"] for code, n in corpus.counts().items()} == {"de": 60, "sw": 20}
    with pytest.raises(
        ConfigError, match=r"^data\.languages=\[sw\]: data\.parts\.mmarco has none of them, it has de, hi"
    ):
        make_source(mixture(parts, languages=["sw"]))
    parts["wiki"]["languages"] = ["de", "en", "sw", "fi"]
    source = make_source(mixture(parts))
    with pytest.raises(
        DataError, match=r"^data\.parts\.wiki\.languages: the part has nothing in fi; it has de, en, sw$"
    ):
        list(source.examples())
    parts["wiki"]["languages"] = ["de", "fi"]  # the mixture's do not make that right
    with pytest.raises(DataError, match=r"^data\.parts\.wiki\.languages: the part has nothing in fi; it has de$"):
        list(make_source(mixture(parts, languages=["de", "fi"])).examples())


def test_bad_lines_are_said_of_their_part(files: dict[str, Path]) -> None:
    with files["wiki"].open("a") as file:
        file.write("no json\n")
    parts = {name: jsonl(path) for name, path in files.items()}
    with pytest.raises(
        DataError, match=r"wiki\.jsonl:61: .*leave bad lines out with data\.parts\.wiki\.on_bad_line=skip"
    ):
        list(make_source(mixture(parts)).examples())
    parts["wiki"]["on_bad_line"] = "skip"
    report = ParallelCorpus.build(make_source(mixture(parts))).report
    assert report["bad_lines"] == {"wiki/wiki.jsonl": 1}
    assert len(report["first_bad_lines"]) == 1


def test_licences_are_those_of_what_a_part_reads(files: dict[str, Path], tmp_path: Path) -> None:
    both = {"source": "parallel_jsonl", "path": [str(path) for path in files.values()]}
    parts: dict[str, dict[str, Any]] = {
        "cldr": {"languages": ["de", "en"]},
        "mmarco": {"path": str(write_mmarco(tmp_path))},
        "own": {**both, "licenses": {"wiki": "cc-by-sa-4.0"}},
    }
    of_parts = {"cldr": ["cldr"], "mmarco": ["mmarco"], "own": ["forum", "wiki"]}
    stated = licenses(mixture(parts), list(parts), of_parts)
    assert stated["cldr"] == "Unicode-3.0"
    assert str(stated["mmarco"]).startswith("apache-2.0")
    assert stated["own"] == "forum: not stated, wiki: cc-by-sa-4.0"
    parts["own"]["licenses"] = {"wiky": "cc-by-sa-4.0"}
    with pytest.raises(DataError, match=r"^data\.parts\.own\.licenses\.wiky: no source of that name"):
        licenses(mixture(parts), list(parts), of_parts)


def test_a_run_knows_the_files_of_its_parts(files: dict[str, Path]) -> None:
    def identity() -> Identity:
        config = composed(*command(files))
        return Identity.of(config, ParallelCorpus.build(make_source(config.data)))

    before = identity()
    elsewhere = files["wiki"].parent / "elsewhere" / "wiki.jsonl"
    elsewhere.parent.mkdir()
    files["wiki"] = files["wiki"].rename(elsewhere)
    assert differences(before, identity()) == []
    elsewhere.write_text(elsewhere.read_text().replace("says 3", "says three"))
    (said,) = differences(before, identity())
    assert said.startswith("the data file wiki/wiki.jsonl has changed since the run was started")


# ------------------------------------------------------------------------------------------------------------- caps


class Listed:
    """A source of given items and languages."""

    name = "listed"

    def __init__(self, entries: Sequence[tuple[str, str]]) -> None:
        self.entries = entries

    def key(self) -> dict[str, Any]:
        return {"source": self.name, "entries": self.entries}

    def examples(self) -> Iterator[Example]:
        for item, code in self.entries:
            yield Example(item, code, "q", "p", None, self.name)

    def reject(self, example: Example, reason: str) -> None:
        raise DataError(reason)

    def report(self) -> dict[str, Any]:
        return {}


entries = st.lists(
    st.tuples(st.integers(0, 60).map(str), st.sampled_from(["de", "en", "sw"])), min_size=1, max_size=120, unique=True
)


def sampled(listed: Sequence[tuple[str, str]], cap: int | None, per_language: int | None) -> list[tuple[str, str]]:
    return [(e.item_id, e.language) for e in CappedSource(Listed(listed), cap, per_language).examples()]


def test_the_disk_that_a_sample_needs(tmp_path: Path) -> None:
    """Whatever the sizes of the languages, under either cap."""
    counts = {"en": 5000, "de": 3000, "sw": 20, "yo": 10}
    path = tmp_path / "data.jsonl"
    with path.open("w") as file:
        for code, count in counts.items():
            for n in range(count):
                row = {"id": f"{code}{n}", "language": code, "query": f"q{n}" * 20, "passage": f"p{n}" * 50}
                file.write(json.dumps(row) + "\n")
    for caps in ({"cap_per_language": 400}, {"cap": 1000}, {"cap": 2000, "cap_per_language": 700}):
        source: Any = make_source(section(**jsonl(path), **caps))
        texts = sum(len((e.query + e.passage).encode()) for e in source.examples())
        assert source.text_bytes() == pytest.approx(texts, rel=0.2)


@given(entries, st.integers(1, 70), st.integers(1, 70), st.randoms())
def test_a_cap_keeps_whole_items_whatever_their_order(
    listed: list[tuple[str, str]], cap: int, more: int, random: Any
) -> None:
    kept = sampled(listed, cap, None)
    items = {item for item, _ in kept}
    assert len(items) == min(cap, len({item for item, _ in listed}))
    assert kept == [entry for entry in listed if entry[0] in items]
    shuffled = list(listed)
    random.shuffle(shuffled)
    assert set(sampled(shuffled, cap, None)) == set(kept)
    assert set(kept) <= set(sampled(listed, cap + more, None))


@given(entries, st.integers(1, 70), st.none() | st.integers(1, 70))
def test_a_cap_per_language_keeps_so_many_of_each(
    listed: list[tuple[str, str]], per_language: int, cap: int | None
) -> None:
    whole = sampled(listed, cap, None)
    kept = sampled(listed, cap, per_language)
    for code in ("de", "en", "sw"):
        there = {item for item, of in whole if of == code}
        assert len({item for item, of in kept if of == code}) == min(per_language, len(there))
    # an item that is kept in one language is kept in all in which no more items are than may be
    for item, _ in kept:
        for code in ("de", "en", "sw"):
            if (item, code) in whole and sum(of == code for _, of in whole) <= per_language:
                assert (item, code) in kept


def test_a_cap_samples_all_languages_of_data_that_is_not_parallel(tmp_path: Path) -> None:
    words = settings_of("miracl_train", tmp_path)
    capped = make_source(composed(*words, "data.cap=20").data)
    counts = ParallelCorpus.build(capped).counts()
    assert sum(n["items"] for n in counts.values()) == 20
    assert set(counts) == {"sw", "te"}
    assert capped.report()["left_out"]["lines over the caps"] == 60
    assert {"cap", "cap_per_language"} <= set(capped.key())
    assert "cap" not in make_source(composed(*words).data).key(), "corpora cached before there were caps stay valid"


# ------------------------------------------------------------------------------------------------------ the batches


def test_bitext_has_no_monolingual_rows(files: dict[str, Path], tmp_path: Path) -> None:
    write_moses(tmp_path / "bitext")
    talks = ["data.parts.talks.source=sentence_pairs", f"data.parts.talks.path={tmp_path}/bitext/talks.*"]
    config = composed(*command(files), *talks)
    corpus = ParallelCorpus.build(make_source(config.data))
    plan = BatchPlan(corpus.table.restricted(), config.sampler, 8, 1, cross_lingual_only(config.data))
    bitext = corpus.sources.index("talks")
    drawn = {True: 0, False: 0}
    for _ in range(80):
        batch = plan.next()
        drawn[batch.monolingual] += int((corpus.table.source[batch.items] == bitext).sum())
    assert drawn[True] == 0 < drawn[False]


def test_a_run_on_a_mixture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the report says beforehand is what the run shows; folder and model card name the parts."""
    facts = write_corpus(tmp_path)
    wiki = write_items(tmp_path / "wiki.jsonl", ["de", "en", "sw"], 40)
    beir = tmp_path / "beir"
    write(
        beir / "corpus.jsonl", json.dumps({"_id": "d", "title": "", "text": "en wiki says 7", "language": "en"}) + "\n"
    )
    write(beir / "queries.jsonl", json.dumps({"_id": "q", "text": "what does the wiki say", "language": "en"}) + "\n")
    write(beir / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq\td\t1\n")
    run = tmp_path / "run"
    settings = [s for s in small_run(facts, run) if not s.startswith(("data=", "data.path", "benchmark"))]
    words = [
        *command({"facts": facts, "wiki": wiki}), *settings, "trainer.max_steps=25", "data.parts.facts.cap=90",
        "sampler.language_weights.sw=3", "sampler.sources.weights={facts:1,wiki:2}", "sampler.small_languages=drop",
        "data.parts.wiki.licenses.wiki=cc0-1.0", "benchmark=[beir]", f"benchmark.beir.path={beir}",
        "data.exclude_overlap_with=[beir]", "data.overlap_words=4",
    ]  # fmt: skip
    assert run_command("train", words) == 0
    printed = capsys.readouterr().out
    assert "plan of 25 steps" in printed
    assert "rows by source: facts " in printed

    with (run / "plan.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["source"] for line in lines} == {"facts", "wiki"}
    summary = json.loads((run / "summary.json").read_text())
    assert {s: sum(int(x["rows"]) for x in lines if x["source"] == s) for s in ("facts", "wiki")} == summary[
        "source_rows"
    ]
    assert summary["excluded_overlap"] >= 1
    for row in read_csv(run / "exposure.csv"):
        code = row["language"]
        of = {key: sum(int(x["rows"]) for x in lines if x[f"{key}_language"] == code) for key in ("query", "passage")}
        assert (int(row["query_rows"]), int(row["passage_rows"])) == (of["query"], of["passage"])
        within = [x for x in lines if x["query_language"] == x["passage_language"] == code]
        assert int(row["monolingual_rows"]) == sum(int(x["rows"]) for x in within)
    assert sum(float(line["share"]) for line in lines) == pytest.approx(1, abs=1e-4)

    made_from = json.loads((run / "environment.json").read_text())["data"]["made_from"]
    assert {name: part["files"][0][0] for name, part in made_from["parts"].items()} == {
        "facts": "facts.jsonl", "wiki": "wiki.jsonl",
    }  # fmt: skip
    card = ModelCard.load(run / "model" / "README.md").text
    assert "Parts of a mixture: `facts`: Questions and passages of `facts.jsonl`" in card
    assert "cc0-1.0" in card
    assert str(tmp_path) not in card
    (typed,) = [word for word in shlex.split(card.replace("\\\n", "")) if word.startswith("data.parts.wiki.path=")]
    assert typed == "data.parts.wiki.path=[wiki.jsonl]"


def test_a_part_all_of_whose_items_are_anothers(tmp_path: Path) -> None:
    """A translation that is joined to its original: no weight is needed for it, and its licence is recorded."""
    original = write_items(tmp_path / "original.jsonl", ["de", "en"], 40)
    further = write_items(tmp_path / "further.jsonl", ["sw"], 40)
    run = tmp_path / "run"
    settings = [s for s in small_run(original, run) if not s.startswith(("data=", "data.path"))]
    words = [
        *command({"original": original, "further": further}), *settings, "data.join_ids=true", "trainer.max_steps=4",
        "data.parts.original.licenses.original=cc0-1.0", "data.parts.further.licenses.further=cc-by-4.0",
    ]  # fmt: skip
    # the parts by name: the first one that has an item is its part
    assert run_command("train", [*words, "sampler.sources.weights={further:1}"]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["source_rows"] == {"further": 32}
    stated = json.loads((run / "environment.json").read_text())["data"]["licenses"]
    assert stated == {"further": "cc-by-4.0", "original": "cc0-1.0"}
    card = ModelCard.load(run / "model" / "README.md").text
    assert "cc0-1.0" in card
    assert "cc-by-4.0" in card


@pytest.mark.parametrize("name", ["language_weights", "sources.weights"])
def test_weights_that_were_given_or_taken_back_are_a_difference(files: dict[str, Path], name: str) -> None:
    def identity(*words: str) -> Identity:
        config = composed(*command(files), *words)
        return Identity.of(config, corpus)

    corpus = ParallelCorpus.build(make_source(composed(*command(files)).data))
    keys = ("de", "sw") if name == "language_weights" else ("forum", "wiki")
    first, second = f"sampler.{name}.{keys[0]}", f"sampler.{name}.{keys[1]}"
    none = "{}" if name == "language_weights" else "null"
    without, given = identity(), identity(f"{first}=2", f"{second}=3")
    shown = f"{{{keys[0]}:2.0,{keys[1]}:3.0}}"
    assert differences(without, given) == [f"it has sampler.{name}={none}, this run has sampler.{name}={shown}"]
    assert differences(given, without) == [f"it has sampler.{name}={shown}, this run has sampler.{name}={none}"]
    assert differences(given, identity(f"{second}=3", f"{first}=2")) == []
    if name == "language_weights":
        assert differences(given, identity(f"{first}=2")) == [
            f"it has sampler.{name}={shown}, this run has sampler.{name}={{de:2.0}}"
        ]


def test_a_mapping_of_a_newer_version_is_no_difference(files: dict[str, Path]) -> None:
    config = composed(*command(files), "sampler.language_weights.sw=3")
    now = Identity.of(config, ParallelCorpus.build(make_source(config.data)))
    old = {name: value for name, value in now.settings.items() if "language_weights" not in name}
    assert differences(Identity(old, now.data, now.content_sha256), now) == []
