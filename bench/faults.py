"""Kills training at random moments and resumes it: does it end with the bits of a run that nothing touched?

One run is left alone. Then the same run is started again and killed (SIGKILL), resumed and killed, until it is
complete; when kills are left over, once more from the start. Some kills fall at random times of the run's whole life,
of which start-up is the most; others are aimed at its steps, the writing of a checkpoint, an evaluation, the export.
After each kill every checkpoint of the folder must load, and the latest may not be older than it was. At the end all
that a run writes must be equal byte for byte: weights, results, and the curves, which hold the loss of every step. With
dropout no other batch and no other random state gives the same loss, so equal curves mean that no batch was lost,
repeated or changed.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from hybrid_ir.training import checkpoint as ckpt

STEPS, EVALUATED, SAVED = 60, 15, 3
"""Steps of the run; between evaluations; between checkpoints."""

SETTINGS = (
    "data.languages=[de,en,sw]",
    "data.validation.queries_per_language=20",
    "benchmark=[]",
    "model.hidden_size=64",
    "model.intermediate_size=128",
    "model.vocab_size=4000",
    "model.dropout=0.1",
    "batch_size=16",
    "threads=1",
    f"trainer.max_steps={STEPS}",
    f"trainer.val_check_interval={EVALUATED}",
    "trainer.log_every_n_steps=1",
    f"checkpoint.every_n_steps={SAVED}",
)
AIMS = ("any moment", "steps", "checkpoint", "evaluation", "steps", "checkpoint", "export")
"""What kills are aimed at, in turn."""

COMPARED = ("metrics.csv", "results.csv", "exposure.csv", "per_query.parquet", "language_bias.csv", "model")
LEFTOVERS = (".*.partial", "*.part", ".model.*")
"""Files that a writer renames when they are whole."""

PEERS_END_SECONDS = 60.0
"""How long the other processes of a run may live on after one was killed."""


@dataclass
class Kill:
    """One kill and what it left."""

    aim: str
    whom: str
    phase: str
    step: int
    """The last step whose loss was logged."""
    seconds: float
    """Since the start of the command."""
    saved: int | None
    """Step of the latest checkpoint."""
    ended_after: float
    """Seconds from the kill to the end of the command."""


@dataclass
class Report:
    """What was seen."""

    kills: list[Kill] = field(default_factory=list)
    runs: int = 0
    problems: list[str] = field(default_factory=list)


def command(*settings: str) -> list[str]:
    """The training command, as a user types it."""
    return [sys.executable, "-m", "hybrid_ir.train", *settings]


def files_of(run: Path) -> dict[str, bytes]:
    """Content of all that is compared, by path in the run's folder."""
    found = {}
    for name in COMPARED:
        paths = [p for p in (run / name).rglob("*") if p.is_file()] if (run / name).is_dir() else [run / name]
        found.update({p.relative_to(run).as_posix(): p.read_bytes() for p in paths})
    return found


def logged_steps(run: Path) -> list[int]:
    """Steps whose training loss the curves hold, in the order of the file; a line that is cut off is left out."""
    try:
        lines = (run / "metrics.csv").read_text().split("\n")[1:-1]
    except FileNotFoundError:
        return []
    return [int(row[0]) for row in csv.reader(lines) if row[1] == "train/loss"]


def leftovers(run: Path) -> list[str]:
    """Half-written files in a run's folder."""
    return sorted(str(p.relative_to(run)) for pattern in LEFTOVERS for p in run.rglob(pattern))


def compare(run: Path, whole: Path) -> list[str]:
    """Differences between a run that was killed and the one that was left alone."""
    mine, theirs = files_of(run), files_of(whole)
    problems = [f"{name}: missing or not expected" for name in sorted(mine.keys() ^ theirs.keys())]
    problems += [f"{name}: other bytes" for name in sorted(mine.keys() & theirs.keys()) if mine[name] != theirs[name]]
    if logged_steps(run) != list(range(1, STEPS + 1)):
        problems.append(f"metrics.csv: steps {logged_steps(run)}, not 1 to {STEPS} once each")
    problems += [f"{name}: left behind" for name in leftovers(run)]
    return problems


