"""Several processes: the gradient, the weights and the batches of one; and what happens when one of them dies."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from equality_worker import Case, Outcome, relative_difference, run
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from safetensors.torch import load_file
from small_runs import LANGUAGES, WORDS

from hybrid_ir.composition import composer, conf_dir
from hybrid_ir.config import SamplerConfig, SmallModelConfig, TrainConfig
from hybrid_ir.data.datamodule import HybridDataModule
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.errors import ConfigError
from hybrid_ir.launching.ranks import already_launched, check_launched, run_ranks
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model
from hybrid_ir.training import checkpoint as ckpt
from hybrid_ir.training.run import Prepared, prepare

REPOSITORY = conf_dir().parent


# ---------------------------------------------------------------------------------------------- gradients, weights

WHOLE = Case()
CASES = {
    "one graph": WHOLE,
    "one graph, chunks by tokens": Case(chunk_tokens=20),
    "grad_cache, loss in blocks": Case(chunk_rows=3, grad_cache=True, scores_per_block=40),
    "grad_cache, as many chunks as tokens ask for": Case(chunk_tokens=20, grad_cache=True),
}
"""float64, 20 steps, clipped; explicit negatives, equal passages, both directions, a learned temperature."""
SINGLE = {
    "one graph": Case(precision="32", steps=1),
    "grad_cache": Case(precision="32", chunk_rows=3, grad_cache=True, steps=1),
}
ALL = [*CASES.values(), *SINGLE.values()]
SHARDED_CASES = {
    "one graph": Case(strategy="fsdp", chunk_rows=5),
    "grad_cache, loss in blocks": Case(strategy="fsdp", chunk_rows=3, grad_cache=True, scores_per_block=40),
    "bf16": Case(strategy="fsdp", precision="bf16", chunk_rows=3, grad_cache=True, steps=1),
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Outcomes by case and process, of any number of processes."""
    folder = tmp_path_factory.mktemp("outcomes")
    known: dict[int, dict[Case, list[Outcome]]] = {}

    def of(world: int) -> dict[Case, list[Outcome]]:
        if world not in known:
            known[world] = dict(zip(ALL, run(folder, world, ALL), strict=True))
        return known[world]

    return of


@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_processes_and_chunks_trains_the_same_model(world: int, outcomes: Any) -> None:
    (one,) = outcomes(1)[WHOLE]
    assert one.gradient.norm() > 0.1
    assert 0.05 < one.masked_share < 0.9, "no equal passages in the batches: nothing was masked"
    for name, case in CASES.items():
        processes = outcomes(world)[case]
        assert len(processes) == world
        for process in processes:
            assert relative_difference(process.gradient, one.gradient) < 1e-10, name
            # the learned temperature is one number among thousands of weights
            assert relative_difference(process.gradient[-1:], one.gradient[-1:]) < 1e-9, name
            assert relative_difference(process.weights, one.weights) < 1e-9, name
            assert relative_difference(process.loss, one.loss) < 1e-9, name
    (one,) = outcomes(1)[SINGLE["one graph"]]
    for name, case in SINGLE.items():
        for process in outcomes(world)[case]:
            assert relative_difference(process.gradient, one.gradient) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_sharded_weights_train_the_same_model(world: int, outcomes: Any, tmp_path: Path) -> None:
    (one,) = outcomes(1)[WHOLE]
    for name, processes in zip(SHARDED_CASES, run(tmp_path, world, list(SHARDED_CASES.values())), strict=True):
        for process in processes:
            if name == "bf16":
                assert relative_difference(process.gradient, one.gradient) < 2e-2
                continue
            assert relative_difference(process.gradient, one.gradient) < 1e-10, name
            assert relative_difference(process.gradient[-1:], one.gradient[-1:]) < 1e-9, name
            assert relative_difference(process.weights, one.weights) < 1e-9, name
            assert relative_difference(process.loss, one.loss) < 1e-9, name


