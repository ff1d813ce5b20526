"""The pages of docs/: their Python and JSON, the code of the page on extensions, and the site that is built of them."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from documents import DOCUMENTS, REPOSITORY, Block, blocks, commands

EXTENDING = "docs/extending.md"

PYTHON = [block for document in DOCUMENTS for block in blocks(document) if block.language == "python"]
JSON = [block for document in DOCUMENTS for block in blocks(document) if block.language == "json"]


def named(block: Block) -> str:
    """Document and first line, for the name of a test."""
    return f"{block.document}: {block.lines[0][:60]}"


# ------------------------------------------------------------------------------------------------ Python and JSON


def defined_on_the_page(module: str) -> bool:
    """Whether a module is one whose code the page on extensions shows."""
    path = f"# {module.replace('.', '/')}.py"
    return any(block.lines[0] == path for block in blocks(EXTENDING))


@pytest.mark.parametrize("block", PYTHON, ids=named)
def test_python_compiles_and_its_imports_are_there(block: Block) -> None:
    shown_here = {f"{name}Config" for name in ("FaqBenchmark", "WideTsv")} if block.document == EXTENDING else set()
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None
            if defined_on_the_page(node.module):
                continue
            module = importlib.import_module(node.module)
            missing = {alias.name for alias in node.names if not hasattr(module, alias.name)}
            assert missing <= shown_here, f"{node.module} has no {missing}"


@pytest.mark.parametrize("document", sorted({block.document for block in PYTHON}))
def test_python_prints_what_the_page_shows(document: str) -> None:
    """Where a block of text follows a block of Python at once, it is its output."""
    for code, output in itertools.pairwise(blocks(document)):
        adjoining = f"{code.text}```\n\n```text\n{output.text}" in DOCUMENTS[document]
        if code.language == "python" and adjoining:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(code.text, document, "exec"), {"__name__": "__main__"})
            assert printed.getvalue() == output.text


@pytest.mark.parametrize("block", JSON, ids=named)
def test_json_is_an_object_a_line(block: Block) -> None:
    for line in block.lines:
        assert isinstance(json.loads(line), dict)


# ----------------------------------------------------------------------------------------- the page on extensions


def apply(block: Block, checkout: Path) -> None:
    """Does to a checkout what a block of the page says: a new file, or lines of a file replaced by others."""
    if block.language in ("python", "yaml"):
        file = checkout / block.lines[0].removeprefix("# ")
        assert not file.exists()
        file.write_text("\n".join(block.lines[1:]) + "\n", encoding="utf-8")
    elif block.language == "diff":
        file = checkout / block.lines[0].removeprefix("--- ")
        hunks: list[tuple[list[str], list[str]]] = []
        for line in block.lines[1:]:
            if line.startswith("-") and (not hunks or hunks[-1][1]):
                hunks.append(([], []))
            hunks[-1]["-+".index(line[0])].append(line[1:] + "\n")
        text = file.read_text(encoding="utf-8")
        for old, new in hunks:
            assert text.count("".join(old)) == 1, f"{block.lines[0]}: has not once {old}"
            text = text.replace("".join(old), "".join(new))
        file.write_text(text, encoding="utf-8")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is run, with the changes of the page."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in ("hybrid_ir", "hydra_plugins", "conf"):
        shutil.copytree(REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("train.py", "evaluate.py"):
        shutil.copy(REPOSITORY / name, checkout)
    for block in blocks(EXTENDING):
        apply(block, checkout)
    return checkout


def run(extended: Path, command: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the page, with further settings, in the copy."""
    _, *words = shlex.split(command)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(extended)}
    return subprocess.run(
        [sys.executable, *words, *settings], cwd=extended, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_the_source_and_the_benchmark_of_the_page_work(extended: Path) -> None:
    example, line = (block for block in blocks(EXTENDING) if block.language == "text")
    header = example.lines[0]
    rows = [f"{i}\twhat is {i}?\tnumber {i} it is\twas ist {i}?\tZahl {i} ist es" for i in range(20)]
    (extended / "facts.tsv").write_text("\n".join([*example.lines, *rows[2:]]) + "\n", encoding="utf-8")
    train, evaluate = (
        command for block in blocks(EXTENDING) if block.language == "bash" for command in commands(block.lines)
    )
    small = ["batch_size=4", "trainer.max_steps=2", "model.vocab_size=600", "model.hidden_size=32", "threads=1"]
    done = run(extended, train, *small, "benchmark=[]", "output_dir=MODEL")
    assert done.returncode == 0, done.stderr
    assert "19 items" in done.stdout
    assert "per language: de 19, en 19" in done.stdout

    folder = extended / "DIR"
    folder.mkdir()
    (folder / "en.tsv").write_text(f"{line.lines[0]}\n2\tWhat is 2?\tNumber 2 it is.\n", encoding="utf-8")
    (folder / "de.tsv").write_text("1\tWas ist die Hauptstadt Kenias?\tNairobi.\n", encoding="utf-8")
    done = run(extended, evaluate, "threads=1", "output_dir=OUT", "accelerator=cpu")
    assert done.returncode == 0, done.stderr
    results = (extended / "OUT" / "results.csv").read_text(encoding="utf-8")
    assert {"faq,monolingual,en,en,map", "faq,cross_lingual,de,en,map", "faq,multilingual,de,all,map"} <= {
        row.rsplit(",", 3)[0] for row in results.splitlines()
    }

    (extended / "bad.tsv").write_text(header + "\n1\tonly a question?\n", encoding="utf-8")
    done = run(extended, train, "data.path=bad.tsv")
    assert done.returncode == 2
    assert "bad.tsv:2: has 2 cells, the header has 5; mend the line" in done.stderr
    (folder / "en.tsv").write_text("1\tWhat?\n", encoding="utf-8")
    done = run(extended, evaluate, "threads=1", "output_dir=OUT2")
    assert done.returncode == 2
    assert "en.tsv:1: " in done.stderr


# ------------------------------------------------------------------------------------------------------- the site


class Assets(HTMLParser):
    """Addresses that a browser loads by itself when it shows a page."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev", "index", "search", "author"):
            return
        for key in ("src", "srcset", "data", "poster", "href" if tag == "link" else "src"):
            if value := values.get(key):
                self.loaded.append(value)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    """A link to a page or a heading that is not there is a warning, and so is a page that no table of contents has."""
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", "docs", ".", str(site)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    pages = sorted(site.rglob("*.html"))
    assert {f"{name.removesuffix('.md')}.html" for name in DOCUMENTS} <= {p.relative_to(site).as_posix() for p in pages}
    for page in pages:
        assets = Assets()
        assets.feed(page.read_text(encoding="utf-8"))
        for address in assets.loaded:
            parts = urlsplit(address)
            assert parts.scheme in ("", "data"), f"{page.name} loads {address}"
            assert not parts.netloc, f"{page.name} loads {address}"
            if not parts.scheme:
                assert (page.parent / unquote(parts.path)).resolve().exists(), f"{page.name} loads {address}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(\s*['\"]?(?:https?:)?//", text), f"{style.name} loads from elsewhere"


def test_the_first_page_leads_to_the_others() -> None:
    """Every page in docs/ is named by the first page, which is what the site's navigation is made of."""
    linked = set(re.findall(r"\]\(([\w./]+\.(?:md|rst))\)", DOCUMENTS["docs/index.md"]))
    pages = {path.name for path in (REPOSITORY / "docs").iterdir() if path.suffix in (".md", ".rst")}
    assert pages - {"index.md"} == {name for name in linked if "/" not in name}
