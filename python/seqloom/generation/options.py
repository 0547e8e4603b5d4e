# SPDX-License-Identifier: Apache-2.0
"""The options of a generation: checked, with the checkpoint's own defaults filled in."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DEFAULT_NEW_TOKENS = 20
_MOST = 2**40  # of tokens or rows: more than any memory holds
_LARGEST_LOG = 87.0  # exp of more, or of less than its negative, is no normal float32

# What a checkpoint may say and the value that it has when nobody says anything.
_DEFAULTS: dict[str, Any] = {
    "max_new_tokens": None,
    "max_length": None,
    "min_new_tokens": 0,
    "min_length": 0,
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "length_penalty": 1.0,
    "early_stopping": False,
    "num_return_sequences": 1,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "decoder_start_token_id": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


class Usual:
    """The default of an option that a checkpoint may say, too: its repr is what holds then.

    Examples
    --------
    >>> Usual(1.0), Usual(2) == 2
    (1.0, False)
    """

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        return repr(self.value)


def usual(name: str) -> Any:
    """What stands in a signature for an option that need not be given."""
    value = DEFAULT_NEW_TOKENS if name == "max_new_tokens" else _DEFAULTS[name]
    return Usual(value)


# What generate takes of them, and more.
OPTIONS = frozenset(_DEFAULTS) - {"max_length", "min_length", "bos_token_id"} | {
    "seed",
    "logits_processors",
}
# Fields of the format that would change the text and have no counterpart here, with the value
# that means "off".
_UNKNOWN: dict[str, tuple[Any, ...]] = {
    "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "penalty_alpha": (0.0,),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1.0,),
    "exponential_decay_length_penalty": (),
    "sequence_bias": (),
    "guidance_scale": (1.0,),
    "watermarking_config": (),
    "constraints": (),
    "force_words_ids": (),
    "dola_layers": (),
}


def checkpoint_defaults(model: Any, vocabulary: int | None) -> dict[str, Any]:
    """What the checkpoint says: its generation_config.json, of its config the special tokens.

    Without a generation_config.json the config is asked for everything, as older files have it.
    Special tokens that the vocabulary lacks are left out.
    """
    config = getattr(model, "config", None)
    told: dict[str, Any] = {} if config is None else config.to_dict()
    own = getattr(model, "generation_config", None)
    if own:
        for name, off in _UNKNOWN.items():
            value = own.get(name)
            if value is not None and value not in off:
                warnings.warn(
                    f"generate: the checkpoint's {name} = {value!r} is not supported and is"
                    " ignored",
                    UserWarning,
                    stacklevel=5,
                )
        told = {**{k: v for k, v in told.items() if k.endswith("_token_id")}, **own}
    found = {name: told[name] for name in _DEFAULTS if told.get(name) is not None}
    for name in [n for n in found if n.endswith("_token_id")]:
        value = found[name]
        known = [
            t
            for t in (value if isinstance(value, (list, tuple)) else [value])
            if isinstance(t, int) and t >= 0 and (vocabulary is None or t < vocabulary)
        ]
        if not known:
            del found[name]
        elif isinstance(value, (list, tuple)):
            found[name] = known
    return found


# ---- checks -------------------------------------------------------------------------------------


def _got(value: Any) -> str:
    return f"{value!r}"[:80]


def integer(owner: str, name: str, value: Any, least: int, most: int | None = None) -> int:
    """`value` as an int that is at least `least`."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{owner}: {name} must be an integer, got {type(value).__name__}")
    if value < least or (most is not None and value > most):
        bound = f"at least {least}" if most is None else f"in [{least}, {most}]"
        raise ValueError(f"{owner}: {name} must be {bound}, got {value}")
    return int(value)


