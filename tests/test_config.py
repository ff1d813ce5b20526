"""The schema, the shipped YAML, and the names that are suggested for misspelt ones."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import published_layouts
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from hybrid_ir.cli import prepare
from hybrid_ir.composition import GROUPS, SCHEMAS, Command, Composer, composer, conf_dir, quote, quote_path, validate
from hybrid_ir.config import EvaluateConfig, TrainConfig
from hybrid_ir.config_command import main as config_main
from hybrid_ir.data.sources.mmarco import MmarcoSource
from hybrid_ir.errors import ConfigError
from hybrid_ir.run_folder import to_yaml
from hybrid_ir.schema_keys import flatten, nearest_key, schema_keys

OPTIONS = [
    (command, group, path.stem)
    for command in ("train", "evaluate")
    for group in GROUPS[command]
    for path in sorted((conf_dir() / group).glob("*.yaml"))
    if group != "model" or (path.stem == "saved") == (command == "evaluate")
]


@pytest.fixture(scope="module")
def train() -> Iterator[Composer]:
    with composer("train") as composing:
        yield composing


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """What has to be there for the options that name a file."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "data.jsonl").write_text("")
    (tmp_path / "beir").mkdir()
    return {
        "model.name_or_path": str(tmp_path / "model"),
        "data.path": str(tmp_path / "data.jsonl"),
        "benchmark.beir.path": str(tmp_path / "beir"),
    }


def text_of(experiment: str) -> str:
    return (conf_dir() / "experiment" / f"{experiment}.yaml").read_text(encoding="utf-8")


def trains_on_files(experiment: str) -> bool:
    return "/data: parallel_jsonl" in text_of(experiment)


def settings_for(command: str, group: str, option: str, files: dict[str, str]) -> list[str]:
    settings = [f"{group}=[{option}]" if group == "benchmark" else f"{group}={option}"]
    if option in ("pretrained", "saved") or command == "evaluate":
        settings.append(f"model.name_or_path={files['model.name_or_path']}")
    if option == "parallel_jsonl" or (group == "experiment" and trains_on_files(option)):
        settings.append(f"data.path={files['data.path']}")
    if option == "mixture":
        settings += ["data.parts.cldr.languages=[de,en]", f"data.parts.own.path={files['data.path']}"]
        settings.append("data.parts.own.source=parallel_jsonl")
    if group == "data" and option in published_layouts.WRITERS:
        settings += published_layouts.settings_of(option, Path(files["data.path"]).parent)[1:]
    if group == "experiment" and "/data: mmarco" in text_of(option):
        path = published_layouts.write_mmarco(
            Path(files["data.path"]).parent / "mmarco", MmarcoSource.languages_by_name
        )
        settings.append(f"data.path={path}")
    if option == "beir" or (group == "experiment" and re.search(r"/benchmark: \[.*\bbeir\b", text_of(option))):
        settings.append(f"benchmark.beir.path={files['benchmark.beir.path']}")
    return settings


