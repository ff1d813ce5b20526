"""The command lines: mistakes in one line before anything is made, folders, resuming."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hybrid_ir.cli import prepare, run_command
from hybrid_ir.composition import composer, conf_dir
from hybrid_ir.config import TrainConfig
from hybrid_ir.errors import ConfigError
from hybrid_ir.run_folder import check_output_dir, claim, read_run_files, release, unique_dir, write_run_files

REPOSITORY = conf_dir().parent


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --------------------------------------------------------------------------------------------------------- mistakes

MISTAKES = [
    # arguments, how the line begins, what it must say
    ("sampler.mono_ration=0.5", "sampler.mono_ration=0.5", "sampler.mono_ratio"),
    ("batchsize=3", "batchsize=3", "batch_size"),
    ("mono_ratio=0.5", "mono_ratio=0.5", "sampler.mono_ratio"),
    ("sampler=hybird", "sampler=hybird", '"hybrid"'),
    ("modle=small", "modle=small", '"model"'),
    ("experiment=nope", "experiment=nope", "debug"),
    ("benchmark=[xquadr]", "benchmark=[xquadr]", '"xquad_r"'),
    ("benchmark.xquadr.path=x", "benchmark.xquadr.path=x", "benchmark.xquad_r.path"),
    ("benchmark.xquad_r.limit=5", "benchmark.xquad_r.limit=5", "not among the chosen"),
    ("sampler.mono_ratio=1.5", "sampler.mono_ratio=1.5", "from 0 to 1"),
    ("sampler.mono_ratio=abc", "sampler.mono_ratio=abc", "from 0 to 1"),
    ("sampler=x_y sampler.mono_ratio=0.3", "sampler.mono_ratio=0.3", "contradicts"),
    ("trainer.devices=3", "batch_size=128", "126 or 129"),
    ("data.languages=[en]", "sampler.mono_ratio=0.5", "two languages"),
    ("data.languages=[en,deu]", "data.languages=[en,deu]", "'de'"),
    ("data.languages=[]", "data.languages=[]", "empty"),
    ("trainer.precision=16", "trainer.precision=16", "bf16"),
    ("threads=true", "threads=true", "whole number"),
    ("seed=-1", "seed=-1", "whole number"),
    ("seed=", "seed=", "whole number"),
    ("seed=[1", "seed=[1", "cannot be read"),
    ("seed=1,2", "seed=1,2", "-m"),
    ("benchmark.cldr.limit=0", "benchmark.cldr.limit=0", ">= 1"),
    ("loss.other_positives=false", "loss.other_positives=false", "num_negatives"),
    ("model.num_heads=3", "model.num_heads=3", "hidden_size"),
    ("model.name_or_path=x", "model.name_or_path=x", "model=pretrained"),
    ("+model.name_or_path=x", "model.name_or_path=x", "model=pretrained"),
    ("data.path=x.jsonl", "data.path=x.jsonl", "data=parallel_jsonl"),
    ("model=pretrained", "model.name_or_path=???", "must be given"),
    ("model=pretrained model.name_or_path=./nope", "model.name_or_path=./nope", "no such folder"),
    ("model=pretrained model.name_or_path=no/such/folder", "model.name_or_path=no/such/folder", "no such folder"),
    ("model=pretrained model.name_or_path=.", "model.name_or_path=.", "config.json"),
    ("model=org/name", "model=org/name", "model.name_or_path=org/name"),
    ("model=saved", "model=saved", "evaluate.py"),
    ("data=parallel_jsonl", "data.path=???", "must be given"),
    ("data=parallel_jsonl data.path=nope.jsonl", "data.path=nope.jsonl", "no such file"),
    ("data=parallel_jsonl data.path=a=1,b.jsonl", "data.path=a=1,b.jsonl", "no such file"),
    ("data=parallel_jsonl data.path=.", "data.path=.", "is a folder"),
    ("benchmark=[xquad_r] benchmark.xquad_r.path=nope", "benchmark.xquad_r.path=nope", "no such folder"),
    ("resume=nope", "resume=nope", "no such folder"),
    ("resume=.", "resume=.", "config.yaml"),
    ("output_dir=''", "output_dir=", "empty"),
    ("accelerator=gpu", "accelerator=gpu", "trainer.accelerator"),
    ("word", "word", "key=value"),
    ("--max_steps=3", "--max_steps=3", "trainer.max_steps=3"),
    ("--config-dir=nope seed=1", "--config-dir=nope", "no such folder"),
    ("hydra.sweep.dirr=x", "hydra.sweep.dirr=x", "Hydra"),
    ("batch_size=${nope}", "batch_size=${nope}", "nope"),
    ("-m seed=1,2 output_dir=x", "output_dir=x", "hydra.sweep.dir"),
    ("-m seed=1,2 resume=x", "resume=x", "-m"),
    ("-m seed=1,x", "seed=x", "whole number"),
    ("-m sampler=x_y,x_x_mono sampler.mono_ratio=0,1", "sampler.mono_ratio=", "contradicts"),
    ("-m sampler=x_y,hybird", "sampler=", "hybrid"),
    ("-m seed=range(3,1)", "seed=range(3,1)", "no values"),
    ("-m sampler=glob(*)", "sampler=glob(*)", "write the values out"),
    ("-m --cfg job", "--multirun", "leave -m out"),
    ("-m experiment=family_degradation_cpu,mteb_scaling_cpu", "experiment=family_degradation_cpu", "is a sweep itself"),
    ("-m sampler.mono_ratio=interval(0,1)", "sampler.mono_ratio=interval(0,1)", "sweeper"),
    ("trainer.num_nodes=2", "trainer.num_nodes=2", "torchrun"),
]


@pytest.mark.parametrize(("arguments", "start", "says"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    arguments: str, start: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("train", arguments.split(" ")) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: {start}")
    assert says in err
    assert list(tmp_path.iterdir()) == []


EVALUATE_MISTAKES = [
    ("", "model.name_or_path=???", "must be given"),
    ("model.name_or_path=./nope", "model.name_or_path=./nope", "no such folder"),
    ("trainer.devices=2", "trainer.devices=2", '"devices"'),
    ("sampler=hybrid", "sampler=hybrid", "train.py"),
    ("model=labse", "model=labse", "model.name_or_path"),
    ("model.name_or_path=a/b benchmark=[]", "benchmark=[]", "nothing to evaluate"),
    ("model.name_or_path=a/b optimizer.lr=1", "optimizer.lr=1", "train.py"),
]


@pytest.mark.parametrize(("arguments", "start", "says"), EVALUATE_MISTAKES, ids=[m[0] for m in EVALUATE_MISTAKES])
def test_a_mistake_in_evaluate(
    arguments: str, start: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_command("evaluate", arguments.split()) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"error: {start}")
    assert says in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("start", [["train.py"], ["-m", "hybrid_ir.train"]])
def test_the_real_command_needs_no_torch_to_find_a_mistake(start: list[str], tmp_path: Path) -> None:
    """Run from another folder, as ``python train.py`` and as a module; what was imported is in the report of -X."""
    where = [str(REPOSITORY / "train.py")] if start == ["train.py"] else start
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *where, "sampler.mono_ratio=2"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    seconds = time.monotonic() - began
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert (done.returncode, done.stdout) == (2, "")
    assert said == ["error: sampler.mono_ratio=2.0: must be a number from 0 to 1"] or said == [
        "error: sampler.mono_ratio=2: must be a number from 0 to 1"
    ]
    assert "hydra" in imported
    assert imported.isdisjoint({"torch", "transformers", "pytorch_lightning", "datasets", "pandas", "numpy", "wandb"})
    assert list(tmp_path.iterdir()) == []
    assert seconds < 20  # two on a quiet machine


def test_help_names_the_groups_the_options_and_the_main_keys(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command("train", ["--help"]) == 0
    text = capfd.readouterr().out
    for word in ("x_x_mono", "multilingual_e5_small", "sampler.mono_ratio", "benchmark.<name>.path", "resume", "-m"):
        assert word in text
    assert "saved" not in text
    assert run_command("evaluate", ["--help"]) == 0
    assert "saved" in capfd.readouterr().out


def test_hydras_own_flags(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run_command("train", ["--cfg", "job", "sampler=x_y"]) == 0
    assert yaml.safe_load(capfd.readouterr().out)["sampler"]["preset"] == "x_y"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_ones_own_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    (tmp_path / "mine" / "experiment" / "tiny.yaml").write_text("# @package _global_\nbatch_size: 6\n")
    with composer("train", searchpath=["mine"]) as composing:
        config, _ = prepare(composing, ["experiment=tiny"])
    assert isinstance(config, TrainConfig)
    assert config.batch_size == 6


# ---------------------------------------------------------------------------------------------------------- folders


def test_folders_of_runs_that_start_together_differ() -> None:
    folders = {unique_dir("outputs") for _ in range(5)}
    assert len(folders) == 5


def test_only_an_empty_folder_is_claimed(tmp_path: Path) -> None:
    assert claim("new/deep") == tmp_path / "new" / "deep"
    assert claim("new/deep").is_dir()  # still empty
    (tmp_path / "new" / "deep" / "job.log").write_text("of the launcher")
    claim("new/deep")
    (tmp_path / "new" / "deep" / "x").write_text("")
    with pytest.raises(ConfigError, match=r"^output_dir=new/deep: is not empty"):
        claim("new/deep")
    with pytest.raises(ConfigError, match="is a file"):
        check_output_dir("new/deep/x")
    with pytest.raises(ConfigError, match="cannot write"):
        check_output_dir("new/deep/x/y")


def test_only_a_run_that_made_nothing_is_released(tmp_path: Path) -> None:
    for name, kept in (("environment.json", False), ("checkpoints/step=1.ckpt", True), ("model/config.json", True)):
        folder = claim("run")
        (folder / "config.yaml").write_text("")
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("")
        release(folder)
        assert folder.exists() == kept
        if kept:
            for path in (folder / name, folder / "config.yaml"):
                path.unlink()
            release(folder)


@pytest.mark.parametrize("made_by_user", [True, False])
def test_a_fault_in_the_data_is_one_line_and_frees_the_folder(tmp_path: Path, made_by_user: bool) -> None:
    (tmp_path / "bad.jsonl").write_text('{"id": "1", "language": "en", "query": "q"\n')
    if made_by_user:
        (tmp_path / "run").mkdir()
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), "data=parallel_jsonl", "data.path=bad.jsonl", "output_dir=run"],
        capture_output=True, text=True,
    )  # fmt: skip
    lines = done.stderr.splitlines()
    assert done.returncode == 2
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert "bad.jsonl:1" in lines[-1]
    assert (tmp_path / "run").exists() == made_by_user
    assert not made_by_user or list((tmp_path / "run").iterdir()) == []


# ----------------------------------------------------------------------------------------------------------- resume


def make_run(*settings: str) -> Path:
    with composer("train") as composing:
        config, kept = prepare(composing, settings)
    folder = claim("run")
    write_run_files(config.model_copy(update={"output_dir": str(folder)}), kept, folder)
    return folder


def resume(*settings: str, run: str = "run") -> tuple[TrainConfig, list[str]]:
    with composer("train") as composing:
        config, kept = prepare(composing, [f"resume={run}", *settings])
    assert isinstance(config, TrainConfig)
    return config, kept


def test_the_folder_is_the_truth() -> None:
    folder = make_run("seed=7", "sampler=x_y", "optimizer.lr=0.1")
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    stored["batch_size"] = 64  # whatever stands there counts, not what the settings would give today
    (folder / "config.yaml").write_text(yaml.safe_dump(stored))
    config, kept = resume()
    assert (config.seed, config.sampler.preset, config.batch_size) == (7, "x_y", 64)
    assert (config.resume, config.output_dir) == (str(folder), str(folder))
    assert kept == ["seed=7", "sampler=x_y", "optimizer.lr=0.1"]
    with_logger, kept = resume("logger=none")
    assert with_logger == config.model_copy(update={"logger": config.logger.model_copy(update={"name": "none"})})
    write_run_files(with_logger, kept, folder)
    assert resume()[0] == with_logger


def test_relative_paths_are_those_of_the_first_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("")
    folder = make_run("data=parallel_jsonl", "data.path=a.jsonl")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config, _ = resume("trainer.devices=2", run=str(folder))
    assert config.data.model_dump()["path"] == str(tmp_path / "a.jsonl")
    assert config.trainer.devices == 2
    (tmp_path / "a.jsonl").unlink()
    with pytest.raises(ConfigError, match=r"^data\.path="):
        resume(run=str(folder))


@pytest.mark.parametrize(
    "settings",
    [
        ["trainer.max_steps=900"],
        ["trainer.devices=2"],
        ["trainer=ddp", "trainer.precision=32"],
        ["logger=wandb", "logger.project=x"],
        ["benchmark=[]"],
        ["benchmark=[cldr]", "benchmark.cldr.limit=3"],
    ],
)
def test_what_may_change(settings: list[str]) -> None:
    folder = make_run("optimizer.schedule=constant", "trainer.max_steps=300")
    config, kept = resume(*settings)
    with composer("train") as composing:
        fresh, _ = prepare(composing, ["optimizer.schedule=constant", "trainer.max_steps=300", *settings])
    placed = {"output_dir": str(folder), "resume": str(folder), "threads": config.threads}
    assert config == fresh.model_copy(update=placed)
    write_run_files(config, kept, folder)
    assert resume()[0] == config


@pytest.mark.parametrize(
    ("settings", "start"),
    [
        (["seed=2"], "seed=2: a resumed run keeps seed=1;"),
        (["batch_size=64"], "batch_size=64: a resumed run keeps batch_size=128;"),
        (["sampler=x_y"], "sampler.preset=x_y: a resumed run keeps sampler.preset=hybrid;"),
        (["optimizer.lr=1"], "optimizer.lr=1.0: a resumed run keeps optimizer.lr=0.0005;"),
        (["trainer.max_steps=900"], "trainer.max_steps=900: the run has a linear schedule over 1000 steps"),
        (["trainer=ddp"], "trainer.precision=bf16: a resumed run keeps trainer.precision=32; add"),
        (["model=labse"], "model.pooling=cls: a resumed run keeps model.pooling=mean; leave model=... out"),
        (["threads=99"], "threads=99: a resumed run keeps threads="),
        (["output_dir=other"], "output_dir=other: a resumed run stays"),
        (["dry_run=true"], "dry_run=true: "),
        (["nope=1"], "nope=1: no such key"),
    ],
)
def test_what_may_not_change(settings: list[str], start: str, capfd: pytest.CaptureFixture[str]) -> None:
    folder = make_run()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run_command("train", ["resume=run", *settings]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"error: {start}")
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("content", ["", "- a list", "a: [unclosed", "seed: 1", "batch_size: x\nseed: 1"])
def test_a_folder_that_is_no_runs(tmp_path: Path, content: str, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(content)
    assert run_command("train", ["resume=run"]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: resume=run: ")
    assert err.count("\n") == 1


def test_what_belongs_to_one_start_is_not_kept() -> None:
    folder = make_run()
    config, kept = resume()
    write_run_files(config.model_copy(update={"dry_run": True}), kept, folder)
    stored, _ = read_run_files("run")
    assert (stored["resume"], stored["dry_run"], stored["threads"]) == (None, False, config.threads)
