"""Planned batches as tensors: this process's rows of each global batch, as token ids.

Training is counted in steps, there are no epochs: the loader yields batch ``step``, ``step + 1``, ... until
``max_steps``. The plan runs in the main process, which hands planned rows to the workers; a checkpoint stores the
plan's cursor as it was after the last batch that was *trained* on, whatever the workers had prefetched.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from hybrid_ir.data.chunks import Chunk, length_chunks
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.loader import WatchedLoader
from hybrid_ir.data.plan import Batch, BatchPlan
from hybrid_ir.data.tokens import TokenStore


@dataclass(frozen=True)
class PlannedRows:
    """Rows of one process: where their texts stand."""

    step: int
    monolingual: bool
    items: np.ndarray
    query_language: np.ndarray
    passage_language: np.ndarray
    query_rows: np.ndarray
    passage_rows: np.ndarray
    passage_ids: np.ndarray
    negative_rows: np.ndarray | None
    """[rows, negatives] rows of passages."""
    negative_ids: np.ndarray | None
    """[rows, negatives] passage ids."""


class _Planned(Sampler[PlannedRows]):
    """Runs the plan from its present step, remembering its state after each of the latest batches."""

    def __init__(self, data: HybridDataModule, rank: int, world_size: int) -> None:
        self.data, self.rank, self.world_size = data, rank, world_size

    def __len__(self) -> int:
        return self.data.max_steps

    def __iter__(self) -> Iterator[PlannedRows]:
        plan = self.data.plan
        while plan.step < self.data.max_steps:
            batch = plan.next()
            rows = self.data.locate(batch)
            self.data.count_tokens(batch, rows)
            self.data.remember()
            yield self.data.share(rows, batch.shard(self.rank, self.world_size))


def _prepare_worker(worker: int) -> None:
    # Ctrl-C reaches every process of a terminal; a worker that ended would take the step that is to be saved along.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A batch has hundreds of small tensors; by default each keeps a file descriptor open, of which 1,024 are usual.
    torch.multiprocessing.set_sharing_strategy("file_system")


class _Collated(Dataset[dict[str, Any]]):
    """Planned rows to padded token ids: queries, passages and negatives each in chunks of like length."""

    def __init__(
        self, queries: TokenStore, passages: TokenStore, pad: int, chunk_rows: int | None, chunk_tokens: int | None
    ) -> None:
        self.queries, self.passages, self.pad = queries, passages, pad
        self.chunk_rows, self.chunk_tokens = chunk_rows, chunk_tokens

    def __getitem__(self, rows: PlannedRows) -> dict[str, Any]:
        out: dict[str, Any] = {"step": rows.step, "monolingual": rows.monolingual}
        texts = [("query", self.queries, rows.query_rows), ("passage", self.passages, rows.passage_rows)]
        if rows.negative_rows is not None:
            texts.append(("negative", self.passages, rows.negative_rows.reshape(-1)))
            out["negative_passage_id"] = torch.from_numpy(rows.negative_ids)
        for name, store, which in texts:
            chunks = length_chunks(store.lengths(which), self.chunk_rows, self.chunk_tokens)
            out[name] = [
                Chunk(*map(torch.from_numpy, (*store.padded(which[places], self.pad), places))) for places in chunks
            ]
        out["passage_id"] = torch.from_numpy(rows.passage_ids)
        out["item"] = torch.from_numpy(rows.items)
        out["query_language"] = torch.from_numpy(rows.query_language)
        out["passage_language"] = torch.from_numpy(rows.passage_language)
        return out


class HybridDataModule(LightningDataModule):
    """Hybrid batches of a corpus.

    Args:
        corpus: queries and passages.
        plan: which rows stand in which batch.
        query_tokens, passage_tokens: token ids of the corpus' texts.
        pad: token id of the padding.
        max_steps: batches in all.
        num_negatives: explicit negatives of each row.
        num_workers: processes that pad beside the training process.
        chunk_rows: texts that go through the encoder at a time at most; None has no limit.
        chunk_tokens: the same of tokens, padding included.
        barred: [passages] bool, True for those that are not drawn as explicit negatives; None has none.
    """

    def __init__(
        self,
        corpus: ParallelCorpus,
        plan: BatchPlan,
        query_tokens: TokenStore,
        passage_tokens: TokenStore,
        pad: int,
        max_steps: int,
        num_negatives: int = 0,
        num_workers: int = 0,
        chunk_rows: int | None = None,
        chunk_tokens: int | None = None,
        barred: np.ndarray | None = None,
    ) -> None:
        super().__init__()
        self.corpus, self.plan = corpus, plan
        self.query_tokens, self.passage_tokens, self.pad = query_tokens, passage_tokens, pad
        self.max_steps, self.num_negatives, self.num_workers = max_steps, num_negatives, num_workers
        self.chunk_rows, self.chunk_tokens, self.barred = chunk_rows, chunk_tokens, barred
        self._tokens = np.zeros((len(corpus.languages), 2), dtype=np.int64)
        self._states: dict[int, dict[str, Any]] = {}
        self.remember()

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        """Batches from the plan's present step to ``max_steps``; its length counts all steps from 0."""
        trainer = self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer is not None else (0, 1)
        return self.loader(rank, world)

    def loader(self, rank: int = 0, world_size: int = 1) -> DataLoader[dict[str, Any]]:
        """This process's rows of each global batch.

        Raises:
            ValueError: the batch is not divisible by the number of processes.
        """
        return WatchedLoader(
            _Collated(self.query_tokens, self.passage_tokens, self.pad, self.chunk_rows, self.chunk_tokens),
            sampler=_Planned(self, rank, world_size),
            batch_size=None,
            num_workers=self.num_workers,
            # its own generator: making an iterator must not move the random state that dropout draws from
            generator=torch.Generator().manual_seed(self.plan.seed),
            persistent_workers=False,
            worker_init_fn=_prepare_worker,
        )

    def locate(self, batch: Batch) -> PlannedRows:
        """Rows of the corpus for a batch; explicit negatives drawn in the passage's language."""
        corpus = self.corpus
        query_entries = corpus.entry(batch.items, batch.query_language)
        passage_entries = query_entries if batch.monolingual else corpus.entry(batch.items, batch.passage_language)
        passage_ids = np.asarray(corpus.table.passage)[batch.items].astype(np.int64)
        negative_rows = negative_ids = None
        if self.num_negatives:
            random = self.plan._random(batch.step, 2)
            chosen = []
            for entry in passage_entries:
                there = corpus.negatives(int(entry))
                if self.barred is not None:
                    there = there[~self.barred[there]]
                chosen.append(random.choice(there, self.num_negatives, replace=len(there) < self.num_negatives))
            negative_rows = np.stack(chosen)
            negative_ids = corpus.passage_groups(negative_rows.reshape(-1)).reshape(negative_rows.shape)
        return PlannedRows(
            step=batch.step,
            monolingual=batch.monolingual,
            items=batch.items,
            query_language=batch.query_language,
            passage_language=batch.passage_language,
            query_rows=corpus.query_rows(query_entries),
            passage_rows=corpus.passage_rows(passage_entries),
            passage_ids=passage_ids,
            negative_rows=negative_rows,
            negative_ids=negative_ids,
        )

    @staticmethod
    def share(rows: PlannedRows, part: slice) -> PlannedRows:
        """One process's rows."""
        arrays: dict[str, Any] = {
            name: value[part] for name, value in vars(rows).items() if isinstance(value, np.ndarray)
        }
        return replace(rows, **arrays)

    def count_tokens(self, batch: Batch, rows: PlannedRows) -> None:
        """Adds a batch to the tokens shown of each language."""
        np.add.at(self._tokens[:, 0], batch.query_language, self.query_tokens.lengths(rows.query_rows))
        np.add.at(self._tokens[:, 1], batch.passage_language, self.passage_tokens.lengths(rows.passage_rows))

    # --------------------------------------------------------------------------------------------------- state

    def remember(self) -> None:
        """Keeps the state after the latest planned batch, and those of the batches that may still be in flight."""
        self._states[self.plan.step] = {"plan": self.plan.state_dict(), "tokens": self._tokens.tolist()}
        for step in sorted(self._states)[: -(2 * self.num_workers + 8)]:
            del self._states[step]

    def state_at(self, step: int) -> dict[str, Any]:
        """State after ``step`` batches were trained on."""
        return self._states[step]

    def state_dict(self) -> dict[str, Any]:
        return self.state_at(self.trainer.global_step if self.trainer is not None else self.plan.step)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.plan.load_state_dict(state_dict["plan"])
        self._tokens = np.array(state_dict["tokens"], dtype=np.int64)
        self._states = {}
        self.remember()

    # ------------------------------------------------------------------------------------------------ exposure

    def exposure(self, step: int) -> list[dict[str, Any]]:
        """How often each language was shown in the first ``step`` batches, over all devices.

        A difference between batchings can come from this table alone, so every run logs it.
        """
        state = self.state_at(step)
        rows = np.array(state["plan"]["exposure"], dtype=np.int64)
        tokens = np.array(state["tokens"], dtype=np.int64)
        table = self.plan.eligible.table
        sizes = self.plan.eligible.group_size
        pattern = self.plan.eligible.patterns[self.plan.eligible.group_pattern]
        items = (sizes[:, None] * pattern).sum(0)
        return [
            {
                "language": code,
                "items": int(items[i]),
                "query_rows": int(rows[i].sum()),
                "passage_rows": int(rows[:, i].sum()),
                "monolingual_rows": int(rows[i, i]),
                "query_tokens": int(tokens[i, 0]),
                "passage_tokens": int(tokens[i, 1]),
                "queries_per_item": float(rows[i].sum() / items[i]) if items[i] else 0.0,
            }
            for i, code in enumerate(table.languages)
            if self.plan.eligible.allowed[i]
        ]
