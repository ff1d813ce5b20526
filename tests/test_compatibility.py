"""The lowest versions that pyproject.toml allows are those that ``make compat-lowest`` runs with."""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_lowest_versions_allowed_are_those_that_are_run() -> None:
    pinned: dict[str, Version] = {}
    for line in (REPOSITORY / "constraints-lowest.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")
            pinned[canonicalize_name(name)] = Version(version)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    allowed: dict[str, Version] = {}
    for requirement in map(Requirement, chain(project["dependencies"], *extras.values())):
        for specifier in requirement.specifier:
            if specifier.operator == ">=":
                name = canonicalize_name(requirement.name)
                version = Version(specifier.version)
                assert allowed.setdefault(name, version) == version, f"{name}: several lowest versions"
    assert allowed.pop("torch") <= pinned["torch"]  # docs/compatibility.md
    assert {name: pinned[name] for name in allowed} == allowed