def check_checkpoints(run: Path, before: int | None) -> tuple[int | None, list[str]]:
    """Step of the latest checkpoint, and what is wrong with the folder's.

    Args:
        run: the run's folder.
        before: step of the latest checkpoint at the kill before.
    """
    problems = []
    for path in [*(path for _, path in ckpt.checkpoints(run)), *ckpt.best_files(run)]:
        try:
            ckpt.load_plain(path)  # weights_only
        except Exception as error:
            problems.append(f"{path.name}: {error}")
    found = ckpt.checkpoints(run)
    latest = found[-1][0] if found else None
    if before is not None and (latest is None or latest < before):
        problems.append(f"the latest checkpoint went back from step {before} to {latest}")
    return latest, problems


def phase(run: Path, started: float) -> str:
    """What a command that has been killed was doing, by the files that it left.

    Args:
        run: the run's folder.
        started: time of its start.
    """

    def since(pattern: str) -> bool:
        with suppress(FileNotFoundError):
            return any(path.stat().st_mtime >= started for path in run.glob(pattern))
        return False

    if (run / "summary.json").exists():
        return "after the end"
    if since("checkpoints/.*.partial"):
        return "writing a checkpoint"
    if since(".model.*"):
        return "export"
    if since("model"):
        return "final evaluation"
    if not since("metrics.csv") or not logged_steps(run):
        return "start-up"
    return "evaluation" if evaluates(run) else "steps"


def evaluates(run: Path) -> bool:
    """Whether the last step was logged and the evaluation after it was not."""
    step = max(logged_steps(run), default=0)
    results = run / "results.csv"
    done = results.exists() and f",{step}\n" in results.read_text()
    return step > 0 and step % EVALUATED == 0 and not done


