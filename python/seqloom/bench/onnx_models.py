# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as a peer: a graph of one node, built in memory."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqloom.bench.case import Built, Context

OPSET = 20


def node(
    operator: str,
    arguments: Sequence[str],
    *,
    constants: Sequence[str] = (),
    outputs: int = 1,
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
    **attributes: Any,
) -> Built:
    """A contestant that runs one operator on the named inputs ('' skips an optional one).

    `constants` become initializers, which the runtime may repack once, as it does for a model's
    weights. `prepare` turns the case's inputs into the operator's layout.
    """

    shared: dict[tuple[int, int], Any] = {}

    def build(context: Context) -> Callable[[], Any]:
        values = {k: v for k, v in context.inputs.items() if isinstance(v, np.ndarray)}
        arrays = prepare(context.inputs) if prepare is not None else values
        used = {name: np.ascontiguousarray(arrays[name]) for name in arguments if name}
        # Without weights of its own one session serves all sets of inputs.
        key = (id(context.library), context.threads)
        session = None if constants else shared.get(key)
        if session is None:
            model = _model(operator, arguments, used, set(constants), outputs, attributes)
            session = shared[key] = start_session(context.library, model, context.threads)
        feed = {name: value for name, value in used.items() if name not in constants}
        return lambda: session.run(None, feed)

    return Built(build)


def start_session(library: Any, model: bytes, threads: int) -> Any:
    """A session for `model`, a serialized graph."""
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Its workers spin while a graph runs, but not into the next contestant's turn.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return library.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _model(
    operator: str,
    arguments: Sequence[str],
    arrays: Mapping[str, Any],
    constants: set[str],
    outputs: int,
    attributes: Mapping[str, Any],
) -> bytes:
    try:
        onnx = importlib.import_module("onnx")
    except ImportError:
        raise ImportError("the onnx package is needed to build a graph") from None
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    results = [f"y{index}" for index in range(outputs)]
    float_type = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node(operator, list(arguments), results, **attributes)],
        operator,
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), list(value.shape)
            )
            for name, value in arrays.items()
            if name not in constants
        ],
        [helper.make_tensor_value_info(name, float_type, None) for name in results],
        [numpy_helper.from_array(arrays[name], name) for name in arrays if name in constants],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 9
    return bytes(model.SerializeToString())
