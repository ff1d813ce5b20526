"""``python -m hybrid_ir.analysis.report``: what the page says, and the page in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from browser import Browser
from scipy import stats
from synthetic_sweeps import (
    RATIOS,
    SEEDS,
    base_config,
    changed,
    job_record,
    scores,
    write_job,
    write_sweep,
)

from hybrid_ir.analysis import plots
from hybrid_ir.analysis.aggregation import Aggregate, Estimate, Statistic, aggregate
from hybrid_ir.analysis.answer import Answer, answers
from hybrid_ir.analysis.report import main, write_report
from hybrid_ir.analysis.sweeps import Group, read_sweeps
from hybrid_ir.launching.sweep_folder import record

FEW = {"permutations": 300, "resamples": 300}
PHONE, DESKTOP = 390, 1280
VOID = {"meta", "link", "br", "hr", "img", "path", "use", "image"}


def aggregated(folder: Path, **options: Any) -> Aggregate:
    return aggregate(read_sweeps([folder]), **{"metrics": ["map"], **FEW, **options})


def answered(folder: Path, **options: Any) -> tuple[Aggregate, Answer, dict[str, str]]:
    """The only answer of a sweep, and its statements by their leads."""
    found = aggregated(folder)
    (answer,) = answers(found, **options)
    return found, answer, {statement.lead: statement.text for statement in answer.statements}


def written(value: float) -> str:
    return f"{value:.4f}".replace("0.", ".", 1)


# ------------------------------------------------------------------------------------------------------------ words


def test_the_best_ratio_and_how_sure_it_is(tmp_path: Path) -> None:
    write_sweep(tmp_path, ratios=(0.0, 0.5, 0.95, 1.0), spread=0.0)
    found, _, said = answered(tmp_path)
    leads = {
        "monolingual": "Within a language",
        "cross_lingual": "Across languages",
        "multilingual": "All languages in one pool",
    }
    for setting, lead in leads.items():
        estimates = [found.get(group, "cldr", setting, "map") for group in found.groups]  # type: ignore[arg-type]
        best = max((e for e in estimates if e is not None), key=lambda e: e.value)
        assert said[lead].startswith(f"Ratio {best.group.batching} has the highest mAP: {written(best.value)} [")
        for key, name in found.baselines.items():
            if key in best.differences:
                difference = best.differences[key]
                sentence = said[lead].partition(f"Against {name}: ")[2]
                assert sentence.startswith(f"{difference.difference:+.4f}".replace("0.", ".", 1))
                verdict = "better" if difference.shown else "no difference shown (smallest detectable ."
                assert re.search(rf"\], p (=|<) [.\d]+: {re.escape(verdict)}", sentence)
        close = [group.batching for group in not_told_apart(found, best)]
        assert (f"Not told apart from it: {', '.join(close)}." in said[lead]) == bool(close)
        assert ("Told apart from each of the others" in said[lead]) == (not close)
    texts = " ".join(said.values())
    assert "better." in texts
    assert "Not told apart from it: " in texts
    assert "Told apart from each" in texts


def not_told_apart(found: Aggregate, best: Estimate) -> list[Group]:
    """Groups that the best one's difference to has 0 in its interval, or is within what a t test over seeds shows."""
    draws = found.macro_draws["cldr", best.setting, "map"]
    close = []
    for group in draws:
        other = found.get(group, "cldr", best.setting, "map")
        assert other is not None
        low, high = np.quantile(draws[best.group] - draws[group], [0.025, 0.975])
        limit = seed_limit(found, best.setting, len(best.per_seed))
        if group != best.group and (low <= 0 <= high or abs(best.value - other.value) < limit):
            close.append(group)
    return close


def seed_limit(found: Aggregate, setting: str, seeds: int, statistic: Statistic | None = None) -> float:
    """Least difference of two means of so many seeds that a t test at .05 shows, from the values of the seeds."""
    of_groups = [found.get(group, "cldr", setting, "map", statistic) for group in found.groups]  # type: ignore[arg-type]
    values = [np.array(estimate.per_seed) for estimate in of_groups if estimate is not None]
    freedom = sum(len(of_seeds) - 1 for of_seeds in values)
    squares = sum(np.square(of_seeds - of_seeds.mean()).sum() for of_seeds in values)
    return float(stats.t.ppf(0.975, freedom) * np.sqrt(squares / freedom * 2 / seeds))


