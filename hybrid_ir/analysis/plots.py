"""Figures of a sweep: small panels, each an SVG of its own in the report, together one PNG and one SVG as files."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hybrid_ir.analysis.aggregation import (
    Aggregate,
    Bias,
    Difference,
    Estimate,
    Scope,
    Statistic,
    language_bias,
)
from hybrid_ir.analysis.sweep_tables import group_title, primary
from hybrid_ir.analysis.sweeps import Group, short
from hybrid_ir.analysis.tables import SETTING_NAMES, metric_name
from hybrid_ir.cache import write_atomic
from hybrid_ir.evaluation.benchmarks.base import LOWER_IS_BETTER, Setting

# Okabe and Ito's colours, which can be told apart with any colour vision; the page has lighter ones for a dark screen.
INK, MUTED, GRID, PAPER = "#1b1b1a", "#5c5c58", "#dededa", "#fefefd"
BLUE, RED, GREEN, PURPLE, AMBER, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
ROLES = {
    INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", BLUE: "blue", RED: "red", GREEN: "green",
    PURPLE: "purple", AMBER: "amber", SKY: "sky",
}  # fmt: skip
"""Names of the page's colours that stand for these."""
SERIES = (BLUE, RED, GREEN, PURPLE, AMBER, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", ":", "-.")
SETTING_COLOURS: dict[Setting, str] = {"monolingual": BLUE, "cross_lingual": RED, "multilingual": GREEN}
SETTING_TITLES: dict[Setting, str] = {
    "monolingual": "Within a language (Mo.)",
    "cross_lingual": "Across languages (Cr.)",
    "multilingual": "All languages in one pool (Mul.)",
}
_TIERS = {"low": (RED, "^"), "medium": (AMBER, "s"), "high": (BLUE, "o")}
MANY_CELLS = 7000
"""From so many cells on, maps have no numbers in them: the page would be too large."""
LEAST_WIDTH = 460
"""Pixels below which a large panel is not shrunk: it scrolls instead."""

_STYLE = {
    "font.size": 9, "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "axes.titlesize": 9.5,
    "axes.titleweight": "bold", "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8, "text.color": INK,
    "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": MUTED, "ytick.color": MUTED, "axes.edgecolor": MUTED,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7, "axes.grid": True, "grid.color": GRID,
    "grid.linewidth": 0.7, "axes.axisbelow": True, "lines.linewidth": 1.6, "lines.markersize": 5,
    "svg.fonttype": "none", "legend.frameon": False, "legend.fontsize": 8.5, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
}  # fmt: skip

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Key:
    """A line of a legend."""

    label: str
    colour: str
    marker: str = "o"
    dashes: str = "-"


@dataclass(frozen=True)
class Plot:
    """A figure of panels."""

    name: str
    """Of its files."""
    title: str
    caption: str
    panels: Sequence[tuple[str, Draw]]
    """Title and drawing of each."""
    size: tuple[float, float] = (3.5, 2.6)
    """Of a panel, in inches."""
    legend: Sequence[Key] = ()
    small: bool = False
    """Whether two panels stand side by side on a phone."""
    columns: int = 3
    """Panels side by side in the files; the page has as many as fit."""

    def inline(self) -> list[str]:
        """Each panel as SVG for a page."""
        found = []
        for place, (title, draw) in enumerate(self.panels):
            with _style(f"{self.name}.{place}"):
                figure = Figure(figsize=self.size, layout="constrained", facecolor="none")
                axes = figure.subplots()
                axes.set_facecolor("none")
                axes.set_title(title, loc="left")
                draw(axes)
                content = io.StringIO()
                figure.savefig(
                    content, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
                )
            found.append(_for_a_page(content.getvalue(), f"{self.title}: {title}" if title else self.title))
        return found

    def save(self, folder: Path) -> list[Path]:
        """Writes all panels as ``<name>.png`` and ``.svg``, each atomically.

        Returns:
            The files.
        """
        columns = min(self.columns, len(self.panels))
        rows = -(-len(self.panels) // columns)
        with _style(self.name):
            size = (self.size[0] * columns, self.size[1] * rows + 0.6)
            figure = Figure(figsize=size, layout="constrained", facecolor="white")
            FigureCanvasAgg(figure)
            grid = figure.subplots(rows, columns, squeeze=False).ravel()
            for axes, (title, draw) in zip(grid, self.panels, strict=False):
                axes.set_title(title, loc="left")
                draw(axes)
            for axes in grid[len(self.panels) :]:
                axes.set_axis_off()
            figure.suptitle(self.title, x=0.01, ha="left", fontsize=11)
            if self.legend:
                handles = [Line2D([], [], color=k.colour, marker=k.marker, linestyle=k.dashes) for k in self.legend]
                figure.legend(
                    handles, [k.label for k in self.legend], loc="outside lower center", ncols=min(6, len(handles))
                )
            files = []
            # Without date and random ids: equal results give equal files.
            for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
                content = io.BytesIO()
                figure.savefig(content, format=kind, dpi=150, metadata=metadata)
                figure.set_layout_engine("none")  # the layout, which takes longest, is that of the first file
                files.append(folder / f"{self.name}.{kind}")
                write_atomic(files[-1], content.getvalue())
        return files


@contextmanager
def _style(salt: str) -> Iterator[None]:
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        yield


def _for_a_page(svg: str, label: str) -> str:
    """A panel's SVG inside HTML, which brings its font and its colours; and with a third of the bytes."""
    svg = svg[svg.index("<svg") :]
    for needless in (
        r"<metadata>.*?</metadata>\s*",
        r"<style.*?</style>\s*",  # would be the whole page's
        r"<!--.*?-->\s*",
        r" transform=\"rotate\(-0 [^\"]*\)\"",
        r" font-family: [^;\"]*;",
    ):
        svg = re.sub(needless, "", svg, flags=re.S)
    # hundredths of a point are enough for places, not for what is written
    svg = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(?<=\d\.\d\d)\d+", "", tag[0]), svg)
    used = set(re.findall(r'(?:url\(|href=")#(\w+)', svg))
    svg = re.sub(r' id="([\w.]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for colour, role in ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    head = re.match(r"<svg[^>]*>", svg)
    assert head is not None
    box = re.search(r'viewBox="([\d. ]+)"', head[0])
    assert box is not None
    width = round(float(box[1].split()[2]) * 4 / 3)  # from points to pixels
    style = f"width:{width}px" + (f";min-width:{LEAST_WIDTH}px" if width > LEAST_WIDTH else "")
    opening = f'<svg viewBox="{box[1]}" style="{style}" role="img" aria-label="{html.escape(label)}">'
    return opening + re.sub(r"\s*\n\s*", " ", svg[head.end() :])


# ---------------------------------------------------------------------------------------------------------- x axes


@dataclass(frozen=True)
class Across:
    """The x axis: ratios where all batchings are on the dial, else the groups one after the other."""

    lines: dict[str, list[Group]]
    """Groups by what a line stands for."""
    places: dict[Group, float]
    ticks: list[tuple[float, str]]
    label: str
    numeric: bool
    """Whether places are ratios."""

    @classmethod
    def of(cls, found: Aggregate) -> Across:
        """The axis of a sweep."""
        lines = {of_line[0].variant_name: of_line for of_line in found.variants().values()}
        if not found.sweep.dial:
            groups = list(found.groups)
            ticks = [
                (float(i), _wrapped(", ".join(short(value) for _, value in group.variant)))
                for i, group in enumerate(groups)
            ]
            return cls({"": groups}, {g: float(i) for i, g in enumerate(groups)}, ticks, group_title(found), False)
        batchings = dict.fromkeys((group.preset, group.ratio) for group in found.groups)
        if all(preset is None for preset, _ in batchings):
            ticks = sorted((float(ratio or 0), f"{ratio:g}") for _, ratio in batchings)
            places = {group: float(group.ratio or 0) for group in found.groups}
            return cls(lines, places, ticks, "ratio (0: X-Y, 1: X-X-mono)", True)
        order = sorted(batchings, key=lambda batching: (batching[0] is not None, batching[1] or 0, batching[0] or ""))
        places = {group: float(order.index((group.preset, group.ratio))) for group in found.groups}
        ticks = [(float(i), Group(ratio, preset, ()).batching) for i, (preset, ratio) in enumerate(order)]
        return cls(lines, places, [(x, label.replace(" ", "\n", 1)) for x, label in ticks], "batching", False)

    def finish(self, axes: Axes) -> None:
        """Ticks and name of the axis."""
        axes.set_xticks([x for x, _ in self.ticks], [label for _, label in self.ticks])
        axes.set_xlabel(self.label)
        margin = 0.06 * (self.ticks[-1][0] - self.ticks[0][0]) or 0.5
        axes.set_xlim(self.ticks[0][0] - margin, self.ticks[-1][0] + margin)


def _wrapped(text: str, width: int = 14) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width)) or "all"


def _curve(
    axes: Axes, across: Across, estimates: Sequence[Estimate | None], key: Key, shift: float = 0.0, seeds: bool = True
) -> None:
    """Means with their intervals; dots are seeds."""
    there = sorted((e for e in estimates if e is not None), key=lambda e: across.places[e.group])
    if not there:
        return
    x = np.array([across.places[e.group] for e in there]) + shift
    values, low, high = (np.array([getattr(e, name) for e in there]) for name in ("value", "low", "high"))
    if across.numeric and len(there) > 1:
        axes.fill_between(x, low, high, color=key.colour, alpha=0.16, linewidth=0)
        axes.plot(x, values, color=key.colour, marker=key.marker, linestyle=key.dashes)
    else:
        errors = np.maximum([values - low, high - values], 0)
        axes.errorbar(
            x, values, errors, color=key.colour, marker=key.marker, linestyle="none", linewidth=1.2, capsize=3
        )
    if seeds:
        dots = [(at, value) for at, e in zip(x, there, strict=True) if len(e.per_seed) > 1 for value in e.per_seed]
        if dots:
            axes.plot(*zip(*dots, strict=True), ".", color=key.colour, alpha=0.55, markersize=4, zorder=1)


# ------------------------------------------------------------------------------------------------------------ plots


def intervals_explained(found: Aggregate) -> str:
    """What an interval of this sweep is."""
    kinds = sorted({e.interval for e in found.estimates})
    if kinds == ["questions"]:
        return "95 % intervals over question ids, all language versions of a question together"
    if kinds == ["questions and seeds"]:
        return "95 % intervals over question ids and seeds"
    return "95 % intervals over question ids, and over seeds where a setting has 5 or more"


def of_benchmark(found: Aggregate, benchmark: str) -> list[Plot]:
    """All figures that there are of a benchmark."""
    possible = [
        curves(found, benchmark),
        differences(found, benchmark),
        tiers(found, benchmark),
        families(found, benchmark),
        front(found, benchmark),
        languages(found, benchmark),
        *pair_maps(found, benchmark),
        bias(found, benchmark, language_bias(found)),
    ]
    return [plot for plot in possible if plot is not None]


def curves(found: Aggregate, benchmark: str) -> Plot:
    """Macro means against the ratio, a panel for each setting."""
    metric, across = primary(found, benchmark), Across.of(found)
    keys = _line_keys(across)

    def panel(setting: Setting) -> Draw:
        def draw(axes: Axes) -> None:
            for line, groups in across.lines.items():
                key = keys[line] if len(keys) > 1 else Key("", SETTING_COLOURS[setting])
                _curve(axes, across, [found.get(group, benchmark, setting, metric) for group in groups], key)
            across.finish(axes)
            axes.set_ylabel(_axis_name(metric))

        return draw

    return Plot(
        f"curves.{benchmark}",
        f"{benchmark}: {metric_name(metric)}",
        f"Macro means over seeds. Ratio: share of monolingual batches. {_marks(across)}: {intervals_explained(found)}. "
        "Dots: single seeds. All points are of the same questions, so where intervals overlap a difference may still "
        "be shown: see the next figure. The panels have scales of their own.",
        [(SETTING_TITLES[setting], panel(setting)) for setting in found.settings(benchmark, metric)],
        legend=list(keys.values()) if len(keys) > 1 else (),
    )


def differences(found: Aggregate, benchmark: str) -> Plot | None:
    """Macro means less those of each baseline, a panel for each setting; None without a baseline."""
    metric, across = primary(found, benchmark), Across.of(found)
    keys = {
        (baseline, line): Key(", ".join(filter(None, (f"less {name}", line))), SERIES[i], MARKERS[i], DASHES[k % 4])
        for i, (baseline, name) in enumerate(found.baselines.items())
        for k, line in enumerate(across.lines)
    }
    settings = found.settings(benchmark, metric)

    def measured(setting: Setting, baseline: str, line: str) -> list[tuple[float, Difference]]:
        estimates = (found.get(group, benchmark, setting, metric) for group in across.lines[line])
        return [(across.places[e.group], e.differences[baseline]) for e in estimates if e and baseline in e.differences]

    def panel(setting: Setting) -> Draw:
        def draw(axes: Axes) -> None:
            step = 0.02 * (across.ticks[-1][0] - across.ticks[0][0])
            for i, ((baseline, line), key) in enumerate(keys.items()):
                points = measured(setting, baseline, line)
                if not points:
                    continue
                x = np.array([x for x, _ in points]) + step * (i - (len(keys) - 1) / 2)  # side by side
                y, low, high = (np.array([getattr(d, n) for _, d in points]) for n in ("difference", "low", "high"))
                dashes = key.dashes if across.numeric else "none"
                axes.errorbar(
                    x, y, np.maximum([y - low, high - y], 0), color=key.colour, marker=key.marker, linestyle=dashes,
                    linewidth=1, elinewidth=1.6, capsize=3,
                )  # fmt: skip
            axes.axhline(0, color=MUTED, linewidth=0.9)
            across.finish(axes)
            axes.set_ylabel(f"difference in {_axis_name(metric)}")

        return draw

    if not any(measured(setting, *key) for setting in settings for key in keys):
        return None
    return Plot(
        f"differences.{benchmark}",
        f"{benchmark}: {metric_name(metric)} less that of {' and of '.join(found.baselines.values())}",
        f"Differences of macro means. Bars: {intervals_explained(found)}, of the paired difference, not corrected for "
        "the number of comparisons. Where a bar leaves out 0, the interval shows a difference; the table has the "
        "corrected tests.",
        [(SETTING_TITLES[setting], panel(setting)) for setting in settings],
        legend=list(keys.values()),
    )


def tiers(found: Aggregate, benchmark: str) -> Plot | None:
    """Means over the languages of each resource tier against the ratio; None where no language has a tier."""
    metric, across = primary(found, benchmark), Across.of(found)
    panels: list[tuple[str, Draw]] = []
    names: dict[str, None] = {}

    def panel(setting: Setting, groups: list[Group], statistics: list[Statistic]) -> Draw:
        def draw(axes: Axes) -> None:
            for statistic in statistics:
                key = Key(statistic.name, *_TIERS[statistic.name])
                of_groups = [found.get(group, benchmark, setting, metric, statistic) for group in groups]
                _curve(axes, across, of_groups, key, seeds=False)
            across.finish(axes)
            axes.set_ylabel(_axis_name(metric))

        return draw

    for line, groups in across.lines.items():
        for setting in found.settings(benchmark, metric):
            statistics = found.statistics(benchmark, setting, metric, "tier")
            if statistics:
                names.update(dict.fromkeys(statistic.name for statistic in statistics))
                title = f"{SETTING_TITLES[setting]}" + (f", {line}" if line else "")
                panels.append((title, panel(setting, groups, statistics)))
    if not panels:
        return None
    return Plot(
        f"tiers.{benchmark}",
        f"{benchmark}: {metric_name(metric)} by resource tier of the query's language",
        "Tiers by the size of a language's MIRACL corpus: low under 1 million passages, medium under 5 million, high "
        f"from there on. {_marks(across)}: {intervals_explained(found)}.",
        panels,
        legend=[Key(name, *_TIERS[name]) for name in names],
    )


def families(found: Aggregate, benchmark: str) -> Plot | None:
    """Monolingual means of each language family less those of X-X-mono, a panel for each other batching; None with one
    family, or without X-X-mono."""
    metric = primary(found, benchmark)
    statistics = found.statistics(benchmark, "monolingual", metric, "family")
    if len(statistics) < 2 or "x_x_mono" not in found.baselines:
        return None
    compared: dict[Group, list[tuple[str, Difference]]] = {}
    for group in found.groups:
        of_families = ((s.name, found.get(group, benchmark, "monolingual", metric, s)) for s in statistics)
        rows = [(name, e.differences["x_x_mono"]) for name, e in of_families if e and "x_x_mono" in e.differences]
        if rows:
            compared[group] = rows
    if not compared:
        return None
    every = [100 * end for rows in compared.values() for _, d in rows for end in (d.low, d.high)]
    low, high = min(0.0, *every), max(0.0, *every)
    margin = 0.06 * (high - low) or 1.0

    def panel(rows: Sequence[tuple[str, Difference]]) -> Draw:
        def draw(axes: Axes) -> None:
            for place, (_, d) in enumerate(rows):
                colour = MUTED if not d.shown else BLUE if d.difference > 0 else RED
                errors = np.maximum([[100 * (d.difference - d.low)], [100 * (d.high - d.difference)]], 0)
                axes.errorbar(
                    100 * d.difference, place, xerr=errors, color=colour, marker="o" if d.shown else ".", capsize=3
                )
            axes.axvline(0, color=MUTED, linewidth=0.9)
            axes.set_yticks(range(len(rows)), [name for name, _ in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.set_xlim(low - margin, high + margin)
            axes.set_xlabel("points less X-X-mono")

        return draw

    return Plot(
        f"families.{benchmark}",
        f"{benchmark}: monolingual {metric_name(metric)} less that of X-X-mono, by language family",
        f"Differences in points (hundredths of {metric_name(metric)}); a family's mean weighs its languages alike. "
        f"Bars: {intervals_explained(found)}. Red: worse, blue: better, shown with a correction (Holm) over the "
        "families of a panel; grey: no difference shown. The panels have one scale.",
        [(found.sweep.said(group), panel(rows)) for group, rows in compared.items()],
        size=(3.5, 0.24 * len(statistics) + 1.1),
    )


def languages(found: Aggregate, benchmark: str) -> Plot:
    """Each query language against the ratio, the settings in one panel."""
    metric, across = primary(found, benchmark), Across.of(found)
    settings = found.settings(benchmark, metric)
    dashes = {line: DASHES[i % len(DASHES)] for i, line in enumerate(across.lines)}
    codes = dict.fromkeys(
        statistic.name for setting in settings for statistic in found.statistics(benchmark, setting, metric, "language")
    )

    def panel(code: str) -> Draw:
        def draw(axes: Axes) -> None:
            for place, setting in enumerate(settings):
                own = [s for s in found.statistics(benchmark, setting, metric, "language") if s.name == code]
                for line, groups in across.lines.items():
                    key = Key("", SETTING_COLOURS[setting], MARKERS[place], dashes[line])
                    for statistic in own:
                        of_groups = [found.get(group, benchmark, setting, metric, statistic) for group in groups]
                        shift = 0 if across.numeric else 0.12 * (place - 1)
                        _curve(axes, across, of_groups, key, shift, seeds=False)
            across.finish(axes)
            axes.set_ylabel(_axis_name(metric))

        return draw

    def title(code: str) -> str:
        language = Statistic("language", code, "").language
        return code if language is None else f"{language.name} ({code})"

    named = [Key(SETTING_TITLES[s], SETTING_COLOURS[s], MARKERS[i]) for i, s in enumerate(settings)]
    if len(dashes) > 1:
        named += [Key(line, MUTED, "", dash) for line, dash in dashes.items()]
    return Plot(
        f"languages.{benchmark}",
        f"{benchmark}: {metric_name(metric)} by query language",
        f"Cr.: mean over the corpora in other languages. {_marks(across)}: {intervals_explained(found)}. The panels "
        "have scales of their own.",
        [(title(code), panel(code)) for code in codes],
        size=(2.05, 1.8),
        small=True,
        legend=named,
        columns=5,
    )


def pair_maps(found: Aggregate, benchmark: str) -> list[Plot]:
    """Maps of query language by corpus language: values of each group, and differences to each baseline."""
    metric = primary(found, benchmark)
    if "cross_lingual" not in found.settings(benchmark, metric):
        return []
    grids = {group: _pairs(found, benchmark, metric, group) for group in found.groups}
    codes = sorted({code for grid in grids.values() for pair in grid for code in pair})
    per_panel = len(codes) ** 2
    maps = len(found.groups) * (1 + len(found.baselines))
    numbers = maps * per_panel <= MANY_CELLS
    side = max(0.27 * len(codes), 1.8)
    size = (side + 1.15, side + 0.75)
    values = [e.value for grid in grids.values() for e in grid.values()]
    norm = Normalize(min(values), max(values))
    said = "" if numbers else " Too many pairs for numbers: see aggregate.csv."

    def value_map(group: Group) -> Draw:
        cells = {pair: (e.value, f"{e.value:.2f}".removeprefix("0"), False) for pair, e in grids[group].items()}
        return lambda axes: _map(axes, cells, codes, "cividis", norm, metric_name(metric), numbers)

    def difference_map(grid: Mapping[tuple[str, str], Difference], most: float, name: str) -> Draw:
        cells = {pair: (100 * d.difference, _points(100 * d.difference), d.shown) for pair, d in grid.items()}
        norm = TwoSlopeNorm(0.0, -most, most)
        return lambda axes: _map(axes, cells, codes, "RdBu", norm, f"points less {name}", numbers)

    plots = [
        Plot(
            f"pairs.{benchmark}",
            f"{benchmark}: {metric_name(metric)} by query and corpus language",
            "Means over seeds. The diagonal is the monolingual setting, the rest the cross-lingual one. All panels "
            f"have one scale, {min(values):.2f} to {max(values):.2f}.{said}",
            [(found.sweep.said(group), value_map(group)) for group in found.groups],
            size=size,
        )
    ]
    for key, name in found.baselines.items():
        compared = {
            group: {pair: e.differences[key] for pair, e in grid.items() if key in e.differences}
            for group, grid in grids.items()
        }
        compared = {group: grid for group, grid in compared.items() if grid}
        if not compared:
            continue
        most = max(abs(100 * d.difference) for grid in compared.values() for d in grid.values()) or 1.0

        plots.append(
            Plot(
                f"pairs_less_{key}.{benchmark}",
                f"{benchmark}: {metric_name(metric)} by query and corpus language, less {name}",
                f"Differences in points (hundredths of {metric_name(metric)}), blue where better than {name}, red "
                "where worse, white at 0. Bold: shown, corrected (Holm) over the pairs of a panel, and over the "
                f"languages of its diagonal. All panels have one scale, ±{most:.1f}.{said}",
                [(found.sweep.said(group), difference_map(grid, most, name)) for group, grid in compared.items()],
                size=size,
            )
        )
    return plots


def front(found: Aggregate, benchmark: str) -> Plot | None:
    """What is lost within languages against what is gained across them; None without a baseline or the settings."""
    metric = primary(found, benchmark)
    key, name = next(iter(found.baselines.items()), ("", ""))
    settings = found.settings(benchmark, metric)
    if not key or "monolingual" not in settings or len(settings) < 2:
        return None
    lines = Across.of(found).lines
    keys = {line: Key(line or "all languages", SERIES[i % 6], MARKERS[i % 6]) for i, line in enumerate(lines)}

    def both(group: Group, other: Setting, code: str | None = None) -> tuple[Estimate, Estimate] | None:
        pair = []
        scope: Scope = "macro" if code is None else "language"
        both_settings: tuple[Setting, ...] = ("monolingual", other)
        for setting in both_settings:
            of_scope = found.statistics(benchmark, setting, metric, scope)
            statistic = next((s for s in of_scope if code in (None, s.name)), None)
            pair.append(None if statistic is None else found.get(group, benchmark, setting, metric, statistic))
        one, two = pair
        return (one, two) if one and two and key in one.differences and key in two.differences else None

    def macro_panel(other: Setting) -> Draw:
        def draw(axes: Axes) -> None:
            for line, groups in lines.items():
                points = [(group, both(group, other)) for group in groups]
                for group, pair in points:
                    if pair is None:
                        continue
                    x, y = (100 * e.differences[key].difference for e in pair)
                    errors = [
                        [[max(100 * (d.difference - d.low), 0)], [max(100 * (d.high - d.difference), 0)]]
                        for d in (e.differences[key] for e in pair)
                    ]
                    axes.errorbar(
                        x, y, errors[1], errors[0], color=keys[line].colour, marker=keys[line].marker, linewidth=1
                    )
                    axes.annotate(_short(group), (x, y), (5, 5), textcoords="offset points", fontsize=8.5, color=INK)
            axes.plot(0, 0, color=INK, marker="+", markersize=9, linestyle="none")
            axes.annotate(name, (0, 0), (-5, 5), textcoords="offset points", fontsize=8.5, color=INK, ha="right")
            _front_axes(axes, name, other)

        return draw

    def language_panel(group: Group, other: Setting) -> Draw:
        def draw(axes: Axes) -> None:
            for statistic in found.statistics(benchmark, "monolingual", metric, "language"):
                pair = both(group, other, statistic.name)
                if pair is None:
                    continue
                x, y = (100 * e.differences[key].difference for e in pair)
                tier = statistic.language.tier if statistic.language else None
                colour, marker = _TIERS.get(tier or "", (MUTED, "D"))
                axes.plot(x, y, color=colour, marker=marker, linestyle="none")
                axes.annotate(statistic.name, (x, y), (4, 3), textcoords="offset points", fontsize=8, color=INK)
            _front_axes(axes, name, other)

        return draw

    others = [setting for setting in settings if setting != "monolingual"]
    panels = [(f"All languages: Mo. against {SETTING_NAMES[other]}", macro_panel(other)) for other in others]
    compared = [group for group in found.groups if both(group, others[0]) is not None]
    panels += [
        (f"{found.sweep.said(group)}, by query language", language_panel(group, others[0])) for group in compared
    ]
    if not compared:
        return None
    tiers_there = dict.fromkeys(
        s.language.tier if s.language else None for s in found.statistics(benchmark, "monolingual", metric, "language")
    )
    named = [Key(f"{tier} tier", *_TIERS[tier]) for tier in _TIERS if tier in tiers_there]
    named += [Key("no tier", MUTED, "D")] if None in tiers_there else []
    return Plot(
        f"front.{benchmark}",
        f"{benchmark}: what is lost within a language, what is gained across languages",
        f"Differences to {name} in points (hundredths of {metric_name(metric)}): to the right better within a "
        f"language, up better across. Bars: {intervals_explained(found)}.",
        panels,
        size=(3.5, 3.1),
        legend=[*(keys.values() if len(keys) > 1 else []), *named],
    )


def bias(found: Aggregate, benchmark: str, rows: Sequence[Bias]) -> Plot | None:
    """Rank distance and language bias against the ratio; None where there is no multilingual pool."""
    across = Across.of(found)
    keys = _line_keys(across)
    panels: list[tuple[str, Draw]] = []
    names = {
        "rank_distance": "Rank distance (lower is better)",
        "own_language_share": "Own language's share of the top",
        "mrc": "Agreement of a question's versions",
    }
    units = {"rank_distance": "places", "own_language_share": "share", "mrc": "mean rank correlation"}

    def panel(metric: str, unit: str) -> Draw:
        def draw(axes: Axes) -> None:
            for line, groups in across.lines.items():
                of_groups = [found.get(group, benchmark, "multilingual", metric) for group in groups]
                _curve(axes, across, of_groups, keys[line])
            across.finish(axes)
            axes.set_ylabel(unit)

        return draw

    def gap(axes: Axes) -> None:
        for line, groups in across.lines.items():
            found_gaps = {row.group: row for row in gaps if row.group in groups}
            there = [found_gaps[group] for group in groups if group in found_gaps]
            x = [across.places[row.group] for row in there]
            style = keys[line].dashes if across.numeric else "none"
            axes.plot(
                x, [row.value for row in there], color=keys[line].colour, marker=keys[line].marker, linestyle=style
            )
        across.finish(axes)
        axes.set_ylabel("mAP")

    for metric in found.metrics_of(benchmark):
        stem, _, depth = metric.partition("@")
        if stem in names and "multilingual" in found.settings(benchmark, metric):
            unit = units[stem] + (f", top {depth}" if depth else "")
            panels.append((names[stem], panel(metric, unit)))
    gaps = [
        row for row in rows
        if (row.benchmark, row.measure, row.query_language, row.document_language)
        == (benchmark, "alignment_gap", "all", "all")
    ]  # fmt: skip
    if gaps:
        panels.append(("Alignment gap: weak less strong", gap))
    if not panels:
        return None
    return Plot(
        f"bias.{benchmark}",
        f"{benchmark}: language bias in the pool of all languages",
        "Rank distance: places between a question's best and worst relevant document. Share of the top: documents in "
        "the query's own language. Agreement: rank correlation of the lists that a question's language versions get, "
        f"at most 1. Gap: mean mAP over one-language corpora less mAP in the pool. {_marks(across)}: "
        f"{intervals_explained(found)} (the gap has none). Dots: single seeds.",
        panels,
        legend=list(keys.values()) if len(keys) > 1 else (),
        columns=2,
    )


# ------------------------------------------------------------------------------------------------------------ parts


def _line_keys(across: Across) -> dict[str, Key]:
    return {
        line: Key(line, SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)], DASHES[i // len(SERIES) % len(DASHES)])
        for i, line in enumerate(across.lines)
    }


def _marks(across: Across) -> str:
    return "Bands" if across.numeric else "Bars"


def _axis_name(metric: str) -> str:
    return metric_name(metric) + (" (places)" if metric in LOWER_IS_BETTER else "")


def _short(group: Group) -> str:
    return group.preset or (f"{group.ratio:g}" if group.ratio is not None else group.variant_name)


def _front_axes(axes: Axes, name: str, other: Setting) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    axes.margins(0.15)
    axes.set_xlabel(f"Mo. less {name} (points)")
    axes.set_ylabel(f"{SETTING_NAMES[other]} less {name} (points)")


def _pairs(found: Aggregate, benchmark: str, metric: str, group: Group) -> dict[tuple[str, str], Estimate]:
    cells = {}
    where: tuple[tuple[Setting, Scope], ...] = (("monolingual", "language"), ("cross_lingual", "pair"))
    for setting, scope in where:
        for statistic in found.statistics(benchmark, setting, metric, scope):
            estimate = found.get(group, benchmark, setting, metric, statistic)
            if estimate is not None:
                cells[statistic.name, statistic.corpus_language] = estimate
    return cells


def _points(value: float) -> str:
    return "0" if abs(value) < 0.05 else f"{value:+.1f}".replace("-", "−")


def _map(
    axes: Axes,
    cells: dict[tuple[str, str], tuple[float, str, bool]],
    codes: Sequence[str],
    colours: str,
    norm: Normalize,
    label: str,
    numbers: bool,
) -> None:
    """Query language down, corpus language across; (value, its text, whether it is bold) in each cell."""
    grid = np.array([[cells.get((q, c), (np.nan, "", False))[0] for c in codes] for q in codes])
    colour_map = matplotlib.colormaps[colours]
    mesh = axes.pcolormesh(np.ma.masked_invalid(grid), cmap=colour_map, norm=norm, edgecolors=PAPER, linewidth=0.6)
    if numbers:
        for (row, column), value in np.ndenumerate(grid):
            if np.isnan(value):
                continue
            red, green, blue, _ = colour_map(norm(value))
            light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
            _, text, bold = cells[codes[row], codes[column]]
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=6.3,
                color="black" if light else "white", fontweight="bold" if bold else "normal",
            )  # fmt: skip
    axes.grid(visible=False)
    axes.invert_yaxis()
    axes.set_aspect("equal")
    places = np.arange(len(codes)) + 0.5
    axes.set_xticks(places, codes, rotation=90 if max(map(len, codes)) > 3 else 0)
    axes.set_yticks(places, codes)
    axes.tick_params(length=0)
    axes.set_xlabel("corpus language")
    axes.set_ylabel("query language")
    bar = axes.figure.colorbar(mesh, ax=axes, shrink=0.8, aspect=25, pad=0.02)
    bar.set_label(label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2)
