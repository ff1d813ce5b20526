"""Every command of the README is run as it stands there, cut down to seconds.

A command is first validated whole, as it is written. Then its settings are replaced by small ones and it is run in a
folder of its own, in which the files and folders that it names exist. A command that this module does not know fails.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from hybrid_ir.cli import check_sweep, parse_arguments, prepare
from hybrid_ir.composition import Command, composer, conf_dir, parse_settings, quote_path, swept_values

pytestmark = pytest.mark.slow

REPOSITORY = conf_dir().parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")

NOT_RUN = {"source .venv/bin/activate", "pip install hybrid-ir", "pip install -e .", "pip install -e '.[dev]'"}
"""Commands that would change the machine; they are only compared with this list."""
PROGRAMS = {
    "train.py": "hybrid_ir.train",
    "evaluate.py": "hybrid_ir.evaluate",
    "hybrid-ir-train": "hybrid_ir.train",
    "hybrid-ir-evaluate": "hybrid_ir.evaluate",
}
SCRIPTS = {"hybrid_ir.train": "train.py", "hybrid_ir.evaluate": "evaluate.py"}
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*")
LANGUAGES = ("de", "en", "sw")

Files = Callable[[Path], None]


# ------------------------------------------------------------------------------------------------- what README says


def fences(text: str) -> list[tuple[str, list[str]]]:
    """(language, lines) of each fenced block."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in text.splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append((line[3:].strip(), []))
        elif inside:
            found[-1][1].append(line)
    assert not inside, "a fence of the README is not closed"
    return found


def commands(lines: Sequence[str]) -> list[str]:
    """Commands of a block: a line each, or several that end in a backslash; without comments."""
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [text for line in joined.splitlines() if (text := shlex.join(shlex.split(line, comments=True)))]


BASH = [command for language, lines in fences(README) if language == "bash" for command in commands(lines)]
SHOWN = [lines for language, lines in fences(README) if not language and lines and lines[0].startswith("$ ")]
"""Blocks that show a command and what it prints."""


def test_no_command_hides_in_another_kind_of_block() -> None:
    assert {language for language, _ in fences(README)} <= {"bash", "json", ""}
    assert BASH


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
    """What a command is (``make``, ``not run``, or a module), and its arguments.

    Raises:
        AssertionError: this module does not know how to run it.
    """
    unknown = f"the README has a command that tests/test_readme.py does not know: {shlex.join(words)}; teach it to it"
    assert not {"|", "||", "&&", "&", ";", ">", "<"} & set(words), unknown
    if shlex.join(words) in {shlex.join(shlex.split(text)) for text in NOT_RUN}:
        return "not run", []
    program, rest = words[0], words[1:]
    if program == "make":
        return "make", rest
    if program in PROGRAMS:
        return PROGRAMS[program], rest
    assert program in ("python", "python3", ".venv/bin/python"), unknown
    if rest[:1] == ["-m"] and len(rest) > 1:
        module, rest = rest[1], rest[2:]
    else:
        module, rest = PROGRAMS.get(rest[0] if rest else "", ""), rest[1:]
    assert module in RUNNERS, unknown
    return module, rest


def run(module: str, arguments: Sequence[str], folder: Path) -> str:
    """Runs a module, or its script, in a folder and returns what it prints; it must end with exit code 0."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
    start = [str(REPOSITORY / SCRIPTS[module])] if module in SCRIPTS else ["-m", module]
    command = [sys.executable, *start, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (
        f"{shlex.join(arguments)}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    )
    return done.stdout


def write_jsonl(path: Path) -> None:
    """Twenty items in three languages; files of any names may be joined, since ids begin with the file's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"{path.name}/{item}",
            "language": language,
            "query": f"{language} question {item} of {path.name}?",
            "passage": f"{language} answer number {item}, as {path.name} has it.",
            "passage_id": f"{path.name}/p{item}",
        }
        for item in range(20)
        for language in LANGUAGES
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


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