# ---------------------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 items in four languages, ragged, two questions a passage, a negative that is another item's passage."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    with (folder / "facts.jsonl").open("w") as file:
        for item in range(120):
            for language in LANGUAGES:
                if draw.random() < 0.85:
                    other = draw.choice([p for p in range(60) if p != item // 2])
                    row = {
                        "id": f"i{item}",
                        "passage_id": f"p{item // 2}",
                        "language": language,
                        "query": f"{_words(language, item // 2)[item % 2]} {item}?",
                        "passage": " ".join(_words(language, item // 2)) + f" {item // 2}.",
                        "negatives": [{"passage_id": f"p{other}", "text": " ".join(_words(language, other))}],
                    }
                    file.write(json.dumps(row) + "\n")
    return folder / "facts.jsonl"


def _words(language: str, passage: int) -> list[str]:
    return [f"{language}{WORDS[(passage * k + k) % len(WORDS)]}" for k in range(1, 5 + passage % 7)]


def arguments(data: Path, *more: str) -> list[str]:
    """A run of seconds in float64, without dropout; everything that processes could disagree about."""
    return [
        "data=parallel_jsonl",
        f"data.path={data}",
        "data.validation.queries_per_language=5",
        "benchmark=[]",
        "model.vocab_size=600",
        "model.hidden_size=16",
        "model.intermediate_size=32",
        "model.dropout=0",
        "loss.num_negatives=1",
        "loss.both_directions=true",
        "loss.learn_temperature=true",
        "batch_size=8",
        "threads=1",
        "optimizer.schedule=constant",
        "optimizer.warmup_ratio=0",
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.precision=64",
        "trainer.max_steps=20",
        "trainer.val_check_interval=null",
        "trainer.log_every_n_steps=1",
        *more,
    ]


@pytest.fixture(scope="module")
def prepared(data: Path) -> Prepared:
    with composer("train") as composing:
        config = composing.validate(composing.compose(arguments(data)))
    assert isinstance(config, TrainConfig)
    return prepare(config, Console(quiet=True))


def rows_of(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What each row of a process's batch holds, with its texts as token ids without padding, in the batch's order."""
    rows: dict[str, Any] = {"monolingual": [batch["monolingual"]] * len(batch["item"])}
    for name in ("item", "query_language", "passage_language", "passage_id", "negative_passage_id"):
        rows[name] = batch[name].tolist()
    for name in ("query", "passage", "negative"):
        texts = {
            int(place): ids[mask.bool()].tolist()
            for chunk in batch[name]
            for ids, mask, place in zip(chunk.input_ids, chunk.attention_mask, chunk.rows, strict=True)
        }
        rows[name] = [texts[place] for place in range(len(texts))]
        assert len(texts) == sum(len(chunk.rows) for chunk in batch[name]), "a text stands in two chunks"
    return rows


@settings(max_examples=12)
@given(
    seed=st.integers(0, 10_000),
    ratio=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    draw=st.sampled_from(["bernoulli", "exact"]),
    limits=st.sampled_from([(None, None), (3, None), (None, 30), (2, 40)]),
)
def test_the_global_batch_does_not_depend_on_the_processes(
    prepared: Prepared, seed: int, ratio: float, draw: Any, limits: tuple[int | None, int | None]
) -> None:
    def loader(rank: int, world: int) -> Iterator[dict[str, Any]]:
        sampler = SamplerConfig(mono_ratio=ratio, mono_draw=draw)
        data = HybridDataModule(
            prepared.corpus,
            BatchPlan(prepared.plan.eligible, sampler, 8, seed),
            prepared.data.query_tokens,
            prepared.data.passage_tokens,
            prepared.data.pad,
            6,
            1,
            0,
            *limits,
        )
        return iter(data.loader(rank, world))

    loaders = {world: [loader(rank, world) for rank in range(world)] for world in (1, 2, 4)}
    for _ in range(6):
        whole = rows_of(next(loaders[1][0]))
        for world in (2, 4):
            parts = [rows_of(next(each)) for each in loaders[world]]
            assert {len(part["item"]) for part in parts} == {8 // world}
            for name, values in whole.items():
                assert [value for part in parts for value in part[name]] == values, (world, name)
        if whole["monolingual"][0]:
            assert len({*whole["query_language"], *whole["passage_language"]}) == 1
        else:
            assert all(q != p for q, p in zip(whole["query_language"], whole["passage_language"], strict=True))


# ------------------------------------------------------------------------------------------------- the real command


def train(*more: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *more],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def weights(run_dir: Path) -> torch.Tensor:
    """Of the last checkpoint, in the precision of the run: those that are exported are fp32."""
    state = ckpt.load_plain(ckpt.checkpoints(run_dir)[-1][1])["state_dict"]
    learned = [value for name, value in state.items() if name.startswith(("encoder.", "loss."))]
    assert {value.dtype for value in learned} == {torch.float64}
    return torch.cat([value.flatten() for value in learned])


def losses(run_dir: Path) -> dict[int, float]:
    with (run_dir / "metrics.csv").open() as file:
        return {int(r["step"]): float(r["value"]) for r in csv.DictReader(file) if r["name"] == "train/loss"}


def last_results(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "results.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["step"] == "20"]


def assert_same_training(run_dir: Path, whole: Path) -> None:
    assert relative_difference(weights(run_dir), weights(whole)) < 1e-9
    expected = losses(whole)
    assert sorted(expected) == list(range(1, 21))
    assert losses(run_dir) == pytest.approx(expected, rel=1e-6)  # logged as fp32
    assert len({round(value, 6) for value in expected.values()}) == 20, "batches cannot be told apart by their loss"
    assert (run_dir / "exposure.csv").read_text() == (whole / "exposure.csv").read_text()
    assert last_results(run_dir) == last_results(whole)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps of one process that nothing interrupted, each batch in one graph."""
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(*arguments(data, "trainer.devices=1", f"output_dir={run_dir}"))
    assert json.loads((run_dir / "summary.json").read_text())["masked_share"] > 0
    return run_dir


@pytest.mark.slow
def test_a_run_of_four_processes_goes_on_with_two_and_with_one(data: Path, whole: Path, tmp_path: Path) -> None:
    four = ["trainer.devices=4", "trainer.grad_cache=true", "trainer.chunk_rows=3"]
    half = ["trainer.max_steps=10", "checkpoint.keep_optimizer=true"]
    train(*arguments(data, *four, *half, f"output_dir={tmp_path / '2'}"))
    assert sorted(losses(tmp_path / "2")) == list(range(1, 11))
    shutil.copytree(tmp_path / "2", tmp_path / "1")
    for count in ("2", "1"):
        train(f"resume={tmp_path / count}", f"trainer.devices={count}", "trainer.max_steps=20")
        assert_same_training(tmp_path / count, whole)


SHARDED = ["trainer=fsdp", "trainer.accelerator=cpu", "trainer.precision=64", "trainer.chunk_rows=3"]


@pytest.mark.slow
def test_a_sharded_run_is_the_same_and_goes_on_as_one_that_is_not(data: Path, whole: Path, tmp_path: Path) -> None:
    half = ["trainer.max_steps=10", "trainer.val_check_interval=5", "checkpoint.keep_optimizer=true"]
    train(*arguments(data, *SHARDED, "trainer.grad_cache=true", *half, f"output_dir={tmp_path / 'sharded'}"))
    train(*arguments(data, "trainer.devices=1", *half, f"output_dir={tmp_path / 'plain'}"))
    results = [(tmp_path / name / "results.csv").read_text() for name in ("sharded", "plain")]
    assert results[0] == results[1]
    assert {line.rpartition(",")[2] for line in results[0].splitlines()} == {"step", "0", "5", "10"}
    exported = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("sharded", "plain")]
    assert exported[0].keys() == exported[1].keys()
    for name, value in exported[0].items():
        torch.testing.assert_close(value, exported[1][name], rtol=1e-6, atol=1e-7, msg=name)
    as_sharded = ["trainer.strategy=fsdp", "trainer.devices=2", "trainer.chunk_tokens=null", "trainer.chunk_rows=5"]
    for name, changes in (("sharded", ["trainer.devices=1"]), ("plain", as_sharded)):
        train(f"resume={tmp_path / name}", *changes, "trainer.max_steps=20")
        assert_same_training(tmp_path / name, whole)


@pytest.mark.slow
def test_a_sharded_encoder_may_have_frozen_parts_and_adapters(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = SmallModelConfig(vocab_size=400, hidden_size=16, intermediate_size=32, num_layers=3)
    texts = [json.loads(line)["passage"] for line in data.read_text().splitlines()]
    save_model(BiEncoder.from_config(small, texts), tmp_path / "encoder")
    model = [
        "model=pretrained",
        f"model.name_or_path={tmp_path / 'encoder'}",
        "model.lora.rank=4",
        "model.freeze_layers=1",
        "model.gradient_checkpointing=true",
        "optimizer.lr=0.01",
        "trainer.max_steps=5",
    ]
    plain = [each for each in arguments(data) if not each.startswith("model.")]
    for name, trainer in (("sharded", [*SHARDED, "trainer.devices=2"]), ("plain", ["trainer.devices=1"])):
        train(*plain, *trainer, *model, f"output_dir={tmp_path / name}")
    states = [ckpt.load_plain(ckpt.checkpoints(tmp_path / name)[-1][1])["state_dict"] for name in ("sharded", "plain")]
    assert states[0].keys() == states[1].keys()
    adapters = [torch.cat([v.flatten() for k, v in state.items() if ".lora_" in k]) for state in states]
    assert relative_difference(*adapters) < 1e-9
    results = [(tmp_path / name / "results.csv").read_text() for name in ("sharded", "plain")]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["trainer.chunk_tokens=4096"], "trainer.chunk_tokens=4096: .* use trainer.chunk_rows"),
        (["model.compile=true"], "model.compile=true: "),
    ],
)
def test_what_sharding_cannot_do_is_refused(settings: list[str], said: str) -> None:
    with composer("train") as composing:
        composing.validate(composing.compose(["trainer=fsdp"]))
        with pytest.raises(ConfigError, match=said):
            composing.validate(composing.compose(["trainer=fsdp", *settings]))


# ----------------------------------------------------------------------------------------- processes others started


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    try:
        ended = []
        for process in processes:
            out, _ = process.communicate(timeout=240)
            ended.append((process.returncode, out))
        return ended
    finally:
        for process in processes:
            process.kill()


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *options, str(REPOSITORY / "train.py")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun on two machines", "srun on one"])
def test_processes_that_others_start_train_the_same_model(
    data: Path, whole: Path, tmp_path: Path, launcher: str
) -> None:
    """Two launchers side by side stand for two machines; the variables that srun sets stand for SLURM."""
    port, job = free_port(), os.getpid()
    started = []
    for rank in range(2):
        environment = dict(os.environ)
        if launcher.startswith("torchrun"):
            nodes = ["--nnodes", "2", "--node-rank", str(rank), "--nproc-per-node", "1"]
            command = torchrun(*nodes, "--master-addr", "127.0.0.1", "--master-port", str(port))
            devices = ["trainer.devices=1", "trainer.num_nodes=2"]
        else:
            command = [sys.executable, str(REPOSITORY / "train.py")]
            devices = ["trainer.devices=2"]
            environment.update(
                dict.fromkeys(("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS_PER_NODE"), "2"),
                **dict.fromkeys(("SLURM_NNODES", "SLURM_STEP_NUM_NODES"), "1"),
                **{name: str(rank) for name in ("SLURM_PROCID", "SLURM_LOCALID")},
                SLURM_NODEID="0",
                SLURM_JOB_ID=str(job),
                SLURM_JOB_NAME="train",
                SLURM_NODELIST="127.0.0.1",
                MASTER_PORT=str(port),
            )
        options = arguments(data, *devices, f"output_dir={tmp_path / 'run'}")
        started.append(
            subprocess.Popen(
                [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        )
    for code, out in finish(started):
        assert code == 0, out[-3000:]
    assert_same_training(tmp_path / "run", whole)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "said"),
    [
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"}, 1, 1, "trainer.devices=2"),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, 2, 1, "trainer.num_nodes=2"),
        ({"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, 4, 1, "trainer.num_nodes=2"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "4"}, 2, 1, "trainer.devices=4"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "2"}, 2, 2, "--ntasks-per-node=2"),
        (
            {"SLURM_STEP_NUM_TASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "interactive"},
            2,
            1,
            "--job-name",
        ),
    ],
)
def test_other_processes_than_configured_are_refused(
    environment: dict[str, str], devices: int, nodes: int, said: str
) -> None:
    assert already_launched(environment)
    with pytest.raises(ConfigError, match=said):
        check_launched(devices, nodes, environment)


@pytest.mark.slow
def test_a_batch_script_is_one_process_whatever_its_job_has(data: Path, whole: Path, tmp_path: Path) -> None:
    job = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train"}
    assert not already_launched(job)
    command = [sys.executable, str(REPOSITORY / "train.py")]
    options = arguments(data, "trainer.devices=1", f"output_dir={tmp_path / 'run'}")
    done = subprocess.run([*command, *options], env={**os.environ, **job}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "run", whole)


def test_a_process_alone_says_what_is_wrong_each_time(tmp_path: Path) -> None:
    """Somebody else's variable, under which launched processes agree on who says it."""
    environment = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(tmp_path / "job" / "error.json")}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "train.py"), "data=parallel_jsonl", "data.path=nothing.jsonl"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: data.path=nothing.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_torchrun_without_devices_is_one_line(data: Path, tmp_path: Path) -> None:
    """Each process would train alone, on the whole batch and in the other's folder."""
    options = arguments(data, "trainer.devices=1", f"output_dir={tmp_path / 'run'}")
    done = subprocess.run(
        [*torchrun("--standalone", "--nproc-per-node", "2"), *options], capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "torchrun has started 2 processes" in line
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------- one of them dies

FAULTS = {
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "a fault of the program": "raise RuntimeError('nobody expected this')",
    "a fault of the user": "from hybrid_ir.errors import UserError; raise UserError('only one process finds this')",
}
AT_START = """
import os, signal, sys, threading, time

def put_in():
    while not hasattr(sys.modules.get("hybrid_ir.modeling.module"), "BiEncoderModule"):
        time.sleep(0.01)
    from hybrid_ir.modeling.module import BiEncoderModule
    step = BiEncoderModule.training_step

    def training_step(self, batch, batch_idx):
        if batch_idx == 3:
            with open(os.environ["FAULT_TIME"], "w") as file:
                file.write(str(time.time()))
            {fault}
        return step(self, batch, batch_idx)

    BiEncoderModule.training_step = training_step

if os.environ.get("RANK") == "1":
    threading.Thread(target=put_in, daemon=True).start()
"""
"""Runs in every process when Python starts; puts a fault into the second one's fourth step."""


def running(marker: str) -> list[int]:
    """Processes with a text in their command line."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (folder / "cmdline").read_text() and "Z" not in (folder / "stat").read_text().split()[2]:
                found.append(int(folder.name))
        except OSError:  # it has ended meanwhile
            continue
    return found


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_process_that_dies_takes_the_run_down_and_says_why(
    data: Path, tmp_path: Path, launcher: str, fault: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(AT_START.replace("{fault}", FAULTS[fault]))
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "FAULT_TIME": str(tmp_path / "time")}
    run_dir = tmp_path / "run"
    command = [sys.executable, str(REPOSITORY / "train.py")]
    if launcher == "torchrun":
        command = torchrun("--standalone", "--nproc-per-node", "2")
    options = arguments(data, "trainer.devices=2", "trainer.max_steps=100000", f"output_dir={run_dir}")
    done = subprocess.run(
        [*command, *options], env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    assert time.time() - float((tmp_path / "time").read_text()) < 60
    assert not running(str(run_dir))
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if fault == "a fault of the user":
        assert errors == ["error: only one process finds this"]
        if launcher == "ours":
            assert done.returncode == 2
            assert "Traceback" not in done.stderr
    elif fault == "a fault of the program":
        assert "nobody expected this" in done.stderr
        assert "in training_step" in done.stderr, "no traceback"
        if launcher == "ours":
            assert done.returncode == 1
    elif launcher == "ours":
        assert done.returncode == 128 + signal.SIGKILL
        assert [line for line in errors if "process 1 of 2 was ended by SIGKILL" in line]
    assert done.returncode != 0
    assert not (run_dir / "summary.json").exists()


RANK = "import os, signal, sys, time; rank = int(os.environ['RANK']); "


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "process 1 of 3 was ended by SIGKILL"),
        ("sys.exit(3)", 3, "process 1 of 3 failed with exit code 3"),
        ("sys.exit(2)", 2, ""),  # it has said so itself
    ],
)
def test_the_launcher_says_which_process_failed(
    fault: str, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_ranks([sys.executable, "-c", RANK + f"time.sleep(60) if rank != 1 else {fault}"], 3) == code
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (1 if said else 0)
    assert all(said in line for line in errors)


def test_a_fault_is_said_once_by_whichever_process_finds_it_first(capfd: pytest.CaptureFixture[str]) -> None:
    """All find it, one after the other, the first one last; what then fails in the others follows from it."""
    code = (
        RANK + "from hybrid_ir.cli import report_errors; from hybrid_ir.errors import UserError\n"
        "def action():\n"
        "    time.sleep(3 - rank)\n"
        "    raise UserError(f'found by {rank}') if rank else RuntimeError('the connection is gone')\n"
        "sys.exit(report_errors(action))"
    )
    assert run_ranks([sys.executable, "-c", code], 3) == 2
    err = capfd.readouterr().err
    assert [line for line in err.splitlines() if line.startswith("error: ")] == ["error: found by 2"]
    assert "Traceback" not in err
