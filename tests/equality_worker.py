"""One process of a small training run on batches made here, for comparing any division of them among processes.

``run(...)`` starts the processes; each trains by the real module, loss and trainer, and keeps the gradient of the first
step and the weights after the last.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROWS, NEGATIVES, VOCABULARY, LONGEST = 16, 2, 60, 12


@dataclass(frozen=True)
class Case:
    """How a batch goes through the encoder, and for how many steps."""

    strategy: str = "ddp"
    precision: str = "64"
    chunk_rows: int | None = None
    chunk_tokens: int | None = None
    grad_cache: bool = False
    scores_per_block: int | None = None
    dropout: float = 0.0
    max_grad_norm: float | None = 0.5
    steps: int = 20


@dataclass(frozen=True)
class Outcome:
    """What one process has at the end: flat float64 tensors."""

    gradient: Any
    """Of the first step, as the optimizer would have it without clipping."""
    weights: Any
    loss: Any
    """[steps], of the whole batch."""
    masked_share: float


def run(folder: Path, world: int, cases: Sequence[Case]) -> list[list[Outcome]]:
    """Outcomes by case and process, of ``world`` processes that run them all."""
    import torch

    from hybrid_ir.launching.ranks import run_ranks

    target = folder / f"world_{world}"
    target.mkdir(parents=True)
    (target / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    code = run_ranks([sys.executable, __file__, str(target)], world, threads=1)
    assert code == 0, f"a process ended with {code}"
    by_rank = [torch.load(target / f"{rank}.pt", weights_only=True) for rank in range(world)]
    return [[Outcome(**outcome) for outcome in outcomes] for outcomes in zip(*by_rank, strict=True)]


def relative_difference(a: Any, b: Any) -> float:
    """L2 norm of the difference over that of ``b``."""
    return float((a - b).norm() / b.norm())


def _texts(step: int) -> tuple[list[list[list[int]]], Any, Any]:
    """Token ids of queries, passages and negatives of a batch, ids of passages [rows] and negatives [rows, n]."""
    import numpy as np

    random = np.random.default_rng(step)
    texts = [
        [random.integers(1, VOCABULARY, random.integers(2, LONGEST + 1)).tolist() for _ in range(count)]
        for count in (ROWS, ROWS, ROWS * NEGATIVES)
    ]
    # Equal passages among the rows of one process and of several, whatever their number; negatives that are another
    # row's passage; one of which nothing is known.
    passages = np.array([0, 0, 1, 2, 3, 1, 4, 3, 5, 6, 0, 7, 8, 8, 9, 2])
    negatives = random.integers(0, 16, (ROWS, NEGATIVES))
    negatives[3, 0] = -1
    return texts, passages, negatives


def _batch(step: int, case: Case, rank: int, world: int) -> dict[str, Any]:
    """This process's rows of global batch ``step``, in chunks."""
    import torch

    from hybrid_ir.data.chunks import Chunk, length_chunks
    from hybrid_ir.modeling.encoder import pad_token_ids

    texts, passages, negatives = _texts(step)
    share = ROWS // world
    mine = slice(rank * share, (rank + 1) * share)
    batch: dict[str, Any] = {"step": step, "monolingual": step % 2 == 0, "item": torch.arange(ROWS)[mine]}
    for name, ids, each in zip(("query", "passage", "negative"), texts, (1, 1, NEGATIVES), strict=True):
        own = ids[mine.start * each : mine.stop * each]
        batch[name] = [
            Chunk(*pad_token_ids([own[place] for place in places], 0), torch.from_numpy(places))
            for places in length_chunks([len(one) for one in own], case.chunk_rows, case.chunk_tokens)
        ]
    batch["passage_id"] = torch.from_numpy(passages[mine])
    batch["negative_passage_id"] = torch.from_numpy(negatives[mine])
    return batch


def _train(case: Case, folder: Path) -> dict[str, Any]:
    import torch
    from pytorch_lightning import seed_everything
    from transformers import BertConfig, BertModel

    from hybrid_ir.composition import composer
    from hybrid_ir.config import LossConfig, OptimizerConfig
    from hybrid_ir.modeling.encoder import BiEncoder
    from hybrid_ir.modeling.losses import ContrastiveLoss
    from hybrid_ir.modeling.module import BiEncoderModule
    from hybrid_ir.training.run import build_trainer

    class Recording(BiEncoderModule):
        gradient: Any = None

        def compute_gradients(self, *arguments: Any, **named: Any) -> Any:
            out = super().compute_gradients(*arguments, **named)
            if self.gradient is None:
                self.gradient = _flat(parameter.grad for parameter in self.parameters())
            losses.append(out.loss.double())
            shares.append(float(out.masked_share))
            return out

    losses: list[Any] = []
    shares: list[float] = []
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    settings = [f"trainer={case.strategy}", "trainer.accelerator=cpu", f"trainer.devices={world}"]
    settings += [f"trainer.max_steps={case.steps}", f"trainer.precision={case.precision}"]
    with composer("train") as composing:
        config: Any = composing.validate(composing.compose(settings))
    seed_everything(0, workers=True, verbose=False)
    transformer = BertModel(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            hidden_dropout_prob=case.dropout,
            attention_probs_dropout_prob=case.dropout,
            max_position_embeddings=LONGEST,
            initializer_range=0.25,  # layers of so few dimensions would add next to nothing to the embeddings
        ),
        add_pooling_layer=False,
    )
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    loss = ContrastiveLoss(
        LossConfig(temperature=0.1, num_negatives=NEGATIVES, both_directions=True, learn_temperature=True)
    )
    if case.scores_per_block is not None:
        loss.scores_per_block = case.scores_per_block
    module = Recording(
        BiEncoder(transformer, tokenizer, max_query_length=LONGEST, max_passage_length=LONGEST),
        loss,
        OptimizerConfig(lr=1e-3, max_grad_norm=case.max_grad_norm),
        case.steps,
        folder,
        grad_cache=case.grad_cache,
    )
    if case.precision == "64":
        module.double()
    trainer = build_trainer(config, folder, [])
    batches = [_batch(step, case, rank, world) for step in range(case.steps)]
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))
    of_all = torch.stack(losses)
    if world > 1:
        torch.distributed.all_reduce(of_all)
    weights = _flat(parameter.detach() for parameter in module.parameters())
    mean_share = sum(shares) / len(shares)
    return {"gradient": module.gradient, "weights": weights, "loss": of_all / world, "masked_share": mean_share}


def _flat(tensors: Iterable[Any]) -> Any:
    """Whole, one after the other, float64."""
    import torch

    whole = [tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor for tensor in tensors]
    return torch.cat([tensor.flatten().double() for tensor in whole])


def main(folder: Path) -> None:
    """Runs the cases that stand in ``folder`` as the process that the environment says."""
    import logging

    import pytorch_lightning  # noqa: F401 - sets the levels of its loggers
    import torch

    warnings.simplefilter("ignore")
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    cases = [Case(**case) for case in json.loads((folder / "cases.json").read_text())]
    torch.save([_train(case, folder) for case in cases], folder / f"{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
