# SPDX-License-Identifier: Apache-2.0
"""generate and stream: the methods that every model which writes inherits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .call import PREFILL_CHUNK, Call, Memory
from .loop import evaluating
from .options import OPTIONS, flag, usual


class Generative:
    """Mixin with :meth:`generate` and :meth:`stream` for a model with ``start`` and ``decode``."""

    config: Any

    @property
    def max_positions(self) -> int | None:
        """The longest text that the model has positions for, None without a limit."""
        return None

    def _is_encoder_decoder(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))

    def _vocabularies(self) -> tuple[int | None, int | None]:
        """Sizes of the vocabulary that is read first and of the one that is written."""
        size = getattr(self.config, "vocab_size", None)
        return size, size

    def generate(
        self,
        input_ids: Any,
        *,
        attention_mask: Any = None,
        max_new_tokens: int | None = usual("max_new_tokens"),
        min_new_tokens: int | None = usual("min_new_tokens"),
        do_sample: bool | None = usual("do_sample"),
        temperature: float | None = usual("temperature"),
        top_k: int | None = usual("top_k"),
        top_p: float | None = usual("top_p"),
        min_p: float | None = usual("min_p"),
        repetition_penalty: float | None = usual("repetition_penalty"),
        no_repeat_ngram_size: int | None = usual("no_repeat_ngram_size"),
        num_beams: int | None = usual("num_beams"),
        length_penalty: float | None = usual("length_penalty"),
        early_stopping: bool | str | None = usual("early_stopping"),
        num_return_sequences: int | None = usual("num_return_sequences"),
        eos_token_id: Any = None,
        pad_token_id: int | None = None,
        decoder_start_token_id: int | None = None,
        forced_bos_token_id: int | None = None,
        forced_eos_token_id: Any = None,
        bad_words_ids: Any = None,
        suppress_tokens: Any = None,
        begin_suppress_tokens: Any = None,
        stop: Any = None,
        tokenizer: Any = None,
        seed: int | None = None,
        logits_processors: Any = None,
        streamer: Any = None,
        decoder_input_ids: Any = None,
        state: Memory | None = None,
        return_state: bool = False,
        return_scores: bool = False,
        prefill_chunk: int | None = PREFILL_CHUNK,
    ) -> Any:
        """Continue prompts (decoder-only models) or answer them (encoder-decoders).

        Options that are not given (or None) are those of the checkpoint's `generation_config.json`
        where it has one, else the values of the signature, in brackets.

        Parameters
        ----------
        input_ids : integers [B, T]
            Array or Tensor.
        attention_mask : [B, T], optional
            0 marks padding, on either side.
        max_new_tokens, min_new_tokens : int
            [20, or what the model has positions for; 0]
        do_sample : bool
            Draw tokens instead of taking the likeliest. [False]
        temperature, top_k, top_p, min_p : number
            Logits are divided by `temperature`; then only the `top_k` likeliest tokens stay (0:
            all), of them the fewest that have `top_p` of the probability, and those with `min_p`
            times the probability of the likeliest. [1.0, 0, 1.0, 0.0]
        repetition_penalty : float
            Above 1, tokens of the text so far become less likely. [1.0]
        no_repeat_ngram_size : int
            No sequence of so many tokens twice. [0: no limit]
        num_beams : int
            Beam search; with `do_sample` its candidates are drawn. [1]
        length_penalty : float
            A finished beam's score is its log-probability / length^length_penalty. [1.0]
        early_stopping : bool or "never"
            When a beam search is over, as in transformers. [False]
        num_return_sequences : int
            The best of so many beams, or draws, for each prompt, one after the other. [1]
        eos_token_id : int or list of int
            Tokens that end a row; ``[]`` for none. [the checkpoint's]
        pad_token_id : int
            What fills rows that are over. [the checkpoint's, else the first end token, else 0]
        decoder_start_token_id, forced_bos_token_id, forced_eos_token_id
            The first token an encoder-decoder's decoder reads, the first it must write, the last
            at full length. [the checkpoint's]
        bad_words_ids, suppress_tokens, begin_suppress_tokens : lists
            Words (as lists of tokens) and tokens that are never written, or not first.
        stop : str, list of str, or a list of them for each row
            A row ends when its new text holds one; needs `tokenizer`.
        tokenizer
            Anything with ``decode(ids)``.
        seed : int
            The same seed gives the same draws, whatever else is in the batch. [from the stream
            of ``sl.manual_seed``]
        logits_processors : callables
            Called with (history int64 [N, L], logits float32 [N, V]), -1 before the first token of
            shorter rows; they give the logits to go on with.
        streamer : callable
            Called with the new tokens int64 [N] of each step, -1 for rows that are over; or an
            object with methods ``put`` (the same) and ``end``.
        decoder_input_ids : integers [B, T], optional
            What an encoder-decoder's answer begins with, instead of the start token.
        state : Memory, optional
            What an earlier call gave; only what is new since then is read. It is used up.
        return_state, return_scores : bool
            Also give the Memory; also give the model's log-probability, float32 [N, steps], of
            each new token (0 after the end), before processors, temperature and cuts.
        prefill_chunk : int
            Columns of the prompt that are read at once. [2048]

        Returns
        -------
        int64 array [N, T]
            Prompts with their continuations; of encoder-decoders the continuations. Left-padded
            prompts keep their columns; otherwise a row's text follows its prompt without a gap.
            With `return_scores` and `return_state` a tuple: (ids, scores, memory).

        Examples
        --------
        >>> import numpy as np, seqloom as sl
        >>> model = sl.models.GPT2(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=16)
        >>> model.generate(np.array([[1, 2, 3]]), max_new_tokens=4).shape
        (1, 7)
        """
        arguments = {k: v for k, v in locals().items() if k in OPTIONS}
        call = Call(
            "generate", self, input_ids, attention_mask, arguments, stop, tokenizer,
            decoder_input_ids, state, prefill_chunk,
        )  # fmt: skip
        flag("generate", "return_state", return_state)
        flag("generate", "return_scores", return_scores)
        put, end = _receiver(streamer)
        if call.o.num_beams > 1:
            for name, asked in (
                ("streamer", put is not None),
                ("return_state", return_state),
                ("state", state is not None),
            ):
                if asked:
                    raise ValueError(
                        f"generate: num_beams must be 1 with {name}, got {call.o.num_beams}"
                    )
            with evaluating(self):
                tokens, counts, scores = call.beams()
        else:
            with evaluating(self):
                loop = call.loop(scores=return_scores, exact=return_state)
                held, logits = call.read()
                for step in loop.run(held, logits):
                    if put is not None:
                        put(step.copy())
                if end is not None:
                    end()
            tokens, counts = loop.history[:, loop.prompt :], loop.counts
            scores = loop.scores if loop.scores is not None else np.empty(0, np.float32)
        out: list[Any] = [call.result(tokens, counts)]
        if return_scores:
            out.append(scores[:, : int(counts.max(initial=0))])
        if return_state:
            out.append(call.memory(held, loop))
        return out[0] if len(out) == 1 else tuple(out)

    def stream(self, input_ids: Any, **options: Any) -> Iterator[Any]:
        """The tokens of :meth:`generate` as they come.

        Takes its options but for `streamer`, `num_beams`, `return_state` and `return_scores`.

        Yields
        ------
        int, or int64 array [N] for a batch
            The new token of each row, -1 for rows that are over. The token that ends a row comes
            too.

        Examples
        --------
        >>> import numpy as np, seqloom as sl
        >>> model = sl.models.GPT2(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=16)
        >>> len(list(model.stream(np.array([[1, 2, 3]]), max_new_tokens=4)))
        4
        """
        beside = {"attention_mask", "stop", "tokenizer", "decoder_input_ids", "state"}
        for name in options:
            if name not in OPTIONS | beside | {"prefill_chunk"}:
                raise TypeError(f"stream: got an option that it has not, {name!r}")
        arguments = {k: v for k, v in options.items() if k in OPTIONS}
        call = Call(
            "stream", self, input_ids, options.get("attention_mask"), arguments,
            options.get("stop"), options.get("tokenizer"), options.get("decoder_input_ids"),
            options.get("state"), options.get("prefill_chunk"),
        )  # fmt: skip
        if call.o.num_beams > 1:
            raise ValueError(f"stream: num_beams must be 1, got {call.o.num_beams}")
        return self._streamed(call)

    def _streamed(self, call: Call) -> Iterator[Any]:
        with evaluating(self):
            loop = call.loop(scores=False, exact=False)
            single = loop.history.shape[0] == 1
            for step in loop.run(*call.read()):
                yield int(step[0]) if single else step.copy()


def _receiver(streamer: Any) -> tuple[Any, Any]:
    if streamer is None:
        return None, None
    if callable(getattr(streamer, "put", None)):
        end = getattr(streamer, "end", None)
        return streamer.put, end if callable(end) else None
    if callable(streamer):
        return streamer, None
    raise TypeError(f"generate: streamer must be callable, got {type(streamer).__name__}")