def test_the_best_mix_loses_no_more_than_asked(tmp_path: Path) -> None:
    write_sweep(tmp_path, ratios=(0.0, 0.4, 0.5, 0.75, 1.0))
    found, _, _ = answered(tmp_path)
    losses = {}
    means = set()
    for group in found.groups:
        estimate = found.get(group, "cldr", "monolingual", "map")
        assert estimate is not None
        if estimate.differences.get("x_x_mono"):
            losses[group.ratio] = estimate.differences["x_x_mono"]
    multilingual = {group.ratio: found.get(group, "cldr", "multilingual", "map") for group in found.groups}
    for ratio, loss in losses.items():
        # the tolerance that the whole interval of this ratio just keeps
        _, answer, said = answered(tmp_path, tolerance=-loss.low + 1e-9)
        kept = [r for r, other in losses.items() if other.low >= loss.low - 1e-9]
        best = max(kept, key=lambda r: multilingual[r].value)  # type: ignore[union-attr]
        assert f"ratio {Group(best, None, ()).batching} has the highest multilingual mAP" in said["The best mix"]
        estimate = multilingual[best]
        assert estimate is not None
        close = [g.batching for g in not_told_apart(found, estimate) if g.ratio in kept and g.ratio != 1.0]
        named = f"; not told apart from {', '.join(f'ratio {name}' for name in close)}." if close else "."
        means.add(bool(close))
        by_mean = " by its mean" if close else ""
        assert answer.headline.startswith(f"Ratio {Group(best, None, ()).batching} is the best mix{by_mean}: +.")
        assert answer.headline.endswith(f" lost within a language{named}")
        assert ratio in kept
    assert means == {False, True}
    _, answer, said = answered(tmp_path, tolerance=0.0)
    if all(loss.low < 0 for loss in losses.values()):
        assert answer.headline == "No mix is shown to beat X-X-mono while losing at most 0 within a language."


def test_without_a_difference_none_is_claimed(tmp_path: Path) -> None:
    write_sweep(tmp_path, ratios=(0.998, 0.999, 1.0), spread=0.0)
    found, answer, said = answered(tmp_path, tolerance=0.05)
    differences = [d for e in found.estimates if e.statistic.scope == "macro" for d in e.differences.values()]
    assert differences
    assert not any(difference.shown for difference in differences)
    assert "better" not in " ".join(said.values())
    assert "is the best mix" not in answer.headline
    assert re.search(r"no difference to X-X-mono is shown|No mix is shown to beat X-X-mono", answer.headline)


def test_one_seed_settles_nothing(tmp_path: Path) -> None:
    write_sweep(tmp_path, seeds=(1,))
    _, answer, said = answered(tmp_path)
    assert answer.headline.endswith("With one seed, this settles nothing.")
    assert "One seed settles nothing" in said["Seeds"]
    texts = " ".join(said.values())
    assert "Told apart from each of the others (95 % intervals)." in texts
    assert "what seeds alone can do" not in texts


