"""How far a search of a streamed corpus has come, on disk: an evaluation that was cut off goes on at the next shard."""

from __future__ import annotations

import hashlib
import io
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from hybrid_ir.cache import cache_dir, fingerprint, write_atomic
from hybrid_ir.config import EvaluationConfig
from hybrid_ir.evaluation.benchmarks.base import Benchmark
from hybrid_ir.evaluation.encoding import world
from hybrid_ir.evaluation.search import TopK

log = logging.getLogger("hybrid_ir")

SAVE_SECONDS = 60.0
"""Seconds between two savings: what an interruption costs at most."""
KEEP_SECONDS = 30 * 24 * 3600.0
"""Seconds after which a state is removed that nobody went on with."""


@dataclass
class SearchState:
    """One rank's part of the search of one language's corpus.

    The file is named by everything that the search depends on (weights, corpus, embeddings of the queries, sizes,
    number of processes), so that a state is never continued with anything else.
    """

    path: Path
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def of(
        cls, encoder: str | None, benchmark: Benchmark, queries: Tensor, evaluation: EvaluationConfig, language: int
    ) -> SearchState | None:
        """The state's place; None where encoder (its fingerprint) or corpus cannot be told from others."""
        if encoder is None or benchmark.corpus_fingerprint is None:
            return None
        key = {
            "encoder": encoder,
            "corpus": benchmark.corpus_fingerprint,
            "language": benchmark.languages[language],
            "queries": hashlib.sha256(queries.cpu().numpy().tobytes()).hexdigest(),
            "passage_queries": {str(k): list(v) for k, v in benchmark.passage_queries.items()},
            "weight": benchmark.passage_queries_weight,
            "depth": benchmark.depth,
            "shard_size": evaluation.shard_size,
            "world": world(),
        }
        return cls(cache_dir() / "searches" / f"{fingerprint(key)[:40]}.pt")

    def resume(self, top: TopK) -> int:
        """Puts what was found into ``top``.

        Returns:
            This rank's shards that are done; 0 where nothing, or nothing readable, was saved.
        """
        try:
            content = torch.load(self.path, weights_only=True)
            top.load({"keys": content["keys"], "documents": content["documents"]})
            return int(content["done"])
        except FileNotFoundError:
            return 0
        except Exception:  # whatever a damaged file makes torch raise: begin anew
            self.remove()
            return 0

    def save(self, top: TopK, done: int, last: bool) -> None:
        """Saves, if it is time: every ``SAVE_SECONDS``, and after the last shard."""
        if not last and time.monotonic() - self.saved < SAVE_SECONDS:
            return
        content = io.BytesIO()
        torch.save({**top.state(), "done": done}, content)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, content.getvalue())
            self._remove_old()
        except OSError as error:  # a convenience, not a result
            log.warning("%s: cannot be written (%s): an interruption would begin anew", self.path, error.strerror)
        self.saved = time.monotonic()

    def _remove_old(self) -> None:
        """Removes what evaluations left behind that nobody went on with."""
        for path in self.path.parent.glob("*.pt"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > KEEP_SECONDS:
                    path.unlink()

    def remove(self) -> None:
        """Removes the file, if there is one."""
        with suppress(OSError):
            self.path.unlink()
