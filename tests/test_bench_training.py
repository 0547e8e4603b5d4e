# SPDX-License-Identifier: Apache-2.0
"""The check that stands before the time of training steps and models: it can fail."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import seqloom as sl
from seqloom.bench.cases import models, training
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
        answer = case.ours.judged(context, reference)
        answer.value[-1] += FAULTS[dtype]
        return answer

    wrong = replace(case, ours=replace(case.ours, judged=faulty))
    assert not verify(wrong, library, inputs, "train", dtype).ok


SMALL = {"layers": 2, "width": 64, "heads": 2, "vocabulary": 200, "positions": 32}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_models_are_checked(name, dtype, monkeypatch):
    monkeypatch.setattr(models, name.upper(), SMALL)
    models._ours.cache_clear()
    if name == "bert":
        if dtype == "int4":
            pytest.skip("not in the table")
        case = models.bert_encode(3, 20)
    else:
        case = models.gpt2_generate("gpt2_decode", 2, 9, 3, counted=3)
    ids = np.random.default_rng(0).integers(5, 200, (3, 20))
    library = Seqloom("cpu", sl.get_num_threads(), sl)
    verdict = verify(case, library, {"ids": ids}, "fwd", dtype)
    assert verdict is not None
    assert verdict.ok, verdict
    assert verdict.tolerance < 0.4  # noise would be wrong by one or more

    def faulty(context, reference):
        answer = case.ours.judged(context, reference)
        return answer._replace(value=answer.value * (1 + 8 * verdict.tolerance))

    wrong = replace(case, ours=replace(case.ours, judged=faulty))
    assert not verify(wrong, library, {"ids": ids}, "fwd", dtype).ok
