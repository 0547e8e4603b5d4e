# SPDX-License-Identifier: Apache-2.0
"""The benchmark's ONNX graphs compute what our models compute from the same checkpoint."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file

import seqloom as sl
from seqloom.bench import onnx_graphs
from seqloom.bench.cases import checkpoints

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

SIZES = {"layers": 2, "width": 64, "heads": 4, "vocabulary": 300, "positions": 128}


def session_of(kind, path, *, int8=False):
    graph = getattr(onnx_graphs, kind)(load_file(path / "model.safetensors"), 2, 4)
    return onnx_graphs.session(onnxruntime, graph, 1, int8=int8)


def test_gpt2_writes_the_same_tokens():
    path = checkpoints.gpt2(**SIZES)
    ids = np.random.default_rng(0).integers(0, 299, (3, 9))
    ours = sl.models.from_pretrained(path).generate(ids, max_new_tokens=12, min_new_tokens=12)
    theirs = onnx_graphs.Writer(session_of("gpt2", path), 2, 4, 16)(ids, 12)
    np.testing.assert_array_equal(theirs, ours[:, 9:])


@pytest.mark.parametrize(("int8", "allowed"), [(False, 1e-5), (True, 0.1)])
def test_bert_gives_the_same_states(int8, allowed):
    path = checkpoints.bert(**SIZES)
    ids = np.random.default_rng(1).integers(5, 299, (3, 9))
    feed = {"ids": ids, "positions": np.arange(9)}
    (theirs,) = session_of("bert", path, int8=int8).run(None, feed)
    with sl.no_grad():
        ours = sl.models.from_pretrained(path).eval()(sl.tensor(ids)).numpy()
    assert np.abs(theirs - ours).max() <= allowed
    assert np.abs(ours).max() > 1
