# SPDX-License-Identifier: Apache-2.0
"""``seqloom generate``: a model directory continues a text."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

from seqloom.cli import CommandError, command_parser
from seqloom.commands import options as kinds
from seqloom.text import IncrementalDecoder

EXAMPLE = """seqloom generate seqloom-demo --prompt "Once upon a time" --stream
  echo "Dear Anna," | seqloom generate seqloom-demo --temperature 0.7 --seed 1
  seqloom generate gpt2-directory --prompt "The owl" --num-beams 4 --quantize int8"""


def main(arguments: list[str]) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.num_beams > 1 and options.stream:
        parser.error("--stream needs --num-beams 1")
    if options.num_beams > 1 and _draws(options):
        parser.error("--num-beams does not draw: leave --temperature, --top-k, --top-p, --min-p")
    if options.prompt is not None and not options.prompt:
        parser.error("--prompt must not be empty")
    if options.threads:
        kinds.sl.set_num_threads(options.threads)
    prompts = list(_prompts(options))
    model, tokenizer = kinds.load(
        options.directory, options.device, options.dtype, options.quantize
    )
    if not hasattr(model, "generate"):
        raise CommandError(
            f"{options.directory}: holds a {type(model).__name__}, which does not write text"
            "; `seqloom predict` may have a use for it"
        )
    for number, prompt in enumerate(prompts):
        if number:
            print()
        try:
            _write(model, tokenizer, prompt, options, number)
        except kinds.USER_TROUBLE as error:
            raise CommandError(str(error)) from None
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("generate", example=EXAMPLE)
    add = parser.add_argument
    add("directory", metavar="DIR", help="model directory: config.json, weights, tokenizer")
    add("--prompt", metavar="TEXT", help="what the text begins with; standard input when absent")
    add("--lines", action="store_true", help="every line of standard input is a prompt")
    add("--max-new-tokens", type=kinds.count, default=200, metavar="N", help="at most (200)")
    add("--min-new-tokens", type=kinds.whole, default=0, metavar="N", help="at least (0)")
    add("--greedy", action="store_true", help="always the likeliest token, no drawing")
    add("--temperature", type=kinds.positive, metavar="X", help="of the drawing (1.0)")
    add("--top-k", type=kinds.whole, metavar="K", help="draw from the K likeliest tokens")
    add(
        "--top-p",
        type=kinds.positive_share,
        metavar="P",
        help="draw from the tokens that make up P",
    )
    add("--min-p", type=kinds.share, metavar="P", help="leave out tokens below P of the likeliest")
    add("--repetition-penalty", type=kinds.positive, metavar="X", help="above 1: repeat less")
    add("--num-beams", type=kinds.count, default=1, metavar="N", help="beam search (1: none)")
    add("--stop", action="append", metavar="TEXT", help="stop at this text; may be repeated")
    add("--seed", type=kinds.seed, metavar="N", help="the same seed writes the same text")
    add("--stream", action="store_true", help="show tokens as they come")
    add("--only-new", action="store_true", help="leave the prompt out of the output")
    add("--device", type=kinds.device, default="cpu", help="cpu (default), cuda or cuda:N")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="that of the file by default")
    add("--quantize", choices=("int8", "int4"), help="round the weights to so many bits")
    add("--threads", type=kinds.count, metavar="N", help="of the CPU")
    return parser


def _draws(options: argparse.Namespace) -> bool:
    return any(
        getattr(options, name) is not None for name in ("temperature", "top_k", "top_p", "min_p")
    )


def _prompts(options: argparse.Namespace) -> Iterator[str]:
    if options.prompt is not None:
        yield options.prompt
        return
    text = kinds.standard_input("--prompt, or text")
    if options.lines:
        lines = [line for line in text.splitlines() if line.strip()]
    else:
        lines = [text.removesuffix("\n")] if text.strip() else []
    if not lines:
        raise CommandError("standard input holds no text")
    yield from lines


def _write(
    model: Any, tokenizer: Any, prompt: str, options: argparse.Namespace, number: int
) -> None:
    ids = kinds.tokens_of(tokenizer, prompt, "the prompt", special=_special(model, tokenizer))
    _check_room(model, ids.shape[1])
    settings: dict[str, Any] = {
        "do_sample": not options.greedy and options.num_beams == 1,
    }
    for name in ("temperature", "top_k", "top_p", "min_p", "repetition_penalty"):
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    if options.min_new_tokens:
        settings["min_new_tokens"] = options.min_new_tokens
    if options.seed is not None:
        settings["seed"] = options.seed + number
    if options.stop:
        settings.update(stop=list(options.stop), tokenizer=tokenizer)
    if tokenizer.eos_token_id is not None and model.setting("eos_token_id") is None:
        settings["eos_token_id"] = tokenizer.eos_token_id
    reads_only = getattr(model, "_is_encoder_decoder", lambda: False)()
    if not options.only_new and not reads_only:
        print(prompt, end="", flush=options.stream)
    decoder = IncrementalDecoder(tokenizer)
    if options.num_beams == 1:
        for token in kinds.written(model, ids, options.max_new_tokens, settings):
            print(decoder.push(token), end="", flush=options.stream)
        print(decoder.finish())
        return
    out = np.asarray(
        model.generate(
            ids,
            num_beams=options.num_beams,
            max_new_tokens=_room(model, ids.shape[1], options.max_new_tokens),
            **settings,
        )
    )[0]
    print(decoder.push(out if reads_only else out[ids.shape[1] :]) + decoder.finish())


def _special(model: Any, tokenizer: Any) -> bool:
    """Whether the tokenizer's own template goes around a prompt: not where it would end it."""
    ids = tokenizer.encode("a") if tokenizer.eos_token_id is not None else []
    decoder_only = not getattr(model, "_is_encoder_decoder", lambda: False)()
    return not (decoder_only and ids and ids[-1] == tokenizer.eos_token_id)


def _check_room(model: Any, prompt: int) -> None:
    most = getattr(model, "max_positions", None)
    if most is not None and prompt >= most:
        raise CommandError(f"the prompt has {prompt} tokens, the model reads at most {most}")


def _room(model: Any, prompt: int, wanted: int) -> int:
    """New tokens of a beam search, which can't move on when the positions are full."""
    most = getattr(model, "max_positions", None)
    if most is None or getattr(model, "_is_encoder_decoder", lambda: False)():
        return wanted
    return min(wanted, int(most) - prompt)