def test_what_seeds_alone_can_do_is_said(tmp_path: Path) -> None:
    kinds: dict[int, set[bool]] = {3: set(), 5: set()}
    for spread in (0.0, 0.04, 0.06, 0.08):
        for seeds in kinds:
            folder = tmp_path / f"{seeds}-{spread}"
            write_sweep(folder, seeds=range(1, seeds + 1), spread=spread)
            found, answer, said = answered(folder)
            for estimate in found.estimates:
                for difference in estimate.differences.values():
                    limit = seed_limit(found, estimate.setting, seeds, estimate.statistic)
                    assert difference.by_seeds_alone == pytest.approx(limit)
                    assert difference.within_seeds == (abs(difference.difference) < limit)
                    if difference.shown:
                        kinds[seeds].add(difference.within_seeds)
            (hybrid,) = (group for group in found.groups if group.ratio == 0.5)
            for setting, sentence in by_setting(said["Hybrid against both ends"]).items():
                estimate = found.get(hybrid, "cldr", setting, "map")  # type: ignore[arg-type,assignment]
                for key, name in found.baselines.items():
                    difference = estimate.differences[key]
                    value = f"{difference.difference:+.4f}".replace("0.", ".", 1)
                    doubted = ", within what seeds alone can do" in sentence.partition(f"{name} ({value}")[2][:32]
                    assert doubted == (difference.shown and difference.within_seeds)
            of_families = {}
            for family in found.statistics("cldr", "monolingual", "map", "family"):
                estimate = found.get(hybrid, "cldr", "monolingual", "map", family)  # type: ignore[assignment]
                of_families[family.name] = estimate.differences["x_x_mono"]
            for name, difference in of_families.items():
                (part,) = (p for p in said["Language families"].partition("Ratio 0.5: ")[2].split(";") if name in p)
                doubted = "by no more than seeds alone can do in" in part
                assert doubted == (difference.shown and difference.within_seeds)
            gain = found.get(hybrid, "cldr", "multilingual", "map").differences["x_x_mono"]  # type: ignore[union-attr]
            if answer.headline.startswith("Ratio 0.5 is the best mix"):
                assert ("X-X-mono (within what seeds alone can do)," in answer.headline) == gain.within_seeds
            start = (
                "3 seeds each, fewer than 5" if seeds == 3 else "5 seeds each. Intervals are over questions and seeds."
            )
            assert start in said["Seeds"]
            limit = seed_limit(found, "multilingual", seeds)
            assert f"Two means of {seeds} seeds can differ by {written(limit)} by the seeds alone" in said["Seeds"]
    assert kinds == {3: {False, True}, 5: {False, True}}


def by_setting(text: str) -> dict[str, str]:
    """The sentences of ``Hybrid against both ends``."""
    return dict(zip(("monolingual", "cross_lingual", "multilingual"), text.split(": ")[1:], strict=True))


