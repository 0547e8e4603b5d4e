# SPDX-License-Identifier: Apache-2.0
"""A model and data for the tests of training: small, quick, with dropout so that RNG matters."""

from __future__ import annotations

import numpy as np

import seqloom as sl
from seqloom import nn
from seqloom.data import Loader, RandomWindows
from seqloom.train import Trainer

VOCAB = 11


class TinyLM(nn.Module):
    """Embedding, GRU, dropout, Linear."""

    def __init__(self, vocab=VOCAB, width=12, dropout=0.1):
        super().__init__()
        self.embedding = nn.Embedding(vocab, width)
        self.rnn = nn.GRU(width, width, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.lm_head = nn.Linear(width, vocab)

    def forward(self, ids):
        output, _ = self.rnn(self.embedding(ids))
        return self.lm_head(self.dropout(output))


def corpus(count=600, seed=0):
    """Counting up modulo the vocabulary, with some noise."""
    rng = np.random.default_rng(seed)
    noise = rng.random(count) < 0.1
    return np.where(noise, rng.integers(0, VOCAB, count), np.arange(count) % VOCAB)


def tiny_trainer(out=None, steps=40, **options):
    """The same training each time: model, data and options from fixed seeds."""
    sl.manual_seed(7)
    model = TinyLM(width=options.pop("width", 12), dropout=options.pop("dropout", 0.1))
    model.to(device=options.get("device", "cpu"))
    source, batch = options.pop("data", (0, 4))
    data = Loader(RandomWindows(corpus(seed=source), 8, seed=3), batch, shuffle=True, seed=5)
    task = options.pop("task", "next-token")
    judge = options.pop("judge", 1)
    held_out = Loader(RandomWindows(corpus(seed=judge), 8, seed=4), 8)
    chosen = {
        "lr": 0.02, "schedule": "cosine", "warmup_steps": 5, "eval_every": 10, "save_every": 5,
        "log_every": 5, "progress": False, **options,
    }  # fmt: skip
    return Trainer(model, task, data, held_out, out=out, steps=steps, **chosen)


def weights(model):
    """All parameters as one array of bits."""
    parts = [p.detach().cpu().numpy().reshape(-1) for p in model.parameters()]
    return np.concatenate(parts).view(np.uint32)
