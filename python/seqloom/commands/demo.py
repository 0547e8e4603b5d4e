# SPDX-License-Identifier: Apache-2.0
"""``seqloom demo``: an LSTM learns the bundled text by letters, then writes its own."""

from __future__ import annotations

import argparse
import importlib
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from seqloom import nn
from seqloom.cli import CommandError, command_parser
from seqloom.data import LMWindows, RandomWindows, demo_text, encode_corpus
from seqloom.optim import AdamW, clip_grad_norm_
from seqloom.text import Tokenizer
from seqloom.weights import save_config, save_weights

sl: Any = importlib.import_module("seqloom")

BATCH, LENGTH, QUICK_LENGTH = 32, 64, 16
PEAK_RATE, LAST_RATE, WARM_UP = 4e-3, 2e-4, 0.03
QUICK_STEPS, QUICK_TEXT = 6, 10_000
EVALUATIONS = 12
HELD_OUT = 0.05


class LetterModel(nn.Module):
    """Embedding, LSTM, Linear: logits [T, B, V] for ids [T, B]."""

    def __init__(self, vocab_size: int, embed_dim: int, hidden_size: int, device: str) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, embed_dim, device=device)
        self.rnn = nn.LSTM(embed_dim, hidden_size, device=device)
        self.head = nn.Linear(hidden_size, vocab_size, device=device)
        self.config = {
            "model_type": "rnn_language_model",
            "vocab_size": vocab_size,
            "embed_dim": embed_dim,
            "hidden_size": hidden_size,
            "num_layers": 1,
            "cell": "lstm",
            "tie_weights": False,
        }

    def forward(self, ids: Any, state: Any = None) -> tuple[Any, Any]:
        output, state = self.rnn(self.embedding(ids), state)
        return self.head(output), state


def main(arguments: list[str]) -> int:
    options = _options(arguments)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)  # trouble shows before a minute is spent
    try:
        where = _where(options.device)
    except RuntimeError as error:
        raise CommandError(f"{options.device}: {error}") from None
    sl.manual_seed(options.seed)
    text = demo_text()
    tokenizer = Tokenizer.train_from_texts([text], kind="char", special_tokens={})
    prompt = options.prompt
    try:
        start = tokenizer.encode(prompt)
    except ValueError as error:
        raise CommandError(f"--prompt: {error}") from None
    if options.quick:
        text = text[:QUICK_TEXT]
    tokens = encode_corpus([text], tokenizer)
    size = (16, 32) if options.quick else (64, 256)
    model = LetterModel(len(tokenizer), *size, device=options.device)
    print(f"seqloom {sl.__version__} on {where}")
    print(
        f"an LSTM of {model.num_parameters():,} parameters learns {len(text):,} letters of"
        " fables, letters and dialogues",
        flush=True,
    )
    log, speed = _train(model, tokens, options)
    last = log[-1]
    print(
        f"{last['step']} steps, {speed:,.0f} tokens/s; loss {last['loss']:.3f} in training,"
        f" {last['eval_loss']:.3f} on text it has not seen (nats a letter)"
    )
    print("\n" + prompt, end="", flush=True)
    for token in _write(model, start, options):
        print(tokenizer.decode([token]), end="", flush=True)
    print("\n")
    _save(model, tokenizer, log, folder)
    return 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = command_parser("demo", example="seqloom demo --seconds 30 --out my-model")
    add = parser.add_argument
    add("--seconds", type=_positive, help="how long to train (60; no limit beside --steps)")
    add("--steps", type=_count, help="train this many steps: the same result every time")
    add("--out", default="seqloom-demo", metavar="DIR", help="the model directory (seqloom-demo)")
    add("--device", default="cpu", type=_device, help="cpu (default), cuda or cuda:N")
    add("--seed", type=_seed, default=0, help="of weights, batches and the text (0)")
    add("--prompt", default="Once upon a time", help="what the text begins with")
    add("--letters", type=_count, default=600, help="how much to write (600)")
    add("--temperature", type=_positive, default=0.6, help="of the writing (0.6)")
    add("--quick", action="store_true", help="a tiny model and a few steps, to see that it runs")
    options = parser.parse_args(arguments)
    if not options.prompt:
        parser.error("--prompt must not be empty")
    if options.quick and options.steps is None:
        options.steps = QUICK_STEPS
    options.length = QUICK_LENGTH if options.quick else LENGTH
    if options.seconds is None:
        options.seconds = 60.0 if options.steps is None else math.inf
    return options


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"must be in [0, 2^63), got {text}")
    return value


def _device(text: str) -> str:
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return text


