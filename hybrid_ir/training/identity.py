"""What makes a run the run it is: the settings that its weights depend on, and its data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybrid_ir import cache
from hybrid_ir.composition import show
from hybrid_ir.config import TrainConfig, key_of_part
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.exclusion import Exclusion
from hybrid_ir.schema_keys import flatten

_SECTIONS = {"seed", "batch_size", "sampler", "loss", "optimizer", "model", "data"}
_LEFT_OUT = {
    "data.path", "data.num_workers", "data.verify_cache", "model.name_or_path", "model.trust_remote_code",
    "model.gradient_checkpointing",
}  # fmt: skip
"""Of those sections: where things are, which may move (the data is known by its content, a checkpoint has the weights),
and how they are computed."""
_MAPPINGS = ("sampler.language_weights", "sampler.sources.weights")
"""Whose keys are names of the data: one that only one run has is a difference."""


@dataclass(frozen=True)
class Identity:
    """Of a run; plain data, for its checkpoints."""

    settings: dict[str, Any]
    """By dotted key."""
    data: dict[str, Any]
    """What the corpus was made of: the source's settings and the hashes of its files."""
    content_sha256: str
    """Of the corpus."""

    @classmethod
    def of(cls, config: TrainConfig, corpus: ParallelCorpus, excluded: Exclusion | None = None) -> Identity:
        """That of a configuration, its corpus, and what is left out of it."""
        settings = {
            name: value
            for name, value in flatten(config.model_dump(mode="json")).items()
            if name.partition(".")[0] in _SECTIONS and key_of_part(name) not in _LEFT_OUT
        }
        settings["trainer.precision"] = config.trainer.precision
        if config.optimizer.schedule != "constant":  # which can be prolonged
            settings["trainer.max_steps"] = config.trainer.max_steps
        if excluded is not None:  # which depends on the benchmark's files too
            settings["items left out by data.exclude_overlap_with"] = (
                f"{int(excluded.items.sum())} (SHA-256 {excluded.sha256()[:12]}...)"
            )
        return cls(settings, cache.read_manifest(corpus.folder)["key"], corpus.fingerprint)


def differences(before: Identity, now: Identity) -> list[str]:
    """Why two runs are not the same, the data first; empty where they are.

    A setting that only one of them has is of another version of this program, and is not looked at.

    Args:
        before: of the run that is resumed.
        now: of the configuration that would go on with it.
    """
    found = []
    if before.content_sha256 != now.content_sha256 and before.data != now.data:
        found = [*_changed_files(_files(before.data), _files(now.data))]
        found = found or [
            f"its data has {name}={show(before.data.get(name))}, now it is {show(now.data.get(name))}"
            for name in [*before.data, *(name for name in now.data if name not in before.data)]
            if before.data.get(name) != now.data.get(name)
        ]
    # A section may be null or empty in one of them; that of the data is compared by what it makes of the data.
    wholes = [
        name
        for settings in (before.settings, now.settings)
        for name, value in settings.items()
        if value in (None, {}) and not name.startswith("data.")
    ]
    theirs, ours = (_with_wholes(of.settings, [*_MAPPINGS, *wholes]) for of in (before, now))
    found += [
        f"it has {name}={_shown(value)}, this run has {name}={_shown(ours[name])}"
        for name, value in theirs.items()
        if name in ours and ours[name] != value
    ]
    return found


def _with_wholes(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Settings of which those below some names are one mapping each."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        whole = next((name for name in names if key.startswith(f"{name}.")), None)
        if whole is None:
            found[key] = value
        else:
            found.setdefault(whole, {})[key.removeprefix(f"{whole}.")] = value
    return found


def _shown(value: Any) -> str:
    if not isinstance(value, dict):
        return show(value)
    return show("{" + ",".join(f"{key}:{show(of)}" for key, of in value.items()) + "}")


def _files(made_from: dict[str, Any]) -> list[list[str]]:
    """``[name, SHA-256]`` of the data's files, those of a mixture with their part."""
    if made_from["source"] != "mixture":
        return list(made_from.get("files", []))
    return [[f"{part}/{name}", sha256] for part, key in made_from["parts"].items() for name, sha256 in _files(key)]


def _changed_files(before: list[list[str]], now: list[list[str]]) -> list[str]:
    """Files of the data, ``[name, SHA-256]`` in order, that are not what they were."""
    if len(before) != len(now) or [name for name, _ in before] != [name for name, _ in now]:
        names = [", ".join(name for name, _ in files) or "none" for files in (before, now)]
        return [f"its data files were {names[0]}, now they are {names[1]}"]
    return [
        f"the data file {name} has changed since the run was started (SHA-256 {old[:12]}..., now {new[:12]}...)"
        for (name, old), (_, new) in zip(before, now, strict=True)
        if old != new
    ]
