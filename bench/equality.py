"""The gradient and the weights by processes and chunks, beside one process with the whole batch in one graph.

A small encoder on batches with explicit negatives and equal passages; both directions, a learned temperature, clipping.
Prints relative L2 differences: of the first step's gradient in each precision from the reference in the same precision,
and of the weights after some steps in float64. With dropout GradCache is compared with one graph over the same chunks
in as many processes, which draw the same random numbers.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from equality_worker import Case, Outcome, relative_difference, run

WHOLE = Case()
WAYS = {
    "one graph, whole": WHOLE,
    "one graph, chunks of 3": Case(chunk_rows=3),
    **{f"GradCache, chunks of {rows}": Case(chunk_rows=rows, grad_cache=True) for rows in (1, 3, 8)},
    "GradCache, whole": Case(grad_cache=True),
}
DROPOUT = {
    "one graph, chunks of 3": Case(chunk_rows=3, dropout=0.1),
    "GradCache, chunks of 3": Case(chunk_rows=3, dropout=0.1, grad_cache=True),
}


def largest(processes: list[Outcome], reference: list[Outcome], what: str) -> str:
    """Largest relative difference of a process from its counterpart in the reference, which may be the only one."""
    pairs = zip(processes, reference * (len(processes) // len(reference)), strict=True)
    return f"{max(relative_difference(getattr(a, what), getattr(b, what)) for a, b in pairs):.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--strategy", choices=("ddp", "fsdp"), default="ddp")
    options = parser.parse_args()
    console, began = Console(), time.monotonic()

    ways, dropping = ({n: replace(c, strategy=options.strategy) for n, c in each.items()} for each in (WAYS, DROPOUT))
    double = {name: replace(case, steps=options.steps) for name, case in ways.items()}
    other = {p: {name: replace(case, precision=p, steps=1) for name, case in ways.items()} for p in ("32", "bf16")}
    dropped = {name: replace(case, steps=options.steps) for name, case in dropping.items()}
    cases = [*double.values(), *other["32"].values(), *other["bf16"].values(), *dropped.values()]
    with tempfile.TemporaryDirectory() as folder:
        worlds = sorted({1, *options.processes})
        outcomes = {world: dict(zip(cases, run(Path(folder), world, cases), strict=True)) for world in worlds}

    whole, found = "one graph, whole", outcomes[1]
    title = f"relative L2 difference of the gradient, and of the weights after {options.steps} steps (float64)"
    table = Table(title=title, title_justify="left")
    for column in ("processes", "way", "float64", "weights", "fp32", "bf16"):
        table.add_column(column, justify="left" if column == "way" else "right", no_wrap=True)
    for world in options.processes:
        mine = outcomes[world]
        for name in WAYS:
            cells = [largest(mine[double[name]], found[double[whole]], what) for what in ("gradient", "weights")]
            cells += [largest(mine[p[name]], found[p[whole]], "gradient") for p in other.values()]
            table.add_row(str(world), name, *cells)
        one, cached = (mine[case] for case in dropped.values())
        same = [largest(cached, one, what) for what in ("gradient", "weights")]
        table.add_row(str(world), "dropout .1, chunks of 3", *same, "", "", end_section=True)
    console.print(table)
    for name, each in other.items():
        share = largest(found[each[whole]], found[double[whole]], "gradient")
        console.print(f"for scale, one process, one graph: precision {name} from float64: {share}", highlight=False)
    console.print(
        f"candidates masked: {found[double[whole]][0].masked_share:.1%}; {time.monotonic() - began:.0f} s",
        highlight=False,
    )


if __name__ == "__main__":
    main()
