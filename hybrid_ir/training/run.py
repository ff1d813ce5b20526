"""One training run, from a validated configuration to a finished folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer, seed_everything
from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

from hybrid_ir import cache
from hybrid_ir.config import TrainConfig, cross_lingual_only
from hybrid_ir.data.corpus import ParallelCorpus
from hybrid_ir.data.datamodule import HybridDataModule
from hybrid_ir.data.exclusion import Exclusion, benchmark_texts, exclusion
from hybrid_ir.data.loader import WorkerDied
from hybrid_ir.data.plan import BatchPlan
from hybrid_ir.data.planned import PLAN_FILE, PLANNED_ROWS, PLANNED_STEPS, planned, say_plan, write_plan
from hybrid_ir.data.sources import make_source
from hybrid_ir.data.tokens import TokenStore
from hybrid_ir.data.validation import NAME as VALIDATION
from hybrid_ir.data.validation import held_out, validation_benchmark
from hybrid_ir.errors import EXIT_USAGE, DataError, UserError
from hybrid_ir.evaluation.benchmarks import load_benchmark
from hybrid_ir.evaluation.benchmarks.base import SETTINGS, Benchmark, ExternalBenchmark
from hybrid_ir.evaluation.callback import EvaluationCallback, Scheduled
from hybrid_ir.evaluation.console import print_results
from hybrid_ir.evaluation.engine import evaluate
from hybrid_ir.evaluation.groups import group_means
from hybrid_ir.evaluation.metrics import metrics_of
from hybrid_ir.evaluation.progress import EvaluationProgress
from hybrid_ir.evaluation.results import BIAS_FILE, PER_QUERY_FILE, RESULTS_FILE, Results, logged_metric
from hybrid_ir.launching.ranks import already_launched, global_rank
from hybrid_ir.lines import write_lines
from hybrid_ir.modeling.adapters import describe_training
from hybrid_ir.modeling.card import write_card
from hybrid_ir.modeling.encoder import BiEncoder
from hybrid_ir.modeling.export import save_model
from hybrid_ir.modeling.losses import ContrastiveLoss
from hybrid_ir.modeling.module import BiEncoderModule
from hybrid_ir.modeling.sharding import ShardedStrategy
from hybrid_ir.run_folder import EXCLUDED_FILE, PROGRESS_FILE, SUMMARY_FILE
from hybrid_ir.run_lock import hold
from hybrid_ir.tracking.loggers import make_logger
from hybrid_ir.training import checkpoint as ckpt
from hybrid_ir.training.environment import describe_environment
from hybrid_ir.training.identity import Identity
from hybrid_ir.training.interrupt import Interrupted, SignalHandler
from hybrid_ir.training.progress import TeeConsole, TrainingProgress

log = logging.getLogger("hybrid_ir")

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


@dataclass
class Prepared:
    """Everything that a run needs before its first step."""

    corpus: ParallelCorpus
    encoder: BiEncoder
    plan: BatchPlan
    data: HybridDataModule
    validation: Benchmark | None
    benchmarks: dict[str, Benchmark | ExternalBenchmark]
    excluded: Exclusion | None
    """Items that are not trained on since they overlap with a benchmark."""


def prepare(config: TrainConfig, console: Console, with_benchmarks: bool = True) -> Prepared:
    """Corpus, encoder, batch plan and benchmarks of a configuration.

    Raises:
        UserError: the data or the model cannot be had, or cannot fill the batches that were asked for.
    """
    compared = {name: benchmark_texts(name, config.benchmark[name]) for name in config.data.exclude_overlap_with}
    corpus = ParallelCorpus.build(make_source(config.data), config.data.verify_cache)
    _say_corpus(corpus, console)
    if config.data.languages is not None:
        missing = sorted(set(config.data.languages) - set(corpus.languages))
        if missing:
            raise DataError(
                f"data.languages: the data has nothing in {', '.join(missing)}; it has {', '.join(corpus.languages)}"
            )
    held = held_out(corpus, config.data.validation)
    keep, barred = ~held, corpus.passages_of(held)
    excluded = None
    if compared:
        with EvaluationProgress(console, "overlap") as progress:
            excluded = exclusion(corpus, compared, config.data.overlap_words, progress)
        _say_excluded(excluded, console)
        keep, held, barred = keep & ~excluded.items, held & ~excluded.items, barred | excluded.passages
    validation = validation_benchmark(corpus, held, config.data.validation)
    if config.loss.num_negatives:
        keep &= _with_negatives(corpus, barred, console)
    eligible = corpus.table.restricted(keep)
    plan = BatchPlan(eligible, config.sampler, config.batch_size, config.seed, cross_lingual_only(config.data))
    if plan.dropped_languages:
        named = ", ".join(f"{code} ({n} passages)" for code, n in sorted(plan.dropped_languages.items()))
        console.print(f"[yellow]left out of the monolingual draw, fewer passages than a batch has rows:[/] {named}")
    seed_everything(config.seed, workers=True, verbose=False)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()  # its report of weights that an encoder does without
    encoder = build_encoder(config, corpus)
    console.print(describe_training(encoder, config.model), highlight=False)
    encoder.tokens_per_batch = config.evaluation.tokens_per_batch
    tokens = {}
    for kind, texts in (("query", corpus.queries), ("passage", corpus.passages)):
        verify = config.data.verify_cache
        tokens[kind] = tokenised(encoder, kind, texts.chunks(), corpus.fingerprint, verify, len(texts))
    made = sum(len(store) for store in tokens.values() if store.made_now)
    log.info("%d rows tokenised", made)
    data = HybridDataModule(
        corpus,
        plan,
        tokens["query"],
        tokens["passage"],
        encoder.tokenizer.pad_token_id,
        config.trainer.max_steps,
        config.loss.num_negatives,
        config.data.num_workers,
        config.trainer.chunk_rows,
        config.trainer.chunk_tokens,
        barred,
    )
    benchmarks = {}
    if with_benchmarks:
        benchmarks = {name: load_benchmark(name, section) for name, section in config.benchmark.items()}
    return Prepared(corpus, encoder, plan, data, validation, benchmarks, excluded)


def build_module(config: TrainConfig, prepared: Prepared, run_dir: Path) -> BiEncoderModule:
    """The training step of a configuration."""
    module = BiEncoderModule(
        prepared.encoder,
        ContrastiveLoss(config.loss),
        config.optimizer,
        config.trainer.max_steps,
        run_dir,
        prepared.corpus.item_ids,
        config.trainer.grad_cache,
    )
    # A checkpoint is loaded before Lightning converts the module: its fp64 values would be rounded to fp32.
    return module.double() if config.trainer.precision == "64" else module


def build_trainer(config: TrainConfig, run_dir: Path, callbacks: list[Any], logger: Any = None) -> Trainer:
    """Lightning's trainer of a configuration."""
    t = config.trainer
    processes = t.devices * t.num_nodes
    strategy: Any = t.strategy if processes > 1 else "auto"
    precision: Any = _PRECISION[t.precision]
    if strategy == "fsdp":
        strategy = ShardedStrategy(processes)
        if t.precision == "64":
            precision = "32-true"  # leaves the module as it is, which is fp64; Lightning has no 64-true here
    with warnings.catch_warnings(), _said_in_one_line():
        warnings.simplefilter("ignore")
        return Trainer(
            accelerator=t.accelerator,
            devices=t.devices,
            num_nodes=t.num_nodes,
            strategy=strategy,
            precision=precision,
            max_steps=t.max_steps,
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=t.log_every_n_steps,
            deterministic="warn" if t.deterministic else False,
            callbacks=callbacks,
            plugins=[ckpt.AtomicCheckpointIO(), *_cluster()],
            logger=logger or False,
            use_distributed_sampler=False,  # the plan shards the global batch itself
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=str(run_dir),
        )


