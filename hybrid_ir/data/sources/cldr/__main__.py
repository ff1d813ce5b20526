"""Prints what the built-in data set holds: ``python -m hybrid_ir.data.sources.cldr [language ...]``."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.table import Table

from hybrid_ir.data.sources.cldr import check_locales
from hybrid_ir.data.sources.cldr.generate import items, passages
from hybrid_ir.data.sources.cldr.wording import template_languages
from hybrid_ir.errors import EXIT_USAGE, UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m hybrid_ir.data.sources.cldr", description=__doc__)
    parser.add_argument("languages", nargs="*", help="codes; default: the languages with hand-written templates")
    codes = parser.parse_args(arguments).languages or list(template_languages())
    try:
        check_locales("languages", codes)
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    table = Table("language", "questions", "training items", "training passages", "held-out items", "passages")
    for code in codes:
        all_of_it = list(items(code))
        train = [item for item in all_of_it if not item.held_out]
        table.add_row(
            code,
            "templates" if code in template_languages() else "keywords",
            str(len(train)),
            str(len({item.passage_id for item in train})),
            str(len(all_of_it) - len(train)),
            str(len(passages(code))),
        )
    # A wide console, so that a pipe gets whole rows.
    Console(width=100).print(table)
    for code in codes if len(codes) <= 3 else []:  # a look at a few
        for item in list(items(code))[:3]:
            Console(width=160).print(f"{item.item_id}\n  {item.query}\n  {item.passage}", markup=False)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