@pytest.mark.parametrize(("command", "group", "option"), OPTIONS)
def test_every_option_composes_and_validates(command: Command, group: str, option: str, files: dict[str, str]) -> None:
    with composer(command) as composing:
        config, _ = prepare(composing, settings_for(command, group, option, files))
    assert isinstance(config, SCHEMAS[command])
    assert SCHEMAS[command].model_validate(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(("command", "group", "option"), OPTIONS)
def test_every_key_stands_in_the_yaml(command: Command, group: str, option: str, files: dict[str, str]) -> None:
    """What validation fills in is in the YAML already: a reader of conf/ sees every key."""
    with composer(command) as composing:
        raw = composing.compose(settings_for(command, group, option, files))
        config = composing.validate(raw)
    whole = config.model_dump(mode="json")
    if option == "mixture":  # whose parts are named by the user
        assert set(whole["data"].pop("parts")) == set(raw["data"].pop("parts"))
    assert set(flatten(whole)) == set(flatten(raw))


@pytest.mark.parametrize("path", sorted(conf_dir().rglob("*.yaml")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_file_is_an_option_with_a_comment(path: Path) -> None:
    covered = {(group, option) for _, group, option in OPTIONS}
    assert path.parent == conf_dir() or (path.parent.name, path.stem) in covered
    assert path.read_text().startswith("#")


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_every_key_is_explained(command: str) -> None:
    assert [key.name for key in schema_keys(SCHEMAS[command]).values() if len(key.doc) < 10] == []


def test_the_models_carry_pinned_revisions_and_the_published_prefixes(train: Composer) -> None:
    for option in train.options("model"):
        if option in ("small", "pretrained"):
            continue
        model = train.compose([f"model={option}"])["model"]
        assert re.fullmatch(r"[0-9a-f]{40}", model["revision"])
        if option.startswith("multilingual_e5"):
            assert (model["query_prefix"], model["passage_prefix"], model["pooling"]) == (
                "query: ",
                "passage: ",
                "mean",
            )
        if option == "labse":
            assert (model["query_prefix"], model["pooling"], model["dense"]) == ("", "cls", True)


def test_a_setting_wins_over_what_the_model_brings(train: Composer) -> None:
    assert train.compose(["model=labse"])["optimizer"]["lr"] == 3e-5
    assert train.compose([])["optimizer"]["lr"] == 5e-4
    raw = train.compose(["model=labse", "optimizer.lr=1e-4", "loss.temperature=0.1"])
    assert (raw["optimizer"]["lr"], raw["loss"]["temperature"]) == (1e-4, 0.1)


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((conf_dir() / "experiment").glob("*.yaml"))])
def test_no_benchmark_means_none(train: Composer, experiment: str) -> None:
    assert train.compose(["benchmark=[]"])["benchmark"] == {}
    given = [f"experiment={experiment}", *(["data.path=a.jsonl"] if trains_on_files(experiment) else [])]
    assert train.compose([*given, "benchmark=[]"])["benchmark"] == {}
    assert set(train.compose([*given, "benchmark=[xquad_r]"])["benchmark"]) == {"xquad_r"}


# --------------------------------------------------------------------------------------------- rules of the schema

PRESETS = {"x_x_mono": 1.0, "x_y": 0.0, "x_x": 1.0, "english": 1.0}


@pytest.fixture(scope="module")
def default(train: Composer) -> dict[str, Any]:
    return train.compose([])


def changed(raw: dict[str, Any], **leaves: Any) -> dict[str, Any]:
    copy = {name: dict(value) if isinstance(value, dict) else value for name, value in raw.items()}
    for name, value in leaves.items():
        section, _, key = name.rpartition("__")
        (copy[section] if section else copy)[key] = value
    return copy


@given(ratio=st.floats(0, 1), preset=st.sampled_from([*PRESETS, "hybrid"]))
def test_a_preset_with_another_ratio_is_refused(default: dict[str, Any], ratio: float, preset: str) -> None:
    raw = changed(default, sampler__preset=preset, sampler__mono_ratio=ratio)
    if PRESETS.get(preset, ratio) == ratio:
        assert validate(TrainConfig, raw).sampler.mono_ratio == ratio
    else:
        with pytest.raises(ConfigError, match=rf"^sampler\.mono_ratio=.*contradicts sampler={preset}"):
            validate(TrainConfig, raw)


@given(st.one_of(st.floats(max_value=0, exclude_max=True), st.floats(min_value=1, exclude_min=True),
                 st.just(float("nan")), st.booleans(), st.text(alphabet="abc", min_size=1)))  # fmt: skip
def test_a_ratio_that_is_no_share_is_refused(default: dict[str, Any], ratio: Any) -> None:
    with pytest.raises(ConfigError, match=r"^sampler\.mono_ratio=") as caught:
        validate(TrainConfig, changed(default, sampler__mono_ratio=ratio))
    assert "\n" not in str(caught.value)


@given(batch=st.integers(2, 4096), devices=st.integers(1, 16), nodes=st.integers(1, 4))
def test_the_batch_is_divided_among_the_devices(default: dict[str, Any], batch: int, devices: int, nodes: int) -> None:
    raw = changed(default, batch_size=batch, trainer__devices=devices, trainer__num_nodes=nodes)
    if batch % (devices * nodes) == 0:
        assert validate(TrainConfig, raw).batch_size == batch
        return
    with pytest.raises(ConfigError, match=r"^batch_size=") as caught:
        validate(TrainConfig, raw)
    for remedy in re.findall(r"use (\d+)(?: or (\d+))?", str(caught.value))[0]:
        assert not remedy or int(remedy) % (devices * nodes) == 0


@given(st.sampled_from(sorted(schema_keys(TrainConfig))))
def test_an_object_is_no_value_of_a_key(default: dict[str, Any], key: str) -> None:
    """Whatever key is wrong, the message is one line that starts with it."""
    parts = key.split(".")
    raw = yaml.safe_load(yaml.safe_dump(default))
    node = raw
    for part in parts[:-1]:
        node = node.setdefault(part, {})
    node[parts[-1]] = {"no such": ["thing"]}
    with pytest.raises(ConfigError) as caught:
        validate(TrainConfig, raw)
    assert str(caught.value).startswith(key)
    assert "\n" not in str(caught.value)


def test_evaluating_nothing_is_refused(files: dict[str, str]) -> None:
    with composer("evaluate") as composing, pytest.raises(ConfigError, match=r"^benchmark=\[\]"):
        prepare(composing, ["benchmark=[]", f"model.name_or_path={files['model.name_or_path']}"])


def test_a_number_where_a_name_is_asked_for_is_a_name(train: Composer) -> None:
    raw = train.compose(["trainer.precision=64", "logger.group=2024", "model.query_prefix=1"])
    config = validate(TrainConfig, raw)
    assert (config.trainer.precision, config.logger.group, config.model.query_prefix) == ("64", "2024", "1")


# ------------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("mono_ratio", "sampler.mono_ratio"),
        ("sampler.mono_ration", "sampler.mono_ratio"),
        ("batchsize", "batch_size"),
        ("trainer.batch_size", "batch_size"),
        ("learning_rate", "optimizer.lr"),
        ("optimiser.lr", "optimizer.lr"),
        ("modle", "model"),
        ("bencmark", "benchmark"),
        ("max_epochs", "trainer.max_steps"),
        ("model.name", "model.name_or_path"),
        ("trainer.max_step", "trainer.max_steps"),
        ("zzz", None),
    ],
)
def test_suggested_keys(typed: str, meant: str | None) -> None:
    assert nearest_key(typed, [*schema_keys(TrainConfig), *GROUPS["train"]]) == meant


