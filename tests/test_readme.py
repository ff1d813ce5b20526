"""Every command of the README, the pages in docs/ and the examples is run as it stands there, cut down to seconds.

A command is first validated whole, as it is written. Then its settings are replaced by small ones and it is run in a
folder of its own, in which the files and folders that it names exist: the README's as processes, those of the pages in
this process. What cannot be run here (several machines, a network, hours) is checked as far as that goes; ``CHECKED``
says which and why. A command that this module does not know fails.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gzip
import importlib
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import published_layouts
import pytest
from documents import DOCUMENTS, REPOSITORY, TRANSCRIPTS, Block, blocks, commands
from synthetic_sweeps import write_sweep

from hybrid_ir.analysis.compare import _parser as compare_parser
from hybrid_ir.cli import check_sweep, parse_arguments, prepare, run_command
from hybrid_ir.composition import Command, composer, conf_dir, parse_settings, quote_path, swept_values
from hybrid_ir.data.sources.mmarco import MmarcoSource
from hybrid_ir.launching.sweep import run_settings

pytestmark = pytest.mark.slow

README = "README.md"
ELSEWHERE = {
    "docs/extending.md": "tests/test_docs.py runs them with the code of the page",
    "examples/own_data/README.md": "run in their order, below",
}
"""Documents whose commands make no sense one by one."""

NOT_RUN = {"source .venv/bin/activate", "pip install hybrid-ir", "pip install -e .", "pip install -e '.[dev]'"}
"""Commands that would change the machine; they are only compared with this list."""
PROGRAMS = {
    "train.py": "hybrid_ir.train",
    "evaluate.py": "hybrid_ir.evaluate",
    "hybrid-ir-train": "hybrid_ir.train",
    "hybrid-ir-evaluate": "hybrid_ir.evaluate",
}
SCRIPTS = {"hybrid_ir.train": "train.py", "hybrid_ir.evaluate": "evaluate.py"}
PLACEHOLDER = re.compile(r"[A-Z][A-Z0-9_]*")
LANGUAGES = ("de", "en", "sw")


# ----------------------------------------------------------------------------------------------- what documents say


@dataclass(frozen=True)
class Documented:
    """A command and the document that it stands in."""

    document: str
    command: str

    def __str__(self) -> str:
        return f"{self.document}: {self.command[:80]}"


def once(cases: Iterable[Documented]) -> list[Documented]:
    """The first of the cases that have the same command."""
    first: dict[str, Documented] = {}
    for case in cases:
        first.setdefault(case.command, case)
    return list(first.values())


BASH = once(
    Documented(document, command)
    for document in DOCUMENTS
    if document not in ELSEWHERE
    for block in blocks(document)
    if block.language == "bash"
    for command in commands(block.lines)
)
RECORDED = [
    Documented(TRANSCRIPTS, command)
    for block in blocks(TRANSCRIPTS)
    if block.lines[0].startswith(("python ", "make ", "OMP_NUM_THREADS="))
    for command in commands(block.lines)
]
INLINE = [
    Documented(document, command)
    for document, text in DOCUMENTS.items()
    for command in re.findall(r"`((?:python|make) [^`\n]+)`", text)
    if "..." not in command
]
"""Commands within a sentence."""
SCRIPTS_SHOWN = [block for document in DOCUMENTS for block in blocks(document) if block.language == "sh"]
SHOWN = [
    block
    for document in DOCUMENTS
    for block in blocks(document)
    if not block.language and block.lines[:1] and block.lines[0].startswith("$ ")
]
"""Blocks that show a command and what it prints."""


def test_no_command_hides_in_another_kind_of_block() -> None:
    for document in DOCUMENTS:
        for block in blocks(document):
            assert block.language in {"bash", "sh", "json", "python", "text", "yaml", "diff", ""}, document
            if block.language in ("", "text") and document != TRANSCRIPTS:
                hidden = [line for line in block.lines if re.match(r"(python|make|pip|hf) ", line)]
                assert not hidden, f"{document}: {hidden[0]} stands in a block that is not ```bash"
    assert {case.document for case in BASH} >= {README, "docs/first_run.md", "docs/data.md"}
    assert RECORDED


def test_the_parser() -> None:
    lines = [
        "make x   # a # b",
        "",
        "# only a comment",
        "python train.py \\",
        "    'data.path=[a,\"b=1\"]' \\",
        "  c=1",
    ]
    assert commands(lines) == ["make x", "python train.py 'data.path=[a,\"b=1\"]' c=1"]
    for command in ("python train.py | head", "python other.py", "curl x", "git push", "python -m hybrid_ir.nothing"):
        with pytest.raises(AssertionError, match="teach"):
            kind_of(shlex.split(command))


# ------------------------------------------------------------------------------------------------------- the pieces


def kind_of(words: list[str]) -> tuple[str, list[str]]:
    """What a command is (``make``, ``not run``, a program that is only checked, or a module), and its arguments.

    Raises:
        AssertionError: this module does not know how to run it.
    """
    unknown = f"tests/test_readme.py does not know how to run {shlex.join(words)}; teach it to it"
    assert not {"|", "||", "&&", "&", ";", ">", "<"} & set(words), unknown
    if shlex.join(words) in {shlex.join(shlex.split(text)) for text in NOT_RUN}:
        return "not run", []
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # variables of the environment
        words = words[1:]
    program, rest = words[0], words[1:]
    if program == "make" or program in CHECKED:
        return program, rest
    if program in PROGRAMS:
        return PROGRAMS[program], rest
    assert program in ("python", "python3", ".venv/bin/python"), unknown
    if rest[:1] == ["-m"] and len(rest) > 1:
        module, rest = rest[1], rest[2:]
    elif rest[:1] and re.fullmatch(r"bench/\w+\.py", rest[0]):
        module, rest = rest[0].removesuffix(".py").replace("/", "."), rest[1:]
    else:
        module, rest = PROGRAMS.get(rest[0] if rest else "", ""), rest[1:]
    if module.startswith("bench."):
        return "bench", [module, *rest]
    assert module in RUNNERS, unknown
    return module, rest


@dataclass(frozen=True)
class Place:
    """Where a command is run: a folder of its own, and what the runs and models are that it names."""

    folder: Path
    trained: Path
    """A run that can be continued."""
    evaluated: Callable[[], Path]
    """An evaluation of it, made when it is asked for."""
    processes: bool
    """Run as a process of its own, rather than in this one."""
    sweeps: bool = False
    """Run two jobs of a sweep as one, rather than its first job alone."""

    def run(self, module: str, arguments: Sequence[str]) -> str:
        """Runs a module, or its script, in the folder and returns what it prints; it must end with exit code 0."""
        run = run_process if self.processes else run_here
        return run(module, arguments, self.folder)


def run_process(module: str, arguments: Sequence[str], folder: Path) -> str:
    """Runs a module, or its script, as a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    start = [str(REPOSITORY / SCRIPTS[module])] if module in SCRIPTS else ["-m", module]
    command = [sys.executable, *start, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (
        f"{shlex.join(arguments)}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


MAINS = {
    "hybrid_ir.config": "hybrid_ir.config_command",
    "hybrid_ir.data.sources.cldr": "hybrid_ir.data.sources.cldr.__main__",
}
"""Where the function is that a module runs, if not in itself."""


def run_here(module: str, arguments: Sequence[str], folder: Path) -> str:
    """Calls a module's function in this process, whose signals and folder stay as they are."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    main: Callable[[Sequence[str]], int] = (
        functools.partial(run_command, module.removeprefix("hybrid_ir."))
        if module in SCRIPTS
        else importlib.import_module(MAINS.get(module, module)).main
    )
    printed = io.StringIO()
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            code = main(list(arguments))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert code == 0, f"{shlex.join(arguments)}\nexit {code}\n{printed.getvalue()[-3000:]}"
    return printed.getvalue()


# -------------------------------------------------------------------------------------------- what commands name


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """A line of JSON for each row; gzip where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_jsonl(path: Path) -> None:
    """Twenty items in three languages; files of any names may be joined, since ids begin with the file's name."""
    rows = [
        {
            "id": f"{path.name}/{item}",
            "language": language,
            "query": f"{language} question {item} of {path.name}?",
            "passage": f"{language} answer number {item}, as {path.name} has it.",
            "passage_id": f"{path.name}/p{item}",
            "negatives": [f"{language} text {item} that answers nothing."],
        }
        for item in range(20)
        for language in LANGUAGES
    ]
    write_lines(path, rows)


def write_lareqa(folder: Path, languages: Sequence[str] = ("de", "en")) -> None:
    """Two paragraphs with three questions in each language, in LAReQA's format."""
    folder.mkdir(parents=True, exist_ok=True)
    for language in languages:
        paragraphs = []
        for number in range(2):
            sentences = [f"{language} paragraph {number} says {word}." for word in ("one", "two", "three")]
            context, breaks = "", []
            for sentence in sentences:
                breaks.append([len(context), len(context) + len(sentence)])
                context += sentence + " "
            questions = [
                {
                    "id": f"q{number}{place}",
                    "question": f"{language}: what is said at {place} of {number}?",
                    "answers": [{"text": sentences[place], "answer_start": breaks[place][0]}],
                }
                for place in range(3)
            ]
            paragraphs.append({"context": context, "sentences": sentences, "sentence_breaks": breaks, "qas": questions})
        content = {"data": [{"title": "t", "paragraphs": paragraphs}], "version": "1"}
        (folder / f"{language}.json").write_text(json.dumps(content), encoding="utf-8")


def write_miracl(folder: Path, languages: Sequence[str] = ("sw", "yo")) -> None:
    """Four topics with a relevant passage each, among eight passages in each language, in MIRACL's layout."""
    for language in languages:
        judged, corpus = folder / f"miracl-v1.0-{language}", folder / f"miracl-corpus-v1.0-{language}"
        for part in (judged / "topics", judged / "qrels"):
            part.mkdir(parents=True, exist_ok=True)
        name = f"miracl-v1.0-{language}-dev.tsv"
        (judged / "topics" / f"topics.{name}").write_text("".join(f"{i}\tquestion {i}\n" for i in range(4)))
        (judged / "qrels" / f"qrels.{name}").write_text("".join(f"{i}\tQ0\t{i}#0\t1\n" for i in range(4)))
        passages = [{"docid": f"{i}#0", "title": f"Title {i}", "text": f"what question {i} asks"} for i in range(8)]
        write_lines(corpus / "docs-0.jsonl.gz", passages)


def write_beir(folder: Path) -> None:
    """Four questions in two languages and a document of each in both, in BEIR's layout."""
    both = [(number, language) for number in range(4) for language in ("en", "sw")]
    write_lines(
        folder / "queries.jsonl",
        [{"_id": f"q{i}", "text": f"{lang} question {i}", "language": lang} for i, lang in both],
    )
    documents = [{"_id": f"d{i}-{lang}", "text": f"{lang} answer {i}", "language": lang} for i, lang in both]
    write_lines(folder / "corpus.jsonl", documents)
    (folder / "qrels").mkdir()
    rows = "".join(f"q{i}\td{i}-{lang}\t1\n" for i, lang in both)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)


BENCHMARK_FOLDERS: dict[str, Callable[[Path], None]] = {
    "beir": write_beir,
    "miracl": write_miracl,
    "mlqa_r": write_lareqa,
    "xquad_r": write_lareqa,
}


def write_texts(path: Path, key: str) -> None:
    """Texts from elsewhere for the small benchmarks above."""
    if key == "queries":
        path.write_text("0\tsw\tthe first question, rewritten\n")
    else:
        write_lines(path, [{"document_id": "en-0000-000", "texts": ["one?", "eins?"], "language": "en"}])


def data_option(arguments: Sequence[str]) -> str:
    """The option of ``data`` that a command, or the experiment that it names, chooses; empty where neither does."""
    chosen = {key: value for key, _, value in (setting.partition("=") for setting in arguments)}
    if "data" in chosen or "experiment" not in chosen:
        return chosen.get("data", "")
    text = (conf_dir() / "experiment" / f"{chosen['experiment']}.yaml").read_text(encoding="utf-8")
    found = re.search(r"override /data: (\w+)", text)
    return found[1] if found else ""


def make_named_files(arguments: Sequence[str], place: Place) -> None:
    """Makes what the settings of a command name: data files, benchmark folders, models, runs."""
    data = data_option(arguments)
    for setting in arguments:
        key, _, value = setting.partition("=")
        path = place.folder / value
        benchmark, _, last = key.removeprefix("benchmark.").partition(".")
        part = re.fullmatch(r"data\.parts\.(\w+)\.path", key)
        if part:
            option = next(
                (s.partition("=")[2] for s in arguments if s.startswith(f"data.parts.{part[1]}.source=")), part[1]
            )
            make_named_files([f"data={option}", f"data.path={value}"], place)
        if key == "data.path" and data == "mmarco":
            published_layouts.write_mmarco(path, MmarcoSource.languages_by_name)
        elif key == "data.path" and data in published_layouts.WRITERS:
            published_layouts.WRITERS[data](path.parent if "*" in path.name else path)
        elif key == "data.path":
            parsed = parse_settings([quote_path(setting)])[0].value()
            for each in parsed if isinstance(parsed, list) else [parsed]:
                write_jsonl(place.folder / str(each).replace("**", "x").replace("*", "x"))
        elif key.startswith("benchmark.") and last == "path":
            assert benchmark in BENCHMARK_FOLDERS, f"{key}: tests/test_readme.py has no such files; teach it to it"
            BENCHMARK_FOLDERS[benchmark](path)
        elif key.startswith("benchmark.") and last in ("queries", "passage_queries"):
            write_texts(path, last)
        elif key in ("model.name_or_path", "resume") and PLACEHOLDER.fullmatch(value.partition("/")[0]):
            shutil.copytree(place.trained, path)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """Folder of an evaluation of the tiny model."""
    folder = tmp_path_factory.mktemp("evaluated")
    settings = ["benchmark.cldr.limit=4", "benchmark.cldr.languages=[en,sw]", "threads=1", "output_dir=OUT"]
    run_process("hybrid_ir.evaluate", [f"model.name_or_path={trained}", *settings], folder)
    return folder / "OUT"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one step that can be continued: the tiny model of all commands, and their run to resume."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["experiment=debug", "trainer.max_steps=1", "benchmark=[]", "evaluation.at_start=false", "threads=1"]
    settings += ["optimizer.schedule=constant", "checkpoint.keep_optimizer=true", "output_dir=run"]
    run_process("hybrid_ir.train", settings, folder)
    return folder / "run"


# ------------------------------------------------------------------------------------------------ smaller settings


def replaced(settings: Sequence[str], small: dict[str, str]) -> list[str]:
    """The settings with those of ``small`` in their place or at the end; a sweep over one of them stays a sweep."""
    kept = []
    for setting in settings:
        key = setting.partition("=")[0].lstrip("+")
        swept = not key.startswith("hydra") and parse_settings([quote_path(setting)])[0].is_sweep_override()
        if key in small and swept:
            small = {k: v for k, v in small.items() if k != key}
        if key not in small:
            kept.append(setting)
    return [*kept, *(f"{key}={value}" for key, value in small.items())]


def fewer_jobs(settings: Sequence[str]) -> list[str]:
    """A sweep of two jobs: the first and the last value of the first swept key, the first value of the others."""
    result = []
    first = True
    for setting in settings:
        override = parse_settings([quote_path(setting)])[0]
        if override.is_sweep_override():
            values = swept_values(override)
            chosen = [values[0], values[-1]] if first else values[:1]
            setting = f"{override.get_key_element()}={','.join(chosen)}"
            first = False
        result.append(setting)
    return result


def small_settings(raw: dict[str, Any], place: Place) -> dict[str, str]:
    """Settings that make a composed configuration a matter of seconds on one CPU thread."""
    small = {"threads": "1"}
    name = str(raw["model"].get("name_or_path", ""))
    if name and not (place.folder / name).is_dir():  # a name on the hub
        small.update({"model.name_or_path": str(place.trained / "model"), "model.revision": "null"})
        small["model.dense"] = "false"
        if raw["model"].get("keep_layers"):
            small["model.keep_layers"] = "1"
    for benchmark, section in (raw.get("benchmark") or {}).items():
        small[f"benchmark.{benchmark}.limit"] = "2"
        if benchmark == "cldr":
            small["benchmark.cldr.languages"] = "[en,sw]"
            continue
        assert benchmark in BENCHMARK_FOLDERS, (
            f"benchmark={benchmark}: tests/test_readme.py cannot limit it; teach it to it"
        )
        if benchmark == "miracl" and section.get("languages"):
            small["benchmark.miracl.languages"] = "[sw]"
        if section.get("path") is None:  # of the hub
            BENCHMARK_FOLDERS[benchmark](place.folder / benchmark)
            small[f"benchmark.{benchmark}.path"] = benchmark
    if "trainer" not in raw:
        return {**small, "accelerator": "cpu", "devices": "1", "precision": "32"}
    small.update({"trainer.max_steps": "2", "trainer.val_check_interval": "2", "trainer.log_every_n_steps": "1"})
    small.update({"trainer.accelerator": "cpu", "trainer.devices": "1", "trainer.num_nodes": "1"})
    small.update({"trainer.strategy": "auto", "trainer.precision": "32", "batch_size": "8"})
    small.update({"data.validation.queries_per_language": "2", "evaluation.at_start": "false"})
    if raw["data"]["source"] == "cldr":
        small["data.languages"] = f"[{','.join(LANGUAGES)}]"
    if raw["model"]["kind"] == "small":
        small.update({"model.vocab_size": "600", "model.hidden_size": "32", "model.num_heads": "2"})
        small["model.intermediate_size"] = "64"
    return small


# ---------------------------------------------------------------------------------------------------- the commands


def check_run(folder: Path, steps: int | None) -> None:
    """A complete run's folder, of training (``steps``) or of evaluation (None)."""
    files = {path.name for path in folder.iterdir()}
    expected = {"config.yaml", "overrides.yaml", "environment.json", "results.csv", "per_query.parquet", "summary.json"}
    assert expected <= files, f"{folder} lacks {expected - files}"
    if steps is not None:
        assert {"train.log", "model", "checkpoints"} <= files
        assert json.loads((folder / "summary.json").read_text())["steps"] == steps


def validated(command: Command, arguments: list[str]) -> tuple[list[str], list[str], list[list[str]], dict[str, Any]]:
    """Validates a command line as it is, all jobs of a sweep.

    Returns:
        Its flags, its settings, the jobs of a sweep, and the configuration, of a sweep that of the first job.
    """
    options, flags = parse_arguments(command, arguments)
    settings = [quote_path(setting) for setting in options.overrides]
    with composer(command) as composing:
        composing.check(parse_settings(settings))
        if not options.multirun:
            config, _ = prepare(composing, settings)
            return flags, settings, [], config.model_dump(mode="json")
        own = [setting for setting in settings if not setting.startswith("sweep=")]
        jobs = [list(job) for job in check_sweep(composing, own, composing.hydra_config(own))]
        return flags, settings, jobs, composing.compose(jobs[0])


def run_command_line(command: Command, arguments: list[str], place: Place) -> None:
    """``train`` or ``evaluate``: validated as it is, then run small."""
    flags, settings, jobs, raw = validated(command, arguments)
    if "mteb" in (raw.get("benchmark") or {}):
        return  # its tasks are on the hub; tests/test_mteb.py runs one that is not
    if raw.get("dry_run") and raw["launcher"]["kind"] == "slurm":
        assert "#SBATCH --nodes=" in place.run(f"hybrid_ir.{command}", [*flags, *settings])
        return
    few = settings
    if not any(parse_settings([quote_path(setting)])[0].is_sweep_override() for setting in settings):
        place = replace(place, sweeps=False)  # an experiment's own sweep, of many jobs
    if jobs and place.sweeps:
        few = fewer_jobs(settings)
    elif jobs:
        flags, few = [], run_settings(jobs[0])
    resumed = [setting.partition("=")[2] for setting in settings if setting.startswith("resume=")]
    small = {"trainer.max_steps": "2"} if resumed else small_settings(raw, place)
    before = set(place.folder.rglob("summary.json"))
    printed = place.run(f"hybrid_ir.{command}", [*flags, *replaced(few, small)])
    if raw.get("dry_run"):
        assert "samples/s" in printed
        assert not (place.folder / "outputs").exists()
        return
    if resumed:
        assert "resuming after step 1" in printed
        check_run(place.folder / resumed[0], 2)
        return
    made = sorted(path.parent for path in set(place.folder.rglob("summary.json")) - before)
    sweep = bool(jobs) and place.sweeps
    assert len(made) == (2 if sweep else 1), f"{made}\n{printed[-2000:]}"
    for folder in made:
        check_run(folder, 2 if command == "train" else None)
    parent = made[0].relative_to(place.folder).as_posix()
    given = next((s.partition("=")[2] for s in few if s.startswith(("output_dir=", "hydra.sweep.dir="))), None)
    assert parent.startswith(given or ("sweeps" if sweep else "outputs"))


def run_train(arguments: list[str], place: Place) -> None:
    run_command_line("train", arguments, place)


def run_evaluate(arguments: list[str], place: Place) -> None:
    run_command_line("evaluate", arguments, place)


def run_describe(arguments: list[str], place: Place) -> None:
    with composer("train") as composing:
        config, _ = prepare(composing, [quote_path(setting) for setting in arguments])
    small = small_settings(config.model_dump(mode="json"), place)
    small = {key: value for key, value in small.items() if not key.startswith("benchmark.")}
    printed = place.run("hybrid_ir.data.describe", replaced(arguments, small))
    assert "drawn in 2 steps of 8 rows" in printed


def run_overlap(arguments: list[str], place: Place) -> None:
    assert "training items" in place.run("hybrid_ir.data.overlap", arguments)


def run_squad_shifts(arguments: list[str], place: Place) -> None:
    """Files in SQuAD's format become a benchmark."""
    for name in arguments[1:]:
        published_layouts.write(place.folder / name, published_layouts.squad({"A text.": [("1", "What?")]}))
    place.run("hybrid_ir.data.sources.squad_shifts", arguments)
    assert (place.folder / arguments[0] / "qrels" / "test.tsv").is_file()


def run_mine(arguments: list[str], place: Place) -> None:
    printed = place.run("hybrid_ir.data.mine", [*arguments, "threads=1", "accelerator=cpu"])
    assert "train with:" in printed


def run_config(arguments: list[str], place: Place) -> None:
    printed = place.run("hybrid_ir.config", arguments)
    assert {"validate": "OK", "dump": "batch_size:", "describe": " = "}[arguments[0]] in printed


def run_compare(arguments: list[str], place: Place) -> None:
    options = compare_parser().parse_intermixed_args(arguments)
    for system in options.systems:
        for name in system.rpartition("=")[2].split(","):
            if not (place.folder / name).exists():
                shutil.copytree(place.evaluated(), place.folder / name)
    printed = place.run("hybrid_ir.analysis.compare", [*arguments, "--permutations", "100", "--resamples", "100"])
    assert all(Path(system.partition("=")[0]).name in printed for system in options.systems)
    if options.output is not None:
        written = {path.name for path in (place.folder / options.output).iterdir()}
        assert written == {"comparison.csv", "comparison.tex"}


def run_score(arguments: list[str], place: Place) -> None:
    run, judgments = (place.folder / name for name in arguments[:2])
    if not run.exists():
        run.parent.mkdir(parents=True, exist_ok=True)
        run.write_text("".join(f"q{i} Q0 d{k} {k + 1} {1 - k / 8} x\n" for i in range(2) for k in range(3)))
        judgments.parent.mkdir(parents=True, exist_ok=True)
        judgments.write_text("q0 0 d1 1\nq1 0 d5 1\n")
    assert "recall@100" in place.run("hybrid_ir.evaluation.score", arguments)


def run_aggregate(arguments: list[str], place: Place) -> None:
    write_sweep(place.folder / arguments[0], seeds=(1, 2))
    place.run("hybrid_ir.analysis.aggregate", [*arguments, "--permutations", "100", "--resamples", "100"])
    assert (place.folder / arguments[0] / "tables" / "aggregate.csv").is_file()


def run_report(arguments: list[str], place: Place) -> None:
    write_sweep(place.folder / arguments[0], seeds=(1, 2), further=[word for word in arguments if "@" in word])
    place.run("hybrid_ir.analysis.report", [*arguments, "--permutations", "100", "--resamples", "100"])
    assert (place.folder / arguments[0] / "report.html").is_file()


def run_summary(arguments: list[str], place: Place) -> None:
    """Kept for a server; tests/test_wandb_sweeps.py has one that takes it."""
    write_sweep(place.folder / arguments[0], ratios=(0.0, 1.0), seeds=(1,))
    given = [*arguments, "--mode", "offline", "--permutations", "100", "--resamples", "100"]
    printed = replace(place, processes=True).run("hybrid_ir.tracking.summary", given)
    assert f"wandb sync {arguments[0]}/wandb" in printed


def run_workspace(arguments: list[str], place: Place) -> None:
    """The view that it would save; tests/test_wandb_sweeps.py has a server that takes it."""
    given = arguments if "--json" in arguments else [*arguments, "--json", "view.json"]
    place.run("hybrid_ir.tracking.workspace", given)
    assert (place.folder / given[given.index("--json") + 1]).is_file()


def run_paper(arguments: list[str], place: Place) -> None:
    write_sweep(place.folder / arguments[0], seeds=(1, 2))
    place.run("hybrid_ir.analysis.paper", [*arguments, "--permutations", "100", "--resamples", "100"])
    assert (place.folder / arguments[0] / "tables" / "paper.csv").is_file()


def run_push(arguments: list[str], place: Place) -> None:
    """What it would upload; tests/test_push.py has a server that takes it."""
    shutil.copytree(place.trained, place.folder / arguments[0])
    printed = place.run("hybrid_ir.modeling.push", [*(word for word in arguments if word != "--dry-run"), "--dry-run"])
    assert "model.safetensors" in printed


def run_cldr(arguments: list[str], place: Place) -> None:
    assert "held-out items" in place.run("hybrid_ir.data.sources.cldr", arguments[-1:] or ["sw"])


RUNNERS: dict[str, Callable[[list[str], Place], None]] = {
    "hybrid_ir.train": run_train,
    "hybrid_ir.evaluate": run_evaluate,
    "hybrid_ir.config": run_config,
    "hybrid_ir.data.describe": run_describe,
    "hybrid_ir.data.mine": run_mine,
    "hybrid_ir.data.overlap": run_overlap,
    "hybrid_ir.data.sources.cldr": run_cldr,
    "hybrid_ir.data.sources.squad_shifts": run_squad_shifts,
    "hybrid_ir.analysis.compare": run_compare,
    "hybrid_ir.analysis.aggregate": run_aggregate,
    "hybrid_ir.analysis.report": run_report,
    "hybrid_ir.analysis.paper": run_paper,
    "hybrid_ir.evaluation.score": run_score,
    "hybrid_ir.modeling.push": run_push,
    "hybrid_ir.tracking.summary": run_summary,
    "hybrid_ir.tracking.workspace": run_workspace,
}


# --------------------------------------------------------------------------------------- what is checked, not run


def check_make(arguments: list[str]) -> None:
    """Its recipe can be made; what it would do takes minutes to hours."""
    done = subprocess.run(["make", "-n", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def check_bench(arguments: list[str]) -> None:
    """A measurement of minutes to hours: the script has these options."""
    module, *rest = arguments
    script = (REPOSITORY / module.replace(".", "/")).with_suffix(".py")
    known = {
        argument.value
        for node in ast.walk(ast.parse(script.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant)
    }
    given = {word.partition("=")[0] for word in rest if word.startswith("-")}
    assert given <= known, f"{script.name} has no {given - known}"


def check_pip(arguments: list[str]) -> None:
    """It would change this environment: the extra exists."""
    action, requirement = arguments
    match = re.fullmatch(r"hybrid-ir\[([\w-]+)\]", requirement)
    assert (action, match is not None) == ("install", True)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert match is not None
    assert match[1] in project["optional-dependencies"]


def check_launched(processes: int, nodes: int, arguments: list[str]) -> None:
    """A command that a launcher starts on several machines: it is valid, and wants as many processes as are started."""
    assert arguments[0] == "train.py"
    _, _, _, raw = validated("train", arguments[1:])
    assert (raw["trainer"]["devices"], raw["trainer"]["num_nodes"]) == (processes, nodes)


def check_torchrun(arguments: list[str]) -> None:
    """Several machines: torch's own parser takes it."""
    from torch.distributed.run import get_args_parser

    options = get_args_parser().parse_args([word.replace("RANK", "0") for word in arguments])
    check_launched(
        int(options.nproc_per_node), int(options.nnodes), [options.training_script, *options.training_script_args]
    )


def check_srun(arguments: list[str]) -> None:
    """A SLURM cluster."""
    command = arguments.index("python")
    options = dict(word.removeprefix("--").split("=") for word in arguments[:command])
    check_launched(int(options["ntasks-per-node"]), int(options["nodes"]), arguments[command + 1 :])


def check_hf(arguments: list[str]) -> None:
    """The network: the repository and the commit are those that the project loads by itself."""
    from hybrid_ir.evaluation.benchmarks import miracl

    known = {
        miracl.TOPICS_REPOSITORY: miracl.TOPICS_REVISION,
        miracl.CORPUS_REPOSITORY: miracl.CORPUS_REVISION,
    }
    assert arguments[0] == "download"
    assert known[arguments[1]] == arguments[arguments.index("--revision") + 1]


def check_wandb(arguments: list[str]) -> None:
    """A server and an account: Weights & Biases has the command."""
    from wandb.cli.cli import cli

    assert arguments[0] in cli.commands


def check_tensorboard(arguments: list[str]) -> None:
    """A server that runs until it is stopped: it has the option."""
    from tensorboard.plugins.core.core_plugin import CorePluginLoader

    parser = argparse.ArgumentParser()
    CorePluginLoader().define_flags(parser)
    parser.parse_args(arguments)


CHECKED: dict[str, Callable[[list[str]], None]] = {
    "make": check_make,
    "bench": check_bench,
    "pip": check_pip,
    "torchrun": check_torchrun,
    "srun": check_srun,
    "hf": check_hf,
    "wandb": check_wandb,
    "tensorboard": check_tensorboard,
}
"""What cannot be run in a test, each for the reason that its function states."""


# --------------------------------------------------------------------------------------------------------- tests


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Place:
    monkeypatch.chdir(tmp_path)
    trained = cast(Path, request.getfixturevalue("trained"))
    return Place(tmp_path, trained, lambda: cast(Path, request.getfixturevalue("evaluated")), processes=False)


@pytest.mark.parametrize("case", BASH, ids=str)
def test_command(case: Documented, place: Place) -> None:
    kind, arguments = kind_of(shlex.split(case.command))
    if kind == "not run":
        return
    if kind in CHECKED:
        CHECKED[kind](arguments)
        return
    make_named_files(arguments, place)
    as_process = case.document == README or "logger=wandb" in arguments  # which has a process of its own that stays
    RUNNERS[kind](arguments, replace(place, processes=as_process, sweeps=case.document == README))


@pytest.mark.parametrize("case", once([*RECORDED, *INLINE]), ids=str)
def test_a_command_of_a_transcript_or_a_sentence_is_valid(case: Documented, place: Place) -> None:
    kind, arguments = kind_of(shlex.split(case.command))
    make_named_files(arguments, place)
    if kind in CHECKED:
        CHECKED[kind](arguments)
    elif kind in SCRIPTS:
        validated(cast(Command, kind.removeprefix("hybrid_ir.")), arguments)
    elif kind == "hybrid_ir.analysis.compare":
        compare_parser().parse_intermixed_args(arguments)
    elif kind == "hybrid_ir.data.describe":
        validated("train", arguments)
    elif kind == "hybrid_ir.data.overlap":
        run_overlap(arguments, place)
    elif kind == "hybrid_ir.data.mine":
        run_mine([re.sub(r"^data\.languages=.*", "data.languages=[de,en]", word) for word in arguments], place)
    elif kind == "hybrid_ir.analysis.report":
        run_report(arguments, place)
    else:
        assert kind == "hybrid_ir.config", f"tests/test_readme.py cannot check {case}; teach it to it"
        assert arguments[0] in ("describe", "dump", "validate")


@pytest.mark.parametrize("block", SCRIPTS_SHOWN, ids=lambda block: f"{block.document}: {block.lines[0][:80]}")
def test_a_script_is_one_that_the_shell_can_read_and_its_commands_are_valid(block: Block, place: Place) -> None:
    """What it does depends on what stands on a disk."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True, timeout=60)
    found = re.findall(r"python (train|evaluate)\.py ([^;\n]*)", block.text)
    assert found
    for number, (command, settings) in enumerate(found):
        arguments = shlex.split(settings)
        branch = place.folder / str(number)
        branch.mkdir()
        with contextlib.chdir(branch):
            make_named_files(arguments, replace(place, folder=branch))
            validated(command, arguments)


def test_the_commands_of_the_example_in_their_order(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for fewer steps; what one leaves behind is there for the next."""
    document = "examples/own_data/README.md"
    shutil.copytree(REPOSITORY / "examples", place.folder / "examples")
    few = {"trainer.max_steps": "4", "threads": "1"}
    cases = [command for block in blocks(document) if block.language == "bash" for command in commands(block.lines)]
    for command in cases:
        kind, arguments = kind_of(shlex.split(command))
        if kind in ("hybrid_ir.train", "hybrid_ir.data.describe"):
            arguments = replaced(arguments, few)
        if kind in RUNNERS and kind not in ("hybrid_ir.analysis.compare", "hybrid_ir.evaluation.score"):
            place.run(kind, arguments)
        else:
            assert kind in ("hybrid_ir.analysis.compare", "hybrid_ir.evaluation.score")
            before = {path for path in place.folder.rglob("*") if path.is_dir()}
            RUNNERS[kind](arguments, place)
            assert before == {path for path in place.folder.rglob("*") if path.is_dir()}, "a run was made up for it"
    for run in ("mono", "half"):
        check_run(place.folder / "outputs" / run, 4)
    check_run(place.folder / "outputs" / "half_evaluated", None)


@pytest.mark.parametrize("block", SHOWN, ids=lambda block: block.lines[0])
def test_what_a_command_is_shown_to_print(block: Block, tmp_path: Path) -> None:
    """A mistake and its message: the document shows exactly what is printed."""
    module, arguments = kind_of(shlex.split(block.lines[0].removeprefix("$ ")))
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout + done.stderr).split() == " ".join(block.lines[1:]).split()
    assert list(tmp_path.iterdir()) == []
