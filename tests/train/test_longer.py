# SPDX-License-Identifier: Apache-2.0
"""A training that is resumed to go on beyond where it would have ended."""

from __future__ import annotations

from train_support import tiny_trainer


def test_more_steps_may_always_be_asked_for(tmp_path):
    tiny_trainer(tmp_path, steps=5).train()
    again = tiny_trainer(tmp_path, steps=20)
    again.train(resume=True)
    assert again.step == 20
    fresh = tiny_trainer(tmp_path / "fresh", steps=20)
    fresh.train()
    rates = [[row["lr"] for row in t.history if row["step"] > 5] for t in (again, fresh)]
    assert rates[0] == rates[1] != []
