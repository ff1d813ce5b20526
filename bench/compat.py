"""The table of docs/compatibility.md: versions in each environment of ``make compat``, and what its tests gave last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

PACKAGES = ("torch", "pytorch-lightning", "transformers", "datasets", "numpy", "pyarrow", "pydantic", "babel")
VERSIONS = """
import sys
from importlib import metadata
print(sys.version.split()[0])
installed = {d.name.lower(): d.version for d in reversed(list(metadata.distributions()))}
for name in sys.argv[1:]:
    print(installed.get(name, "none"))
"""


def row(environment: Path) -> list[str]:
    """Cells of one environment's line."""
    program = [environment / "bin" / "python", "-c", VERSIONS, *PACKAGES]
    versions = subprocess.run(program, capture_output=True, text=True, check=True).stdout.split()
    suite = ElementTree.parse(environment / "tests.xml").getroot()[0]
    tests, skipped, *bad = (int(suite.attrib[name]) for name in ("tests", "skipped", "failures", "errors"))
    outcome = f"{tests - skipped - sum(bad)} passed, {skipped} skipped" + (f", {sum(bad)} failed" if any(bad) else "")
    return [environment.name, *versions, outcome]


def main() -> None:
    header = ["environment", "Python", *PACKAGES, "tests"]
    environments = [Path(name) for name in sys.argv[1:] if (Path(name) / "tests.xml").is_file()]
    for cells in (header, ["---"] * len(header), *map(row, environments)):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
