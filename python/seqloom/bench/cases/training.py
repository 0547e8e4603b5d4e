# SPDX-License-Identifier: Apache-2.0
"""Whole training steps: forward, loss, backward, clipping, AdamW."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from seqloom.bench.case import Answer, Built, Case, Context, Work, register
from seqloom.bench.cases import checkpoints, training_truth
from seqloom.bench.cases.common import to_tensor

_JUDGED = 8  # rows of the batch that are compared with the reference


def _step(
    library: Any, model: Any, forward: Callable[..., Any], context: Context, cross_entropy: Any
) -> Callable[[], Any]:
    """One step in the vocabulary that torch and seqloom share."""
    arrays = {k: v for k, v in context.inputs.items() if isinstance(v, np.ndarray)}
    batch = {k: to_tensor(library, v).to(context.device) for k, v in arrays.items()}
    targets = batch.pop("targets").reshape(-1)
    model.train()
    parameters = list(model.parameters())
    options = {"fused": True} if library.__name__ == "torch" else {}
    optimizer = library.optim.AdamW(parameters, lr=1e-4, **options)
    clip = library.nn.utils.clip_grad_norm_

    def step() -> Any:
        optimizer.zero_grad()
        logits = forward(model, **batch)
        loss = cross_entropy(logits.reshape(len(targets), -1), targets)
        loss.backward()
        clip(parameters, 1.0)
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
    torch_forward: Callable[..., Any] = lambda model, **batch: model(**batch),
    quick: tuple[str, ...] = (),
    truth: training_truth.Truth | None = None,
) -> Case:
    """`ours(models)` and `theirs(torch)` build the model; inputs hold ids and targets."""

    def build_ours(context: Context) -> Callable[[], Any]:
        library = context.library
        model = ours(importlib.import_module("seqloom.models")).to(context.device)
        call = lambda model, **batch: model(*batch.values())  # noqa: E731
        return _step(library, model, call, context, library.ops.cross_entropy)

    def judged(context: Context, reference: Any) -> Answer:
        """Loss and gradients of a step, on the first rows of the batch."""
        assert truth is not None
        library = context.library
        inputs = {k: v[:_JUDGED] for k, v in context.inputs.items()}
        model = ours(importlib.import_module("seqloom.models")).train()
        parameters = {n: p.detach().numpy().copy() for n, p in model.named_parameters()}
        model.to(context.device)
        batch = [to_tensor(library, v).to(context.device) for v in inputs.values()]
        logits = model(*batch[:-1])
        targets = batch[-1].reshape(-1)
        loss = library.ops.cross_entropy(logits.reshape(len(targets), -1), targets)
        loss.backward()
        gradients = {n: p.grad.cpu().numpy() for n, p in model.named_parameters()}
        return training_truth.answer(truth, reference, parameters, inputs, loss.item(), gradients)

    def build_theirs(context: Context) -> Callable[[], Any]:
        torch = context.library
        model = theirs(torch).to(context.device)
        loss = torch.nn.functional.cross_entropy
        return _step(torch, model, torch_forward, context, loss)

    return Case(
        family="training",
        name=name,
        label=label,
        sizes={"tokens": tokens},
        make=make,
        ours=Built(build_ours, judged=None if truth is None else judged),
        needs=(*needs, "optim.AdamW"),
        # A step reads and writes parameters, gradients and two moments at least once each.
        work=lambda mode, item: Work(8 * parameters * item, 3 * flops),
        peers={"torch": Built(build_theirs)},
        modes=("fwd",),
        dtypes=("f32",),
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
        ("models.RNNLanguageModel",), quick=quick, truth=training_truth.lstm_lm,
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
        theirs, flops, parameters, tokens, ("models.Seq2Seq",), truth=training_truth.seq2seq,
    )  # fmt: skip


@register("training")
def cases() -> Iterable[Case]:
    yield gpt(6, 384, 256, 12, 65)
    yield replace(gpt(12, 768, 1024, 8, 50257), devices=("cuda",))
    yield lstm_lm(2, 512, 64, 32, 10000)
    yield lstm_lm(1, 256, 32, 16, 1000, quick=("fwd/f32",))
    yield seq2seq(256, 30, 64, 8000)
    yield seq2seq(256, 30, 64, 1000)
