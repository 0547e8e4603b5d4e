# SPDX-License-Identifier: Apache-2.0
"""Small models that write, and a tokenizer of letters."""

from __future__ import annotations

from typing import Any

import numpy as np

import seqloom as sl

VOCABULARY = 17


def tiny(device: str = "cpu", kind: str = "GPT2", seed: int = 5) -> Any:
    """A model with weights that make logits well apart."""
    sl.manual_seed(seed)
    if kind == "GPT2":
        model = sl.models.GPT2(
            vocab_size=VOCABULARY, n_positions=96, n_embd=16, n_layer=2, n_head=2,
            initializer_range=0.4,
        )  # fmt: skip
    elif kind == "Llama":
        model = sl.models.Llama(
            vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.4,
            eos_token_id=None,
        )  # fmt: skip
    else:
        model = sl.models.RNNLanguageModel(
            VOCABULARY, embed_dim=12, hidden_size=12, num_layers=2, cell=kind.lower()
        )
        for p in model.parameters():
            sl.nn.init.normal_(p, std=0.8)
    return model.eval().to(device=device)


def prompts(rows: int = 3, length: int = 6, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, VOCABULARY, (rows, length))


def logits_of(model: Any, ids: Any, mask: Any = None) -> np.ndarray:
    with sl.no_grad():
        return model(np.asarray(ids), mask).cpu().numpy()


def greedy(model: Any, row: np.ndarray, new: int, eos: tuple[int, ...] = ()) -> list[int]:
    """What greedy search must give, without any cache."""
    ids = list(row)
    for _ in range(new):
        ids.append(int(logits_of(model, [ids])[0, -1].argmax()))
        if ids[-1] in eos:
            break
    return ids[len(row) :]


class Letters:
    """Token n is the n-th letter; 16 is nothing."""

    def decode(self, ids: Any) -> str:
        return "".join("abcdefghijklmnop"[i] for i in ids if i < 16)