def _cluster() -> list[Any]:
    """Who has started the processes, where Lightning would guess wrong.

    It takes any process inside a SLURM job for one that srun has started, and answers SLURM's signal by a checkpoint of
    its own in the middle of a step.
    """
    if "LOCAL_RANK" in os.environ:  # torchrun, or our launcher
        return []
    return [SLURMEnvironment(auto_requeue=False) if already_launched() else LightningEnvironment()]


def build_encoder(config: TrainConfig, corpus: ParallelCorpus) -> BiEncoder:
    """The encoder before training; a small one's tokenizer is trained on the corpus once and kept in the cache."""

    def texts() -> Iterable[str]:
        yield from corpus.queries
        yield from corpus.passages

    if config.model.kind == "small":
        from hybrid_ir.modeling.tokenizer import cached_tokenizer

        key = {"corpus": corpus.fingerprint, "vocab_size": config.model.vocab_size}
        return BiEncoder.from_config(config.model, tokenizer=cached_tokenizer(texts, key, config.model.vocab_size))
    return BiEncoder.from_config(config.model)


def tokenised(
    encoder: BiEncoder,
    kind: Any,
    chunks: Iterable[list[str]],
    fingerprint: str,
    verify: bool = False,
    total: int | None = None,
) -> TokenStore:
    """Token ids of a corpus' queries or passages, from the cache if they were made before."""
    key = {
        "corpus": fingerprint,
        "kind": kind,
        "tokenizer": cache.fingerprint(encoder.tokenizer.backend_tokenizer.to_str()),
        "prefix": encoder.prefix(kind),
        "max_length": encoder.max_length(kind),
    }
    return TokenStore.build(chunks, lambda texts: encoder.tokenize(texts, kind), key, verify, total)


