# SPDX-License-Identifier: Apache-2.0
"""What TensorBoard would read: the scalars of the log, and a resume that hides what it repeats."""

from __future__ import annotations

import importlib
import struct

import pytest
from train_support import tiny_trainer

from seqloom.train import CSVLog


def events_of(folder):
    """Events of all files of a directory, in the order in which they were written."""
    event = importlib.import_module("tensorboardX.proto.event_pb2").Event
    found = []
    for path in sorted(folder.iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (size,) = struct.unpack_from("<Q", data, at)
            found.append(event.FromString(data[at + 12 : at + 12 + size]))
            at += 16 + size
        assert at == len(data)
    return found


def scalars_of(events):
    return {
        (value.tag, event.step): value.simple_value for event in events
        for value in event.summary.value
    }  # fmt: skip


def test_events_are_the_log(tmp_path):
    pytest.importorskip("tensorboardX")
    tiny_trainer(tmp_path, steps=10, tensorboard=True).train()
    scalars = scalars_of(events_of(tmp_path / "tensorboard"))
    rows = CSVLog.read(tmp_path / "log.csv")
    assert rows
    for row in rows:
        for name, tag in (("loss", "train/loss"), ("lr", "train/lr"), ("eval_loss", "eval/loss")):
            if row.get(name) is not None:
                assert scalars[tag, row["step"]] == pytest.approx(row[name], rel=1e-6)
    assert any(tag == "eval/loss" for tag, _ in scalars)

    tiny_trainer(tmp_path, steps=15, tensorboard=True).train(resume=True)
    events = events_of(tmp_path / "tensorboard")
    starts = [event.step for event in events if event.session_log.status == 1]
    assert starts == [11]  # readers forget what came from there on
    assert ("train/loss", 15) in scalars_of(events)