def aimed(aim: str, run: Path, seconds: float, draw: random.Random) -> Callable[[], bool]:
    """A condition that holds when it is time to kill.

    Args:
        aim: one of AIMS.
        run: the run's folder.
        seconds: what the whole run takes.
        draw: random numbers.
    """
    start, first = time.monotonic(), len(logged_steps(run))
    delay = draw.uniform(0, seconds)
    if aim == "checkpoint":
        nth, seen = draw.randint(1, 4), set()
        folder = run / ckpt.FOLDER

        def writing() -> bool:
            with suppress(FileNotFoundError):
                seen.update((p.name, p.stat().st_ino) for p in folder.glob(".*.partial"))
            return len(seen) >= nth

        return writing
    if aim == "evaluation":
        wait = draw.uniform(0, 0.15)

        def evaluating() -> bool:
            if len(logged_steps(run)) > first and evaluates(run):
                time.sleep(wait)
                return True
            return False

        return evaluating
    if aim == "steps":
        more = draw.randint(1, STEPS // 3)
        return lambda: len(logged_steps(run)) >= min(first + more, STEPS - 1)
    if aim == "export":
        wait = draw.uniform(0, 1.0) * draw.choice([0, 1])

        def exporting() -> bool:
            if any(run.glob(".model.*")) or ((run / "model").exists() and not (run / "summary.json").exists()):
                time.sleep(wait)
                return True
            return False

        return exporting
    return lambda: time.monotonic() - start >= delay


def tree_of(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it started."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return [process]


def kill(command_process: subprocess.Popen[bytes], processes: int, draw: random.Random) -> str:
    """Kills the training process; of several, all at once (the machine dies) or one.

    Returns:
        Whom.
    """
    tree = tree_of(psutil.Process(command_process.pid))
    whom = "the process"
    if processes > 1:
        ranks = [p for p in tree[1:] if "hybrid_ir.launching.worker" in p.cmdline() and p.ppid() == command_process.pid]
        whom = draw.choice(["all", "one of them"]) if ranks else "all"
        tree = [draw.choice(ranks)] if whom == "one of them" else tree
    for each in tree if processes > 1 else tree[:1]:
        with suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGKILL)
    return whom


def harness(
    folder: Path, kills: int, processes: int, seed: int, settings: Sequence[str], console: Console, aims: Sequence[str]
) -> Report:
    """Runs it all.

    Args:
        folder: where the runs go; empty.
        kills: how many.
        processes: of the run, with gloo.
        seed: of the moments.
        settings: further settings of the run.
        console: where to say how far it is.
        aims: what kills are aimed at, in turn.
    """
    draw, report = random.Random(seed), Report()
    several = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.precision=32", f"trainer.devices={processes}"]
    options = [*(several if processes > 1 else []), *SETTINGS, *settings]
    whole = folder / "whole" / "run"  # the same name as the others': an export says which run it is from
    log = (folder / "output.log").open("ab")
    subprocess.run(command(*options, f"output_dir={whole}", "trainer.max_steps=1"), check=True, stdout=log, stderr=log)
    shutil.rmtree(whole)  # it has filled the cache
    begin = time.monotonic()
    subprocess.run(command(*options, f"output_dir={whole}"), check=True, stdout=log, stderr=log)
    seconds = time.monotonic() - begin
    console.print(f"left alone: {seconds:.0f} s", highlight=False)
    starts = 0
    while len(report.kills) < kills:
        report.runs += 1
        run = folder / f"killed_{report.runs}" / "run"
        saved: int | None = None
        while not (run / "summary.json").exists():
            aim = aims[starts % len(aims)] if len(report.kills) < kills else None
            starts += 1
            # a run that was killed before it had a folder starts anew
            there = (run / "config.yaml").exists()
            started, begin = time.time(), time.monotonic()
            process = subprocess.Popen(
                command(f"resume={run}") if there else command(*options, f"output_dir={run}"), stdout=log, stderr=log
            )
            due = aimed(aim, run, seconds, draw) if aim is not None else lambda: False
            while process.poll() is None and not due():
                time.sleep(0.0005 if aim == "checkpoint" else 0.005 if aim is not None else 0.1)
            if process.poll() is not None:
                if process.returncode:
                    report.problems.append(f"{run}: exit code {process.returncode}, see {log.name}")
                    return report
                break
            alive, killed = time.monotonic() - begin, time.monotonic()
            whom = kill(process, processes, draw)
            doing = phase(run, started)
            try:
                process.wait(timeout=PEERS_END_SECONDS)
            except subprocess.TimeoutExpired:
                report.problems.append(f"kill {len(report.kills) + 1}: the other processes ran on")
                for each in tree_of(psutil.Process(process.pid)):
                    each.kill()
            ended = time.monotonic() - killed
            saved, problems = check_checkpoints(run, saved)
            report.problems += [f"kill {len(report.kills) + 1}: {problem}" for problem in problems]
            step = max(logged_steps(run), default=0)
            report.kills.append(Kill(str(aim), whom, doing, step, alive, saved, ended))
            console.print(f"kill {len(report.kills)}: {doing}, step {step}", highlight=False)
        report.problems += [f"run {report.runs}: {problem}" for problem in compare(run, whole)]
    log.close()
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the kills and the verdict; exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=1, help="processes of the run (gloo)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="where the runs stay; a temporary folder without")
    parser.add_argument("settings", nargs="*", help="further settings of the run, e.g. data.num_workers=2")
    options = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        console.width = 110
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        report = harness(folder, options.kills, options.processes, options.seed, options.settings, console, AIMS)
        table = Table(title=f"{len(report.kills)} kills, {' '.join(options.settings)}", title_justify="left")
        for name in ("kill", "aimed at", "whom", "phase", "step", "s", "saved", "gone in s"):
            table.add_column(name, no_wrap=True)
        for number, k in enumerate(report.kills, 1):
            shown = (number, k.aim, k.whom, k.phase, k.step, f"{k.seconds:.1f}", k.saved, f"{k.ended_after:.1f}")
            table.add_row(*map(str, shown))
        console.print(table)
        for name, count in Counter(k.phase for k in report.kills).most_common():
            console.print(f"{count:3} in {name}", highlight=False)
        console.print(
            f"{len(report.kills)} kills in {report.runs} runs, each taken to its end, {time.monotonic() - begin:.0f} s"
            f"; problems: {len(report.problems)}",
            highlight=False,
        )
        for problem in report.problems:
            console.print(f"  {problem}", highlight=False, markup=False)
    return 1 if report.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
