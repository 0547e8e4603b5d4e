# SPDX-License-Identifier: Apache-2.0
"""Decoder-only models against transformers: the same tiny random checkpoint in both."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import seqloom as sl

RTOL = 1e-4  # of the largest value
VOCABULARY = 40


def pair(kind: str, directory: Path, seed: int = 0, **fields: Any) -> tuple[Any, Any]:
    """(transformers' model, ours) with weights that make logits well apart."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    config = getattr(transformers, f"{kind}Config")(vocab_size=VOCABULARY, **fields)
    head = {"GPT2": "GPT2LMHeadModel"}.get(kind, f"{kind}ForCausalLM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = getattr(transformers, head)._from_config(config, attn_implementation="eager")
        for name, p in theirs.named_parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.3)
            else:  # norms and biases that a mistake would show in
                torch.nn.init.normal_(p, mean=float("norm" in name or "ln_" in name), std=0.2)
        theirs.eval()
        theirs.save_pretrained(directory)
    return theirs, sl.models.from_pretrained(directory)


def batch(length: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids [3, T] and masks for right and left padding."""
    rng = np.random.default_rng(1)
    ids = rng.integers(3, VOCABULARY, (3, length))
    right = np.ones_like(ids)
    right[1, length - 3 :] = 0
    right[2, 4:] = 0
    return ids, right, np.ascontiguousarray(right[:, ::-1])


def close(mine: Any, theirs: Any, what: str, rtol: float = RTOL) -> None:
    a = np.asarray(mine, np.float64)
    b = np.asarray(theirs, np.float64)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, not {b.shape}"
    error, size = np.abs(a - b).max(), np.abs(b).max()
    assert error <= rtol * size, f"{what}: {error:.3g} off, largest value {size:.3g}"


def values(t: sl.Tensor) -> np.ndarray:
    return t.detach().cpu().to(dtype="float32").numpy()


def check_logits(theirs: Any, ours: Any, length: int = 9) -> None:
    """Whole batches, padded on either side; attention maps as well."""
    import torch

    ids, right, left = batch(length)
    for mask in (None, right, left):
        named = {} if mask is None else {"attention_mask": torch.tensor(mask)}
        with torch.no_grad():
            want = theirs(torch.tensor(ids), **named, output_attentions=True)
        with sl.no_grad():
            logits, maps = ours(ids, mask, return_weights=True)
            alone = ours(ids, mask)
        kept = np.ones(ids.shape, bool) if mask is None else mask.astype(bool)
        close(values(logits)[kept], want.logits.numpy()[kept], "logits")
        close(values(alone)[kept], want.logits.numpy()[kept], "logits without maps")
        assert len(maps) == len(want.attentions)
        for layer, (mine, other) in enumerate(zip(maps, want.attentions, strict=True)):
            mine, other = values(mine), other.numpy()
            rows = kept[:, None, :, None] & np.ones_like(mine, bool)
            close(mine[rows], other[rows], f"weights of layer {layer}")


def check_gradients(theirs: Any, ours: Any, transposed: tuple[str, ...] = ()) -> None:
    """The loss and the gradient of every parameter."""
    import torch

    ids, _, _ = batch()
    theirs.zero_grad()
    loss = theirs(torch.tensor(ids), labels=torch.tensor(ids)).loss
    loss.backward()
    hidden = ours.hidden(ids)[:, :-1].reshape(-1, ours.lm_head.weight.shape[1])
    targets = sl.tensor(np.ascontiguousarray(ids[:, 1:]).ravel(), device=ours.device)
    mine = sl.ops.linear_cross_entropy(hidden, ours.lm_head.weight, targets)
    close(mine.item(), loss.item(), "loss")
    mine.backward()
    expected = dict(theirs.named_parameters())
    seen = 0
    for name, p in ours.named_parameters():
        if name not in expected:
            continue
        seen += 1
        want = expected[name].grad.numpy()
        if name.endswith(transposed) and transposed:
            want = want.T
        close(values(p.grad), want, f"gradient of {name}", 5 * RTOL)
    assert seen == len(expected)


def check_round_trip(theirs: Any, ours: Any, directory: Path) -> None:
    """What we save, transformers loads, and gives the same logits."""
    import torch

    ours.save_pretrained(directory)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again, report = type(theirs).from_pretrained(directory, output_loading_info=True)
    assert not any(report.values()), report
    state = again.state_dict()
    for name, t in theirs.state_dict().items():
        np.testing.assert_array_equal(state[name].numpy(), t.numpy(), name)
    ids, _, _ = batch()
    with torch.no_grad():
        want, got = (m.eval()(torch.tensor(ids)).logits.numpy() for m in (theirs, again))
    close(got, want, "logits of what was saved")


def theirs_generate(theirs: Any, ids: np.ndarray, mask: np.ndarray, **options: Any) -> np.ndarray:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = theirs.generate(
            torch.tensor(ids), attention_mask=torch.tensor(mask), do_sample=False, pad_token_id=1,
            **options,
        )  # fmt: skip
    return out.numpy()


def right_aligned(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The ids of a right-padded batch, padded on the left instead."""
    out = np.ones_like(ids)
    for i, n in enumerate(mask.sum(1)):
        out[i, ids.shape[1] - n :] = ids[i, :n]
    return out


SEARCHES: tuple[dict[str, Any], ...] = (
    {},
    {"num_beams": 4, "num_return_sequences": 3},
    {"num_beams": 4, "length_penalty": 0.3, "early_stopping": True},
)
# transformers sees padding as text in these, so they are compared without.
PROCESSED: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1.4, "min_new_tokens": 6},
    {"no_repeat_ngram_size": 2, "num_beams": 3, "length_penalty": 2.0, "early_stopping": "never"},
)


