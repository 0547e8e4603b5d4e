# SPDX-License-Identifier: Apache-2.0
"""The Trainer where `--device` says: the curve of the CPU, and the same bits after a resume."""

from __future__ import annotations

import numpy as np
import pytest
from train_support import tiny_trainer, weights

from seqloom.train import Callback
from seqloom.train.memory import needed
from seqloom.weights import load_weights

OPTIONS = {"steps": 12, "dropout": 0.0, "log_every": 1, "eval_every": 6, "save_every": 4}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "sgd"])
def test_the_curve_is_that_of_the_cpu(device, optimizer, precision):
    options = {**OPTIONS, "optimizer": optimizer, "precision": precision}
    if optimizer == "sgd":
        options["lr"] = 0.5
    expected = [row["loss"] for row in tiny_trainer(**options).train()]
    trainer = tiny_trainer(device=device, **options)
    found = [row["loss"] for row in trainer.train()]
    assert {p.device.partition(":")[0] for p in trainer.model.parameters()} == {device}
    assert expected[-1] < expected[0]
    # Sums are taken in another order; what that makes of 12 steps, by the precision's roundoff.
    roundoff = 2.0**-24 if precision == "float32" else 2.0**-8
    np.testing.assert_allclose(found, expected, rtol=64 * roundoff)


def test_a_resumed_training_has_the_same_bits_there(device, tmp_path):
    options = {**OPTIONS, "device": device, "dropout": 0.1, "precision": "bfloat16"}
    whole = tiny_trainer(tmp_path / "whole", **options)
    whole.train()

    class Interrupt(Callback):
        def on_step(self, trainer, row):
            if trainer.step == 7:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "part", callbacks=[Interrupt()], **options).train()
    again = tiny_trainer(tmp_path / "part", **options)
    again.train(resume=True)
    np.testing.assert_array_equal(weights(again.model), weights(whole.model))
    held = load_weights(tmp_path / "part")
    np.testing.assert_array_equal(
        held["lm_head.weight"], again.model.lm_head.weight.detach().cpu().numpy()
    )


def test_a_checkpoint_goes_on_elsewhere(device, tmp_path):
    """A training of the CPU ends on the device."""
    whole = tiny_trainer(tmp_path / "whole", **OPTIONS).train()
    tiny_trainer(tmp_path / "part", **{**OPTIONS, "schedule": "constant", "steps": 4}).train()
    rest = {**OPTIONS, "schedule": "constant", "device": device}
    tiny_trainer(tmp_path / "part", **rest).train(resume=True)
    straight = tiny_trainer(tmp_path / "straight", **{**OPTIONS, "schedule": "constant"}).train()
    found = tiny_trainer(tmp_path / "part", **rest)
    rows = found.train(resume=True)  # it was at its end
    assert len(rows) == len(whole)
    assert rows[-1]["loss"] == pytest.approx(straight[-1]["loss"], rel=2.0**-16)


def test_a_dry_run_counts_there(device):
    memory = needed(tiny_trainer(device=device, **OPTIONS))
    assert memory.weights == memory.gradients == memory.optimizer // 2
    assert memory.activations > 0
