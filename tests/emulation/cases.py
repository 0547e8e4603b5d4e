# SPDX-License-Identifier: Apache-2.0
"""What each test kernel should compute: a case runs one and returns error / tolerance."""

from __future__ import annotations

import numpy as np

from emulation.library import Library

F = np.float32


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, F).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(F).astype(np.float64)


def ratio(got: np.ndarray, want: np.ndarray, tolerance: float) -> float:
    """Largest error as a multiple of the tolerance; infinite where a NaN appears."""
    error = np.abs(got.astype(np.float64) - want)
    return float(np.where(np.isnan(error), np.inf, error).max() / tolerance)


def block_sum(lib: Library, bug: int) -> float:
    n = 1000
    x, host = rng().standard_normal(n).astype(F), np.zeros(4, F)
    blocks = (n + 127) // 128
    out = lib.run("sum", x, ("empty", blocks, F), np.zeros(1, np.uint32), np.zeros(1, F), n,
                  ("host", host), bug)[3]  # fmt: skip
    return ratio(out, x.astype(np.float64).sum(), 1e-3)


def exchange(lib: Library, bug: int) -> float:
    out = lib.run("exchange", ("empty", 64, F), ("empty", 64, F), bug)[1]
    return ratio(out, np.arange(64) ^ 33, 1e-6)


def publish(lib: Library, bug: int) -> float:
    out = lib.run("publish", ("empty", 32, F), np.zeros(1, np.uint32), ("empty", 32, F), bug)[2]
    return ratio(out, np.arange(32), 1e-6)


def readers(lib: Library, bug: int) -> float:
    words = np.zeros(2, np.uint32)
    out = lib.run("readers", ("empty", 32, np.uint16), words, ("empty", (15, 32), F), bug)[2]
    return ratio(out, np.tile(np.arange(32), (15, 1)), 1e-6)


def streams(lib: Library, bug: int) -> float:
    host = np.zeros(64, F)
    lib.run("streams", ("empty", 64, F), ("empty", 64, F), ("host", host), bug)
    return ratio(host, np.arange(64) ^ 33, 1e-6)


def released(lib: Library, bug: int) -> float:
    out = lib.run("released", ("empty", 64, F), bug)[0]
    return ratio(out, np.arange(64) ^ 33, 1e-6)


def graph(lib: Library, bug: int) -> float:
    copies = lib.run("graph", ("empty", 64, F), ("empty", 64, F), ("empty", (2, 64), F), bug)[2]
    return ratio(copies, np.arange(64) ^ 33, 1e-6)


def layer_norm(lib: Library, bug: int, n: int = 1024) -> float:
    r = rng()
    x = (r.standard_normal((4, n)) * 2 + 1).astype(F)
    w, b = (r.standard_normal(n).astype(F) for _ in range(2))
    y = lib.run("layer_norm", x, w, b, ("empty", (4, n), F), 4, n, 1e-5, bug)[3]
    d = x.astype(np.float64)
    d = d - d.mean(1, keepdims=True)
    want = d / np.sqrt((d * d).mean(1, keepdims=True) + 1e-5) * w + b
    return ratio(y, want, 1e-5)


def attention(lib: Library, bug: int, heads: int = 1, length: int = 256) -> float:
    r = rng()
    q, k, v = (to_bf16(r.standard_normal((heads, length, 64))) for _ in range(3))
    o = lib.run("attention", q, k, v, ("empty", q.shape, np.uint16), heads, length, bug)[3]
    s = from_bf16(q) @ from_bf16(k).transpose(0, 2, 1) / 8
    s = np.where(np.tril(np.ones((length, length), bool)), s, -np.inf)
    p = np.exp(s - s.max(-1, keepdims=True))
    return ratio(from_bf16(o), p / p.sum(-1, keepdims=True) @ from_bf16(v), 2e-2)


def ragged_attention(lib: Library, bug: int) -> float:
    return attention(lib, bug, 2, 100)


def lstm(lib: Library, bug: int, flags: int = 0, cooperative: int = 1) -> float:
    r = rng()
    steps, batch, hidden = 4, 3, 32
    xp = r.standard_normal((steps, batch, 4 * hidden)).astype(F)
    w = (r.standard_normal((4 * hidden, hidden)) / np.sqrt(hidden)).astype(F)
    h = np.full((steps + 1, batch, hidden), np.nan, F)
    h[0] = 0
    out = lib.run("lstm", xp, w, h, ("empty", (batch, hidden), F), np.zeros(1, np.uint32), steps,
                  batch, hidden, flags, cooperative, bug)  # fmt: skip
    state, c, want = np.zeros((batch, hidden)), np.zeros((batch, hidden)), []
    for t in range(steps):
        i, f, g, o = np.split(xp[t] + state @ w.T.astype(np.float64), 4, 1)
        i, f, o = (1 / (1 + np.exp(-z)) for z in (i, f, o))
        c = f * c + i * np.tanh(g)
        state = o * np.tanh(c)
        want.append(state)
    return max(ratio(out[2][1:], np.array(want), 1e-5), ratio(out[3], c, 1e-5))


def lstm_flags(lib: Library, bug: int) -> float:
    return lstm(lib, bug, flags=1)


def lstm_not_cooperative(lib: Library, bug: int) -> float:
    return lstm(lib, 0, flags=0, cooperative=0 if bug else 1)


def cluster(lib: Library, bug: int, mailbox: int = 0) -> float:
    x = rng().standard_normal((3, 800)).astype(F)
    out = lib.run("cluster", x, ("empty", 3, F), 3, 200, mailbox, bug)[1]
    return ratio(out, x.astype(np.float64).sum(1), 1e-3)


def mailbox(lib: Library, bug: int) -> float:
    return cluster(lib, bug, 1)


def split(lib: Library, bug: int) -> float:
    out = lib.run("split", ("empty", (2, 32), F), bug)[0]
    return ratio(out, np.tile(np.arange(32), (2, 1)), 1e-6)


def phases(lib: Library, bug: int) -> float:
    return ratio(lib.run("phases", ("empty", 2, F), bug)[0], np.array([1, 2]), 1e-6)


def proxy(lib: Library, bug: int) -> float:
    out = lib.run("proxy", ("empty", 32, F), ("empty", 32, F), bug)[1]
    return ratio(out, np.arange(32), 1e-6)


def wgmma(lib: Library, bug: int, registers: int = 0) -> float:
    r = rng()
    k = 256
    a = to_bf16(r.standard_normal((64, k)))
    b = to_bf16(r.standard_normal((k, 64) if registers else (64, k)))
    c = lib.run("wgmma", a, b, ("empty", (64, 64), F), k, registers, bug)[2]
    right = from_bf16(b)
    return ratio(c, from_bf16(a) @ (right if registers else right.T), 1e-3)


def wgmma_registers(lib: Library, bug: int) -> float:
    return wgmma(lib, bug, 1)


def ring(lib: Library, bug: int) -> float:
    x = rng().standard_normal(11 * 384).astype(F)
    out = lib.run("ring", x, ("empty", x.size, F), 11, bug)[1]
    return ratio(out, 2 * x.astype(np.float64), 1e-6)


CASES = {
    f.__name__: f
    for f in (block_sum, exchange, publish, readers, streams, released, graph, layer_norm,
              attention, ragged_attention, lstm, lstm_flags, cluster, mailbox, split,
              phases, proxy, wgmma, wgmma_registers, ring)
}  # fmt: skip
