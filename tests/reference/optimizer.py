# SPDX-License-Identifier: Apache-2.0
"""Reference optimizer steps, as torch.optim and (Adafactor) transformers define them.

Each step takes a parameter, its gradient and its state (a dict, {} at first) and gives the
new parameter and the new state.
"""

from __future__ import annotations

import math

import numpy as np


def sgd(p, g, state, *, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    d = g + weight_decay * p
    if momentum:
        old = state.get("momentum")
        buffer = d if old is None else momentum * old + (1 - dampening) * d
        state = {"momentum": buffer}
        d = d + momentum * buffer if nesterov else buffer
    return p - lr * d, state


def _adam_update(p, g, state, lr, betas, eps):
    beta1, beta2 = betas
    step = state.get("step", 0) + 1
    m = beta1 * state.get("m", np.zeros_like(p)) + (1 - beta1) * g
    v = beta2 * state.get("v", np.zeros_like(p)) + (1 - beta2) * g * g
    denominator = np.sqrt(v) / math.sqrt(1 - beta2**step) + eps
    update = lr / (1 - beta1**step) * m / denominator
    return p - update, {"step": step, "m": m, "v": v}


def adam(p, g, state, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    """Weight decay is part of the gradient."""
    return _adam_update(p, g + weight_decay * p, state, lr, betas, eps)


def adamw(p, g, state, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
    """Weight decay shrinks the parameter, beside the gradient."""
    return _adam_update(p * (1 - lr * weight_decay), g, state, lr, betas, eps)


def _rms(x):
    return np.sqrt(np.mean(x * x))


def adafactor(
    p,
    g,
    state,
    *,
    lr=None,
    eps=(1e-30, 1e-3),
    clip_threshold=1.0,
    decay_rate=-0.8,
    beta1=None,
    weight_decay=0.0,
    scale_parameter=True,
    relative_step=True,
    warmup_init=False,
):
    """Second moments of matrices are kept as row and column means."""
    step = state.get("step", 0) + 1
    new = {"step": step}
    if relative_step:
        lr = min(1e-6 * step if warmup_init else 1e-2, 1 / math.sqrt(step))
    if scale_parameter:
        lr = lr * max(eps[1], float(_rms(p)))
    beta2 = 1 - step**decay_rate
    square = g * g + eps[0]
    if p.ndim >= 2:
        row = beta2 * state.get("row", 0.0) + (1 - beta2) * square.mean(axis=-1)
        column = beta2 * state.get("column", 0.0) + (1 - beta2) * square.mean(axis=-2)
        new |= {"row": row, "column": column}
        row_factor = 1 / np.sqrt(row / row.mean(axis=-1, keepdims=True))
        update = row_factor[..., :, None] / np.sqrt(column)[..., None, :] * g
    else:
        new["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * square
        update = g / np.sqrt(new["v"])
    update = lr * update / max(1.0, float(_rms(update)) / clip_threshold)
    if beta1 is not None:
        update = beta1 * state.get("m", 0.0) + (1 - beta1) * update
        new["m"] = update
    return p - weight_decay * lr * p - update, new


def adafactor_torch(
    p,
    g,
    state,
    *,
    lr=1e-2,
    beta2_decay=-0.8,
    eps=(None, 1e-3),
    d=1.0,
    weight_decay=0.0,
    spacing=2.0**-23,
):
    """torch.optim's form: floors instead of an added eps, the step bounded by lr.

    `spacing`, of the dtype at one, is the floor where eps[0] is None.
    """
    step = state.get("step", 0) + 1
    new = {"step": step}
    least = spacing if eps[0] is None else eps[0]
    fresh = step**beta2_decay
    scale = max(eps[1], float(_rms(p))) * min(lr, 1 / math.sqrt(step))
    square = g * g
    if p.ndim >= 2:
        row = (1 - fresh) * state.get("row", 0.0) + fresh * square.mean(axis=-1)
        column = (1 - fresh) * state.get("column", 0.0) + fresh * square.mean(axis=-2)
        new |= {"row": row, "column": column}
        mean = np.maximum(row.mean(axis=-1), least)
        variance = row[..., :, None] * column[..., None, :] / mean[..., None, None]
    else:
        variance = new["v"] = (1 - fresh) * state.get("v", 0.0) + fresh * square
    update = g / np.sqrt(np.maximum(variance, least * least))
    update = scale * update / max(1.0, float(_rms(update)) / d)
    return (1 - lr * weight_decay) * p - update, new