def check_generation(theirs: Any, ours: Any, length: int = 9, new: int = 12) -> None:
    """Greedy search and beams, token for token, for prompts padded on the left and the right."""
    ids, right, left = batch(length)
    for search in PROCESSED:
        options = {"max_new_tokens": new, "eos_token_id": [5, 7], **search}
        want = theirs_generate(theirs, ids, np.ones_like(ids), **options)
        got = ours.generate(ids, pad_token_id=1, **options)
        np.testing.assert_array_equal(got, want, str(search))
    for search in SEARCHES:
        options = {"max_new_tokens": new, "eos_token_id": [5, 7], **search}
        want = theirs_generate(theirs, ids, left, **options)
        got = ours.generate(ids, attention_mask=left, pad_token_id=1, **options)
        np.testing.assert_array_equal(got, want, str(search))
        want = theirs_generate(theirs, right_aligned(ids, right), left, **options)
        got = ours.generate(ids, attention_mask=right, pad_token_id=1, **options)
        count = search.get("num_return_sequences", 1)
        lengths = np.repeat(right.sum(1), count)
        for row, other, n in zip(got, want, lengths, strict=True):
            rest = other[length - n :]  # prompt and continuation, then padding
            filled = np.full(row.size, 1)
            filled[: min(rest.size, row.size)] = rest[: row.size]
            np.testing.assert_array_equal(row, filled, str(search))


def check_16_bits(ours: Any) -> None:
    """bfloat16 and float16 stay near float32, as a whole sequence and step by step."""
    ids, _, _ = batch()
    state = {name: t.clone() for name, t in ours.state_dict().items()}
    with sl.no_grad():
        want = values(ours(ids))
    for dtype, rtol in (("bfloat16", 0.06), ("float16", 0.01)):
        ours.to(dtype=dtype)
        with sl.no_grad():
            got = ours(ids)
        assert got.dtype == sl.as_dtype(dtype)
        close(values(got), want, dtype, rtol)
        cache = ours.start(3, capacity=4)
        ours.decode(ids[:, :5], cache)
        close(values(ours.decode(ids[:, 5:], cache)), want[:, -1], f"{dtype}, by steps", rtol)
        ours.to(dtype="float32").load_state_dict(state)
