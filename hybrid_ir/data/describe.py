"""``python -m hybrid_ir.data.describe [settings]``: what the data is and what a training run would draw from it.

Takes the settings of ``train.py``. A mistake in them is found before anything heavy is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hybrid_ir.cli import prepare, report_errors
from hybrid_ir.composition import composer, quote_path
from hybrid_ir.config import TrainConfig

_HELP = """Shows what the data is and what a training run would draw from it; takes the settings of train.py.

  python -m hybrid_ir.data.describe
  python -m hybrid_ir.data.describe data=parallel_jsonl data.path=FILE model=pretrained model.name_or_path=DIR
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    settings = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help"} & set(settings):
        print(_HELP, end="")
        return 0

    def action() -> int:
        with composer("train") as composing:
            config, _ = prepare(composing, [quote_path(setting) for setting in settings])
        assert isinstance(config, TrainConfig)
        from hybrid_ir.data.description import describe
        from hybrid_ir.evaluation.console import make_console

        describe(config, make_console())
        return 0

    return report_errors(action)


if __name__ == "__main__":
    sys.exit(main())
