# SPDX-License-Identifier: Apache-2.0
"""kill -9 at random moments: nothing is lost but the steps since the last checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kill_target import STEPS
from train_support import tiny_trainer, weights

from seqloom.train import CSVLog

HERE = Path(__file__).resolve().parent
KILLS = 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_change_no_bit(tmp_path):
    script = [sys.executable, str(HERE / "kill_target.py"), str(tmp_path / "run"), str(KILLS), "3"]
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        script, capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    hits, finished, folder = done.stdout.split()
    assert int(hits) == KILLS
    assert int(finished) >= 1

    whole = tiny_trainer(tmp_path / "whole", steps=STEPS, save_every=1000, eval_every=20)
    expected = whole.train()
    again = tiny_trainer(Path(folder), steps=STEPS, save_every=3, eval_every=20)
    rows = again.train(resume=True)  # it was at its end: nothing is left to do
    assert again.step == STEPS
    np.testing.assert_array_equal(weights(again.model), weights(whole.model))
    timing = ("seconds", "tokens_per_second")
    assert [{k: v for k, v in r.items() if k not in timing} for r in rows] == [
        {k: v for k, v in r.items() if k not in timing} for r in expected
    ]
    assert CSVLog.read(Path(folder) / "log.csv") == rows
    # What killed attempts left half done is swept away.
    names = [p.name for p in (Path(folder) / "checkpoints").iterdir()]
    assert all(name.startswith("step-") for name in names), names
