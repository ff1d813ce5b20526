"""The wheel: what is in it, and that it works by itself, outside the checkout."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from hybrid_ir.composition import conf_dir

pytestmark = pytest.mark.slow

REPOSITORY = conf_dir().parent
TEMPLATES = "hybrid_ir/data/sources/cldr/templates"
SMALL = ("experiment=debug", "trainer.max_steps=1", "benchmark=[]", "evaluation.at_start=false", "threads=1")


def run(command: Sequence[str | Path], folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a folder, with nothing in the environment that leads to the checkout."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"):
        environment.pop(name, None)
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{command}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    # with hatchling here nothing is fetched
    here = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    run([sys.executable, "-m", "build", "--wheel", *here, "--outdir", folder, REPOSITORY], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that has the wheel; the other packages are those of this environment."""
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], folder.parent)
    # Last, so that pip does not see this environment's copy of the project. A folder that a .pth file names has its
    # own .pth files left alone: the editable checkout stays out.
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_what_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        configuration = {
            path.relative_to(conf_dir()): path.read_bytes() for path in conf_dir().rglob("*.yaml") if path.is_file()
        }
        assert configuration
        for path, content in configuration.items():
            assert archive.read(f"hybrid_ir/conf/{path.as_posix()}") == content
    for folder in ("hybrid_ir", "hydra_plugins"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert path.relative_to(REPOSITORY).as_posix() in names
    templates = {f"{TEMPLATES}/{path.name}" for path in (REPOSITORY / TEMPLATES).glob("*.toml")}
    assert len(templates) >= 18
    assert templates <= names
    assert "hybrid_ir/modeling/card_template.md" in names
    assert {f"hybrid_ir/analysis/templates/report.{kind}" for kind in ("html", "css", "js")} <= names
    assert "hydra_plugins/__init__.py" not in names  # a namespace that other plugins share
    tops = {name.split("/")[0] for name in names}
    assert tops == {"hybrid_ir", "hydra_plugins", wheel.name.split("-py3")[0] + ".dist-info"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".partial"))]


def test_it_trains_evaluates_and_sweeps_outside_the_checkout(python: Path, tmp_path: Path) -> None:
    code = "import hybrid_ir, hydra_plugins.hybrid_ir_launcher as h; print(hybrid_ir.__file__); print(h.__file__)"
    for place in run([python, "-c", code], tmp_path).stdout.split():
        assert Path(place).is_relative_to(python.parents[1])
        assert not Path(place).is_relative_to(REPOSITORY)

    run([python, "-m", "hybrid_ir.train", *SMALL, "output_dir=run"], tmp_path)
    for name in ("config.yaml", "results.csv", "summary.json", "model/model.safetensors", "model/modules.json"):
        assert (tmp_path / "run" / name).is_file(), name

    limits = ["benchmark.cldr.languages=[en,sw]", "benchmark.cldr.limit=2", "accelerator=cpu", "threads=1"]
    model = f"model.name_or_path={tmp_path / 'run' / 'model'}"
    run([python, "-m", "hybrid_ir.evaluate", model, *limits, "output_dir=evaluated"], tmp_path)
    for name in ("config.yaml", "results.csv", "per_query.parquet", "summary.json"):
        assert (tmp_path / "evaluated" / name).is_file(), name

    # the launcher is a plugin that Hydra must find, and its jobs are processes that must find the wheel
    printed = run([python, "-m", "hybrid_ir.train", "-m", "seed=1,2", *SMALL], tmp_path).stdout
    assert printed.count("completed") >= 2
    finished = sorted(path.parent.name for path in (tmp_path / "sweeps").glob("*/*/summary.json"))
    assert finished == ["seed=1", "seed=2"]


def test_commands_that_the_wheel_installs(python: Path, tmp_path: Path) -> None:
    for name in ("hybrid-ir-train", "hybrid-ir-evaluate"):
        assert "== Groups" in run([python.with_name(name), "--help"], tmp_path).stdout