def write_miracl(folder: Path, language: str = "sw") -> None:
    """Four topics with a relevant passage each, among eight passages, in MIRACL's layout."""
    judged, corpus = folder / f"miracl-v1.0-{language}", folder / f"miracl-corpus-v1.0-{language}"
    for part in (judged / "topics", judged / "qrels", corpus):
        part.mkdir(parents=True, exist_ok=True)
    name = f"miracl-v1.0-{language}-dev.tsv"
    (judged / "topics" / f"topics.{name}").write_text("".join(f"{i}\tquestion {i}\n" for i in range(4)))
    (judged / "qrels" / f"qrels.{name}").write_text("".join(f"{i}\tQ0\t{i}#0\t1\n" for i in range(4)))
    passages = [{"docid": f"{i}#0", "title": f"Title {i}", "text": f"what question {i} asks"} for i in range(8)]
    (corpus / "docs-0.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(p) + "\n" for p in passages).encode()))


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, trained: Path) -> Path:
    """Folder of an evaluation of the tiny model."""
    folder = tmp_path_factory.mktemp("evaluated")
    settings = ["benchmark.cldr.limit=4", "benchmark.cldr.languages=[en,sw]", "threads=1", "output_dir=OUT"]
    run("hybrid_ir.evaluate", [f"model.name_or_path={trained}", *settings], folder)
    return folder / "OUT"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of one step that can be continued: the tiny model of all commands, and their run to resume."""
    folder = tmp_path_factory.mktemp("trained")
    settings = ["experiment=debug", "trainer.max_steps=1", "benchmark=[]", "evaluation.at_start=false", "threads=1"]
    settings += ["optimizer.schedule=constant", "checkpoint.keep_optimizer=true", "output_dir=run"]
    run("hybrid_ir.train", settings, folder)
    return folder / "run"


def make_named_files(arguments: Sequence[str], folder: Path, trained: Path) -> None:
    """Makes what the settings of a command name: data files, benchmark folders, models, runs."""
    for setting in arguments:
        key, _, value = setting.partition("=")
        if key == "data.path":
            parsed = parse_settings([quote_path(setting)])[0].value()
            for path in parsed if isinstance(parsed, list) else [parsed]:
                write_jsonl(folder / str(path).replace("**", "x").replace("*", "x"))
        elif key.startswith("benchmark.") and key.endswith(".path"):
            writers = {"benchmark.xquad_r.path": write_lareqa, "benchmark.miracl.path": write_miracl}
            assert key in writers, f"{key}: tests/test_readme.py has no such files; teach it to it"
            writers[key](folder / value)
        elif key in ("model.name_or_path", "resume") and PLACEHOLDER.fullmatch(value):
            shutil.copytree(trained, folder / value)


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


def small_settings(raw: dict[str, Any], trained: Path, folder: Path) -> dict[str, str]:
    """Settings that make a composed configuration a matter of seconds on one CPU thread."""
    small = {"threads": "1"}
    name = str(raw["model"].get("name_or_path", ""))
    if name and not (folder / name).is_dir():  # a name on the hub
        small.update({"model.name_or_path": str(trained / "model"), "model.revision": "null", "model.dense": "false"})
    for benchmark, section in (raw.get("benchmark") or {}).items():
        small[f"benchmark.{benchmark}.limit"] = "2"
        if benchmark == "cldr":
            small["benchmark.cldr.languages"] = "[en,sw]"
        elif benchmark == "miracl":
            assert section.get("path") is not None
        elif benchmark == "xquad_r":
            if section.get("path") is None:
                write_lareqa(folder / "xquad_r")
                small["benchmark.xquad_r.path"] = "xquad_r"
        else:
            raise AssertionError(f"benchmark={benchmark}: tests/test_readme.py cannot limit it; teach it to it")
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


def run_command_line(command: Command, arguments: list[str], folder: Path, trained: Path) -> None:
    """``train`` or ``evaluate``: validated as it is, then run small."""
    options, flags = parse_arguments(command, arguments)
    settings = [quote_path(setting) for setting in options.overrides]
    sweep = bool(options.multirun)
    with composer(command) as composing:
        composing.check(parse_settings(settings))
        if sweep:
            jobs = check_sweep(composing, settings, composing.hydra_config(settings))
            few = fewer_jobs(settings)
            raw = composing.compose(jobs[0])
        else:
            config, _ = prepare(composing, settings)
            few = settings
            raw = config.model_dump(mode="json")
    resumed = [setting.partition("=")[2] for setting in settings if setting.startswith("resume=")]
    small = {"trainer.max_steps": "2"} if resumed else small_settings(raw, trained, folder)
    before = set(folder.rglob("summary.json"))
    printed = run(f"hybrid_ir.{command}", [*flags, *replaced(few, small)], folder)
    if raw.get("dry_run"):
        assert "samples/s" in printed
        assert not (folder / "outputs").exists()
        return
    if resumed:
        assert "resuming after step 1" in printed
        check_run(folder / resumed[0], 2)
        return
    made = sorted(path.parent for path in set(folder.rglob("summary.json")) - before)
    assert len(made) == (2 if sweep else 1), f"{made}\n{printed[-2000:]}"
    for place in made:
        check_run(place, 2 if command == "train" else None)
    parent = made[0].relative_to(folder).parts[0]
    given = next((s.partition("=")[2] for s in settings if s.startswith(("output_dir=", "hydra.sweep.dir="))), None)
    assert parent == (given or ("sweeps" if sweep else "outputs"))


def run_train(arguments: list[str], folder: Path, trained: Path) -> None:
    run_command_line("train", arguments, folder, trained)


def run_evaluate(arguments: list[str], folder: Path, trained: Path) -> None:
    run_command_line("evaluate", arguments, folder, trained)


def run_describe(arguments: list[str], folder: Path, trained: Path) -> None:
    with composer("train") as composing:
        config, _ = prepare(composing, [quote_path(setting) for setting in arguments])
    small = small_settings(config.model_dump(mode="json"), trained, folder)
    printed = run("hybrid_ir.data.describe", replaced(arguments, small), folder)
    assert "drawn in 2 steps of 8 rows" in printed


def run_config(arguments: list[str], folder: Path, trained: Path) -> None:
    printed = run("hybrid_ir.config", arguments, folder)
    assert {"validate": "OK", "dump": "batch_size:", "describe": " = "}[arguments[0]] in printed


def run_compare(arguments: list[str], folder: Path, trained: Path) -> None:
    systems = arguments[: arguments.index("--output")]
    printed = run("hybrid_ir.analysis.compare", [*arguments, "--permutations", "100", "--resamples", "100"], folder)
    assert all(system.partition("=")[0] in printed for system in systems)
    output = arguments[arguments.index("--output") + 1]
    assert {path.name for path in (folder / output).iterdir()} == {"comparison.csv", "comparison.tex"}


def run_cldr(arguments: list[str], folder: Path, trained: Path) -> None:
    assert "held-out items" in run("hybrid_ir.data.sources.cldr", arguments[-1:] or ["sw"], folder)


RUNNERS: dict[str, Callable[[list[str], Path, Path], None]] = {
    "hybrid_ir.train": run_train,
    "hybrid_ir.evaluate": run_evaluate,
    "hybrid_ir.config": run_config,
    "hybrid_ir.data.describe": run_describe,
    "hybrid_ir.data.sources.cldr": run_cldr,
    "hybrid_ir.analysis.compare": run_compare,
}


@pytest.mark.parametrize("command", BASH, ids=lambda command: command[:80])
def test_command(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    module, arguments = kind_of(shlex.split(command))
    if module == "not run":
        return
    if module == "make":
        done = subprocess.run(["make", "-n", *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()
        return
    monkeypatch.chdir(tmp_path)
    trained = cast(Path, request.getfixturevalue("trained"))
    make_named_files(arguments, tmp_path, trained)
    if module == "hybrid_ir.analysis.compare":
        runs = {name for setting in arguments if "=" in setting for name in setting.partition("=")[2].split(",")}
        for name in runs:
            shutil.copytree(cast(Path, request.getfixturevalue("evaluated")), tmp_path / name)
    RUNNERS[module](arguments, tmp_path, trained)


@pytest.mark.parametrize("lines", SHOWN, ids=lambda lines: lines[0])
def test_what_a_command_is_shown_to_print(lines: list[str], tmp_path: Path) -> None:
    """A mistake and its message: the README shows exactly what is printed."""
    module, arguments = kind_of(shlex.split(lines[0].removeprefix("$ ")))
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert (done.stdout + done.stderr).split() == " ".join(lines[1:]).split()
    assert list(tmp_path.iterdir()) == []
