"""Training speed beside sentence-transformers: the same weights, rows, lengths, optimiser and threads, in turn.

Our side is the real data module, module and trainer with the console's progress and the CSV logger; the other is
``SentenceTransformerTrainer`` without logging, evaluation or checkpoints. Our plan draws the batches, the other side
is given the same texts in the same batches. A round is a few steps of each side, without its first step, which
allocates the optimiser's moments. Both take AdamW in the form that ours uses.

    python bench/train_speed.py --model DIR --data DIR_OF_PARALLEL_JSONL --batch 64 --length 256
    python bench/train_speed.py --model DIR --data DIR_OF_PARALLEL_JSONL --batch 256 --length 256 --cached 32
    python bench/train_speed.py --model DIR --data DIR_OF_PARALLEL_JSONL --batch 64 --length 256 --profile
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from pytorch_lightning import Callback
from rich.console import Console
from rich.table import Table
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch.utils.data import SequentialSampler
from transformers import PrinterCallback, TrainerCallback
from transformers.utils import logging as transformers_logging

from bench.runs import configuration, files, pretrained
from hybrid_ir.config import TrainConfig
from hybrid_ir.data.datamodule import PlannedRows
from hybrid_ir.modeling.module import BiEncoderModule
from hybrid_ir.tracking.loggers import TidyCsvLogger
from hybrid_ir.training.progress import TrainingProgress
from hybrid_ir.training.run import Prepared, build_module, build_trainer, prepare

SAME_LOSS = 1e-4
"""Both sides' losses of the first batch, dropout off, in fp32, may differ by this."""


Clock = Callable[[], float]
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


class StepEnds(Callback):
    """When each of our steps ended."""

    def __init__(self, clock: Clock) -> None:
        self.times: list[float] = []
        self.clock = clock

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(self.clock())


class TheirStepEnds(TrainerCallback):
    """The same of theirs."""

    def __init__(self, clock: Clock) -> None:
        self.times: list[float] = []
        self.clock = clock

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(self.clock())


class InOrder(DefaultBatchSampler):
    """Batches in the order of the data set."""

    def __init__(self, dataset: Dataset, **kwargs: Any) -> None:
        super().__init__(SequentialSampler(dataset), **kwargs)


class Ours:
    """Rounds of hybrid_ir's training; each goes on with the batches where the one before stopped."""

    def __init__(self, config: TrainConfig, folder: Path, clock: Clock) -> None:
        self.config, self.folder, self.clock = config, folder, clock
        self.prepared: Prepared = prepare(config, Console(quiet=True))
        self.module: BiEncoderModule = build_module(config, self.prepared, folder)
        data = self.prepared.data
        self.states, self.batches = [data.state_at(0)], []
        while len(self.batches) < data.max_steps:
            rows = data.locate(data.plan.next())
            self.batches.append(rows)
            data.remember()
            self.states.append(data.state_at(data.plan.step))

    @property
    def fused(self) -> bool:
        """Whether AdamW updates all parameters in one kernel."""
        return bool(self.module.configure_optimizers()["optimizer"].defaults["fused"])

    def texts(self, rows: PlannedRows) -> tuple[list[str], list[str]]:
        """Queries and passages of a batch."""
        corpus = self.prepared.corpus
        queries, passages = corpus.queries, corpus.passages
        return [queries[int(i)] for i in rows.query_rows], [passages[int(i)] for i in rows.passage_rows]

    def loss(self) -> float:
        """Of the first batch, dropout off."""
        self.prepared.data.load_state_dict(self.states[0])
        self.module.eval()
        with torch.no_grad():
            return float(self.module.compute_loss(next(iter(self.prepared.data.loader()))).loss)

    def run(self, first: int, steps: int, callbacks: tuple[Callback, ...] = ()) -> list[float]:
        """Seconds of each step but the first."""
        data, ends = self.prepared.data, StepEnds(self.clock)
        data.load_state_dict(self.states[first])
        data.max_steps = first + steps
        config = self.config.model_copy(update={"trainer": self.config.trainer.model_copy(update={"max_steps": steps})})
        progress = TrainingProgress(Console(quiet=True), config.batch_size, time.monotonic(), self.folder)
        logger = TidyCsvLogger(self.folder / "metrics.csv")
        trainer = build_trainer(config, self.folder, [progress, ends, *callbacks], logger)
        self.module.train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(self.module, datamodule=data)
        torch.use_deterministic_algorithms(False)  # as a process of the other side's own would have it
        assert trainer.global_step == steps
        return differences(ends.times)


