# SPDX-License-Identifier: Apache-2.0
"""What docs/memory.md says about the memory of a training step."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BATCH, LENGTH, WIDTH, WORDS = 2, 512, 256, 1000

STEP = """
import sys
import numpy as np
import seqloom as sl

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(key))

kind, layers, batch, length, width, words = sys.argv[1], *map(int, sys.argv[2:])
if kind == "GPT2":
    model = sl.models.GPT2(vocab_size=words, n_embd=width, n_layer=layers, n_head=4,
                           n_positions=length)
else:
    model = sl.models.T5(vocab_size=words, d_model=width, num_heads=4, num_layers=layers,
                         d_ff=4 * width)
optimizer = sl.optim.AdamW(model.parameters(), lr=1e-3)
ids = np.random.default_rng(0).integers(0, words, (batch, length))
before = status("VmRSS")
for _ in range(2):
    hidden = model.hidden(ids, ids) if kind == "T5" else model.hidden(ids)
    loss = sl.ops.linear_cross_entropy(hidden.reshape(-1, width), model.lm_head.weight,
                                       sl.tensor(ids.reshape(-1)))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(status("VmHWM") - before - 3 * sum(p.nbytes for p in model.parameters()))
"""


def activations(kind: str, layers: int) -> int:
    """Bytes of a step beside weights, gradients and moments."""
    numbers = map(str, (layers, BATCH, LENGTH, WIDTH, WORDS))
    done = subprocess.run(
        [sys.executable, "-c", STEP, kind, *numbers], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(("kind", "most"), [("GPT2", 21), ("T5", 52)])
def test_a_layer_keeps_what_the_page_says(kind, most):
    """The difference of two depths, in units of one activation [B, T, D] of float32."""
    few, many = 2, 8
    grown = activations(kind, many) - activations(kind, few)
    unit = 4 * BATCH * LENGTH * WIDTH
    assert 0 < grown / (many - few) / unit <= most
