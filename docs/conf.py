"""The site: Sphinx over the README and these pages as they stand in the repository (``make docs``).

The source folder is the repository itself, so that a link from one file to another is the same on the site and where
the repository is read.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

from hybrid_ir import __version__

project = "hybrid_ir"
author = "The hybrid_ir authors"
project_copyright = author
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
include_patterns = ["README.md", "bench/README.md", "docs/*.md", "docs/*.rst", "examples/*/README.md"]
exclude_patterns = [".*", "build", "dist", "outputs", "site", "sweeps", "wandb"]

myst_heading_anchors = 3
highlight_language = "none"
default_role = "code"

autodoc_default_options = {"members": True, "member-order": "bysource"}
add_module_names = False  # the page has a heading for each module
autodoc_inherit_docstrings = False  # those of Lightning and torch
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
suppress_warnings = ["ref.python"]  # "[items] int: ...": names of dimensions are no references

html_theme = "furo"
html_title = project
html_show_sphinx = False
html_copy_source = False
html_extra_path = ["extra"]


def navigation(index: str) -> str:
    """Tables of contents from the sections of the first page: what it lists is what the site has, in that order."""
    tables = []
    for section in re.split(r"^## ", index, flags=re.MULTILINE)[1:]:
        caption, _, text = section.partition("\n")
        links = re.findall(r"^- \[(.+?)\]\((.+?)\.(?:md|rst)\)", text, flags=re.MULTILINE)
        pages = [f"{title} <{page}>" for title, page in links]
        tables.append("\n".join(["```{toctree}", f":caption: {caption}", ":hidden:", "", *pages, "```"]))
    return "\n\n".join(tables)


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Adds it to the first page."""
    if page == root_doc:
        source[0] += "\n" + navigation(source[0])


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_navigation)