def _say_corpus(corpus: ParallelCorpus, console: Console) -> None:
    counts = corpus.items_per_language()
    shown = ", ".join(f"{code} {n:,}" for code, n in zip(corpus.languages, counts, strict=True))
    console.print(
        f"data: {len(corpus):,} items, {len(corpus.passages):,} passages; per language: {shown}", highlight=False
    )
    bad = corpus.report.get("bad_lines")
    if bad:
        console.print(
            f"[yellow]bad lines left out:[/] {sum(bad.values())} ({', '.join(f'{f} {n}' for f, n in bad.items())})"
        )
        for line in corpus.report["first_bad_lines"]:
            console.print(f"  {line}", highlight=False, markup=False)
    for what, number in corpus.report.get("left_out", {}).items():
        console.print(f"[yellow]left out:[/] {number:,} {what}", highlight=False)


def _say_excluded(excluded: Exclusion, console: Console) -> None:
    report = excluded.report()
    if report["items"] == len(excluded.corpus):
        raise DataError(
            f"data.exclude_overlap_with=[{','.join(report['benchmarks'])}]: every item of the data overlaps; set "
            f"data.overlap_words above {report['words']}, or train on other data"
        )
    by = [", ".join(f"{name} {n:,}" for name, n in report[kind].items()) for kind in ("languages", "sources")]
    console.print(
        f"[yellow]left out, overlap with {', '.join(report['benchmarks'])}:[/] {report['items']:,} of "
        f"{len(excluded.corpus):,} items" + (f"; per language: {by[0]}; by source: {by[1]}" if report["items"] else ""),
        highlight=False,
    )


def _with_negatives(corpus: ParallelCorpus, barred: np.ndarray, console: Console) -> np.ndarray:
    """[items] bool: items with an explicit negative in every language they have, without the ``barred`` passages."""
    keep = corpus.least_negatives(barred) > 0
    if not keep.any():
        raise DataError("loss.num_negatives: no item of the data has explicit negatives; set it to 0, or mine some")
    if not keep.all():
        console.print(f"[yellow]left out, without explicit negatives in a language:[/] {int((~keep).sum()):,} items")
    return keep


def _check_machine(config: TrainConfig) -> None:
    """Finds what the machine lacks before the data is prepared.

    Raises:
        UserError: there are too few GPUs.
    """
    trainer = config.trainer
    if trainer.accelerator == "gpu" and torch.cuda.device_count() < trainer.devices:
        raise UserError(
            f"trainer.devices={trainer.devices}: torch sees {torch.cuda.device_count()} GPUs; use trainer=cpu, fewer "
            f"devices, or a build of torch with CUDA"
        )


def run_training(config: TrainConfig, overrides: list[str]) -> float | None:
    """Trains, evaluates and writes the run's folder.

    Args:
        config: validated; ``output_dir`` and ``threads`` are set.
        overrides: what was typed, kept with the run.

    Returns:
        The monitor's best value, or None without a monitor.

    Raises:
        UserError: the data, the model or the machine is at fault.
        Interrupted: SIGINT or SIGTERM; the state is saved.
    """
    signals = SignalHandler()
    signals.install()
    console = Console(quiet=global_rank() != 0)  # the processes of a run all say the same
    if config.threads:
        torch.set_num_threads(config.threads)
    if config.dry_run:
        from hybrid_ir.training.dry_run import dry_run

        dry_run(config, console)
        return None
    assert config.output_dir is not None
    run = _Run(config, overrides, Path(config.output_dir), console, signals)
    try:
        value = run.execute()
    except BaseException as error:
        code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1
        run.end_logging(EXIT_USAGE if isinstance(error, UserError | torch.OutOfMemoryError) else code)
        if isinstance(error, Interrupted):
            console.print(
                f"stopped by a signal; continue with: python train.py resume={config.output_dir}", highlight=False
            )
        if isinstance(error, torch.OutOfMemoryError):
            raise UserError(
                f"the GPU's memory is full ({str(error).splitlines()[0][:200]}); set "
                f"trainer.grad_cache=true with a smaller trainer.chunk_tokens or trainer.chunk_rows: batches and "
                f"gradient stay the same, and a resume may change them"
            ) from error
        if isinstance(error, WorkerDied):
            raise WorkerDied(f"{error}; continue with resume={config.output_dir}") from error
        raise
    run.end_logging(0)
    return value


