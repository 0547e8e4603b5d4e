# SPDX-License-Identifier: Apache-2.0
"""Loss and gradients of a training step, by the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from seqloom.bench.case import Answer, Array

Gradients = dict[str, Array]
# (reference package, parameters by name, inputs) -> (loss, gradients by name)
Truth = Callable[[Any, dict[str, Array], dict[str, Any]], tuple[float, Gradients]]

_ELEMENTS = 4096  # of a gradient that are compared


class _Sums(dict[str, Any]):
    def plus(self, **gradients: Array) -> None:
        for name, g in gradients.items():
            self[name] = self[name] + g if name in self else g


def _last_layer(
    reference: Any, hidden: Array, head: Array, targets: Array
) -> tuple[float, Array, Array]:
    """The loss of hidden [N, H], its gradient, and that of the head."""
    logits, back = reference.linear.vjp(hidden, head)
    loss, loss_back = reference.cross_entropy.vjp(logits, targets.reshape(-1))
    of = back(loss_back(np.ones((), hidden.dtype))["logits"])
    return float(loss), of["x"], of["weight"]


def lstm_lm(reference: Any, p: dict[str, Array], inputs: dict[str, Any]) -> tuple[float, Gradients]:
    """Embedding, LSTM layers, head."""
    x, embedded = reference.embedding.vjp(inputs["input_ids"].T, p["embedding.weight"])
    layers: list[Any] = []
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    while f"rnn.weight_ih_l{len(layers)}" in p:
        weights = [p[f"rnn.{kind}_l{len(layers)}"] for kind in kinds]
        (x, _, _), back = reference.lstm.vjp(x, None, None, *weights)
        layers.append(back)
    steps, batch, width = x.shape
    rows = x.transpose(1, 0, 2).reshape(-1, width)
    loss, g, head = _last_layer(reference, rows, p["lm_head.weight"], inputs["targets"])
    found = {"lm_head.weight": head}
    g = g.reshape(batch, steps, width).transpose(1, 0, 2)
    for index, back in reversed(list(enumerate(layers))):
        of = back(g, None, None)
        for kind, name in zip(kinds, ("w_ih", "w_hh", "b_ih", "b_hh"), strict=True):
            found[f"rnn.{kind}_l{index}"] = of[name]
        g = of["x"]
    found["embedding.weight"] = embedded(g)["weight"]
    return loss, found


def _normed(reference: Any, p: dict[str, Array], sums: _Sums, x: Array, name: str) -> Any:
    """Layer norm by name: its value, and a backward that keeps the gradients of its weights."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    y, back = reference.layer_norm.vjp(x, p[weight], p[bias], eps=1e-5)

    def backward(dy: Array) -> Any:
        of = back(dy)
        sums.plus(**{weight: of["weight"], bias: of["bias"]})
        return of["x"]

    return y, backward


