# SPDX-License-Identifier: Apache-2.0
"""Reference softmax and log_softmax.

Rows that hold +inf, NaN or nothing but -inf become NaN: x - max(x) is inf - inf there.
"""

from __future__ import annotations

import numpy as np

from .vjp import op


def _centred(x, axis):
    return x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)


@op
def softmax(x, axis=-1):
    e = np.exp(_centred(x, axis))
    y = e / e.sum(axis=axis, keepdims=True)
    return y, lambda g: {"x": y * (g - (g * y).sum(axis=axis, keepdims=True))}


@op
def log_softmax(x, axis=-1):
    z = _centred(x, axis)
    y = z - np.log(np.exp(z).sum(axis=axis, keepdims=True))
    return y, lambda g: {"x": g - np.exp(y) * g.sum(axis=axis, keepdims=True)}
