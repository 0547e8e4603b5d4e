# SPDX-License-Identifier: Apache-2.0
"""``seqloom translate``: a model directory translates lines."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from seqloom.cli import CommandError, command_parser
from seqloom.commands import options as kinds
from seqloom.text import IncrementalDecoder

EXAMPLE = """seqloom translate en-fr --text "The file could not be opened."
  seqloom translate en-fr --text "Open the file." --plot-attention attention.png
  seqloom translate opus-mt-en-de --num-beams 6 < letter.txt"""


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.num_beams > 1 and options.stream:
        parser.error("--stream needs --num-beams 1")
    if options.text is not None and not options.text.strip():
        parser.error("--text must not be empty")
    if options.threads:
        kinds.sl.set_num_threads(options.threads)
    lines = list(_lines(options))
    if options.plot_attention and len([line for line in lines if line.strip()]) != 1:
        raise CommandError("--plot-attention shows one line; there are more")
    model, tokenizer = kinds.load(
        options.directory, options.device, options.dtype, options.quantize
    )
    if not getattr(model, "_is_encoder_decoder", lambda: False)():
        raise CommandError(
            f"{options.directory}: holds a {type(model).__name__}, which does not translate"
        )
    for line in lines:
        if not line.strip():
            print()
            continue
        try:
            _translate(model, tokenizer, line, options)
        except kinds.USER_TROUBLE as error:
            raise CommandError(str(error)) from None
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("translate", example=EXAMPLE)
    add = parser.add_argument
    add("directory", metavar="DIR", help="model directory of an encoder-decoder")
    add("--text", metavar="TEXT", help="what to translate; lines of standard input when absent")
    add("--num-beams", type=kinds.count, default=1, metavar="N", help="beam search (1: greedy)")
    add("--length-penalty", type=kinds.not_negative, metavar="X", help="of the beam search (1.0)")
    add("--max-new-tokens", type=kinds.count, default=200, metavar="N", help="at most (200)")
    add("--stream", action="store_true", help="show words as they come")
    add("--plot-attention", metavar="F.png", help="draw where the decoder looked")
    add("--device", type=kinds.device, default="cpu", help="cpu (default), cuda or cuda:N")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="that of the file by default")
    add("--quantize", choices=("int8", "int4"), help="round the weights to so many bits")
    add("--threads", type=kinds.count, metavar="N", help="of the CPU")
    return parser


def _lines(options: argparse.Namespace) -> Iterator[str]:
    if options.text is not None:
        yield options.text
        return
    text = kinds.standard_input("--text, or lines")
    if not text.strip():
        raise CommandError("standard input holds no text")
    yield from text.splitlines()


def source_ids(model: Any, tokenizer: Any, text: str) -> np.ndarray[Any, Any]:
    """Ids [1, T] of a source: as `data.encode_pairs` makes them for models trained here."""
    own = model.config.model_type.startswith("seqloom-")
    ids = kinds.tokens_of(tokenizer, text, "the text", special=not own)
    if own and tokenizer.eos_token_id is not None:
        ids = np.concatenate([ids, [[tokenizer.eos_token_id]]], axis=1)
    return ids


def _translate(model: Any, tokenizer: Any, line: str, options: argparse.Namespace) -> None:
    ids = source_ids(model, tokenizer, line)
    settings: dict[str, Any] = {"max_new_tokens": options.max_new_tokens}
    if options.num_beams > 1:
        settings["num_beams"] = options.num_beams
        if options.length_penalty is not None:
            settings["length_penalty"] = options.length_penalty
    if options.stream:
        decoder = IncrementalDecoder(tokenizer)
        written = []
        for token in model.stream(ids, **settings):
            written.append(np.asarray(token).reshape(-1))
            print(decoder.push(token), end="", flush=True)
        print(decoder.finish())
        out = np.concatenate(written) if written else np.zeros(0, np.int64)
    else:
        out = np.asarray(model.generate(ids, **settings))[0]
        print(tokenizer.decode(out))
    if options.plot_attention:
        _picture(model, tokenizer, ids, out, options.plot_attention)


def cross_attention(model: Any, ids: Any, out: Any) -> np.ndarray[Any, Any]:
    """Where the decoder looked while it wrote `out` [T]: weights [T, S], the mean over heads.

    Of several layers the last one is shown.
    """
    first = model.setting("decoder_start_token_id")
    if first is None:
        first = model.setting("bos_token_id")
    if first is None:
        first = model.setting("pad_token_id", 0)
    read = np.concatenate([[first], out[:-1]]).astype(np.int64)[None]
    with kinds.sl.no_grad():
        found = model(ids, read, return_weights=True)[1]
    layers = found["cross"] if isinstance(found, dict) else found
    if layers is None or len(layers) == 0:
        raise CommandError(f"--plot-attention: this {type(model).__name__} has no attention")
    last = layers[-1] if isinstance(layers, (list, tuple)) else layers
    weights = np.asarray(last.to(dtype="float32").cpu().numpy())[0]
    mean: np.ndarray[Any, Any] = weights.mean(axis=0) if weights.ndim == 3 else weights
    return mean


def readable(tokenizer: Any, ids: Any) -> list[str]:
    """Tokens as people read them, for a picture; parts of a character as they are stored.

    Examples
    --------
    >>> from seqloom.text import Tokenizer
    >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
    >>> readable(tokenizer, [4, 3])
    ['a', '</s>']
    """
    texts = [tokenizer.decode([int(i)], skip_special_tokens=False) for i in ids]
    stored = tokenizer.tokens(ids)
    return [s if not t or "\ufffd" in t else t for s, t in zip(stored, texts, strict=True)]


def _picture(model: Any, tokenizer: Any, ids: Any, out: Any, path: str) -> None:
    ends = {model.setting("pad_token_id"), tokenizer.pad_token_id}
    kept = np.array([t for t in out if int(t) not in ends], np.int64)
    if not len(kept):
        raise CommandError("--plot-attention: the translation is empty")
    weights = cross_attention(model, ids, kept)
    try:
        kinds.sl.plot.attention(
            weights, readable(tokenizer, kept), readable(tokenizer, ids[0]), path=path,
            query_label="translation", key_label="source",
        )  # fmt: skip
    except ImportError as error:
        raise CommandError(str(error)) from None
