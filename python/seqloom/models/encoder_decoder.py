# SPDX-License-Identifier: Apache-2.0
"""What pretrained encoder-decoders share: calling them, and decoding with a cache."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..generation import Generative
from ..generation.cache import KVCache
from ..nn import Module
from ..tensor import Tensor, from_numpy
from .base import Model
from .config import Config
from .inputs import NO_PADDING, Padding, as_array, as_ids, as_padding

Maps = dict[str, list[Tensor]]
Memory = list[tuple[Tensor, Tensor]]  # keys and values of each decoder layer


class EncoderDecoder(Generative, Model):
    """Base of T5, BART and Marian; subclasses define the methods that begin with an underscore."""

    lm_head: Any

    def _encode(self, ids: Tensor, padding: Padding, maps: list[Tensor] | None) -> Tensor:
        """Hidden states [B, S, D] of the encoder."""
        raise NotImplementedError

    def _cross(self, memory: Tensor) -> Memory:
        """Keys and values of the encoder's states for every decoder layer."""
        raise NotImplementedError

    def _decode(
        self,
        ids: Tensor,
        cross: Memory,
        padding: Padding,
        maps: Maps | None,
        state: KVCache | None,
    ) -> Tensor:
        """What `lm_head` takes, [B, T, D]; with a state, of new tokens."""
        raise NotImplementedError

    def _logits(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)
        return logits

    def _cache_shape(self) -> tuple[int, int, int]:
        """Decoder layers, heads, and the width of one."""
        raise NotImplementedError

    def _is_encoder_decoder(self) -> bool:
        return True

    def _vocabularies(self) -> tuple[int | None, int | None]:
        return self.config.vocab_size, self.lm_head.out_features

    # ---- the whole sequence at once ------------------------------------------------------------

    def _source(self, input_ids: Any, attention_mask: Any) -> tuple[Tensor, Padding]:
        owner = type(self).__name__
        ids = as_ids(owner, "input_ids", input_ids, self.device)
        batch, length = ids.shape
        return ids, as_padding(owner, attention_mask, batch, length, self.device)

    def encode(self, input_ids: Any, attention_mask: Any = None) -> Tensor:
        """Hidden states of the encoder, [B, S, D]."""
        return self._encode(*self._source(input_ids, attention_mask), None)

    def hidden(
        self,
        input_ids: Any,
        decoder_input_ids: Any,
        attention_mask: Any = None,
        *,
        maps: Maps | None = None,
    ) -> Tensor:
        """What `lm_head` takes: the decoder's states [B, T, D]."""
        owner = type(self).__name__
        ids, padding = self._source(input_ids, attention_mask)
        target = as_ids(owner, "decoder_input_ids", decoder_input_ids, self.device)
        if target.shape[0] != ids.shape[0]:
            raise ValueError(
                f"{owner}: decoder_input_ids must have shape [B, T] = [{ids.shape[0]}, any], got"
                f" {list(target.shape)}"
            )
        memory = self._encode(ids, padding, None if maps is None else maps["encoder"])
        return self._decode(target, self._cross(memory), padding, maps, None)

    def forward(
        self,
        input_ids: Any,
        decoder_input_ids: Any,
        attention_mask: Any = None,
        *,
        return_weights: bool = False,
    ) -> Any:
        """
        Parameters
        ----------
        input_ids : integers [B, S]
        decoder_input_ids : integers [B, T]
            The target behind its start token (``shift_right(labels)``).
        attention_mask : [B, S], optional
            Nonzero where `input_ids` has a token.
        return_weights : bool

        Returns
        -------
        logits [B, T, V], or (logits, weights)
            weights is {"encoder": [...], "decoder": [...], "cross": [...]}, one [B, H, queries,
            keys] a layer.
        """
        maps: Maps | None = None
        if return_weights:
            maps = {"encoder": [], "decoder": [], "cross": []}
        logits = self._logits(self.hidden(input_ids, decoder_input_ids, attention_mask, maps=maps))
        return (logits, maps) if return_weights else logits

    def shift_right(self, labels: Any) -> np.ndarray[Any, np.dtype[np.int64]]:
        """What the decoder reads to predict `labels` [B, T]: the start token and all but the last.

        Labels of -100 become padding.
        """
        owner = type(self).__name__
        start = self.setting("decoder_start_token_id")
        if not isinstance(start, int):
            raise ValueError(f"{owner}: decoder_start_token_id must be an integer, got {start!r}")
        array = as_array(owner, "labels", labels)
        if array.ndim != 2 or array.dtype.kind not in "iu":
            raise ValueError(
                f"{owner}: labels must be integers [B, T], got {array.dtype} {list(array.shape)}"
            )
        shifted: np.ndarray[Any, np.dtype[np.int64]] = np.empty(array.shape, np.int64)
        shifted[:, :1], shifted[:, 1:] = start, array[:, :-1]
        pad = self.setting("pad_token_id")
        shifted[shifted == -100] = pad if isinstance(pad, int) else 0
        return shifted

    # ---- step by step --------------------------------------------------------------------------

    def start(
        self, batch: int, *, capacity: int, input_ids: Any = None, attention_mask: Any = None
    ) -> KVCache:
        """Run the encoder, project its states for all decoder layers; nothing decoded yet."""
        owner = type(self).__name__
        if input_ids is None:
            raise ValueError(f"{owner}: start needs input_ids for the encoder")
        ids, padding = self._source(input_ids, attention_mask)
        if ids.shape[0] != batch:
            raise ValueError(f"{owner}: input_ids must have B = {batch} rows, got {ids.shape[0]}")
        memory = self._encode(ids, padding, None)
        lengths: np.ndarray[Any, np.dtype[np.int64]] | None = None
        if padding.key_lengths is not None:
            lengths = padding.key_lengths.numpy()
        elif padding.attn_mask is not None:
            memory, lengths = _packed(memory, padding.attn_mask)
        layers, heads, width = self._cache_shape()
        state = KVCache(
            layers, batch, heads=heads, width=width, capacity=capacity,
            dtype=memory.dtype, device=memory.device,
        )  # fmt: skip
        state.cross = [(k.contiguous(), v.contiguous()) for k, v in self._cross(memory)]
        state.cross_lengths = lengths
        return state

    def can_capture(self, state: KVCache, counts: Any) -> bool:
        """Whether :meth:`step` can be captured in a CUDA graph."""
        return state.can_capture()

    def step(self, ids: Tensor, state: KVCache) -> Tensor:
        """Logits [B, V] after tokens [B, 1] of a step that `state` runs from device memory."""
        hidden = self._decode(ids, state.cross, _padding(state), None, state)
        return self._logits(hidden.reshape(ids.shape[0], hidden.shape[2]))

    def decode(
        self,
        ids: np.ndarray[Any, np.dtype[np.int64]],
        state: KVCache,
        counts: np.ndarray[Any, np.dtype[np.int64]] | None = None,
    ) -> Tensor:
        """Append tokens [B, n] to the state; logits [B, V] after each row's last new one."""
        tokens = from_numpy(ids).to(device=self.device)
        state.begin(ids.shape[1], counts)
        hidden = self._decode(tokens, state.cross, _padding(state), None, state)
        state.commit()
        if counts is None:
            last = hidden[:, -1]
        else:
            last = hidden[np.arange(ids.shape[0]), np.maximum(counts, 1) - 1]
        return self._logits(last)


