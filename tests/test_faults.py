"""Faults: kills at random moments, a full disk, a worker that dies, data that change, files from strangers."""

from __future__ import annotations

import ast
import csv
import json
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from small_runs import evaluate, exported_model, small_run, write_corpus

from hybrid_ir.data.tokens import TokenStore
from hybrid_ir.errors import UserError
from hybrid_ir.evaluation.encoding import EmbeddingCache
from hybrid_ir.evaluation.search import TopK
from hybrid_ir.evaluation.search_state import SearchState
from hybrid_ir.training import checkpoint as ckpt
from hybrid_ir.training.identity import Identity, differences

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 300
LEFTOVERS = (".*.partial", "*.part", ".model.*")


def command(*settings: str) -> list[str]:
    return [sys.executable, "-m", "hybrid_ir.train", *settings]


def train(*settings: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*settings), capture_output=True, text=True, timeout=300, env={**os.environ, **(environment or {})}
    )


def assert_refused(done: subprocess.CompletedProcess[str], *said: str) -> None:
    """Exit code 2 and one line with all that."""
    assert done.returncode == 2, done.stderr[-3000:]
    assert len(done.stderr.splitlines()) == 1, done.stderr[-3000:]
    assert done.stderr.startswith("error: ")
    for part in said:
        assert part in done.stderr