def _projected(
    reference: Any, p: dict[str, Array], sums: _Sums, x: Array, name: str, **options: Any
) -> Any:
    """The same for a product."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    y, back = reference.linear.vjp(x, p[weight], p[bias], **options)

    def backward(dy: Array) -> Any:
        of = back(dy)
        sums.plus(**{weight: of["weight"], bias: of["bias"]})
        return of["x"]

    return y, backward


def gpt(
    reference: Any, p: dict[str, Array], inputs: dict[str, Any], *, heads: int
) -> tuple[float, Gradients]:
    """GPT-2: embeddings, blocks of attention and feed-forward, norm, tied head."""
    sums = _Sums()
    ids = inputs["input_ids"]
    batch, length = ids.shape
    table = "transformer.wte.weight"
    words, words_back = reference.embedding.vjp(ids, p[table])
    x = words + p["transformer.wpe.weight"][:length]
    blocks: list[Any] = []
    while f"transformer.h.{len(blocks)}.ln_1.weight" in p:
        name = f"transformer.h.{len(blocks)}"
        normed, norm_1 = _normed(reference, p, sums, x, f"{name}.ln_1")
        qkv, to_heads = _projected(reference, p, sums, normed, f"{name}.attn.c_attn")
        q, k, v = qkv.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        seen, look = reference.scaled_dot_product_attention.vjp(q, k, v, is_causal=True)
        joined = seen.transpose(0, 2, 1, 3).reshape(x.shape)
        added, from_heads = _projected(reference, p, sums, joined, f"{name}.attn.c_proj")
        x = x + added
        normed, norm_2 = _normed(reference, p, sums, x, f"{name}.ln_2")
        wide, widen = _projected(
            reference, p, sums, normed, f"{name}.mlp.c_fc", activation="gelu_tanh"
        )
        added, narrow = _projected(reference, p, sums, wide, f"{name}.mlp.c_proj")
        x = x + added
        blocks.append((norm_1, to_heads, look, from_heads, norm_2, widen, narrow))
    last, norm_back = _normed(reference, p, sums, x, "transformer.ln_f")
    loss, g, head = _last_layer(
        reference, last.reshape(batch * length, -1), p[table], inputs["targets"]
    )
    g = norm_back(g.reshape(x.shape))
    for norm_1, to_heads, look, from_heads, norm_2, widen, narrow in reversed(blocks):
        g = g + norm_2(widen(narrow(g)))
        of = look(from_heads(g).reshape(batch, length, heads, -1).transpose(0, 2, 1, 3))
        parts = np.stack([of["query"], of["key"], of["value"]])
        g = g + norm_1(to_heads(parts.transpose(1, 3, 0, 2, 4).reshape(batch, length, -1)))
    sums[table] = head + words_back(g)["weight"]
    positions = np.zeros_like(p["transformer.wpe.weight"])
    positions[:length] = g.sum(axis=0)
    sums["transformer.wpe.weight"] = positions
    return loss, dict(sums)


def _gru(p: dict[str, Array], name: str) -> list[Array]:
    return [p[name.format(k)] for k in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]


def _keep_gru(sums: _Sums, name: str, of: Gradients) -> None:
    kinds = {"weight_ih": "w_ih", "weight_hh": "w_hh", "bias_ih": "b_ih", "bias_hh": "b_hh"}
    sums.plus(**{name.format(kind): of[short] for kind, short in kinds.items()})


def seq2seq(reference: Any, p: dict[str, Array], inputs: dict[str, Any]) -> tuple[float, Gradients]:
    """Bidirectional GRU, bridge, GRU with Bahdanau's attention word by word, head."""
    sums = _Sums()
    forward, backward = "encoder.{}_l0", "encoder.{}_l0_reverse"
    x, embedded = reference.embedding.vjp(inputs["source"].T, p["src_embedding.weight"])
    (ahead, last), ahead_back = reference.gru.vjp(x, None, *_gru(p, forward))
    (behind, first), behind_back = reference.gru.vjp(x, None, *_gru(p, backward), reverse=True)
    units = ahead.shape[2]
    memory = np.concatenate([ahead, behind], 2).transpose(1, 0, 2)
    joined, bridge_back = reference.linear.vjp(
        np.concatenate([last, first], 1), p["bridge.weight"], p["bridge.bias"]
    )
    state = np.tanh(joined)
    start = state
    words, words_back = reference.embedding.vjp(inputs["target"].T, p["tgt_embedding.weight"])
    looks = [p[f"attention.{name}"] for name in ("w_query", "w_key", "v")]
    steps: list[Any] = []
    states: list[Array] = []
    for t in range(len(words)):
        context, look_back = reference.additive_attention.vjp(state[:, None], memory, *looks)
        x_t = np.concatenate([words[t], context[:, 0]], 1)[None]
        (_, state), cell_back = reference.gru.vjp(x_t, state, *_gru(p, "decoder.{}_l0"))
        steps.append((look_back, cell_back))
        states.append(state)
    rows = np.stack(states, 1).reshape(-1, units)
    loss, g, head = _last_layer(reference, rows, p["lm_head.weight"], inputs["targets"])
    sums["lm_head.weight"] = head

    g = g.reshape(len(state), -1, units)
    g_state, g_memory = np.zeros_like(state), np.zeros_like(memory)
    g_words = np.zeros_like(words)
    split = words.shape[2]
    for t, (look_back, cell_back) in reversed(list(enumerate(steps))):
        of = cell_back(None, g_state + g[:, t])
        _keep_gru(sums, "decoder.{}_l0", of)
        g_words[t] = of["x"][0, :, :split]
        look = look_back(of["x"][0, :, None, split:])
        sums.plus(**{f"attention.{name}": look[name] for name in ("w_query", "w_key", "v")})
        g_memory += look["keys"]
        g_state = of["h0"] + look["query"][:, 0]
    sums["tgt_embedding.weight"] = words_back(g_words)["weight"]
    of = bridge_back(g_state * (1 - start * start))
    sums.update({"bridge.weight": of["weight"], "bridge.bias": of["bias"]})
    g_memory = g_memory.transpose(1, 0, 2)
    of_ahead = ahead_back(g_memory[..., :units], of["x"][:, :units])
    of_behind = behind_back(g_memory[..., units:], of["x"][:, units:])
    _keep_gru(sums, forward, of_ahead)
    _keep_gru(sums, backward, of_behind)
    sums["src_embedding.weight"] = embedded(of_ahead["x"] + of_behind["x"])["weight"]
    return loss, dict(sums)


def answer(
    truth: Truth,
    reference: Any,
    parameters: dict[str, Array],
    inputs: dict[str, Any],
    found: tuple[float, Gradients],
    layers: int,
) -> Answer:
    """Loss and gradients of every parameter, each in units of its largest true element."""

    def compute(dtype: Any) -> tuple[float, Gradients]:
        exact = {name: value.astype(dtype) for name, value in parameters.items()}
        return truth(reference, exact, inputs)

    best = compute(np.float64)
    if set(best[1]) != set(found[1]):
        raise ValueError(f"gradients of other parameters: {set(best[1]) ^ set(found[1])}")
    scales = {name: float(np.abs(g).max()) or 1.0 for name, g in best[1].items()}

    def packed(loss: float, gradients: Gradients) -> Array:
        parts = [np.array([loss / best[0]])]
        for name, scale in scales.items():
            flat = np.asarray(gradients[name]).reshape(-1)
            parts.append(flat[:: -(-flat.size // _ELEMENTS)] / scale)
        return np.concatenate(parts)

    return Answer(
        packed(*found),
        lambda dtype: packed(*(best if dtype is np.float64 else compute(dtype))),
        layers=layers,
    )
