# SPDX-License-Identifier: Apache-2.0
"""Models whose linear layers have 8 or 4 bits."""

from __future__ import annotations

import numpy as np
import pytest

import seqloom as sl
from support import refuses


def small(**fields):
    sl.manual_seed(0)
    model = sl.models.GPT2(
        vocab_size=300, n_positions=64, n_embd=128, n_layer=2, n_head=4, **fields
    ).eval()
    for p in model.parameters():  # not as close to zero as training begins
        if p.ndim == 2:
            p.detach().mul_(4.0)
    return model


def relative(a, b):
    a, b = a.numpy().astype(np.float64), b.numpy().astype(np.float64)
    return np.sqrt(((a - b) ** 2).mean() / (b**2).mean())


@pytest.mark.parametrize(("kind", "loss"), [("int8", 0.03), ("int4", 0.25)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_stay_near_those_of_the_float_model(kind, loss, dtype, device, rng):
    model = small().to(device=device, dtype=dtype)
    batches = [rng.integers(0, 300, shape) for shape in ((1, 4), (1, 7), (3, 20))]
    with sl.no_grad():
        before = [model(ids).cpu().to(dtype="float32") for ids in batches]
        assert sl.models.quantize_model(model, kind) is model
        after = [model(ids).cpu().to(dtype="float32") for ids in batches]
    for ids, a, b in zip(batches, after, before, strict=True):
        # Beyond four rows int8 rounds the activations, too.
        more = 1.2 if kind == "int8" and ids.size > 4 else 1.0
        assert loss / 100 < relative(a, b) < more * loss


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_what_is_replaced(kind):
    model = small()
    table = model.transformer.wte.weight
    size = sum(p.size for p in model.parameters())
    sl.models.quantize_model(model, kind)
    layers = [m for m in model.modules() if isinstance(m, sl.nn.QuantizedLinear)]
    assert len(layers) == 2 * 4 + 1
    assert not any(type(m) is sl.nn.Linear for m in model.modules())
    assert model.lm_head.bias is None
    assert model.transformer.wte.weight is table  # the head alone has few bits
    assert table.dtype is sl.float32
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert sum(p.size for p in model.parameters()) < size
    assert model.dtype is sl.float32
    back = model.lm_head.dequantized()
    assert back.shape == table.shape
    assert relative(back, table.detach()) < {"int8": 0.02, "int4": 0.15}[kind]


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_conversion_keeps_the_scales(kind):
    model = sl.models.quantize_model(small(), kind)
    scales = model.lm_head.scales.dtype
    model.to(dtype="bfloat16")
    assert model.lm_head.scales.dtype is scales
    assert model.lm_head.weight.dtype.name in ("int8", "uint8")
    assert model(np.array([[1, 2, 3]])).dtype is sl.bfloat16


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_generation(kind, device, rng):
    model = sl.models.quantize_model(small().to(device=device), kind)
    ids = rng.integers(0, 300, (2, 5))
    out = model.generate(ids, max_new_tokens=6, min_new_tokens=6)
    assert out.shape == (2, 11)
    # Steps and a whole pass agree: every token is the best one after those before.
    with sl.no_grad():
        logits = model(out[:1]).cpu().numpy()
    best = np.sort(logits[0], axis=-1)
    clear = best[4:10, -1] - best[4:10, -2] > 0.02 * np.abs(best).max()
    np.testing.assert_array_equal(out[0, 5:][clear], logits[0, 4:10].argmax(-1)[clear])


def test_loading_quantises(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    loaded = sl.models.from_pretrained(tmp_path, quantize="int8")
    ids = np.array([[5, 6, 7]])
    assert isinstance(loaded.lm_head, sl.nn.QuantizedLinear)
    sl.models.quantize_model(model, "int8")
    np.testing.assert_array_equal(loaded(ids).numpy(), model(ids).numpy())
    with refuses(ValueError, "save_pretrained"):
        loaded.save_pretrained(tmp_path)


def test_other_families():
    """Heads, encoders and layers of the nn room in few bits."""
    classifier = sl.models.SequenceClassifier(
        3, vocab_size=50, body="transformer", hidden_size=64, num_layers=1
    ).eval()
    ids = np.array([[1, 2, 3, 4]])
    before = classifier(ids)
    after = sl.models.quantize_model(classifier, "int8")(ids)
    assert relative(after, before.detach()) < 0.05


def test_wrong_arguments():
    with refuses(ValueError, "quantize_model"):
        sl.models.quantize_model(small(), "int3")
    with refuses(TypeError, "quantize_model"):
        sl.models.quantize_model(sl.nn.Linear(2, 2), "int8")
    with refuses(TypeError, "QuantizedLinear"):
        sl.nn.QuantizedLinear(sl.nn.Embedding(2, 2), "int8")
