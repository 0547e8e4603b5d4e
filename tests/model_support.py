# SPDX-License-Identifier: Apache-2.0
"""What the tests of pretrained families share: tiny models, and their twins of transformers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

import seqloom as sl

BERT = {
    "vocab_size": 61, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 40,
}  # fmt: skip
T5 = {
    "vocab_size": 61, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 20,
}  # fmt: skip
BART = {
    "vocab_size": 61, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40, "max_position_embeddings": 40,
}  # fmt: skip
MARIAN = {**BART, "pad_token_id": 60, "decoder_start_token_id": 60}

RIGHT = np.array([[1] * 7 + [0] * 4, [1] * 11, [1] * 4 + [0] * 7])
MASKS = {"none": np.ones_like(RIGHT), "right": RIGHT, "left": RIGHT[:, ::-1].copy()}


def some_ids(rows: int, length: int, below: int = 40) -> np.ndarray:
    """The same tokens at every call; none of them is special."""
    return np.random.default_rng(rows * 100 + length).integers(3, below, (rows, length))


def twin(cls: Any, config: Any, directory: Path) -> Any:
    """A random model of transformers, its biases and norms too, saved to `directory`."""
    import torch

    torch.manual_seed(0)
    model = cls(config).eval()
    for name, p in model.named_parameters():
        if p.requires_grad and "embed_positions" not in name:
            p.data += torch.randn_like(p) * (0.2 if p.ndim > 1 else 0.1)
    if hasattr(model, "final_logits_bias"):
        model.final_logits_bias.normal_()
    quiet(model.save_pretrained, directory)
    return model


def tensors(**arrays: Any) -> dict[str, Any]:
    """torch's arguments."""
    import torch

    return {name: torch.tensor(a) for name, a in arrays.items() if a is not None}


def assert_near(mine: Any, theirs: Any, rtol: float = 1e-5) -> None:
    """Equal up to rounding, relative to the largest value."""
    a = mine.detach().cpu().numpy() if hasattr(mine, "detach") else mine
    b = theirs.detach().numpy() if hasattr(theirs, "detach") else theirs
    assert a.shape == b.shape
    error = np.abs(a.astype(np.float64) - b).max()
    assert error <= rtol * np.abs(b).max(), f"{error:.3g} off {np.abs(b).max():.3g}"


def reloaded(model: Any, directory: Path, **options: Any) -> Any:
    """The model after a trip through a directory."""
    model.save_pretrained(directory)
    return sl.models.from_pretrained(directory, **options)


def quiet(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A call of transformers, whose warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)
