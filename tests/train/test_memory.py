# SPDX-License-Identifier: Apache-2.0
"""The memory that a dry run announces, against the peak of the training itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# A dry run or a training, in a process of its own; prints bytes announced or bytes grown.
SCRIPT = """
import sys
import numpy as np
import seqloom as sl
import seqloom.models, tqdm
from seqloom.data import Loader, PadCollate, RandomWindows
from seqloom.train import Trainer
from seqloom.train.memory import needed

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(key))

kind, precision, optimizer, what = sys.argv[1:]
rng = np.random.default_rng(0)
before = status("VmRSS")
words, task = 2000, "next-token"
if kind == "gpt2":
    model = sl.models.GPT2(vocab_size=words, n_embd=256, n_layer=3, n_head=4, n_positions=128)
elif kind == "wide":  # weights, gradients and states rather than activations
    model = sl.models.GPT2(vocab_size=20000, n_embd=256, n_layer=2, n_head=4, n_positions=128)
elif kind == "lstm":
    model = sl.models.RNNLanguageModel(words, embed_dim=256, hidden_size=256, num_layers=2)
else:
    task = "classification"
    model = sl.models.SequenceClassifier(5, vocab_size=words, body="lstm", embed_dim=128,
                                         hidden_size=128)
if task == "classification":
    items = [{"input_ids": rng.integers(0, words, 100), "labels": i % 5} for i in range(200)]
    data = Loader(items, 64, collate=PadCollate())
else:
    data = Loader(RandomWindows(rng.integers(0, words, 20000), 128), 12)
trainer = Trainer(model, task, data, optimizer=optimizer, lr=1e-3, steps=3, precision=precision,
                  progress=False)
if what == "announced":
    print(needed(trainer).total)
else:
    trainer.train()
    print(status("VmHWM") - before)
"""


def run(*words):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "words",
    [
        ("gpt2", "float32", "adamw"),
        ("wide", "bfloat16", "adamw"),
        ("wide", "float32", "adafactor"),
        ("lstm", "bfloat16", "sgd"),
        ("classifier", "float32", "adamw"),
    ],
    ids="-".join,
)
def test_a_dry_run_is_right_about_the_memory(words):
    """Within 15 %, and 16 MiB that Python and its threads take whatever is trained."""
    announced, peak = run(*words, "announced"), run(*words, "peak")
    assert abs(announced - peak) < 0.15 * peak + (16 << 20), f"{announced:,} of {peak:,}"
