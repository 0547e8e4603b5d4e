# SPDX-License-Identifier: Apache-2.0
"""``seqloom demo``: a small GPT learns the bundled text by letters, then writes its own."""

from __future__ import annotations

import argparse
import importlib
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.cli import CommandError, command_parser
from seqloom.commands import options as kinds
from seqloom.data import LMWindows, Loader, RandomWindows, demo_text, encode_corpus
from seqloom.optim import AdamW
from seqloom.text import Tokenizer
from seqloom.train import Callback, CSVLog, Trainer, parameter_groups

sl: Any = importlib.import_module("seqloom")

BATCH = 8
SIZE: dict[str, Any] = {
    "n_layer": 3,
    "n_embd": 128,
    "n_head": 4,
    "n_positions": 128,
    "initializer_range": 0.08,
}
QUICK_SIZE: dict[str, Any] = {
    "n_layer": 2,
    "n_embd": 32,
    "n_head": 2,
    "n_positions": 64,
    "initializer_range": 0.08,
}
PEAK_RATE, LAST_SHARE, WARM_UP = 4e-3, 0.02, 50
QUICK_STEPS, QUICK_TEXT = 8, 10_000
EVALUATIONS = 12
HELD_OUT = 0.05
PICTURED = 24  # letters of the attention picture


class Paced(Callback):
    """A few evaluations, spread evenly over the time or the steps."""

    def __init__(self) -> None:
        self.done = 0

    def on_step(self, trainer: Trainer, row: dict[str, Any]) -> None:
        if trainer.total_steps is not None:
            share = trainer.step / trainer.total_steps
        else:
            share = trainer.elapsed / (trainer.seconds or 1.0)
        due = int(share * EVALUATIONS) > self.done
        self.done = int(share * EVALUATIONS)
        trainer.eval_every = trainer.step if due else 1 << 62


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)  # trouble shows before a minute is spent
    where = kinds.machine(options.device)
    sl.manual_seed(options.seed)
    text = demo_text()
    tokenizer = Tokenizer.train_from_texts([text], kind="char", special_tokens={})
    start = kinds.tokens_of(tokenizer, options.prompt, "--prompt", special=False)
    if options.quick:
        text = text[:QUICK_TEXT]
    size = QUICK_SIZE if options.quick else SIZE
    if start.shape[1] >= size["n_positions"]:
        raise CommandError(
            f"--prompt: has {start.shape[1]} letters, the model reads {size['n_positions']} at once"
        )
    print(f"seqloom {sl.__version__} on {where}")
    model = _model(tokenizer, size).to(device=options.device)
    print(
        f"a GPT of {size['n_layer']} layers and {model.num_parameters():,} parameters learns"
        f" {len(text):,} letters of fables, letters and dialogues",
        flush=True,
    )
    trainer = _trainer(model, encode_corpus([text], tokenizer), size["n_positions"], options)
    rows = trainer.train()
    last = rows[-1]
    print(
        f"{trainer.step} steps in {trainer.elapsed:.0f} s,"
        f" {trainer.tokens / max(trainer.elapsed, 1e-9):,.0f} tokens/s; loss {last['loss']:.3f} in"
        f" training, {last['eval_loss']:.3f} on text it has not seen (nats a letter)"
    )
    print("\n" + options.prompt, end="", flush=True)
    for piece in _write(model, tokenizer, start, options):
        print(piece, end="", flush=True)
    print("\n")
    _save(model, tokenizer, rows, folder, options.prompt)
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("demo", example="seqloom demo --seconds 30 --out my-model")
    add = parser.add_argument
    add("--seconds", type=kinds.positive, help="how long to train (60; no limit beside --steps)")
    add("--steps", type=kinds.count, help="train this many steps: the same result every time")
    add("--out", default="seqloom-demo", metavar="DIR", help="the model directory (seqloom-demo)")
    add("--device", default="cpu", type=kinds.device, help="cpu (default), cuda or cuda:N")
    add("--precision", choices=("float32", "bfloat16"), default="float32")
    add("--seed", type=kinds.seed, default=0, help="of weights, batches and the text (0)")
    add("--prompt", default="Once upon a time", help="what the text begins with")
    add("--letters", type=kinds.count, default=600, help="how much to write (600)")
    add("--temperature", type=kinds.positive, default=0.5, help="of the writing (0.5)")
    add("--quick", action="store_true", help="a tiny model and a few steps, to see that it runs")
    options = parser.parse_args(arguments)
    if not options.prompt:
        parser.error("--prompt must not be empty")
    if options.quick and options.steps is None:
        options.steps = QUICK_STEPS
    if options.seconds is None and options.steps is None:
        options.seconds = 60.0
    return options


def _model(tokenizer: Tokenizer, size: dict[str, Any]) -> Any:
    return sl.models.GPT2(
        vocab_size=len(tokenizer), **size, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def _trainer(model: Any, tokens: Any, length: int, options: argparse.Namespace) -> Trainer:
    split = int(len(tokens) * (1 - HELD_OUT))
    seen = RandomWindows(tokens[:split], length, seed=options.seed)
    unseen = LMWindows(tokens[split:], length)
    return Trainer(
        model,
        "next-token",
        Loader(seen, BATCH, seed=options.seed),
        Loader(unseen, BATCH),
        optimizer=AdamW(parameter_groups(model, 0.1), lr=PEAK_RATE, betas=(0.9, 0.99)),
        schedule="cosine",
        warmup_steps=min(WARM_UP, (options.steps or WARM_UP * 20) // 20),
        min_lr_ratio=LAST_SHARE,
        steps=options.steps,
        seconds=options.seconds,
        precision=options.precision,
        log_every=10,
        callbacks=[Paced()],
    )


def _write(model: Any, tokenizer: Tokenizer, start: Any, options: argparse.Namespace) -> Any:
    """Letters as they come."""
    settings = {"do_sample": True, "temperature": options.temperature, "seed": options.seed}
    for token in kinds.written(model, start, options.letters, settings):
        yield tokenizer.decode([token])


def _save(
    model: Any, tokenizer: Tokenizer, rows: list[dict[str, Any]], folder: Path, prompt: str
) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    names = dict.fromkeys(name for row in rows for name in row)
    CSVLog(folder / "log.csv", list(names), rows).close()
    print(f"model directory: {folder} (weights, configuration, vocabulary, log)")
    curve, heat = folder / "loss.png", folder / "attention.png"
    letters = demo_text()[:PICTURED] if len(prompt) < 2 else prompt[:PICTURED]
    try:
        sl.plot.training_curve(rows, path=curve, title="seqloom demo", unit="nats a letter")
        model.eval()
        with sl.no_grad():
            ids = np.array([tokenizer.encode(letters)])
            _, weights = model(ids, return_weights=True)
        sl.plot.attention(
            weights[-1], list(letters), path=heat, title="where the last layer looks", columns=2,
            query_label="letter that was read", key_label="letters that it looks at",
        )  # fmt: skip
    except ImportError:
        print("loss curve and attention: need matplotlib: pip install 'seqloom[plot]'")
    else:
        print(f"loss curve: {curve}\nattention: {heat}")
    words = ["seqloom", "generate", str(folder), "--prompt", prompt, "--temperature", "0.6"]
    print(f"go on with: {shlex.join(words)}")