def test_less_is_better_for_distances_in_ranks(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    found = aggregated(tmp_path, metrics=["rank_distance"])
    (answer,) = answers(found)
    values = {g: found.get(g, "cldr", "multilingual", "rank_distance") for g in found.groups}
    best = min(values, key=lambda g: values[g].value)  # type: ignore[union-attr]
    assert answer.headline.startswith(f"Ratio {best.batching} has the lowest multilingual rank distance")


def verdict(found: Aggregate, group: Group, setting: str, baseline: str, metric: str = "map") -> str:
    estimate = found.get(group, "cldr", setting, metric)  # type: ignore[arg-type]
    assert estimate is not None
    difference = estimate.differences[baseline]
    if not difference.shown:
        return "not told apart from"
    return "better than" if difference.difference > 0 else "worse than"


def test_hybrid_batches_are_set_against_both_ends(tmp_path: Path) -> None:
    write_sweep(tmp_path / "one")
    found, _, said = answered(tmp_path / "one")
    (hybrid,) = (group for group in found.groups if group.ratio == 0.5)
    sentences = by_setting(said["Hybrid against both ends"])
    verdicts = set()
    for setting, sentence in sentences.items():
        for key, name in found.baselines.items():
            estimate = found.get(hybrid, "cldr", setting, "map")  # type: ignore[arg-type]
            assert estimate is not None
            value = f"{estimate.differences[key].difference:+.4f}".replace("0.", ".", 1)
            verdicts.add(verdict(found, hybrid, setting, key))
            assert re.search(rf"{verdict(found, hybrid, setting, key)} [^;]*{name} \({re.escape(value)}[,)]", sentence)
    assert "better than" in verdicts
    write_sweep(tmp_path / "several", ratios=(0.0, 0.25, 0.5, 1.0))
    found, _, said = answered(tmp_path / "several")
    for group in found.groups:
        if group.ratio not in (0.0, 1.0):
            assert said["Hybrid against both ends"].count(f"ratio {group.batching}") == 3
    assert "(+" not in said["Hybrid against both ends"]
    write_sweep(tmp_path / "ends", ratios=(0.0, 1.0))
    assert "Hybrid against both ends" not in answered(tmp_path / "ends")[2]


def test_what_each_family_loses_within_a_language(tmp_path: Path) -> None:
    write_sweep(tmp_path, spread=0.0)
    found, _, said = answered(tmp_path)
    families = found.statistics("cldr", "monolingual", "map", "family")
    assert [family.name for family in families] == ["Indo-European", "Kra-Dai", "Niger-Congo"]
    sentences = {
        text.partition(": ")[0]: text for text in re.split(r"(?<=\.) (?=Ratio)", said["Language families"])[1:]
    }
    kinds = set()
    for group in found.groups:
        if group.ratio == 1.0:
            assert f"Ratio {group.batching}" not in sentences
            continue
        for family in families:
            estimate = found.get(group, "cldr", "monolingual", "map", family)
            assert estimate is not None
            difference = estimate.differences["x_x_mono"]
            kind = "no difference shown" if not difference.shown else "better" if difference.difference > 0 else "worse"
            kinds.add(kind)
            value = f"{difference.difference:+.4f}".replace("0.", ".", 1)
            text = sentences[f"Ratio {group.batching}"]
            assert re.search(rf"{kind} (by [^;]*)?in [^;]*{family.name} \({re.escape(value)}\)", text)
    assert "worse" in kinds
    figure = plots.families(found, "cldr")
    assert figure is not None
    assert [title for title, _ in figure.panels] == ["ratio 0 (X-Y)", "ratio 0.5"]
    alone = aggregated(tmp_path, languages={"cldr": ["de", "en"]})
    assert plots.families(alone, "cldr") is None
    assert "Language families" not in {statement.lead for statement in answers(alone)[0].statements}


def test_other_metrics_that_were_named_are_answered_for(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    found = aggregated(tmp_path, metrics=["map", "recall@10", "precision@10"])
    assert "Other metrics" not in {statement.lead for statement in answers(found)[0].statements}
    (answer,) = answers(found, further=["recall@10", "precision@10"])
    said = {statement.lead: statement.text for statement in answer.statements}["Other metrics"]
    for metric, sentence in zip(("recall@10", "precision@10"), re.split(r"(?<=\.) (?=[A-Z])", said), strict=True):
        assert sentence.startswith(f"The highest {metric}: ")
        for setting, lead in (("monolingual", "within a language"), ("cross_lingual", "across languages")):
            estimates = [found.get(group, "cldr", setting, metric) for group in found.groups]  # type: ignore[arg-type]
            best = max((e for e in estimates if e is not None), key=lambda e: e.value)
            assert f"{lead} {found.sweep.said(best.group)}, {written(best.value)} [" in sentence


def test_languages_that_were_not_trained_on_are_named(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    assert "Zero-shot" not in answered(tmp_path)[2]
    for path in tmp_path.glob("*/exposure.csv"):
        rows = path.read_text().splitlines()
        path.write_text("\n".join(row for row in rows if not row.startswith(("sw,", "th,"))) + "\n")
    assert answered(tmp_path)[2]["Zero-shot"].startswith("Not trained on here: sw, th; ")
    for path in tmp_path.glob("sampler.mono_ratio=1,*/exposure.csv"):
        rows = path.read_text().splitlines()
        path.write_text("\n".join(row for row in rows if not row.startswith("de,")) + "\n")
    said = answered(tmp_path)[2]["Zero-shot"]
    assert said.endswith("by ratio 0 (X-Y), ratio 0.5: sw, th; ratio 1 (X-X-mono): de, sw, th.")
    for path in tmp_path.glob("*/exposure.csv"):
        rows = path.read_text().splitlines()
        path.write_text(rows[0] + "\n" + "fr," + rows[1].partition(",")[2] + "\n")
    assert answered(tmp_path)[2]["Zero-shot"] == "Not trained on here: de, en, sw, th, all that are evaluated."


# ------------------------------------------------------------------------------------------------------------- page


class Page(HTMLParser):
    """Tags, texts and addresses of a page; fails where tags are not nested."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.addresses: list[str] = []
        self.identifiers: list[str] = []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        self.addresses += [v for k, v in attrs if v and k in ("src", "href", "xlink:href", "action", "data")]
        self.identifiers += [v for k, v in attrs if v and k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a sweep with a job that failed, whose message has signs that HTML has a use for."""
    folder = tmp_path_factory.mktemp("sweep")
    write_sweep(folder, failed=[(0.5, 2)])
    (folder / "sampler.mono_ratio=0.5,seed=2" / "job.log").write_text("error: <b>&amp; it broke</b>\n")
    assert main([str(folder), "--resamples", "300", "--permutations", "300"]) == 0
    return folder / "report.html"


def test_the_page_is_whole_and_asks_for_nothing(report: Path) -> None:
    page = Page(report)
    assert report.stat().st_size < 5_000_000
    assert all(address.startswith(("#", "data:")) for address in page.addresses), page.addresses
    text = report.read_text()
    assert "http" not in text.replace('http-equiv="Content-Security-Policy"', "")
    assert "@import" not in text
    assert len(page.identifiers) == len(set(page.identifiers))
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.identifiers)
    assert page.counts["table"] >= 10
    assert page.counts["svg"] >= 20
    assert not re.search(r">[^<]*\bnan\b", text.partition("<script>")[0], re.I)
    assert "&lt;b&gt;&amp;amp; it broke&lt;/b&gt;" in text


@pytest.mark.slow
def test_the_page_and_its_files_depend_on_the_runs_alone(report: Path, tmp_path: Path) -> None:
    sweep = report.parent
    found = aggregated(sweep, metrics=None)
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        write_report(found, folder, **FEW)  # type: ignore[arg-type]
    assert (first / "report.html").read_bytes() == (second / "report.html").read_bytes() == report.read_bytes()
    names = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(second) for path in second.rglob("*") if path.is_file())
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_figures_are_files_too(report: Path) -> None:
    figures = report.parent / "figures"
    stems = {path.stem for path in figures.glob("*.svg")}
    assert stems == {path.stem for path in figures.glob("*.png")}
    assert stems == {
        f"{name}.cldr"
        for name in (
            "curves", "differences", "tiers", "families", "front", "languages", "pairs", "pairs_less_x_x_mono",
            "pairs_less_x_y", "bias",
        )
    }  # fmt: skip
    for path in figures.glob("*.png"):
        assert np.ptp(matplotlib.image.imread(path)[:, :, :3]) > 0.5  # something is drawn
    for path in figures.glob("*.svg"):
        assert re.search(r"<text[^>]*>[^<]*(mAP|places|points|language)", path.read_text()), f"{path}: text as paths"


def test_numbers_on_the_page_are_those_of_the_tables(report: Path) -> None:
    found = aggregated(report.parent, metrics=None)
    text = report.read_text().replace("−", "-")
    for setting in ("monolingual", "cross_lingual", "multilingual"):
        for group in found.groups:
            estimate = found.get(group, "cldr", setting, "map")  # type: ignore[arg-type]
            assert estimate is not None
            assert f"<td>{written(estimate.value)}</td>" in text
            assert f"<td>[{written(estimate.low)}, {written(estimate.high)}]</td>" in text


@pytest.mark.slow
def test_sweeps_over_other_keys_have_pages_too(tmp_path: Path) -> None:
    sweeps: dict[str, list[tuple[list[str], dict[str, Any], float]]] = {
        "presets": [
            ([f"sampler={preset}"], {"sampler.preset": preset, "sampler.mono_ratio": ratio}, ratio)
            for preset, ratio in (("x_x_mono", 1.0), ("hybrid", 0.5), ("x_x", 1.0))
        ],
        "rate": [([f"optimizer.lr={lr}"], {"optimizer.lr": lr}, lr * 1000) for lr in (0.0005, 0.001)],
        "both": [
            (
                [f"sampler.mono_ratio={ratio:g}", f"batch_size={size}"],
                {"sampler.mono_ratio": ratio, "batch_size": size},
                ratio,
            )
            for ratio in RATIOS
            for size in (32, 64)
        ],
        "seeds": [([f"seed={seed}"], {"seed": seed}, 0.5) for seed in SEEDS],
    }
    ticks = {
        "presets": ["0.5", "1\n(X-X-mono)", "X-X"],
        "rate": ["0.0005", "0.001"],
        "both": ["0", "0.5", "1"],
    }
    for name, jobs in sweeps.items():
        for overrides, settings, like in jobs:
            config = changed(base_config(), settings)
            write_job(tmp_path / name / ",".join(overrides), overrides, config, scores(like, settings.get("seed", 1)))
        record(tmp_path / name, "train", [job_record(",".join(o), o) for o, _, _ in jobs])
        found = aggregated(tmp_path / name)
        write_report(found, tmp_path / name, **FEW)  # type: ignore[arg-type]
        Page(tmp_path / name / "report.html")
        across = plots.Across.of(found)
        assert [label for _, label in across.ticks] == ticks.get(name, ["all"])
        assert across.numeric == (name == "both")
    both = aggregated(tmp_path / "both")
    assert [answer.title for answer in answers(both)] == ["cldr, batch_size=32", "cldr, batch_size=64"]
    (only,) = answers(aggregated(tmp_path / "seeds"))
    assert "Nothing was varied but the seed" in only.headline


def test_options_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sweep(tmp_path, seeds=(1,))
    for options in (["--tolerance", "2"], ["--tolerance", "x"], ["--resamples", "3"], ["--colour"]):
        assert main([str(tmp_path), *options]) == 2
        err = capsys.readouterr().err
        assert err.startswith("error: ")
        assert options[0] in err
        assert err.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


# ---------------------------------------------------------------------------------------------------------- browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_it_loads_without_complaint_and_does_not_scroll_sideways(
    report: Path, browser: Browser, width: int, dark: bool
) -> None:
    browser.open(report, width, dark=dark)
    assert browser.complaints() == []
    assert {address.split(":")[0] for address in browser.requests()} <= {"file", "data"}
    assert [address for address in browser.requests() if address.startswith("file:")] == [report.resolve().as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    browser.run("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    assert browser.run("document.documentElement.scrollWidth") <= width
    brightness = browser.run(
        "(() => { const c = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);"
        " return (c[0] + c[1] + c[2]) / 3; })()"
    )
    assert brightness < 60 if dark else brightness > 240


def contrast(colours: list[list[float]]) -> float:
    """Contrast ratio of two colours (WCAG 2.2)."""
    linear = np.array(colours) / 255
    linear = np.where(linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
    low, high = sorted(linear @ [0.2126, 0.7152, 0.0722])
    return float((high + 0.05) / (low + 0.05))


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True])
def test_texts_and_lines_stand_out(report: Path, browser: Browser, dark: bool) -> None:
    browser.open(report, DESKTOP, dark=dark)
    names = ["paper", "ink", "muted", "accent", *(plots.ROLES[c] for c in plots.SERIES[:3])]
    script = (
        "(() => { const p = document.body.appendChild(document.createElement('p')); return %s.map((name) => {"
        " p.style.color = `var(--${name})`; return getComputedStyle(p).color.match(/\\d+/g).map(Number); }); })()"
    )
    paper, ink, muted, accent, *series = browser.run(script % json.dumps(names))
    assert contrast([paper, ink]) > 12
    assert contrast([paper, muted]) > 4.5
    assert contrast([paper, accent]) > 4.5
    for colour in series:
        assert contrast([paper, colour]) > 3  # what graphical objects need
    text = browser.run("getComputedStyle(document.querySelector('.panel svg text')).fill.match(/\\d+/g).map(Number)")
    assert contrast([paper, text]) > 4.5


@pytest.mark.slow
def test_a_click_on_a_head_sorts(report: Path, browser: Browser) -> None:
    browser.open(report)
    cells = "[...document.querySelector('table').tBodies[0].rows].map((row) => row.cells[%d].textContent.trim())"
    value, difference = 2, 4
    before = browser.run(cells % value)
    browser.click(f"thead th:nth-child({value + 1}) button")
    ascending = browser.run(cells % value)
    assert [float(cell) for cell in ascending] == sorted(float(cell) for cell in before)
    assert browser.run("document.querySelector('th[aria-sort]').ariaSort") == "ascending"
    browser.click(f"thead th:nth-child({value + 1}) button")
    assert browser.run(cells % value) == ascending[::-1]
    browser.click(f"thead th:nth-child({difference + 1}) button")
    sorted_cells = browser.run(cells % difference)
    signed = [float(re.sub(r"[▲▼*]", "", cell).replace("−", "-")) for cell in sorted_cells if cell != "–"]
    assert signed == sorted(signed)
    assert min(signed) < 0 < max(signed)
    assert sorted_cells[len(signed) :] == ["–"] * (len(before) - len(signed))  # without a number: last
    assert browser.run("document.querySelectorAll('th[aria-sort]').length") == 1
    browser.click("thead th:nth-child(1) button")
    names = browser.run(cells % 0)
    assert names == sorted(names)
    assert browser.complaints() == []