def number(
    owner: str, name: str, value: Any, low: float, high: float, *, open_low: bool = False
) -> float:
    """`value` as a float in [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{owner}: {name} must be a number, got {type(value).__name__}")
    try:
        x = float(value)
    except OverflowError:  # an integer beyond all floats
        x = math.inf
    if not (low < x if open_low else low <= x) or not x <= high or not math.isfinite(x):
        if high == math.inf:
            wanted = "finite" if low == -math.inf else "positive and finite"
        else:
            wanted = f"in {'(' if open_low else '['}{low:g}, {high:g}]"
        raise ValueError(f"{owner}: {name} must be {wanted}, got {_got(value)}")
    return x


def flag(owner: str, name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{owner}: {name} must be a bool, got {type(value).__name__}")
    return bool(value)


def token(owner: str, name: str, value: Any, vocabulary: int | None) -> int:
    """`value` as a token of the vocabulary."""
    return integer(owner, name, value, 0, None if vocabulary is None else vocabulary - 1)


def tokens(owner: str, name: str, value: Any, vocabulary: int | None) -> tuple[int, ...]:
    """One token or several, as a tuple; None as none."""
    if value is None:
        return ()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (list, tuple, set, frozenset)):
        return tuple(dict.fromkeys(token(owner, name, v, vocabulary) for v in value))
    return (token(owner, name, value, vocabulary),)


def _words(owner: str, value: Any, vocabulary: int | None) -> tuple[tuple[int, ...], ...]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{owner}: bad_words_ids must be a list, got {type(value).__name__}")
    words = []
    for word in value:
        if not isinstance(word, (list, tuple)):
            raise TypeError(
                f"{owner}: bad_words_ids must be lists of tokens, got {type(word).__name__}"
            )
        if not word:
            raise ValueError(
                f"{owner}: bad_words_ids must hold words of at least one token, got []"
            )
        words.append(tuple(token(owner, "bad_words_ids", t, vocabulary) for t in word))
    return tuple(words)


@dataclass(frozen=True)
class Options:
    """Everything that steers a generation, checked."""

    max_new_tokens: int
    min_new_tokens: int
    do_sample: bool
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int
    num_beams: int
    length_penalty: float
    early_stopping: bool | str
    num_return_sequences: int
    eos: tuple[int, ...]
    pad: int | None
    decoder_start: int | None
    forced_bos: int | None
    forced_eos: tuple[int, ...]
    bad_words: tuple[tuple[int, ...], ...]
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    seed: int | None
    processors: tuple[Callable[..., Any], ...]

    @property
    def fill(self) -> int:
        """What stands after the end of a row."""
        if self.pad is not None:
            return self.pad
        return self.eos[0] if self.eos else 0


def resolve(
    owner: str,
    model: Any,
    given: Mapping[str, Any],
    *,
    prompt: int,
    longest: int | None,
    vocabulary: int | None,
    encoder_decoder: bool,
) -> Options:
    """Options from arguments (None: not given), then the checkpoint's, then the usual ones.

    `prompt` is the length of the longest prompt, `longest` what the model can hold.
    """
    told = checkpoint_defaults(model, vocabulary)
    named = {k: v for k, v in given.items() if v is not None and not isinstance(v, Usual)}
    o: dict[str, Any] = {**_DEFAULTS, **told, **named}

    if o["max_new_tokens"] is not None:
        new = integer(owner, "max_new_tokens", o["max_new_tokens"], 1, _MOST)
    elif o["max_length"] is not None:  # counts the prompt
        whole = integer(owner, "max_length", o["max_length"], 1, _MOST)
        new = whole - (1 if encoder_decoder else prompt)
        if new < 1:
            raise ValueError(
                f"{owner}: max_new_tokens must be given: the checkpoint's max_length = {whole} is"
                f" no longer than the prompt of {prompt} tokens"
            )
    else:
        new = DEFAULT_NEW_TOKENS
    if longest is not None:
        held = 1 if encoder_decoder else prompt
        room = longest - held
        if "max_new_tokens" not in named and new > room > 0:
            new = room
        # The last token is never read, so it needs no position.
        if new > room + 1:
            raise ValueError(
                f"{owner}: the prompt and max_new_tokens must fit the model's {longest} positions,"
                f" got {held} + {new}"
            )
    least = integer(owner, "min_new_tokens", o["min_new_tokens"], 0)
    if "min_new_tokens" not in named and not least and o["min_length"]:
        whole = integer(owner, "min_length", o["min_length"], 0, _MOST)
        least = min(max(0, whole - (1 if encoder_decoder else prompt)), new)
    if least > new:
        raise ValueError(
            f"{owner}: min_new_tokens must be at most max_new_tokens = {new}, got {least}"
        )
    early = o["early_stopping"]
    if not (isinstance(early, bool) or early == "never"):
        raise ValueError(f"{owner}: early_stopping must be a bool or 'never', got {_got(early)}")
    beams = integer(owner, "num_beams", o["num_beams"], 1, _MOST)
    count = integer(owner, "num_return_sequences", o["num_return_sequences"], 1, _MOST)
    penalty = number(owner, "length_penalty", o["length_penalty"], -math.inf, math.inf)
    if beams > 1 and abs(penalty) * math.log(new) > _LARGEST_LOG:
        raise ValueError(
            f"{owner}: length_penalty must leave length^length_penalty a float32 up to"
            f" max_new_tokens = {new}, got {penalty:g}"
        )
    sample = flag(owner, "do_sample", o["do_sample"])
    if beams > 1 and count > beams:
        raise ValueError(
            f"{owner}: num_return_sequences must be at most num_beams = {beams}, got {count}"
        )
    if beams == 1 and count > 1 and not sample:
        raise ValueError(
            f"{owner}: num_return_sequences must be 1 without beams and without do_sample, got"
            f" {count}"
        )

    def optional(name: str) -> int | None:
        return None if o[name] is None else token(owner, name, o[name], vocabulary)

    starts = o["decoder_start_token_id"] is not None or not encoder_decoder
    seed = o.get("seed")
    processors = o.get("logits_processors") or ()
    if callable(processors):
        processors = (processors,)
    if not isinstance(processors, Sequence) or not all(callable(p) for p in processors):
        raise TypeError(f"{owner}: logits_processors must be callables, got {_got(processors)}")
    infinite = math.inf
    return Options(
        max_new_tokens=new,
        min_new_tokens=least,
        do_sample=sample,
        temperature=number(owner, "temperature", o["temperature"], 0, infinite, open_low=True),
        top_k=integer(owner, "top_k", o["top_k"], 0),
        top_p=number(owner, "top_p", o["top_p"], 0, 1, open_low=True),
        min_p=number(owner, "min_p", o["min_p"], 0, 1),
        repetition_penalty=number(
            owner, "repetition_penalty", o["repetition_penalty"], 0, infinite, open_low=True
        ),
        no_repeat_ngram_size=integer(owner, "no_repeat_ngram_size", o["no_repeat_ngram_size"], 0),
        num_beams=beams,
        length_penalty=penalty,
        early_stopping=early,
        num_return_sequences=count,
        eos=tokens(owner, "eos_token_id", o["eos_token_id"], vocabulary),
        pad=optional("pad_token_id"),
        decoder_start=optional("decoder_start_token_id" if starts else "bos_token_id"),
        forced_bos=optional("forced_bos_token_id"),
        forced_eos=tokens(owner, "forced_eos_token_id", o["forced_eos_token_id"], vocabulary),
        bad_words=_words(owner, o["bad_words_ids"], vocabulary),
        suppress=tokens(owner, "suppress_tokens", o["suppress_tokens"], vocabulary),
        begin_suppress=tokens(
            owner, "begin_suppress_tokens", o["begin_suppress_tokens"], vocabulary
        ),
        seed=None if seed is None else integer(owner, "seed", seed, 0, 2**63 - 1),
        processors=tuple(processors),
    )