def losses(run: Path) -> list[tuple[str, str]]:
    with (run / "metrics.csv").open() as file:
        return [(row["step"], row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]


def assert_same_run(a: Path, b: Path) -> None:
    """Weights, the loss of every step and the results, to the last bit."""
    for name in ("model/model.safetensors", "metrics.csv", "results.csv", "exposure.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    assert [int(step) for step, _ in losses(a)] == list(range(1, len(losses(a)) + 1))


def leftovers(folder: Path) -> list[Path]:
    return [path for pattern in LEFTOVERS for path in folder.rglob(pattern)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data"))


def arguments(data: Path, out: Path, *more: str) -> list[str]:
    return [
        *small_run(data, out),
        f"trainer.max_steps={STEPS}",
        "trainer.val_check_interval=200",
        "trainer.log_every_n_steps=1",
        "checkpoint.every_n_steps=100",
        *more,
    ]


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "run"
    done = train(*arguments(data, out, "checkpoint.keep_optimizer=true"))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def stopped(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run one of whose data workers was killed, and what it said on stderr."""
    run = tmp_path_factory.mktemp("stopped") / "run"
    process = subprocess.Popen(
        command(*arguments(data, run, "data.num_workers=2", "checkpoint.every_n_steps=1000")),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not ((run / "metrics.csv").exists() and "\n20,train/loss" in (run / "metrics.csv").read_text()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = [child for child in psutil.Process(process.pid).children() if "hybrid_ir.train" in child.cmdline()]
    assert len(workers) == 2
    workers[1].kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    return run, said


@pytest.fixture
def copied(stopped: tuple[Path, str], tmp_path: Path) -> Path:
    """A folder of its own of the stopped run."""
    return Path(shutil.copytree(stopped[0], tmp_path / "run"))


def checkpoint_of(run: Path) -> Path:
    return ckpt.checkpoints(run)[-1][1]


# ------------------------------------------------------------------------------------------------------------ kills


@pytest.mark.slow
@pytest.mark.parametrize("options", [["data.num_workers=2"], ["--processes=2"]])
def test_killed_at_random_moments(tmp_path: Path, options: list[str]) -> None:
    """The harness itself says what was equal; here it runs with few kills."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.faults", "--kills=4", f"--folder={tmp_path}", *options],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "problems: 0" in done.stdout
    assert len(list(tmp_path.glob("killed_*/run/summary.json"))) >= 1


# -------------------------------------------------------------------------------------------------- a worker's death


def test_a_dead_worker_is_one_line_and_the_state_is_saved(stopped: tuple[Path, str]) -> None:
    run, said = stopped
    (line,) = said.splitlines()
    assert line.startswith("error: data.num_workers=2: a worker of the data loader (process ")
    assert "was killed by signal 9" in line
    assert f"resume={run}" in line
    ((step, path),) = ckpt.checkpoints(run)
    assert ckpt.load_plain(path)["global_step"] == step == int(losses(run)[-1][0]) < STEPS


@pytest.mark.slow
def test_a_run_goes_on_after_a_worker_died(copied: Path, whole: Path) -> None:
    done = train(f"resume={copied}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_run(copied, whole)


# -------------------------------------------------------------------------------------------------------- full disks


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(tmp_path: Path) -> None:
    """The system refuses to let the file grow, at several lengths: in the middle of a tensor, and at the archive's
    end."""
    before = tmp_path / "checkpoints" / "step=00000001.ckpt"
    ckpt.save_atomic({"weights": torch.ones(50_000)}, before)
    size = before.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (4096, size // 2, size - 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            with pytest.raises(
                UserError, match=r"could not be written \(File too large\); the one before is kept"
            ) as caught:
                ckpt.save_atomic({"weights": torch.zeros(50_000)}, before)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert f"resume={tmp_path}" in str(caught.value)
        assert [path.name for path in before.parent.iterdir()] == [before.name]
        assert torch.equal(ckpt.load_plain(before)["weights"], torch.ones(50_000))


def in_a_disk(folder: Path, kilobytes: int, *steps: str) -> subprocess.CompletedProcess[str]:
    """Runs shell commands with a disk of their own at ``folder`` (a tmpfs in a namespace, which needs no rights).

    Skips where the system does not allow that, to root neither.
    """
    if shutil.which("unshare") is None:
        pytest.skip("no unshare on this machine")
    folder.mkdir(exist_ok=True)
    mount = f"mount -t tmpfs -o size={kilobytes}k tmpfs {folder}"
    for flags in ("-Urm", "-m"):  # the second for root where users may not make namespaces
        allowed = subprocess.run(["unshare", flags, "sh", "-c", mount], capture_output=True, text=True)
        if not allowed.returncode:
            script = " && ".join([mount, *steps])
            return subprocess.run(["unshare", flags, "sh", "-c", script], capture_output=True, text=True, timeout=600)
    pytest.skip(f"no mounts in a namespace here: {allowed.stderr.strip()}")


def typed(*settings: str) -> str:
    return " ".join(f"'{part}'" for part in command(*settings))


@pytest.mark.slow
def test_a_disk_that_fills_up_while_saving(data: Path, whole: Path, tmp_path: Path) -> None:
    """There is room for one checkpoint and not for the next; with more room the run ends as if nothing had been."""
    disk, out = tmp_path / "disk", tmp_path / "kept"
    size = checkpoint_of(whole).stat().st_size // 1024
    done = in_a_disk(
        disk,
        size * 3 // 2 + 120,  # and the logs
        f"! {typed(*arguments(data, disk / 'run'))} > {tmp_path}/out 2> {tmp_path}/err",
        f"cp -r {disk}/run {out}",
        f"mount -o remount,size={size * 8}k {disk}",
        f"{typed(f'resume={disk}/run')} > {tmp_path}/out2",
        f"cp -r {disk}/run {tmp_path}/ended",
    )
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert line.startswith(f"error: {disk}/run/checkpoints/step=00000200.ckpt: the checkpoint could not be written")
    assert "No space left on device" in line
    assert [step for step, _ in ckpt.checkpoints(out)] == [100]
    assert ckpt.load_plain(checkpoint_of(out))["global_step"] == 100
    assert leftovers(out) == []
    assert_same_run(tmp_path / "ended", whole)


@pytest.mark.slow
@pytest.mark.parametrize("room", [0, 60, 300])
def test_a_disk_that_is_full_at_the_end(whole: Path, tmp_path: Path, room: int) -> None:
    """Trained, and then there is no room for the model, or for the results: one line that names a file."""
    disk = tmp_path / "disk"
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "summary.json").unlink()
    shutil.rmtree(run / "model")
    for path in [*run.glob("*.png"), *run.glob("*.svg"), *run.glob("*.parquet")]:
        path.unlink()
    done = in_a_disk(
        disk,
        20_000,
        f"cp -r {run} {disk}/run",
        f"used=$(du -sk {disk} | cut -f1)",
        f"mount -o remount,size=$((used + {room}))k {disk}",
        f"! {typed(f'resume={disk}/run')} > {tmp_path}/out 2> {tmp_path}/err",
        f"cp -r {disk}/run {tmp_path}/kept",
        f"mount -o remount,size=20000k {disk}",
        f"{typed(f'resume={disk}/run')} > {tmp_path}/out2",
        f"cp -r {disk}/run {tmp_path}/ended",
    )
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert line.startswith(f"error: {disk}/run/")
    assert "No space left on device" in line
    assert leftovers(tmp_path / "kept") == []
    assert not (tmp_path / "kept" / "summary.json").exists()
    assert_same_run(tmp_path / "ended", whole)


@pytest.mark.slow
def test_a_disk_too_small_for_the_cache(data: Path, tmp_path: Path) -> None:
    """Nothing half made is taken for a cache entry afterwards."""
    disk = tmp_path / "disk"
    train_it = f"HYBRID_IR_CACHE={disk}/cache {typed(*arguments(data, tmp_path / 'run', 'trainer.max_steps=1'))}"
    done = in_a_disk(
        disk,
        48,
        f"! {train_it} > {tmp_path}/out 2> {tmp_path}/err",
        f"(find {disk}/cache -name manifest.json; find {disk}/cache -name '.*.partial') > {tmp_path}/left",
        f"mount -o remount,size=20000k {disk}",
        f"{train_it} > {tmp_path}/out2",
    )
    assert done.returncode == 0, done.stderr
    (line,) = (tmp_path / "err").read_text().splitlines()
    assert re.match(rf"error: {disk}/cache/corpora: has 0\.0 MB free, the texts need about 0\.\d MB; free space", line)
    assert ".partial" not in (tmp_path / "left").read_text()


# ------------------------------------------------------------------------------------------------- not the same run


def test_data_that_changed_are_refused(copied: Path, data: Path) -> None:
    before = data.read_text()
    kept = {path: path.read_bytes() for path in (copied / "checkpoints").iterdir()}
    try:
        data.write_text(before.replace("deant", "deape", 1))
        assert_refused(train(f"resume={copied}"), "the data file facts.jsonl has changed", "put back")
    finally:
        data.write_text(before)
    assert {path: path.read_bytes() for path in (copied / "checkpoints").iterdir()} == kept


def test_another_runs_checkpoint_is_refused(copied: Path) -> None:
    """As if it had been copied from a run of another seed, size and learning rate."""
    config = (copied / "config.yaml").read_text()
    for old, new in (("seed: 1\n", "seed: 2\n"), ("hidden_size: 32\n", "hidden_size: 48\n")):
        assert config.count(old) == 1
        config = config.replace(old, new)
    (copied / "config.yaml").write_text(config)
    assert_refused(
        train(f"resume={copied}"),
        f"{checkpoint_of(copied)}: does not belong to this run",
        "it has seed=1, this run has seed=2",
        "model.hidden_size=32, this run has model.hidden_size=48",
    )


def test_what_makes_a_run_another(stopped: tuple[Path, str]) -> None:
    now = Identity(**ckpt.load_plain(checkpoint_of(stopped[0]))["run"])
    assert differences(now, now) == []
    other = {**now.settings, "optimizer.lr": 1.0}
    assert differences(now, replace(now, settings=other)) == [
        f"it has optimizer.lr={now.settings['optimizer.lr']}, this run has optimizer.lr=1.0"
    ]
    # another version of this program knows another key
    assert differences(now, replace(now, settings={**now.settings, "model.new": 1})) == []
    # of the same files Arrow may write other bytes in another version, and other files may hold the same data
    assert differences(now, replace(now, content_sha256="0")) == []
    assert differences(now, replace(now, data={})) == []
    moved = {**now.data, "files": [["facts.jsonl", "0"], ["more.jsonl", "1"]]}
    assert differences(now, replace(now, data=moved, content_sha256="0")) == [
        "its data files were facts.jsonl, now they are facts.jsonl, more.jsonl"
    ]
    (said,) = differences(now, replace(now, data={**now.data, "languages": ["de"]}, content_sha256="0"))
    assert said == "its data has languages=null, now it is [de]"


@pytest.mark.slow
def test_a_run_is_not_resumed_twice_at_once(copied: Path) -> None:
    """The second says so and leaves the first, and the configuration, alone."""
    first = subprocess.Popen(command(f"resume={copied}"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while len(losses(copied)) < 30:
        assert first.poll() is None, first.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    first.send_signal(signal.SIGSTOP)
    config = (copied / "config.yaml").read_text()
    assert_refused(
        train(f"resume={copied}", "logger=none"), f"resume={copied}: another process", f"process {first.pid}"
    )
    assert (copied / "config.yaml").read_text() == config
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=240)
    assert (first.returncode, said) == (0, "")


def test_another_process_that_trains_in_the_folder(copied: Path) -> None:
    """It is waited for; what it left half written goes when it is gone."""
    from hybrid_ir.run_lock import hold, wait_until_free

    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, time; from pathlib import Path; from hybrid_ir.run_lock import hold; "
         "hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)", str(copied)],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        (copied / "checkpoints" / ".step=00000300.ckpt.partial").write_bytes(b"half")
        (copied / ".model.x1").mkdir()
        for refused in (wait_until_free, hold):
            with pytest.raises(UserError, match=rf"another process works in this folder \(process {holder.pid} on"):
                refused(copied, wait_seconds=0.3)
        assert len(leftovers(copied)) == 2
    finally:
        holder.kill()
        holder.wait()
    wait_until_free(copied)
    hold(copied)
    assert leftovers(copied) == []
    assert len(ckpt.checkpoints(copied)) == 1


# --------------------------------------------------------------------------------------------- files from strangers


class Malicious:
    """What a pickle that runs code holds."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def truncated(path: Path, mark: Path) -> None:
    torch.save({"weights": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-500])


CHECKPOINTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "pickle in an archive": (lambda path, mark: torch.save({"state_dict": Malicious(mark)}, path), "could run code"),
    "old format": (
        lambda path, mark: torch.save({"a": Malicious(mark)}, path, _use_new_zipfile_serialization=False),
        "could run code",
    ),
    "plain pickle": (lambda path, mark: path.write_bytes(pickle.dumps(Malicious(mark), protocol=2)), "could run code"),
    "noise": (lambda path, mark: path.write_bytes(np.random.default_rng(0).bytes(5000)), "damaged"),
    "text": (lambda path, mark: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "damaged"),
    "empty": (lambda path, mark: path.write_bytes(b""), "not a readable checkpoint"),
    "cut off": (truncated, "not a readable checkpoint"),
    "a list": (lambda path, mark: torch.save([1], path), "it holds a list"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_checkpoint_that_is_none(case: str, tmp_path: Path) -> None:
    write, said = CHECKPOINTS[case]
    path, mark = tmp_path / "step=00000001.ckpt", tmp_path / "mark"
    write(path, mark)
    with pytest.raises(UserError) as caught:
        ckpt.load_plain(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "weights_only" not in str(caught.value)  # torch's advice is to run the code
    assert not mark.exists()
    if said == "could run code":
        with suppress(RuntimeError):  # of what follows
            torch.load(path, weights_only=False)
        assert mark.exists(), "the file would not have run code anyway"


def test_a_strangers_run_cannot_run_code(copied: Path, tmp_path: Path) -> None:
    path, mark = checkpoint_of(copied), tmp_path / "mark"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "callbacks": Malicious(mark)}, path)
    assert_refused(train(f"resume={copied}"), str(path), "could run code")
    assert not mark.exists()
    torch.save({name: value for name, value in content.items() if name != "loops"}, path)
    with pytest.raises(UserError, match=r"not a checkpoint to resume from \(it has no loops\)"):
        ckpt.check_resumable(path, Identity(**content["run"]), STEPS)


@pytest.mark.parametrize("change", ["another version", "another step"])
def test_a_checkpoint_that_is_not_what_it_says(change: str, copied: Path) -> None:
    path = checkpoint_of(copied)
    content = ckpt.load_plain(path)
    identity = Identity(**content["run"])
    ckpt.check_resumable(path, identity, STEPS)
    if change == "another version":
        content["run"]["added_since"] = 1
    else:
        content["global_step"] += 1
    ckpt.save_atomic(content, path)
    with pytest.raises(UserError, match="not a checkpoint of this version, or not of the step in its name"):
        ckpt.check_resumable(path, identity, STEPS)


@pytest.mark.slow
def test_strangers_best_weights_cannot_run_code(whole: Path, tmp_path: Path) -> None:
    run, mark = Path(shutil.copytree(whole, tmp_path / "run")), tmp_path / "mark"
    (run / "summary.json").unlink()
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("export: last", "export: best"))
    content = ckpt.load_plain(checkpoint_of(run))
    content["callbacks"]["Checkpointing"].update(best_value=2.0, best_step=200)
    ckpt.save_atomic(content, checkpoint_of(run))
    torch.save({"encoder": Malicious(mark)}, ckpt.best_file(run, 200))
    assert_refused(train(f"resume={run}"), str(ckpt.best_file(run, 200)), "could run code")
    assert not mark.exists()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return exported_model(tmp_path / "model")


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**content, **values}))


def code(folder: Path, mark: Path) -> None:
    """A Python file that runs when it is imported."""
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass Evil: ...\n")


def own_architecture(folder: Path, mark: Path) -> None:
    code(folder, mark)
    change(folder / "config.json", model_type="evil", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})


def known_architecture(folder: Path, mark: Path) -> None:
    code(folder, mark)
    change(folder / "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"})


def own_tokenizer(folder: Path, mark: Path) -> None:
    code(folder, mark)
    auto_map = {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    change(folder / "tokenizer_config.json", tokenizer_class="Evil", auto_map=auto_map)


def weights_as_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"embeddings.word_embeddings.weight": Malicious(mark)}, folder / "pytorch_model.bin")


def weights_as_old_pickle(folder: Path, mark: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Malicious(mark)}, protocol=2))


def dense_as_pickle(folder: Path, mark: Path) -> None:
    dense = folder / "9_Dense"
    dense.mkdir()
    change(dense / "config.json", in_features=16, out_features=16, bias=True)
    torch.save({"linear.weight": Malicious(mark)}, dense / "pytorch_model.bin")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": "9_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))


def own_module(folder: Path, mark: Path) -> None:
    code(folder, mark)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 9, "name": "9", "path": "", "type": "evil.Evil"})
    (folder / "modules.json").write_text(json.dumps(modules))


def own_module_by_a_known_name(folder: Path, mark: Path) -> None:
    code(folder, mark)
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "evil.Transformer"
    (folder / "modules.json").write_text(json.dumps(modules))


def code_of_the_hub(folder: Path, mark: Path) -> None:
    change(folder / "config.json", attn_implementation="evil/attention")


def code_of_the_hub_for_a_part(folder: Path, mark: Path) -> None:
    change(folder / "config.json", text_config={"attn_implementation": "evil/attention"})


def an_adapter(folder: Path, mark: Path) -> None:
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "evil/model"}')


def states_beside_the_weights(folder: Path, mark: Path) -> None:
    for name in (
        "optimizer.pt",
        "training_args.bin",
        "rng_state.pth",
        "vocab.pkl",
        "scheduler.pt",
        "pytorch_model.bin",
    ):
        torch.save({"a": Malicious(mark)}, folder / name)


STRANGERS: dict[str, tuple[Callable[[Path, Path], None], int, str]] = {
    "an architecture of its own": (own_architecture, 2, "auto_map"),
    "a known architecture with code": (known_architecture, 0, ""),
    "a tokenizer of its own": (own_tokenizer, 0, ""),
    "weights in a pickle": (weights_as_pickle, 2, "safetensors"),
    "weights in an old pickle": (weights_as_old_pickle, 2, "safetensors"),
    "a dense layer in a pickle": (dense_as_pickle, 2, "safetensors"),
    "a layer of its own": (own_module, 2, "Evil layer"),
    "a layer of its own by a known name": (own_module_by_a_known_name, 0, ""),
    "code of the hub": (code_of_the_hub, 2, "evil/attention"),
    "code of the hub for a part": (code_of_the_hub_for_a_part, 2, "evil/attention"),
    "an adapter beside the weights": (an_adapter, 2, "merge it into them"),
    "states that training left": (states_beside_the_weights, 0, ""),
}


@pytest.mark.parametrize("case", STRANGERS)
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_strangers_model_cannot_run_code(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in one line, or evaluated without what would run; its code is not run in either case."""
    harm, exit_code, said = STRANGERS[case]
    harm(model, tmp_path / "mark")
    assert evaluate(model, tmp_path / "out") == exit_code
    errors = capsys.readouterr().err
    if exit_code:
        assert len(errors.splitlines()) == 1, errors
        assert said in errors
        assert "with `weights_only` set to `False`" not in errors  # torch's advice is to run the code
    assert not (tmp_path / "mark").exists()
    assert "evil" not in sys.modules


def test_nothing_in_the_cache_is_a_pickle(tmp_path: Path) -> None:
    """A cache folder can be shared, and so be written by others."""
    mark = tmp_path / "mark"
    evil = np.array([Malicious(mark)], dtype=object)
    np.save(tmp_path / "embeddings.npy", evil, allow_pickle=True)
    assert EmbeddingCache.read(tmp_path / "embeddings.npy", 1) is None
    np.save(tmp_path / "offsets.npy", evil, allow_pickle=True)
    (tmp_path / "ids.int32").write_bytes(b"\0" * 8)
    with pytest.raises(ValueError, match=r"[Pp]ickle|[Oo]bject"):
        TokenStore(tmp_path, made_now=False)
    torch.save({"keys": Malicious(mark), "documents": Malicious(mark), "done": 1}, tmp_path / "state.pt")
    top = TopK(2, 3, torch.device("cpu"))
    assert SearchState(tmp_path / "state.pt").resume(top) == 0
    assert not mark.exists()
    np.load(tmp_path / "embeddings.npy", allow_pickle=True)
    assert mark.exists(), "the file would not have run code anyway"


def test_nothing_of_ours_reads_pickles() -> None:
    """Every ``load`` of torch and numpy in the package says so, or numpy's default does."""
    loads = 0
    for file in (REPOSITORY / "hybrid_ir").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not {alias.name for alias in node.names} & {"dill", "cloudpickle", "joblib", "shelve"}, file
            if not isinstance(node, ast.Call):
                continue
            called, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            if file.name != "workers.py":  # which reads what a child process of its own writes to a pipe
                assert called not in ("pickle.load", "pickle.loads", "pickle.Unpickler"), file
            assert given.get("allow_pickle", "False") == "False", file
            if called in ("torch.load", "trainer.fit"):
                loads += 1
                assert given.get("weights_only") == "True", file
    assert loads >= 3