@given(st.sampled_from(sorted(schema_keys(TrainConfig))), st.data())
def test_a_letter_too_many_in_a_section_is_understood(key: str, data: st.DataObject) -> None:
    if "." not in key or key.startswith("benchmark."):
        return
    section, _, last = key.rpartition(".")
    at = data.draw(st.integers(0, len(section)))
    typed = f"{section[:at]}q{section[at:]}.{last}"
    suggested = nearest_key(typed, schema_keys(TrainConfig))
    assert suggested is not None
    assert suggested.rpartition(".")[2] == last


# ------------------------------------------------------------------------------------------------------------ paths


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc")), min_size=1).filter(lambda t: "$" not in t))
def test_quoting_is_undone_by_hydra(text: str) -> None:
    assert OverridesParser.create().parse_override(f"key={quote(text)}").value() == text


@pytest.mark.parametrize("name", ["sampler.mono_ratio=0,seed=1", "a b", "(1)", "[x]", "{y}", "it's", "2024", "plain"])
def test_a_path_that_exists_is_taken_as_it_is(tmp_path: Path, name: str, train: Composer) -> None:
    folder = tmp_path / name / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    config, kept = prepare(train, [quote_path(s) for s in ("model=pretrained", f"model.name_or_path={folder}")])
    assert isinstance(config, TrainConfig)
    assert config.model.model_dump()["name_or_path"] == str(folder)
    again, _ = prepare(train, kept)
    assert again == config


def test_lists_of_such_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Composer) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b=1.jsonl", "c,d.jsonl"):
        Path(name).write_text("")
    for value in ("[a.jsonl,b=1.jsonl,c,d.jsonl]", '[a.jsonl,"b=1.jsonl","c,d.jsonl"]'):
        config, _ = prepare(train, [quote_path(s) for s in ("data=parallel_jsonl", f"data.path={value}")])
        assert config.model_dump()["data"]["path"] == [str(tmp_path / n) for n in ("a.jsonl", "b=1.jsonl", "c,d.jsonl")]


def test_globs_and_relative_paths_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train: Composer
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text("")
    config, _ = prepare(train, ["data=parallel_jsonl", "data.path='*.jsonl'"])
    assert config.model_dump()["data"]["path"] == str(tmp_path / "*.jsonl")
    with pytest.raises(ConfigError, match="matches no file"):
        prepare(train, ["data=parallel_jsonl", "data.path='*.gz'"])


# ---------------------------------------------------------------------------------------- python -m hybrid_ir.config


def test_validate_dump_describe(capsys: pytest.CaptureFixture[str], files: dict[str, str]) -> None:
    assert config_main(["validate", "sampler=x_y"]) == 0
    assert capsys.readouterr().out == "OK\n"
    assert config_main(["validate", "-m", "seed=1,2", "sampler.mono_ratio=0,0.5,1"]) == 0
    assert capsys.readouterr().out == "OK (6 jobs)\n"
    assert config_main(["validate", "sampler=x_z"]) == 2
    assert capsys.readouterr().err.startswith("error: sampler=x_z: ")
    model = files["model.name_or_path"]
    assert config_main(["dump", "--command", "evaluate", f"model.name_or_path={model}"]) == 0
    assert EvaluateConfig.model_validate(yaml.safe_load(capsys.readouterr().out)).model.name_or_path == model
    assert config_main(["describe"]) == 0
    described = capsys.readouterr().out
    for key in schema_keys(TrainConfig).values():
        assert f"{key.name} = " in described
        assert key.doc in described
    assert config_main(["describe", "optimizer", "model=labse"]) == 0
    assert "optimizer.lr = 3e-05" in capsys.readouterr().out


def test_the_schema_needs_no_torch() -> None:
    import subprocess

    heavy = ["torch", "pytorch_lightning", "transformers", "datasets", "pandas", "wandb"]
    code = (
        "import sys; from hybrid_ir.config_command import main; assert main(['validate']) == 0; "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=conf_dir().parent, check=True
    )
    assert done.stdout.splitlines() == ["OK", "[]"]
