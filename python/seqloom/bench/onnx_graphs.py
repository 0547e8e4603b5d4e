# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime as a peer of whole models: GPT-2 and BERT in its own fused operators.

The graphs are what its optimizer makes of exported models: one `Attention` a layer with the cache
as input and output, skip connections inside `SkipLayerNormalization`, activations inside
`BiasGelu` and `FastGelu`.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.bench.case import Array
from seqloom.bench.onnx_models import OPSET, start_session

DOMAIN = "com.microsoft"


class Graph:
    """A graph that grows a node at a time; results and constants go by their names."""

    def __init__(self) -> None:
        try:
            self.onnx = importlib.import_module("onnx")
        except ImportError:
            raise ImportError("the onnx package is needed to build a graph") from None
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def constant(self, name: str, value: Array) -> str:
        """`value` as an initializer."""
        array = np.asarray(value, order="C")
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def put(
        self,
        operator: str,
        arguments: Sequence[str],
        *,
        extra: Sequence[str] = (),
        contrib: bool = False,
        **attributes: Any,
    ) -> str:
        """One node; its first output gets a name of its own, the others those in `extra`."""
        name = f"{operator}_{len(self.nodes)}"
        domain = DOMAIN if contrib else ""
        made = self.onnx.helper.make_node(
            operator, list(arguments), [name, *extra], name=name, domain=domain, **attributes
        )
        self.nodes.append(made)
        return name

    def takes(self, name: str, dtype: Any, shape: Sequence[Any]) -> str:
        """A named input; names in `shape` are free sizes."""
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def gives(self, name: str, dtype: Any) -> None:
        """Make a result an output."""
        helper = self.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(name, kind, None))

    def model(self) -> Any:
        """The finished model."""
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "model", self.inputs, self.outputs, list(self.constants.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
        model = helper.make_model(graph, opset_imports=opsets)
        model.ir_version = 9
        return model


def session(library: Any, model: Any, threads: int, *, int8: bool) -> Any:
    """`model` in a session of ONNX Runtime, after its dynamic quantization if `int8`."""
    if int8:
        # Weights of eight bits, activations quantized as they come.
        quantization = importlib.import_module("onnxruntime.quantization")
        onnx = importlib.import_module("onnx")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            quantization.quantize_dynamic(
                model,
                path,
                weight_type=quantization.QuantType.QInt8,
                per_channel=True,
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
            data = path.read_bytes()
    else:
        data = bytes(model.SerializeToString())
    return start_session(library, data, threads)


def gpt2(weights: Mapping[str, Array], layers: int, heads: int) -> Any:
    """ids [B, T], positions [T], past_l [2, B, H, P, D] -> next ids [B], present_l."""
    graph = Graph()
    table = weights["transformer.wte.weight"]
    width = table.shape[1]
    words = graph.constant("wte", table)
    places = graph.constant("wpe", weights["transformer.wpe.weight"])
    ids = graph.takes("ids", np.int64, ["B", "T"])
    positions = graph.takes("positions", np.int64, ["T"])
    pieces = [graph.put("Gather", [words, ids]), graph.put("Gather", [places, positions])]
    x = graph.put("Add", pieces)

    def named(name: str) -> str:
        return graph.constant(name, weights[f"transformer.{name}"])

    normed = graph.put(
        "LayerNormalization", [x, named("h.0.ln_1.weight"), named("h.0.ln_1.bias")], epsilon=1e-5
    )
    for k in range(layers):
        past = graph.takes(f"past_{k}", np.float32, [2, "B", heads, "P", width // heads])
        qkv = f"h.{k}.attn.c_attn"
        a = graph.put(
            "Attention", [normed, named(f"{qkv}.weight"), named(f"{qkv}.bias"), "", past],
            extra=[f"present_{k}"], contrib=True, num_heads=heads, unidirectional=1,
        )  # fmt: skip
        graph.gives(f"present_{k}", np.float32)
        a = graph.put("MatMul", [a, named(f"h.{k}.attn.c_proj.weight")])
        normed, x = _skip_norm(
            graph, a, x, named(f"h.{k}.ln_2.weight"), named(f"h.{k}.ln_2.bias"),
            named(f"h.{k}.attn.c_proj.bias"),
        )  # fmt: skip
        h = graph.put("MatMul", [normed, named(f"h.{k}.mlp.c_fc.weight")])
        h = graph.put("FastGelu", [h, named(f"h.{k}.mlp.c_fc.bias")], contrib=True)
        h = graph.put("MatMul", [h, named(f"h.{k}.mlp.c_proj.weight")])
        after = f"h.{k + 1}.ln_1" if k + 1 < layers else "ln_f"
        normed, x = _skip_norm(
            graph, h, x, named(f"{after}.weight"), named(f"{after}.bias"),
            named(f"h.{k}.mlp.c_proj.bias"),
        )  # fmt: skip
    last = graph.put("Gather", [normed, graph.constant("last", np.array(-1))], axis=1)
    logits = graph.put("MatMul", [last, graph.constant("head", table.T)])
    best = graph.put("ArgMax", [logits], axis=-1, keepdims=0)
    graph.gives(best, np.int64)
    return graph.model()


def _skip_norm(
    graph: Graph, x: str, residual: str, weight: str, bias: str, added: str
) -> tuple[str, str]:
    """The norm of x + added + residual, and that sum."""
    total = f"sum_{len(graph.nodes)}"
    y = graph.put(
        "SkipLayerNormalization", [x, residual, weight, bias, added],
        extra=["", "", total], contrib=True, epsilon=1e-5,
    )  # fmt: skip
    return y, total


def bert(weights: Mapping[str, Array], layers: int, heads: int) -> Any:
    """ids [B, T] -> hidden states [B, T, W], all of one token type and without padding."""
    graph = Graph()
    ids = graph.takes("ids", np.int64, ["B", "T"])
    positions = graph.takes("positions", np.int64, ["T"])

    def named(name: str) -> str:
        return graph.constant(name, weights[name])

    places = weights["embeddings.position_embeddings.weight"]
    kinds = weights["embeddings.token_type_embeddings.weight"]
    x = graph.put(
        "Add",
        [
            graph.put("Gather", [named("embeddings.word_embeddings.weight"), ids]),
            graph.put("Gather", [graph.constant("places", places + kinds[0]), positions]),
        ],
    )
    norm = "embeddings.LayerNorm"
    x = graph.put(
        "LayerNormalization", [x, named(f"{norm}.weight"), named(f"{norm}.bias")], epsilon=1e-12
    )

    def turned(name: str) -> str:
        return graph.constant(name, weights[name].T)

    for k in range(layers):
        block = f"encoder.layer.{k}"
        own = [f"{block}.attention.self.{part}" for part in ("query", "key", "value")]
        w = np.concatenate([weights[f"{part}.weight"].T for part in own], axis=1)
        b = np.concatenate([weights[f"{part}.bias"] for part in own])
        a = graph.put(
            "Attention",
            [x, graph.constant(f"{block}.w", w), graph.constant(f"{block}.b", b)],
            contrib=True, num_heads=heads,
        )  # fmt: skip
        out = f"{block}.attention.output"
        a = graph.put("MatMul", [a, turned(f"{out}.dense.weight")])
        x = graph.put(
            "SkipLayerNormalization",
            [a, x, named(f"{out}.LayerNorm.weight"), named(f"{out}.LayerNorm.bias"),
             named(f"{out}.dense.bias")],
            contrib=True, epsilon=1e-12,
        )  # fmt: skip
        h = graph.put("MatMul", [x, turned(f"{block}.intermediate.dense.weight")])
        h = graph.put("BiasGelu", [h, named(f"{block}.intermediate.dense.bias")], contrib=True)
        h = graph.put("MatMul", [h, turned(f"{block}.output.dense.weight")])
        out = f"{block}.output"
        x = graph.put(
            "SkipLayerNormalization",
            [h, x, named(f"{out}.LayerNorm.weight"), named(f"{out}.LayerNorm.bias"),
             named(f"{out}.dense.bias")],
            contrib=True, epsilon=1e-12,
        )  # fmt: skip
    graph.gives(x, np.float32)
    return graph.model()


class Writer:
    """Greedy generation with a session of `gpt2`."""

    def __init__(self, session: Any, layers: int, heads: int, head_size: int) -> None:
        self.session, self.layers = session, layers
        self.empty = (heads, head_size)

    def __call__(self, ids: Array, new: int) -> Array:
        batch, length = ids.shape
        heads, size = self.empty
        past: list[Array] = [np.zeros((2, batch, heads, 0, size), np.float32)] * self.layers
        given, positions, written = ids, np.arange(length), []
        for _ in range(new):
            feed = {f"past_{k}": value for k, value in enumerate(past)}
            results = self.session.run(None, {"ids": given, "positions": positions, **feed})
            past, best = results[:-1], results[-1]
            given, positions = best[:, None], positions[-1:] + 1
            written.append(best)
        return np.stack(written, axis=1)