class Theirs:
    """Rounds of sentence-transformers' training."""

    def __init__(self, args: argparse.Namespace, ours: Ours) -> None:
        self.args, self.ours, self.config = args, ours, ours.config
        self.model = peer(args.model, args.length, args.dropout)
        scale = 1 / self.config.loss.temperature
        self.loss_function: torch.nn.Module = (
            CachedMultipleNegativesRankingLoss(self.model, scale=scale, mini_batch_size=args.cached)
            if args.cached
            else MultipleNegativesRankingLoss(self.model, scale=scale)
        )

    def trainer(self, first: int, steps: int, callbacks: tuple[TrainerCallback, ...] = ()) -> Any:
        """Over some of the batches."""
        optimizer, model = self.config.optimizer, self.config.model
        anchors, positives = [], []
        for rows in self.ours.batches[first : first + steps]:
            queries, passages = self.ours.texts(rows)
            anchors += queries
            positives += passages
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(self.ours.folder / "theirs"),
            per_device_train_batch_size=self.config.batch_size,
            max_steps=steps,
            batch_sampler=InOrder,
            prompts={"anchor": model.query_prefix, "positive": model.passage_prefix},
            learning_rate=optimizer.lr,
            weight_decay=optimizer.weight_decay,
            adam_beta1=optimizer.betas[0],
            adam_beta2=optimizer.betas[1],
            adam_epsilon=optimizer.eps,
            max_grad_norm=optimizer.max_grad_norm or 0.0,
            warmup_steps=round(optimizer.warmup_ratio * steps),
            lr_scheduler_type="linear",
            optim="adamw_torch_fused" if self.ours.fused else "adamw_torch",
            bf16=self.args.precision == "bf16",
            use_cpu=True,
            dataloader_pin_memory=False,
            logging_strategy="no",
            save_strategy="no",
            eval_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        dataset = Dataset.from_dict({"anchor": anchors, "positive": positives})
        return SentenceTransformerTrainer(
            self.model, arguments, train_dataset=dataset, loss=self.loss_function, callbacks=list(callbacks)
        )

    def loss(self) -> float:
        """Of the first batch, dropout off."""
        trainer = self.trainer(0, 1)
        (batch,) = trainer.get_train_dataloader()
        features, labels = trainer.collect_features(batch)
        self.model.eval()
        with torch.no_grad():
            return float(self.loss_function(features, labels))

    def run(self, first: int, steps: int) -> list[float]:
        """Seconds of each step but the first."""
        ends = TheirStepEnds(self.ours.clock)
        trainer = self.trainer(first, steps, (ends,))
        trainer.remove_callback(PrinterCallback)
        self.model.train()
        trainer.train()
        assert trainer.state.global_step == steps
        return differences(ends.times)


