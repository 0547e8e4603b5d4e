# SPDX-License-Identifier: Apache-2.0
"""The check that stands before a training step's time: it accepts ours and notices a fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import seqloom as sl
from seqloom.bench.cases import training
from seqloom.bench.check import verify
from seqloom.bench.libraries import Seqloom

CASES = {
    "gpt": lambda: training.gpt(2, 64, 9, 3, 40),
    "lstm_lm": lambda: training.lstm_lm(2, 24, 7, 3, 40),
    "seq2seq": lambda: training.seq2seq(16, 5, 4, 40),
}


# What is added to one element of one gradient, in units of the largest.
FAULTS = {"f32": 1e-3, "bf16": 0.1}


@pytest.mark.parametrize("dtype", FAULTS)
@pytest.mark.parametrize("name", CASES)
def test_a_training_step_is_checked_with_all_its_gradients(name, dtype):
    case = CASES[name]()
    inputs = case.make(np.random.default_rng(0))
    library = Seqloom("cpu", sl.get_num_threads(), sl)
    verdict = verify(case, library, inputs, "train", dtype)
    assert verdict is not None
    assert verdict.ok, verdict

    def faulty(context, reference):
        value, truth, layers = case.ours.judged(context, reference)
        value[-1] += FAULTS[dtype]
        return type(case.ours.judged(context, reference))(value, truth, layers)

    wrong = replace(case, ours=replace(case.ours, judged=faulty))
    assert not verify(wrong, library, inputs, "train", dtype).ok