class _Run:
    def __init__(
        self, config: TrainConfig, overrides: list[str], run_dir: Path, console: Console, signals: SignalHandler
    ) -> None:
        self.config, self.overrides, self.run_dir = config, overrides, run_dir
        self.console, self.signals = console, signals
        self.logger: Any = None
        self.results = Results()
        self.is_main = global_rank() == 0
        self.begin = time.monotonic()

    # -------------------------------------------------------------------------------------------------- stages

    def execute(self) -> float | None:
        config, run_dir = self.config, self.run_dir
        _check_machine(config)
        if self.is_main:
            hold(run_dir)
        if config.resume and (run_dir / SUMMARY_FILE).exists():
            summary = json.loads((run_dir / SUMMARY_FILE).read_text())
            if summary["steps"] >= config.trainer.max_steps or summary["stopped_early"]:
                missing = [name for name in config.benchmark if name not in summary.get("benchmarks", summary)]
                if missing:
                    raise UserError(
                        f"benchmark={','.join(missing)}: {run_dir} is complete without it; run python evaluate.py "
                        f"model.name_or_path={run_dir} 'benchmark=[{','.join(missing)}]'"
                    )
                if self.is_main:
                    self._clean()  # a kill may have come before it
                self.console.print(f"{run_dir} is complete: {summary['steps']} steps, see {run_dir / RESULTS_FILE}")
                return summary["monitor_value"]
        latest = ckpt.checkpoints(run_dir)[-1:] if config.resume else []
        resume_step = latest[0][0] if latest else None
        self._open_log()
        if resume_step is not None and (run_dir / RESULTS_FILE).exists():
            self.results = Results.read_csv(run_dir / RESULTS_FILE).until(resume_step)
        prepared = prepare(config, self.console)
        identity = Identity.of(config, prepared.corpus, prepared.excluded)
        if resume_step is not None:
            ckpt.check_resumable(latest[0][1], identity, config.trainer.max_steps)
        monitor = self._monitor(prepared)
        self._write_environment(prepared)
        if self.is_main:
            shown = planned(prepared.plan, config.trainer.max_steps, PLANNED_ROWS, PLANNED_STEPS)
            say_plan(shown, self.console)
            write_plan(shown, run_dir / PLAN_FILE)
        logged_step = (resume_step or 0) if config.resume else None
        self.logger = make_logger(config, self.overrides, run_dir, logged_step, self.console)
        checkpointing = ckpt.Checkpointing(
            run_dir,
            config.checkpoint.every_n_steps,
            config.checkpoint.mode,
            config.trainer.early_stopping_patience,
            identity,
        )
        progress = self.progress = TrainingProgress(self.console, config.batch_size, self.begin, run_dir)
        evaluation = EvaluationCallback(
            self._scheduled(prepared, monitor),
            config.evaluation,
            config.trainer.val_check_interval,
            config.evaluation.at_start,
            monitor,
            checkpointing,
            self.signals,
            self._take_results,
        )
        module = build_module(config, prepared, run_dir)
        callbacks = [_InstallSignals(self.signals), progress, evaluation, checkpointing]
        trainer = build_trainer(config, run_dir, callbacks, self.logger)
        if resume_step is not None:
            self.console.print(f"resuming after step {resume_step}", highlight=False)
        if resume_step is None or not self._trained(latest[0][1], checkpointing):
            trainer.fit(module, datamodule=prepared.data, ckpt_path=latest[0][1] if latest else None, weights_only=True)
            self.signals.check()  # one that came after the last step, which is saved
            if trainer.global_step < config.trainer.max_steps and not trainer.should_stop:
                raise UserError(f"training ended at step {trainer.global_step} of {config.trainer.max_steps}")
        else:  # trained to the end, but stopped before the folder was complete
            content = ckpt.load_plain(latest[0][1])
            if config.trainer.precision == "64":
                module.double()
            module.load_state_dict(content["state_dict"])
            prepared.data.load_state_dict(content["HybridDataModule"])
            for callback in (checkpointing, progress, evaluation):
                callback.load_state_dict(content["callbacks"][callback.state_key])
            trainer.strategy.connect(module)
            trainer.strategy.setup_environment()  # as a fit does: the processes evaluate together
            checkpointing.check_step(trainer.world_size, resume_step)
            if evaluation.evaluated_step < resume_step:  # a signal came in the last step, or in its evaluation
                prepared.encoder.to(trainer.strategy.root_device)
                evaluation.run(trainer, module, resume_step)
        step = trainer.global_step or resume_step or 0
        with module.whole_encoder() as encoder:
            prepared.encoder = encoder
        exported_step = self._choose_weights(prepared.encoder, checkpointing, step)
        self._export(prepared, exported_step)
        final = self._final_evaluation(prepared, trainer.strategy.root_device, exported_step)
        at_last_step = {entry.benchmark.name for entry in evaluation.scheduled if entry.at_last_step}
        self._log_final(final, at_last_step, step)
        exposure = prepared.data.exposure(step)
        if self.logger is not None:
            self.logger.log_tables(final, exposure, step)
        if self.is_main:
            self._write_exposure(exposure)
            self._write_summary(prepared, module, checkpointing, progress, monitor, final, exported_step, step)
            self._show(final, exposure, exported_step)
            self._clean()
        return checkpointing.best_value

    def _monitor(self, prepared: Prepared) -> str | None:
        chosen = self.config.checkpoint.monitor
        if chosen is None:
            if prepared.validation is None:
                patience = self.config.trainer.early_stopping_patience
                if patience is not None:
                    raise UserError(
                        f"trainer.early_stopping_patience={patience}: nothing is held out and checkpoint.monitor is "
                        f"null, so there is nothing to watch; set data.validation.queries_per_language, or leave it out"
                    )
                return None
            setting = "multilingual" if len(prepared.corpus.languages) > 1 else "monolingual"
            return f"val/{VALIDATION}/{setting}/map"
        known = {name: each for name, each in prepared.benchmarks.items() if isinstance(each, Benchmark)}
        if prepared.validation is not None:
            known[VALIDATION] = prepared.validation
        parts = chosen.split("/")
        if len(parts) not in (4, 5) or parts[0] != "val" or parts[1] not in known:
            benchmarks = f"with a benchmark of {', '.join(sorted(known))}" if known else "but no benchmark is evaluated"
            raise UserError(
                f"checkpoint.monitor={chosen}: no such logged name; it has the form val/<benchmark>/<setting>/<metric> "
                f"{benchmarks}, e.g. val/{VALIDATION}/multilingual/map"
            )
        benchmark, setting, metric = known[parts[1]], parts[2], parts[-1]
        extra = self.config.evaluation.metrics
        metrics = [logged_metric(name) for name in metrics_of(setting, extra)] if setting in SETTINGS else []
        for found, there in (
            (setting, list(benchmark.settings)),
            (metric, metrics),
            (parts[3], [*benchmark.languages, metric] if len(parts) == 5 else [metric]),
        ):
            if found not in there:
                raise UserError(
                    f"checkpoint.monitor={chosen}: no such logged name, {found!r} is none of {', '.join(there)}"
                )
        if parts[1] != VALIDATION:
            self.console.print(
                f"[yellow]checkpoint.monitor={chosen} selects on a benchmark: its numbers are no longer those of "
                f"unseen data, and the results are marked so[/]"
            )
        return chosen

    def _scheduled(self, prepared: Prepared, monitor: str | None) -> list[Scheduled]:
        watched = monitor.split("/")[1] if monitor else None
        scheduled = []
        if prepared.validation is not None:
            scheduled.append(Scheduled(prepared.validation, at_last_step=True))
        for name, benchmark in prepared.benchmarks.items():
            section = self.config.benchmark[name]
            if isinstance(benchmark, Benchmark) and (section.during_training or watched == name):
                short = benchmark.limited(section.during_training_limit)
                scheduled.append(Scheduled(short, at_last_step=watched == name))
        return scheduled

    def _take_results(self, results: Results, step: int) -> None:
        if not self.is_main:
            return
        self.results.merge(results, per_query=False)
        self.results.write_csv(self.run_dir / RESULTS_FILE)
        for name, settings in results.macro().items():
            shown = "  ".join(f"{setting} {values['map']:.3f}" for setting, values in settings.items())
            self.console.print(f"step {step}  {name} mAP: {shown}", highlight=False)
            setting = "multilingual" if "multilingual" in settings else next(iter(settings))
            self.progress.value = (f"{name} {setting} mAP", settings[setting]["map"])

    def _trained(self, path: Path, checkpointing: ckpt.Checkpointing) -> bool:
        """Whether a checkpoint is the last of its run: at the last step, or stopped early."""
        content = ckpt.load_plain(path)
        if content["global_step"] >= self.config.trainer.max_steps:
            return True
        patience = self.config.trainer.early_stopping_patience
        return patience is not None and content["callbacks"][checkpointing.state_key]["without_better"] >= patience

    def _choose_weights(self, encoder: BiEncoder, checkpointing: ckpt.Checkpointing, step: int) -> int:
        best_step = checkpointing.best_step
        if self.config.checkpoint.export == "last" or best_step is None or best_step == step:
            return step
        best = ckpt.best_file(self.run_dir, best_step)
        if not best.exists():
            raise UserError(f"{best}: the best weights are gone; continue with checkpoint.export=last in a new run")
        encoder.load_state_dict(ckpt.load_plain(best)["encoder"])
        return best_step

    def _export(self, prepared: Prepared, step: int) -> None:
        if self.is_main:
            target = self.run_dir / "model"
            if target.exists():
                shutil.rmtree(target)
            save_model(prepared.encoder, target, {"step": step, "run": self.run_dir.name})

    def _final_evaluation(self, prepared: Prepared, device: torch.device, step: int) -> Results:
        final = Results()
        prepared.encoder.to(device)  # Lightning has moved it away from the accelerator
        todo = [prepared.validation] if prepared.validation is not None else []
        encoder, evaluation = prepared.encoder, self.config.evaluation
        for benchmark in [*todo, *prepared.benchmarks.values()]:
            if isinstance(benchmark, Benchmark):
                final.merge(evaluate(encoder, benchmark, evaluation, step, run_dir=self.run_dir))
            else:
                self.console.print(benchmark.describe(), highlight=False)
                final.merge(benchmark.run(encoder, evaluation, step, run_dir=self.run_dir))
            for note in benchmark.notes:
                self.console.print(f"note: {note}", highlight=False)
        if self.is_main:
            self.results.merge(final, per_query=False)
            final.write_per_query(self.run_dir / PER_QUERY_FILE)
            final.write_bias(self.run_dir / BIAS_FILE)
            if final.bias:
                from hybrid_ir.evaluation.figures import save_figures  # matplotlib takes a second to import

                save_figures(final, self.run_dir)
            self.results.write_csv(self.run_dir / RESULTS_FILE)
        return final

    def _log_final(self, final: Results, logged: set[str], step: int) -> None:
        """The finished model's values as ``final/...``; and as ``val/...`` at the last step where they are missing."""
        if self.logger is None:
            return
        values = final.logged()
        missing = {name: value for name, value in values.items() if name.split("/")[1] not in logged}
        self.logger.log_metrics(
            {**missing, **{"final" + n.removeprefix("val"): v for n, v in values.items()}}, step=step
        )

    def end_logging(self, exit_code: int) -> None:
        """Ends the run where it is looked at."""
        if self.logger is not None:
            self.logger.finish(exit_code)

    # --------------------------------------------------------------------------------------------------- files

    def _open_log(self) -> None:
        handler = logging.FileHandler(self.run_dir / "train.log")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        for name in ("hybrid_ir", "pytorch_lightning", "py.warnings"):
            logger = logging.getLogger(name)
            logger.addHandler(handler)
            logger.propagate = False
        logging.getLogger("hybrid_ir").setLevel(logging.INFO)
        for stream in logging.getLogger("pytorch_lightning").handlers:
            if not isinstance(stream, logging.FileHandler):
                stream.setLevel(logging.WARNING)  # its greetings go to the log only
        logging.captureWarnings(True)
        if self.is_main:
            self.console = TeeConsole(self.run_dir / "train.log")

    def _write_environment(self, prepared: Prepared) -> None:
        if not self.is_main:
            return
        text = json.dumps(
            describe_environment(self.config, prepared.corpus, prepared.benchmarks.values(), prepared.excluded),
            indent=1,
            ensure_ascii=False,
        )
        cache.write_atomic(self.run_dir / "environment.json", text)
        if prepared.excluded is not None:
            write_lines(self.run_dir / EXCLUDED_FILE, prepared.excluded.lines())

    def _write_exposure(self, rows: list[dict[str, Any]]) -> None:
        lines = [",".join(rows[0])] + [",".join(str(v) for v in row.values()) for row in rows]
        cache.write_atomic(self.run_dir / "exposure.csv", "\n".join(lines) + "\n")

    def _write_summary(
        self,
        prepared: Prepared,
        module: BiEncoderModule,
        checkpointing: ckpt.Checkpointing,
        progress: TrainingProgress,
        monitor: str | None,
        final: Results,
        exported_step: int,
        step: int,
    ) -> None:
        state = prepared.data.state_at(step)["plan"]
        batches = max(state["counts"]["batches"], 1)
        summary: dict[str, Any] = {
            **final.macro(),
            "language_groups": group_means(final),
            "benchmarks": list(self.config.benchmark),
            "wall_seconds": progress.wall_seconds,
            "samples_per_second": progress.samples_per_second,
            "drawn_mono_share": state["counts"]["monolingual"] / batches,
            "masked_share": module.masked_share,
            "steps": step,
            "stopped_early": step < self.config.trainer.max_steps,
            "exported_step": exported_step,
            "monitor": monitor,
            "monitor_value": checkpointing.best_value,
            "selected_on_benchmark": monitor is not None and monitor.split("/")[1] != VALIDATION,
            "excluded_overlap": prepared.excluded.report()["items"] if prepared.excluded is not None else 0,
            "plan": state["counts"],
            # of the batches trained on: a loader's workers may have planned further
            "source_rows": dict(zip(prepared.corpus.sources, state["source_rows"], strict=True)),
        }
        write_card(self.run_dir, self.config, self.overrides, summary, final)
        cache.write_atomic(self.run_dir / SUMMARY_FILE, json.dumps(summary, indent=1))

    def _show(self, final: Results, exposure: list[dict[str, Any]], exported_step: int) -> None:
        before = self.results.at_step(0)
        rows = {"untrained": before} if before.rows and exported_step else {}
        print_results({**rows, "trained": final}, self.console)
        table = Table(title="what the batches showed (rows of each language)", title_justify="left")
        for name in (
            "language",
            "items",
            "query_rows",
            "passage_rows",
            "monolingual_rows",
            "query_tokens",
            "passage_tokens",
        ):
            table.add_column(name.replace("_", " "), justify="left" if name == "language" else "right")
        for row in exposure:
            table.add_row(
                *(
                    f"{row[c]:,}" if c != "language" else row[c]
                    for c in (
                        "language",
                        "items",
                        "query_rows",
                        "passage_rows",
                        "monolingual_rows",
                        "query_tokens",
                        "passage_tokens",
                    )
                )
            )
        self.console.print(table)
        self.console.print(f"model: {self.run_dir / 'model'}\nresults: {self.run_dir / 'results.csv'}", highlight=False)

    def _clean(self) -> None:
        """A complete run needs no optimizer state, and not the best weights twice."""
        (self.run_dir / PROGRESS_FILE).unlink(missing_ok=True)
        if self.config.checkpoint.keep_optimizer:
            return
        for _, path in ckpt.checkpoints(self.run_dir):
            ckpt.strip_optimizer(path)
        if self.config.checkpoint.export == "best":
            for path in ckpt.best_files(self.run_dir):
                path.unlink(missing_ok=True)


@contextmanager
def _said_in_one_line() -> Iterator[None]:
    """Lightning's complaints about the machine (no GPU, fewer than asked for) as errors of the user."""
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}; choose trainer=cpu, or trainer.devices that the machine has") from None


class _InstallSignals(Callback):
    """Takes the signals back from Lightning, which sets its own handlers between ``on_fit_start`` and this.

    Its own would end the run with code 0 and without its state, by a signal that comes after the callbacks of a step.
    """

    def __init__(self, signals: SignalHandler) -> None:
        self.signals = signals

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.install()
