# SPDX-License-Identifier: Apache-2.0
"""Whole training steps: forward, loss, backward, clipping, AdamW."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from seqloom.bench.case import DTYPE_NAMES, Answer, Built, Case, Context, Work, register
from seqloom.bench.cases import checkpoints, training_truth
from seqloom.bench.cases.common import to_tensor

_JUDGED, _JUDGED_TOKENS = 8, 1024  # rows of the batch that are compared with the reference
_Step = Callable[[], Any]


def _batch(context: Context, rows: slice = slice(None)) -> tuple[dict[str, Any], Any]:
    """The inputs by name, and the targets [N], on the device."""
    library = context.library
    arrays = {k: v[rows] for k, v in context.inputs.items() if isinstance(v, np.ndarray)}
    batch = {k: to_tensor(library, v).to(context.device) for k, v in arrays.items()}
    return batch, batch.pop("targets").reshape(-1)


def _our_step(context: Context, model: Any) -> _Step:
    """As the Trainer does it: bf16 computes with copies of float32 weights."""
    library = context.library
    batch, targets = _batch(context)
    model.train()
    precision = importlib.import_module("seqloom.train.precision")
    way = precision.precision_of(model, DTYPE_NAMES[context.dtype])
    parameters = list(model.parameters())
    optimizer = library.optim.AdamW(parameters, lr=1e-4)

    def step() -> Any:
        optimizer.zero_grad()
        with way:
            loss = _our_loss(library, model, batch, targets)
            way.backward(loss, 1.0)
        library.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        way.changed()
        return loss

    return step


def _our_loss(library: Any, model: Any, batch: dict[str, Any], targets: Any) -> Any:
    logits = model(*batch.values())
    rows = logits.reshape(len(targets), -1)
    return library.ops.cross_entropy(rows, targets, loss_dtype="float32")


def _torch_step(context: Context, model: Any, forward: Callable[..., Any], autocast: bool) -> _Step:
    torch = context.library
    batch, targets = _batch(context)
    model.train()
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    kind = torch.device(context.device).type

    def step() -> Any:
        optimizer.zero_grad()
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            logits = forward(model, **batch)
            loss = torch.nn.functional.cross_entropy(logits.reshape(len(targets), -1), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        return loss

    return step


def training(
    name: str,
    label: str,
    make: Callable[[np.random.Generator], dict[str, Any]],
    ours: Callable[[Any], Any],
    theirs: Callable[[Any], Any],
    flops: float,
    parameters: float,
    tokens: int,
    needs: tuple[str, ...],
    truth: training_truth.Truth,
    torch_forward: Callable[..., Any] = lambda model, **batch: model(**batch),
    quick: tuple[str, ...] = (),
) -> Case:
    """`ours(models)` and `theirs(torch)` build the model; inputs hold ids and targets.

    In bf16 torch takes part twice: with autocast over float32 weights, and with all in bfloat16.
    """

    def model_of(context: Context) -> Any:
        return ours(importlib.import_module("seqloom.models")).to(context.device)

    def judged(context: Context, reference: Any) -> Answer:
        """Loss and gradients of a step, on the first rows of the batch."""
        model = model_of(context).train()
        parameters = {n: p.detach().cpu().numpy().copy() for n, p in model.named_parameters()}
        precision = importlib.import_module("seqloom.train.precision")
        way = precision.precision_of(model, DTYPE_NAMES[context.dtype])
        rows = min(_JUDGED, max(1, _JUDGED_TOKENS // context.inputs["targets"].shape[1]))
        batch, targets = _batch(context, slice(rows))
        with way:
            loss = _our_loss(context.library, model, batch, targets)
            way.backward(loss, 1.0)
        gradients = {n: p.grad.cpu().numpy() for n, p in model.named_parameters()}
        inputs = {k: v[:rows] for k, v in context.inputs.items()}
        # A recurrence or a stack of blocks rounds at every step; 16 bits are judged as one.
        layers = 8 if context.dtype == "f32" else 1
        found = (loss.item(), gradients)
        return training_truth.answer(truth, reference, parameters, inputs, found, layers)

    def in_torch(dtype: str, autocast: bool = False, weights: str = "float32") -> Built:
        def build(context: Context) -> _Step:
            torch = context.library
            model = theirs(torch).to(context.device, getattr(torch, weights))
            return _torch_step(context, model, torch_forward, autocast)

        return Built(build, modes=("train",), dtypes=(dtype,))

    return Case(
        family="training",
        name=name,
        label=label,
        sizes={"tokens": tokens},
        make=make,
        ours=Built(
            lambda c: _our_step(c, model_of(c)),
            modes=("train",),
            dtypes=("f32", "bf16"),
            judged=judged,
        ),
        needs=(*needs, "optim.AdamW"),
        # A step reads and writes parameters, gradients and two moments at least once each, in
        # float32 whatever it computes with.
        work=lambda mode, item: Work(32 * parameters, 3 * flops),
        peers={
            "torch": in_torch("f32"),
            "torch.autocast": in_torch("bf16", autocast=True),
            "torch.bfloat16": in_torch("bf16", weights="bfloat16"),
        },
        modes=("train",),
        dtypes=("f32", "bf16"),
        cache="warm",
        unit="tok/s",
        per_call=float(tokens),
        quick=quick,
    )


def gpt(layers: int, width: int, length: int, batch: int, vocabulary: int) -> Case:
    """A small GPT on characters."""
    size = {"layers": layers, "width": width, "heads": width // 64, "vocabulary": vocabulary,
            "positions": length}  # fmt: skip
    tokens = batch * length
    parameters = 12.0 * layers * width * width + vocabulary * width
    flops = 2 * parameters * tokens + 2.0 * layers * width * tokens * length

    def theirs(torch: Any) -> Any:
        transformers = importlib.import_module("transformers")
        return transformers.GPT2LMHeadModel.from_pretrained(checkpoints.gpt2(**size))

    return training(
        "train_gpt", f"{layers}L{width}_t{length}_b{batch}",
        lambda rng: {
            "input_ids": rng.integers(0, vocabulary, (batch, length)),
            "targets": rng.integers(0, vocabulary, (batch, length)),
        },
        lambda models: models.from_pretrained(checkpoints.gpt2(**size)),
        theirs, flops, parameters, tokens, ("models.from_pretrained",),
        functools.partial(training_truth.gpt, heads=size["heads"]),
        lambda model, input_ids: model(input_ids).logits,
    )  # fmt: skip


def lstm_lm(
    layers: int,
    hidden: int,
    length: int,
    batch: int,
    vocabulary: int,
    quick: tuple[str, ...] = (),
) -> Case:
    """Embedding, LSTM stack, head."""
    tokens = batch * length
    cells = 8.0 * layers * hidden * hidden
    parameters = cells + 2.0 * vocabulary * hidden

    def theirs(torch: Any) -> Any:
        nn = torch.nn

        class Model(nn.Module):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.embedding = nn.Embedding(vocabulary, hidden)
                self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
                self.head = nn.Linear(hidden, vocabulary, bias=False)

            def forward(self, input_ids: Any) -> Any:
                return self.head(self.lstm(self.embedding(input_ids))[0])

        return Model()

    return training(
        "train_lstm_lm", f"{layers}L{hidden}_t{length}_b{batch}_v{vocabulary}",
        lambda rng: {
            "input_ids": rng.integers(0, vocabulary, (batch, length)),
            "targets": rng.integers(0, vocabulary, (batch, length)),
        },
        lambda models: models.RNNLanguageModel(
            vocabulary, embed_dim=hidden, hidden_size=hidden, num_layers=layers, cell="lstm"
        ),
        theirs, 2 * (cells + vocabulary * hidden) * tokens, parameters, tokens,
        ("models.RNNLanguageModel",), training_truth.lstm_lm, quick=quick,
    )  # fmt: skip


def seq2seq(hidden: int, length: int, batch: int, vocabulary: int) -> Case:
    """Bidirectional GRU encoder, GRU decoder with Bahdanau's attention, teacher forcing."""
    tokens = batch * length

    def theirs(torch: Any) -> Any:
        nn = torch.nn

        class Model(nn.Module):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.source = nn.Embedding(vocabulary, hidden)
                self.target = nn.Embedding(vocabulary, hidden)
                self.encoder = nn.GRU(hidden, hidden, batch_first=True, bidirectional=True)
                self.bridge = nn.Linear(2 * hidden, hidden)
                self.w_query = nn.Linear(hidden, hidden, bias=False)
                self.w_key = nn.Linear(2 * hidden, hidden, bias=False)
                self.v = nn.Linear(hidden, 1, bias=False)
                self.cell = nn.GRUCell(3 * hidden, hidden)
                self.head = nn.Linear(hidden, vocabulary, bias=False)

            def forward(self, source: Any, target: Any) -> Any:
                memory, last = self.encoder(self.source(source))
                state = torch.tanh(self.bridge(torch.cat([last[0], last[1]], -1)))
                keys, words, states = self.w_key(memory), self.target(target), []
                for t in range(length):
                    scores = self.v(torch.tanh(self.w_query(state)[:, None] + keys))
                    context = (torch.softmax(scores, 1) * memory).sum(1)
                    state = self.cell(torch.cat([words[:, t], context], -1), state)
                    states.append(state)
                return self.head(torch.stack(states, 1))

        return Model()

    cells = 2 * 6.0 * hidden * hidden + 3.0 * hidden * (3 * hidden + hidden)
    attention = hidden * hidden + length * hidden * 3.0
    parameters = cells + 3.0 * hidden * hidden + 3.0 * vocabulary * hidden
    flops = 2 * tokens * (cells + attention + 2.0 * hidden * hidden + vocabulary * hidden)
    return training(
        "train_seq2seq", f"h{hidden}_t{length}_b{batch}_v{vocabulary}",
        lambda rng: {
            "source": rng.integers(0, vocabulary, (batch, length)),
            "target": rng.integers(0, vocabulary, (batch, length)),
            "targets": rng.integers(0, vocabulary, (batch, length)),
        },
        lambda models: models.Seq2Seq(
            vocabulary, vocabulary, embed_dim=hidden, hidden_size=hidden, attention="bahdanau"
        ),
        theirs, flops, parameters, tokens, ("models.Seq2Seq",), training_truth.seq2seq,
    )  # fmt: skip


@register("training")
def cases() -> Iterable[Case]:
    yield gpt(6, 384, 256, 12, 65)
    yield replace(gpt(12, 768, 1024, 8, 50257), devices=("cuda",), quick_cuda=("train/bf16",))
    yield lstm_lm(2, 512, 64, 32, 10000)
    yield lstm_lm(1, 256, 32, 16, 1000, quick=("train/f32",))
    yield seq2seq(256, 30, 64, 8000)
    yield seq2seq(256, 30, 64, 1000)
