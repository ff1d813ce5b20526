"""Figures: retrieval by language pair; language bias, in what languages the first documents are and which relevant ones
are among them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from hybrid_ir.cache import write_atomic
from hybrid_ir.evaluation.language_bias import bias_table
from hybrid_ir.evaluation.metrics import ALL
from hybrid_ir.evaluation.results import BiasRow, Results

CELL_INCHES = 0.42


def bias_figure(rows: Iterable[BiasRow], benchmark: str) -> Figure | None:
    """Two maps of a benchmark's multilingual pool at its last step, query language down and document language across.

    On the left the languages of the first k documents, and below them those of the whole pool: without language bias
    all rows are alike, and near that one where languages have equal parts in what is relevant. On the right the share
    of each language's relevant documents that is among the first k, and below it the mean over the query languages.
    Both go from 0 to 1, so that figures of several models can be laid side by side.

    Returns:
        The figure, drawn with Agg (no display, no pyplot); None where language bias was not measured.
    """
    rows = [row for row in rows if row.benchmark == benchmark]
    shares = bias_table(rows, benchmark, "language_share")
    if not shares:
        return None
    pool = bias_table(rows, benchmark, "pool_share")
    found = bias_table(rows, benchmark, "relevant_found")
    k = next(row.measure for row in reversed(rows) if row.measure.startswith("language_share@")).partition("@")[2]
    queries = sorted({query for query, _ in shares} - {ALL})
    documents = sorted({document for _, document in pool})

    side = max(CELL_INCHES * len(documents) + 1.6, 3.7)  # titles need their room with few languages too
    figure = Figure(figsize=(2 * side, CELL_INCHES * (len(queries) + 1) + 1.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    shown = {**shares, **{("pool", document): share for (_, document), share in pool.items()}}
    _heat_map(left, shown, [*queries, "pool"], documents, f"Languages of the first {k} documents")
    image = _heat_map(right, found, [*queries, ALL], documents, f"Share of relevant documents in the first {k}")
    for axes in (left, right):
        axes.axhline(len(queries) - 0.5, color="white", linewidth=3)
    figure.colorbar(image, ax=[left, right], shrink=0.8)
    figure.suptitle(f"{benchmark}: language bias in the pool of all languages")
    return figure


def pair_figure(pairs: Mapping[tuple[str, str], float], benchmark: str) -> Figure:
    """A map of mAP, query language down and corpus language across: the diagonal (bold) is monolingual, the rest
    cross-lingual. Goes from 0 to 1, so that figures of several models can be laid side by side.

    Args:
        pairs: ``{(query language, corpus language): value}``.
        benchmark: its name.

    Returns:
        The figure, drawn with Agg (no display, no pyplot).
    """
    queries, corpora = (sorted(set(codes)) for codes in zip(*pairs, strict=True))
    size = (max(CELL_INCHES * len(corpora) + 2.2, 3.7), CELL_INCHES * len(queries) + 1.5)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = _heat_map(axes, pairs, queries, corpora, f"{benchmark}: mAP by language pair", across="corpus language")
    figure.colorbar(image, ax=axes, shrink=0.8)
    return figure


def save_figures(results: Results, folder: Path) -> list[Path]:
    """Writes ``language_bias.<benchmark>.png`` and ``.svg`` of each benchmark whose language bias was measured.

    Returns:
        The files, each written atomically.
    """
    files: list[Path] = []
    for benchmark in dict.fromkeys(row.benchmark for row in results.bias):
        figure = bias_figure(results.bias, benchmark)
        if figure is None:
            continue
        # Without date and random ids: equal results give equal files.
        with matplotlib.rc_context({"svg.hashsalt": benchmark}):
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                content = io.BytesIO()
                figure.savefig(content, format=kind, dpi=150, metadata=metadata)
                files.append(folder / f"language_bias.{benchmark}.{kind}")
                write_atomic(files[-1], content.getvalue())
    return files


def pixels(figure: Figure) -> np.ndarray:
    """A figure as loggers take it: [height, width, 3] uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _heat_map(
    axes: Axes,
    values: Mapping[tuple[str, str], float],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
    across: str = "document language",
) -> AxesImage:
    grid = np.array([[values.get((row, column), np.nan) for column in columns] for row in rows])
    # Lightness rises evenly along cividis: it can be read in grey and with any colour vision.
    colours = matplotlib.colormaps["cividis"].with_extremes(bad="white")
    image = axes.imshow(grid, cmap=colours, vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(grid):
        text = "–" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
        colour = "black" if np.isnan(value) or value > 0.45 else "white"
        weight = "bold" if rows[row] == columns[column] else "normal"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8, fontweight=weight)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel(across)
    axes.set_ylabel("query language")
    axes.set_title(title, fontsize=10)
    return image