def _where(device: str) -> str:
    """What runs on what, in words; a RuntimeError where the device cannot be used."""
    if device != "cpu":
        sl.zeros(1, device=device)
        return f"{device}: {sl.cuda.get_device_properties(device).name}"
    threads = sl.get_num_threads()
    return f"cpu: {sl._core.active_isa()} kernels, {threads} thread{'s' * (threads > 1)}"


def _rate(done: float) -> float:
    """Learning rate after this share of the training: a short rise, then half a cosine."""
    if done < WARM_UP:
        return PEAK_RATE * (0.1 + 0.9 * done / WARM_UP)
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, (done - WARM_UP) / (1 - WARM_UP))))
    return LAST_RATE + (PEAK_RATE - LAST_RATE) * fall


def _loss(model: LetterModel, windows: Any, indices: Any, device: str) -> Any:
    inputs, targets = (sl.tensor(ids.T.copy(), device=device) for ids in windows.take(indices))
    logits, _ = model(inputs)
    return sl.ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def _held_out_loss(model: LetterModel, windows: LMWindows, device: str) -> float:
    with sl.no_grad():
        model.eval()
        loss = float(_loss(model, windows, np.arange(len(windows)), device).item())
        model.train()
    return loss


def _train(
    model: LetterModel, tokens: Any, options: argparse.Namespace
) -> tuple[list[dict[str, float]], float]:
    """Train until the steps or the seconds are over: rows of the log, tokens a second."""
    split = int(len(tokens) * (1 - HELD_OUT))
    windows = RandomWindows(tokens[:split], options.length, seed=options.seed)
    unseen = LMWindows(tokens[split:], options.length)
    optimizer = AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.01)
    per_epoch = len(windows) // BATCH
    log: list[dict[str, float]] = []
    began, spent, step, done, evaluated = time.monotonic(), 0.0, 0, 0.0, 0
    unit = "step" if math.isinf(options.seconds) else "s"
    with tqdm(
        total=options.steps if unit == "step" else round(options.seconds),
        desc="training", unit=unit, disable=None, dynamic_ncols=True, leave=False,
        bar_format="{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit}"
        "  {remaining} left{postfix}",
    ) as bar:  # fmt: skip
        while done < 1:
            epoch, batch = divmod(step, per_epoch)
            if batch == 0:
                windows.set_epoch(epoch)
            rate = _rate(done)
            optimizer.param_groups[0]["lr"] = rate
            tick = time.monotonic()
            loss = _loss(
                model, windows, np.arange(batch * BATCH, (batch + 1) * BATCH), options.device
            )
            loss.backward()
            clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            row: dict[str, float] = {"step": step + 1, "loss": loss.item(), "lr": rate}
            spent += time.monotonic() - tick
            log.append(row)
            step += 1
            elapsed = time.monotonic() - began
            done = max(step / (options.steps or math.inf), elapsed / options.seconds)
            if done >= 1 or done * EVALUATIONS >= evaluated + 1:
                row["eval_loss"] = _held_out_loss(model, unseen, options.device)
                evaluated = int(done * EVALUATIONS)
            now = step if unit == "step" else min(round(elapsed), bar.total)
            bar.set_postfix_str(
                f"loss {row['loss']:.3f}, {step * BATCH * options.length / spent:,.0f} tokens/s",
                refresh=False,
            )
            bar.update(now - bar.n)
    return log, step * BATCH * options.length / spent


def _write(model: LetterModel, start: Any, options: argparse.Namespace) -> Any:
    """Letters one by one, each drawn from what the model expects after all before it."""
    rng = np.random.default_rng(options.seed)
    model.eval()
    with sl.no_grad():
        ids, state = np.asarray(start, np.int64).reshape(-1, 1), None
        for _ in range(options.letters):
            logits, state = model(sl.tensor(ids, device=options.device), state)
            scores = logits[-1, 0].cpu().numpy().astype(np.float64) / options.temperature
            weights = np.exp(scores - scores.max())
            token = int(rng.choice(len(weights), p=weights / weights.sum()))
            yield token
            ids = np.array([[token]])


def _save(
    model: LetterModel, tokenizer: Tokenizer, log: list[dict[str, float]], folder: Path
) -> None:
    save_weights(folder, {name: t.cpu().numpy() for name, t in model.state_dict().items()})
    save_config(folder, model.config)
    tokenizer.save_pretrained(folder)
    print(f"model directory: {folder} (weights, configuration, vocabulary)")
    picture = folder / "loss.png"
    try:
        sl.plot.training_curve(log, path=picture, title="seqloom demo")
    except ImportError:
        print("loss curve: needs matplotlib: pip install 'seqloom[plot]'")
    else:
        print(f"loss curve: {picture}")