def peer(model: str, length: int, dropout: float | None) -> SentenceTransformer:
    """sentence-transformers' model of the same weights in fp32, with mean pooling and without the unused pooler."""
    changed = {} if dropout is None else {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    encoder = SentenceTransformer(
        model,
        device="cpu",
        model_kwargs={"dtype": torch.float32, "add_pooling_layer": False},
        config_kwargs=changed,
    )
    encoder.max_seq_length = length
    return encoder


def differences(times: list[float]) -> list[float]:
    """Between each time and the next."""
    return [after - before for before, after in itertools.pairwise(times)]


# ---------------------------------------------------------------------------------------------------------- profile


class Stopwatch:
    """Time inside functions, that of timed functions inside them left out."""

    def __init__(self, clock: Clock) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.clock = clock
        self._inner: list[float] = []

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def run(*args: Any, **kwargs: Any) -> Any:
            begin = self.clock()
            self._inner.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                took = self.clock() - begin
                self.seconds[name] += took - self._inner.pop()
                if self._inner:
                    self._inner[-1] += took

        return run

    @contextmanager
    def on(self, *places: tuple[str, Any, str]) -> Iterator[None]:
        """Times the named attributes of these objects."""
        before = [(holder, attribute, getattr(holder, attribute)) for _, holder, attribute in places]
        for name, holder, attribute in places:
            setattr(holder, attribute, self.timed(name, getattr(holder, attribute)))
        try:
            yield
        finally:
            for holder, attribute, function in before:
                setattr(holder, attribute, function)


class Clear(Callback):
    """Forgets what the first step took."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 1:
            self.watch.seconds.clear()


def profile(ours: Ours, steps: int) -> Table:
    """Where our step spends its time."""
    from torch.utils.data._utils import fetch

    watch = Stopwatch(ours.clock)
    data, module = ours.prepared.data, ours.module
    places: list[tuple[str, Any, str]] = [
        ("plan", data, "locate"),
        ("plan", data.plan, "next"),
        ("plan", data, "count_tokens"),
        ("plan", data, "remember"),
        ("collate", fetch._MapDatasetFetcher, "fetch"),
        ("encoder, forward", module.encoder, "forward"),
        ("loss, forward", module.loss, "forward"),
        ("backward", torch.Tensor, "backward"),
        ("backward", torch.autograd, "grad"),
        ("clip", module, "_clip"),
        ("optimiser", torch.optim.AdamW, "step"),
        ("optimiser", torch.optim.AdamW, "zero_grad"),
        ("logging", module, "log"),
        ("logging", TidyCsvLogger, "log_metrics"),
    ]
    with watch.on(*places):
        seconds = ours.run(0, steps + 1, (Clear(watch),))
    total = sum(seconds)
    table = Table("part", "ms a step", "share", title=f"our step, mean of {steps}", title_justify="left")
    found = {**watch.seconds, "the rest of the loop": total - sum(watch.seconds.values())}
    for name, spent in found.items():
        table.add_row(name, f"{1000 * spent / steps:.1f}", f"{spent / total:.2%}")
    loop = sum(found.get(name, 0.0) for name in ("plan", "collate", "logging", "the rest of the loop"))
    table.add_row("whole step", f"{1000 * total / steps:.1f}", "")
    table.add_row("plan, collate, logging, the rest", f"{1000 * loop / steps:.1f}", f"{loop / total:.2%}")
    return table


# ------------------------------------------------------------------------------------------------------- comparison


def settings(args: argparse.Namespace, folder: Path) -> list[str]:
    """Our run."""
    rounds = max(args.rounds, 1)
    chunks = [f"trainer.chunk_tokens={args.chunk_tokens}"] if args.chunk_tokens else []
    if args.cached:
        chunks += ["trainer.grad_cache=true", f"trainer.chunk_rows={args.cached}"]
    return [
        *pretrained(args.model, files(args.data), args.length),
        f"model.dropout={'null' if args.dropout is None else args.dropout}",
        f"batch_size={args.batch}",
        f"trainer.precision={'bf16' if args.precision == 'bf16' else '32'}",
        f"trainer.max_steps={rounds * (args.steps + 1)}",
        f"threads={args.threads}",
        f"output_dir={folder / 'run'}",
        *chunks,
        *args.settings,
    ]


def compare(args: argparse.Namespace, ours: Ours, console: Console) -> None:
    """Rounds in turn, and their ratios."""
    theirs = Theirs(args, ours)
    losses = ours.loss(), theirs.loss()
    console.print(f"loss of the first batch: ours {losses[0]:.6f}, theirs {losses[1]:.6f}", highlight=False)
    if abs(losses[0] - losses[1]) > SAME_LOSS:
        raise SystemExit("these are not the same computation")
    name = f"cached, {args.cached} rows at a time" if args.cached else "in one graph"
    dropout = "the checkpoint's" if args.dropout is None else f"{args.dropout:g}"
    table = Table("round", "ours, samples/s", "theirs, samples/s", "ratio", title_justify="left")
    table.title = (
        f"training, batch {args.batch}, {args.length} tokens, {name}, {args.precision}, dropout {dropout}, "
        f"{args.threads} threads, {'fused' if ours.fused else 'plain'} AdamW, {args.clock} time"
    )
    rates: list[tuple[float, float]] = []
    for number in range(args.rounds):
        first = number * (args.steps + 1)
        runs = {"ours": ours.run, "theirs": theirs.run}
        took = {}
        for side in ("ours", "theirs") if number % 2 == 0 else ("theirs", "ours"):
            took[side] = statistics.median(runs[side](first, args.steps + 1))
        rates.append((args.batch / took["ours"], args.batch / took["theirs"]))
        mine, other = rates[-1]
        console.print(f"round {number + 1}: {mine:.2f} and {other:.2f} samples/s, {mine / other:.2f}", highlight=False)
        table.add_row(str(number + 1), f"{mine:.2f}", f"{other:.2f}", f"{mine / other:.2f}")
    ratio = statistics.median(mine / other for mine, other in rates)
    medians = [statistics.median(side) for side in zip(*rates, strict=True)]
    table.add_row("median", f"{medians[0]:.2f}", f"{medians[1]:.2f}", f"{ratio:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of parallel JSONL files")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=256, help="tokens of queries and of passages at most")
    parser.add_argument("--cached", type=int, default=0, metavar="ROWS", help="GradCache in chunks of so many rows")
    parser.add_argument("--chunk-tokens", type=int, help="ours: tokens of a chunk, else the configuration's")
    parser.add_argument("--dropout", type=float, help="of both, else the checkpoint's")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, where other work runs beside"
    )
    parser.add_argument("--profile", action="store_true", help="only say where our step spends its time")
    parser.add_argument("settings", nargs="*", help="further settings of our run, e.g. seed=2")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    console = Console(width=120)
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(configuration(*settings(args, Path(folder))), Path(folder), CLOCKS[args.clock])
        if args.profile:
            console.print(profile(ours, args.steps))
        else:
            compare(args, ours, console)


if __name__ == "__main__":
    main()