class BetweenVocabularies(EncoderDecoder):
    """Base of models without a checkpoint family, whose first two fields are vocabularies.

    A subclass builds its modules in `_build`, from ``self.config``, and gives them their first
    values in `_initialise`.
    """

    def __init__(
        self,
        src_vocab_size: int | Config | None = None,
        tgt_vocab_size: int | None = None,
        **fields: Any,
    ) -> None:
        if isinstance(src_vocab_size, Config):
            super().__init__(src_vocab_size, **fields)
        else:
            sizes = {"src_vocab_size": src_vocab_size, "tgt_vocab_size": tgt_vocab_size}
            super().__init__(None, **{k: v for k, v in sizes.items() if v is not None}, **fields)
        self._build()
        self.apply(self._initialise)

    def _build(self) -> None:
        raise NotImplementedError

    def _initialise(self, module: Module) -> None:
        raise NotImplementedError

    def _vocabularies(self) -> tuple[int | None, int | None]:
        return self.config.src_vocab_size, self.config.tgt_vocab_size


def _padding(state: KVCache) -> Padding:
    lengths = state.cross_padding()
    return NO_PADDING if lengths is None else Padding(lengths, None)


def _packed(memory: Tensor, mask: Tensor) -> tuple[Tensor, np.ndarray[Any, np.dtype[np.int64]]]:
    """Encoder states [B, S, D] with those that are seen in front, and how many they are."""
    kept = mask.cpu().numpy()[:, 0, 0]
    lengths = kept.sum(axis=1).astype(np.int64)
    longest = max(int(lengths.max(initial=0)), 1)
    order = np.argsort(~kept, axis=1, kind="stable")[:, :longest]
    batch, length, width = memory.shape
    rows = from_numpy((order + np.arange(batch)[:, None] * length).reshape(-1))
    flat = memory.reshape(batch * length, width)
    picked: Tensor = ops.index_select(flat, 0, rows.to(device=memory.device))
    return picked.reshape(batch, longest, width), lengths
