# SPDX-License-Identifier: Apache-2.0
"""Reference losses: cross entropy, linear cross entropy, CTC."""

from __future__ import annotations

import numpy as np

from .softmax import log_softmax
from .vjp import op


def _cross_entropy_of_logs(logp, targets, weight, ignore_index, label_smoothing, reduction):
    """(loss, d loss / d logp per unit of gradient) for logp [N, C].

    Row n costs (1 - e) w[t] (-logp[t]) + e / C sum_c w[c] (-logp[c]); "mean" divides by the
    sum of w[t] over the rows that count. Nothing to count is 0 / 0 = NaN with zero gradients.
    """
    n, c = logp.shape
    counted = targets != ignore_index
    safe = np.where(counted, targets, 0)
    w = np.ones(c, logp.dtype) if weight is None else np.asarray(weight, logp.dtype)
    share = np.tile(w * (label_smoothing / c), (n, 1)).astype(logp.dtype)
    rows = np.flatnonzero(counted)
    share[rows, safe[rows]] += (1 - label_smoothing) * w[safe[rows]]
    share[~counted] = 0
    # 0 * -inf: a class that carries no weight costs nothing.
    loss = -np.where(share != 0, share * logp, 0).sum(axis=1)
    if reduction == "none":
        return loss, -share
    if reduction == "sum":
        return loss.sum(), -share
    if reduction == "mean":
        total = np.where(counted, w[safe], 0).sum()
        return loss.sum() / total, -np.where(share != 0, share / total, 0)
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


@op
def cross_entropy(
    logits, targets, *, weight=None, ignore_index=-100, label_smoothing=0.0, reduction="mean"
):
    """logits [N, C], targets [N]."""
    if logits.shape[0] == 0 or logits.shape[1] == 0:
        logp, to_logits = np.zeros_like(logits), lambda g: {"x": g}
    else:
        logp, to_logits = log_softmax.vjp(logits, -1)
    loss, slope = _cross_entropy_of_logs(
        logp, targets, weight, ignore_index, label_smoothing, reduction
    )

    def backward(g):
        g = np.asarray(g)
        dlogp = slope * (g[:, None] if reduction == "none" else g)
        return {"logits": to_logits(dlogp)["x"]}

    return loss, backward


@op
def linear_cross_entropy(hidden, weight, targets, **options):
    """cross_entropy(hidden @ weight.T, targets): hidden [N, D], weight [C, D]."""
    loss, to_logits = cross_entropy.vjp(hidden @ weight.T, targets, **options)

    def backward(g):
        dlogits = to_logits(g)["logits"]
        return {"hidden": dlogits @ weight, "weight": dlogits.T @ hidden}

    return loss, backward


def _ctc_sequence(logp, labels, blank):
    """Loss of one sequence and the posterior of every class at every step, [T, C]."""
    steps, classes = logp.shape
    extended = np.full(2 * len(labels) + 1, blank)
    extended[1::2] = labels
    states = len(extended)
    if steps == 0:
        return (0.0 if len(labels) == 0 else np.inf), np.zeros((0, classes), logp.dtype)
    none = np.asarray(-np.inf, logp.dtype)

    def recursion(emit, extended):
        """log-sum over the paths that begin in one of the first two states."""
        # A label is reached from two states back unless a blank must part two equal labels.
        skip = np.zeros(states, bool)
        skip[3::2] = extended[3::2] != extended[1:-2:2]
        alpha = np.full((steps, states), none)
        alpha[0, :2] = emit[0, :2]
        for t in range(1, steps):
            stay = alpha[t - 1]
            one = np.concatenate([[none], stay[:-1]])
            two = np.where(skip, np.concatenate([[none, none], stay[:-2]])[:states], none)
            alpha[t] = np.logaddexp(np.logaddexp(stay, one), two) + emit[t]
        return alpha

    emit = logp[:, extended]
    alpha = recursion(emit, extended)
    beta = recursion(emit[::-1, ::-1], extended[::-1])[::-1, ::-1]
    log_likelihood = alpha[-1, -1]
    if states > 1:
        log_likelihood = np.logaddexp(log_likelihood, alpha[-1, -2])
    # Both recursions count the emission at t: take it out once.
    joint = np.where(np.isneginf(emit), none, alpha + beta - emit) - log_likelihood
    posterior = np.zeros((steps, classes), logp.dtype)
    np.add.at(posterior, (slice(None), extended), np.exp(joint))
    return -log_likelihood, posterior


@op
def ctc_loss(log_probs, targets, input_lengths, target_lengths, *, blank=0, reduction="mean"):
    """log_probs [T, N, C], targets [N, S] or all targets in one row.

    "mean" divides each loss by its target length (at least 1) and averages. The gradient is
    torch's: that of log_softmax's argument, exp(log_probs) - posterior, which is the exact
    gradient once log_softmax's backward has been applied. A sequence that is too short for
    its target costs infinity.
    """
    batch = log_probs.shape[1]
    starts = np.concatenate([[0], np.cumsum(target_lengths)])
    losses = np.zeros(batch, log_probs.dtype)
    slope = np.zeros_like(log_probs)
    for b in range(batch):
        size, length = int(target_lengths[b]), int(input_lengths[b])
        labels = targets[b, :size] if targets.ndim == 2 else targets[starts[b] : starts[b] + size]
        logp = log_probs[:length, b]
        losses[b], posterior = _ctc_sequence(logp, labels, blank)
        slope[:length, b] = np.exp(logp) - posterior
    sizes = np.maximum(np.asarray(target_lengths), 1).astype(log_probs.dtype)
    if reduction == "none":
        return losses, lambda g: {"log_probs": slope * np.asarray(g)[None, :, None]}
    if reduction == "sum":
        return losses.sum(), lambda g: {"log_probs": slope * g}
    if reduction == "mean":
        each = (1 / (sizes * max(batch, 1)))[None, :, None]
        return (losses / sizes).sum() / batch, lambda g: {"log_probs": slope * g * each}
    raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {reduction!r}")
