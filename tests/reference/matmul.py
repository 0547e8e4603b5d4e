# SPDX-License-Identifier: Apache-2.0
"""Reference products: matmul, linear, einsum."""

from __future__ import annotations

import numpy as np

from .elementwise import ACTIVATIONS
from .vjp import op, unbroadcast


@op
def matmul(a, b):
    """NumPy's matmul: batches broadcast, vectors on either side."""
    a2 = a[None, :] if a.ndim == 1 else a
    b2 = b[:, None] if b.ndim == 1 else b

    def backward(g):
        if b.ndim == 1:
            g = np.expand_dims(g, -1)
        if a.ndim == 1:
            g = np.expand_dims(g, -2)
        da = unbroadcast(g @ b2.swapaxes(-1, -2), a2.shape)
        db = unbroadcast(a2.swapaxes(-1, -2) @ g, b2.shape)
        return {"a": da.reshape(a.shape), "b": db.reshape(b.shape)}

    return a @ b, backward


@op
def linear(x, weight, bias=None, *, activation=None):
    """activation(x @ weight.T + bias), weight [out, in], bias [out]."""
    z = x @ weight.T
    if bias is not None:
        z = z + bias
    if activation is None:
        y, activation_backward = z, None
    else:
        function, options = ACTIVATIONS[activation]
        y, activation_backward = function.vjp(z, **options)

    def backward(g):
        if activation_backward is not None:
            g = activation_backward(g)["x"]
        rows = g.reshape(-1, weight.shape[0])
        grads = {"x": g @ weight, "weight": rows.T @ x.reshape(-1, weight.shape[1])}
        if bias is not None:
            grads["bias"] = rows.sum(axis=0)
        return grads

    return y, backward


@op
def einsum(equation, *operands):
    """Explicit equations ("ij,jk->ik") whose terms name no index twice.

    Gradients are named "0", "1", ... in the order of the operands.
    """
    terms, out = equation.replace(" ", "").split("->")
    names = terms.split(",")

    def backward(g):
        grads = {}
        for i, (term, operand) in enumerate(zip(names, operands, strict=True)):
            others = [n for j, n in enumerate(names) if j != i]
            arrays = [x for j, x in enumerate(operands) if j != i]
            known = "".join(c for c in term if c in out or any(c in n for n in others))
            left = np.einsum(f"{','.join([out, *others])}->{known}", g, *arrays)
            # An index that no other term has was summed away: its gradient is constant.
            where = tuple(slice(None) if c in known else None for c in term)
            grads[str(i)] = np.broadcast_to(left[where], operand.shape)
        return grads

    return np.einsum(equation, *operands), backward
