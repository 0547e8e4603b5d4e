# SPDX-License-Identifier: Apache-2.0
"""``seqloom train``: a model, some files, a directory."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import math
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqloom.cli import CommandError, command_parser
from seqloom.commands import options as kinds
from seqloom.commands.training_files import standard_input_as_file

EXAMPLE = """seqloom train --model gpt2 --data book.txt --out my-gpt --steps 2000
  seqloom train --model lstm --data book.txt --out my-lstm --width 512 --precision bfloat16
  seqloom train --model classifier --data reviews.csv --out reviews --label-column stars --epochs 5
  seqloom train --model bert --task question-answering --from bert --data squad.jsonl --out qa
  seqloom train --model tagger --task ctc --data speech.jsonl --out speech --body gru
  seqloom train --model transformer --data en-fr.tsv --out en-fr --epochs 20 --early-stopping 3
  seqloom train --model gpt2 --data book.txt --out my-gpt --config gpt.toml --dry-run
  seqloom train --model gpt2 --data book.txt --out my-gpt --steps 2000 --resume
  zcat books/*.gz | seqloom train --model gpt2 --data - --out my-gpt --steps 2000

a configuration file holds the same options, in tables of any name:
  [model]
  layers = 6
  width = 384
  [training]
  lr = 1e-3
  eval-every = 100"""
WORDS = ("gpt2", "llama", "lstm", "gru", "rnn", "bert", "classifier", "tagger", "seq2seq",
         "transformer", "forecaster")  # fmt: skip
TASKS = ("next-token", "masked-token", "classification", "tagging", "question-answering", "ctc",
         "seq2seq", "forecasting")  # fmt: skip
STEPS = 1000
_ROOM = 1 << 30  # bytes beside the weights that measuring a model may take


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = _options(parser, arguments)
    models: Any = importlib.import_module("seqloom.commands.training_models")
    choice = models.CHOICES[options.model]
    task = options.task or choice.tasks[0]
    if task not in choice.tasks:
        parser.error(f"--task of --model {options.model} must be one of {', '.join(choice.tasks)}")
    for name in ("layers", "width", "heads"):
        if getattr(options, name) is None:
            setattr(options, name, getattr(choice, name))
    if options.threads:
        kinds.sl.set_num_threads(options.threads)
    where = kinds.machine(options.device)
    try:
        with standard_input_as_file(options, task):
            data = _data(options, task)
        if options.dry_run:
            return _plan(options, data, task, models, where)
        _check_memory(options, data, task, models)
        return _run(_trainer(options, data, task, models), data, where, options)
    except FileNotFoundError as error:
        if error.filename:  # the system's own
            raise
        raise kinds.in_options(error, sizes=False) from None
    except (CommandError, *kinds.USER_TROUBLE) as error:
        own = options.start_from is None and not options.model_config
        raise kinds.in_options(error, sizes=own) from None


# ---- options -------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    usage = "seqloom train --model MODEL --data FILE [FILE ...] --out DIR [options]"
    parser = command_parser("train", example=EXAMPLE, usage=usage)
    add = parser.add_argument
    add("--config", metavar="F", help="TOML file of options; the command line comes first")
    add(
        "--resume",
        action="store_true",
        help="go on from the newest checkpoint in --out, if any, perhaps to more --steps",
    )
    add("--allow-changes", action="store_true",
        help="with --resume: although data, schedule or other options differ")  # fmt: skip
    add(
        "--dry-run",
        action="store_true",
        help="show the model and the memory it needs, and stop; exit status 1 if it does not fit",
    )

    add = parser.add_argument_group("what is trained").add_argument
    add("--model", choices=WORDS, metavar="MODEL", help=f"one of {', '.join(WORDS)}")
    add("--from", dest="start_from", metavar="DIR", help="go on with the weights of this directory")
    add("--task", choices=TASKS, help="for models that have several (bert, tagger)")
    add("--out", metavar="DIR", help="directory of checkpoints, log and the model")
    add("--layers", type=kinds.count, metavar="N")
    add("--width", type=kinds.count, metavar="N", help="of the hidden states")
    add("--heads", type=kinds.count, metavar="N")
    add("--body", choices=("lstm", "gru", "rnn", "transformer"), default="lstm",
        help="of classifier, tagger, forecaster (lstm)")  # fmt: skip
    add("--attention", choices=("bahdanau", "luong-dot", "luong-general", "luong-concat", "none"),
        default="bahdanau", help="of seq2seq (bahdanau)")  # fmt: skip
    add("--dropout", type=kinds.share, default=0.1, metavar="P", help="(0.1)")
    add("--model-config", action="append", metavar="KEY=VALUE", help="a field of its configuration")

    add = parser.add_argument_group("data").add_argument
    add("--data", nargs="+", metavar="FILE", help="text; .csv, .tsv, .jsonl for labels and series; "
        "source<TAB>target lines for pairs; .jsonl of question, context, answer, or of features "
        "(a .npy file) and text; .gz works, too; - for standard input")  # fmt: skip
    add("--encoding", type=kinds.encoding, default="utf-8", metavar="NAME", help="of text (utf-8)")
    add("--target", metavar="FILE", help="the target side, line by line, beside one --data file")
    add("--eval-data", nargs="+", metavar="FILE", help="what is evaluated on")
    add("--eval-share", type=kinds.share, default=0.05, metavar="P",
        help="of the data that is held out otherwise (0.05)")  # fmt: skip
    add("--tokenizer", metavar="KIND|DIR", help="char, word, bpe, wordpiece, unigram, or a "
        "directory; by default what suits the task")  # fmt: skip
    add("--vocab-size", type=kinds.count, metavar="N")
    add("--lowercase", action="store_true", help="fold the case")
    add("--length", type=kinds.count, default=128, metavar="N", help="of sequences (128)")
    add("--text-column", default="text", metavar="NAME", help="of labelled data (text)")
    add("--label-column", default="label", metavar="NAME", help="of labelled data (label)")
    add("--whole-words", action="store_true", help="mask whole words")
    add("--columns", nargs="+", metavar="NAME", help="of a time series (all)")
    add("--horizon", type=kinds.count, default=12, metavar="N", help="steps to forecast (12)")

    add = parser.add_argument_group("training").add_argument
    add("--steps", type=kinds.count, metavar="N", help=f"({STEPS} without --epochs and --seconds)")
    add("--epochs", type=kinds.count, metavar="N")
    add("--seconds", type=kinds.positive, metavar="S", help="stop after so long")
    add("--batch-size", type=kinds.count, default=32, metavar="N", help="(32)")
    add("--accumulate", type=kinds.count, default=1, metavar="N", help="batches per step (1)")
    add("--optimizer", choices=("adamw", "adam", "sgd", "adafactor"), default="adamw")
    add("--lr", type=kinds.positive, default=1e-3, metavar="X", help="(0.001)")
    add("--schedule", choices=("constant", "linear", "cosine", "inverse_sqrt"), default="cosine",
        help="of the learning rate (cosine)")  # fmt: skip
    add("--warmup-steps", type=kinds.whole, metavar="N", help="(a twentieth, at most 1000)")
    add("--min-lr-ratio", type=kinds.share, default=0.1, metavar="P", help="where it ends (0.1)")
    add("--weight-decay", type=kinds.not_negative, default=0.01, metavar="X", help="(0.01)")
    add("--clip-norm", type=kinds.not_negative, default=1.0, metavar="X", help="0: none (1.0)")
    add("--label-smoothing", type=kinds.share, default=0.0, metavar="P")
    add("--teacher-forcing", type=kinds.share, default=1.0, metavar="P", help="of seq2seq (1.0)")
    add("--teacher-forcing-end", type=kinds.share, metavar="P", help="reached at the last step")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--eval-every", type=kinds.count, metavar="N", help="steps (an epoch, at most 500)")
    add("--save-every", type=kinds.count, metavar="N", help="steps (as --eval-every)")
    add("--log-every", type=kinds.count, default=10, metavar="N", help="steps (10)")
    add("--keep", type=kinds.count, default=1, metavar="N", help="newest checkpoints (1)")
    add("--early-stopping", type=kinds.count, metavar="N", help="evaluations without improvement")
    add("--best-metric", default="eval_loss", metavar="NAME", help="(eval_loss)")
    add("--tensorboard", action="store_true", help="write events, too")
    add("--seed", type=kinds.seed, default=0, metavar="N", help="of everything (0)")
    add("--device", type=kinds.device, default="cpu", help="cpu (default), cuda or cuda:N")
    add("--threads", type=kinds.count, metavar="N", help="of the CPU")
    return parser


def _options(parser: argparse.ArgumentParser, arguments: list[str]) -> argparse.Namespace:
    """The command line over the configuration file over the defaults."""
    options = parser.parse_args(arguments)
    if options.config is not None:
        options = parser.parse_args([*kinds.words_from_toml(options.config, parser), *arguments])
    for name in ("model", "data", "out"):
        if getattr(options, name) is None:
            parser.error(f"--{name} is needed")
    if options.target is not None and len(options.data) != 1:
        parser.error("--target goes with one --data file")
    models: Any = importlib.import_module("seqloom.commands.training_models")
    for text in options.model_config or ():
        try:
            models.setting(text)
        except argparse.ArgumentTypeError as error:
            parser.error(f"--model-config {error}")
    if options.attention == "none":
        options.attention = None
    if options.steps is None and options.epochs is None and options.seconds is None:
        options.steps = STEPS
    return options


# ---- the training --------------------------------------------------------------------------------


def _data(options: argparse.Namespace, task: str) -> Any:
    from seqloom.commands.training_data import prepare

    data = prepare(options, task, options.model)
    if options.early_stopping is not None and data.evaluation is None:
        raise CommandError("--early-stopping: nothing is held out to judge by")
    return data


def _trainer(
    options: argparse.Namespace, data: Any, task: str, models: Any, precision: str | None = None
) -> Any:
    from seqloom.train import CTC, Seq2SeqTask, Trainer
    from seqloom.train.resuming import stored_warmup
    from seqloom.train.tasks import TASKS as KINDS

    kinds.sl.manual_seed(options.seed)
    model = models.build(options, data, task)
    steps = options.steps
    if steps is None and options.epochs is not None:
        steps = options.epochs * -(-len(data.train) // options.accumulate)
    epoch = -(-len(data.train) // options.accumulate)
    warmup = options.warmup_steps
    if warmup is None and options.resume and steps is not None:
        warmup = stored_warmup(Path(options.out))  # more steps are no reason for another one
    if warmup is None:
        warmup = min(1000, (steps or STEPS) // 20)
    first, last = options.teacher_forcing, options.teacher_forcing_end
    if task == "seq2seq":
        ratio: Any = first
        if last is not None and steps:
            whole: int = steps

            def ratio(step: int) -> float:
                return float(first + (last - first) * min(1.0, step / whole))

        job: Any = Seq2SeqTask(teacher_forcing=ratio, label_smoothing=options.label_smoothing)
    elif task == "forecasting":
        job = KINDS[task]()
    elif task == "ctc":
        job = CTC(blank=data.tokenizer.pad_token_id)
    else:
        job = KINDS[task](label_smoothing=options.label_smoothing)
    known = job.columns()
    if options.best_metric not in known:
        raise CommandError(
            f"--best-metric {options.best_metric}: must be one of {', '.join(known)}"
        )
    return Trainer(
        model, job, data.train, data.evaluation, out=options.out, optimizer=options.optimizer,
        lr=options.lr, weight_decay=options.weight_decay, schedule=options.schedule,
        warmup_steps=warmup, min_lr_ratio=options.min_lr_ratio, steps=options.steps,
        epochs=options.epochs, seconds=options.seconds, accumulate=options.accumulate,
        precision=precision or options.precision, clip_norm=options.clip_norm or None,
        eval_every=options.eval_every or min(500, epoch), save_every=options.save_every,
        log_every=options.log_every, keep=options.keep, best_metric=options.best_metric,
        early_stopping=options.early_stopping,
        extras=data.extras, tensorboard=options.tensorboard, seed=options.seed,
        device=options.device,
    )  # fmt: skip


def _outlined(options: argparse.Namespace, data: Any, task: str, models: Any) -> Any:
    """The trainer of a model without memory, however large; its precision is float32."""
    from seqloom.nn import init

    with init.shapes_only():
        return _trainer(options, data, task, models, "float32")


def _check_memory(options: argparse.Namespace, data: Any, task: str, models: Any) -> None:
    """Refuse what the system would end in the middle of it, with a signal and no word."""
    from seqloom.train.estimate import free_memory
    from seqloom.train.memory import held

    free = free_memory(options.device)
    least = held(_outlined(options, data, task, models), options.precision).total
    if free is not None and least > free:
        raise CommandError(
            "the training does not fit: weights, gradients and what the optimizer keeps are "
            f"{least / 2**20:,.1f} MiB, and {options.device} has {free / 2**20:,.1f} MiB left"
        )


def _plan(options: argparse.Namespace, data: Any, task: str, models: Any, where: str) -> int:
    """What --dry-run prints: the model, the data, the memory; an error if that isn't there."""
    from seqloom.train.estimate import estimated, free_memory
    from seqloom.train.memory import held, needed

    trainer = _outlined(options, data, task, models)
    print(f"seqloom {kinds.sl.__version__} on {where}")
    print(trainer.model.summary())
    print(f"\n{data.text}")
    steps = trainer.total_steps
    print(f"{steps:,} steps" if steps is not None else f"{trainer.seconds:g} seconds", end="")
    if trainer.steps_per_epoch is not None:
        print(f", {trainer.steps_per_epoch:,} an epoch", end="")
    free, memory = free_memory(options.device), None
    least = held(trainer, options.precision)
    if free is None or 2 * (least.weights + least.gradients + least.copies) + _ROOM < free:
        with contextlib.suppress(MemoryError):
            memory = needed(_trainer(options, data, task, models))
    how = ""
    if memory is None:
        memory, how = estimated(trainer, options.precision), ", by smaller models of its kind"
    print(f"\n\nmemory, beside Python's own{how}")
    print(memory)
    if free is None or memory.total <= free:
        return 0
    raise CommandError(
        f"the training does not fit: it needs {memory.total / 2**20:,.1f} MiB, and "
        f"{options.device} has {free / 2**20:,.1f} MiB left"
    )


def _run(trainer: Any, data: Any, where: str, options: argparse.Namespace) -> int:
    quiet = not sys.stderr.isatty()
    if not quiet:
        print(
            f"{type(trainer.model).__name__} of {trainer.model.num_parameters():,} parameters on "
            f"{where}\n{data.text}",
            file=sys.stderr,
        )
    with _interruptible(trainer):
        rows = trainer.train(resume=options.resume, allow_changes=options.allow_changes)
    if trainer.stop_reason == "interrupted":
        print(
            f"seqloom: interrupted after step {trainer.step}; --resume goes on from there",
            file=sys.stderr,
        )
        return 130
    told = [f"{trainer.step:,} steps in {trainer.elapsed:,.0f} s"]
    if rows:
        told.append(f"loss {rows[-1]['loss']:.4g}")
    best = trainer.best
    if best is not None:
        name = trainer.best_metric.removeprefix("eval_")
        told.append(f"best {name} on held-out data {best['value']:.4g} at step {best['step']:,}")
        if trainer.best_metric == "eval_loss" and trainer.task.with_perplexity:
            told.append(f"perplexity {math.exp(min(best['value'], 700)):.4g}")
        for metric in trainer.task.metrics:
            row: dict[str, Any] = next((r for r in rows if r["step"] == best["step"]), {})
            if f"eval_{metric}" in row:
                told.append(f"{metric.replace('_', ' ')} {row[f'eval_{metric}']:.4g}")
    if trainer.stop_reason:
        told.append(f"stopped: {trainer.stop_reason}")
    print("; ".join(told))
    print(f"model directory: {Path(options.out)}")
    return 0


@contextlib.contextmanager
def _interruptible(trainer: Any) -> Iterator[None]:
    """Ctrl-C and SIGTERM end a training after the present step, with a checkpoint."""
    held = {}

    def stop(number: int, frame: Any) -> None:
        if trainer.stop_reason == "interrupted":  # asked twice: at once
            raise KeyboardInterrupt
        trainer.stop("interrupted", final=False)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            held[number] = signal.signal(number, stop)
    except ValueError:  # not the main thread
        pass
    try:
        yield
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
