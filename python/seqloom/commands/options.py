# SPDX-License-Identifier: Apache-2.0
"""What the commands that train and write share: types of options, settings from TOML, devices."""

from __future__ import annotations

import argparse
import importlib
import io
import math
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.cli import CommandError
from seqloom.data.readers import is_encoding

sl: Any = importlib.import_module("seqloom")

#: What a library call may raise for reasons that lie in the user's files or options.
USER_TROUBLE = (ValueError, TypeError, IndexError, RuntimeError, ImportError, MemoryError)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None


def positive(text: str) -> float:
    """An argparse type: a positive finite number.

    Examples
    --------
    >>> positive("0.5")
    0.5
    """
    value = _number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be positive, got {text}")
    return value


def not_negative(text: str) -> float:
    """An argparse type: zero or a positive finite number."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def share(text: str) -> float:
    """An argparse type: a number in [0, 1]."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text}")
    return value


def positive_share(text: str) -> float:
    """An argparse type: a number in (0, 1]."""
    value = _number(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {text}")
    return value


def count(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = _integer(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def whole(text: str) -> int:
    """An argparse type: an integer of at least 0."""
    value = _integer(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return value


def seed(text: str) -> int:
    """An argparse type: an integer of 63 bits."""
    value = _integer(text)
    if not 0 <= value < 1 << 63:
        raise argparse.ArgumentTypeError(f"must be in [0, 2^63), got {text}")
    return value


def encoding(text: str) -> str:
    """An argparse type: an encoding that Python knows."""
    if not is_encoding(text):
        raise argparse.ArgumentTypeError(f"there is no encoding {text!r}")
    return text


def device(text: str) -> str:
    """An argparse type: cpu, cuda or cuda:N."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    return text


# How the library says what is an option here.
_SPELLINGS = (
    (r"^(read_\w+|Trainer|Tokenizer\.\w+): ", ""),
    (r"encoding='([^']*)'", r"--encoding \1"),
    (r"\(resume\)", "(--resume)"),
    (r"kind='(\w+)'", r"--tokenizer \1"),
    (r"\bvocab_size\b", "--vocab-size"),
    (r"\bseq_len\b", "--length"),
    (r"\bmax_position(s|_embeddings)\b|\bn_positions\b", "--length"),
)
_SIZES = (
    (r"^\w+Config: ", ""),
    (r"\b(n_embd|hidden_size|d_model)\b", "--width"),
    (r"\b(n_head|num_attention_heads|nhead)\b", "--heads"),
    (r"\b(n_layer|num_hidden_layers|num_layers|num_encoder_layers)\b", "--layers"),
)


def in_options(error: BaseException, *, sizes: bool) -> CommandError:
    """An error of the library in words of the command line; `sizes` may come from there alone.

    Examples
    --------
    >>> in_options(ValueError("read_text: x: looks odd; pass encoding='utf-16'"), sizes=True)
    CommandError('x: looks odd; pass --encoding utf-16')
    """
    text = str(error) or type(error).__name__
    for pattern, spelled in (*_SPELLINGS, *(_SIZES if sizes else ())):
        text = re.sub(pattern, spelled, text)
    return CommandError(text)


def machine(where: str) -> str:
    """What runs on what, in words; a CommandError where the device cannot be used."""
    try:
        if where != "cpu":
            sl.zeros(1, device=where)
            return f"{where}: {sl.cuda.get_device_properties(where).name}"
    except (RuntimeError, ValueError) as error:
        raise CommandError(f"{where}: {error}") from None
    threads = sl.get_num_threads()
    return f"cpu: {sl._core.active_isa()} kernels, {threads} thread{'s' * (threads > 1)}"


def standard_input(option: str) -> str:
    """All of standard input; bytes that aren't text are refused in the locale C, too."""
    if sys.stdin is None or sys.stdin.isatty():
        raise CommandError(f"give a {option} on standard input")
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="strict")
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise CommandError(f"standard input: not valid UTF-8 at byte {error.start}") from None


# ---- settings from TOML --------------------------------------------------------------------------


def words_from_toml(path: str, parser: argparse.ArgumentParser) -> list[str]:
    """The options of a TOML file as words of a command line, which argparse then judges.

    Keys are the options' names; tables only group them, but for `[model-config]`, whose entries
    become `--model-config KEY=VALUE`.
    """
    try:
        tomllib = importlib.import_module("tomllib")
    except ImportError:
        raise CommandError("--config needs Python 3.11 or newer") from None
    try:
        values = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CommandError(f"{path}: not valid TOML: {error}") from None
    known = {
        word.removeprefix("--"): action
        for action in parser._actions
        for word in action.option_strings
        if word.startswith("--")
    }
    words: list[str] = []
    for key, value in _settings(values):
        name = key.replace("_", "-")
        action = known.get(name)
        if action is None or name in ("help", "config"):
            parser.error(f"{path}: there is no option {key!r}")
        words += _as_words(f"--{name}", action, value, path, parser)
    return words


def _settings(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and key.replace("_", "-") == "model-config":
            for name, inner in value.items():
                yield key, f"{name}={inner}"
        elif isinstance(value, dict):
            yield from _settings(value)
        else:
            yield key, value


def _as_words(
    flag: str, action: argparse.Action, value: Any, path: str, parser: argparse.ArgumentParser
) -> list[str]:
    if action.nargs == 0:
        if not isinstance(value, bool):
            parser.error(f"{path}: {flag.removeprefix('--')} must be true or false, got {value!r}")
        return [flag] if value else []
    if isinstance(value, bool):
        parser.error(f"{path}: {flag.removeprefix('--')} needs a value, got {value!r}")
    if isinstance(value, list):
        if action.nargs is None:
            parser.error(f"{path}: {flag.removeprefix('--')} takes one value, got {value!r}")
        return [flag, *map(str, value)]
    return [f"{flag}={value}"]


# ---- model directories ---------------------------------------------------------------------------


def model_directory(folder: str) -> Path:
    """The directory itself, or the newest checkpoint of a training that has not ended there."""
    from seqloom.train.checkpoint import checkpoints

    path = Path(folder)
    if not path.exists():
        raise CommandError(f"{folder}: there is no such directory")
    if not path.is_dir():
        raise CommandError(f"{folder}: not a directory; a model is a directory with a config.json")
    if not (path / "config.json").is_file():
        found = checkpoints(path / "checkpoints")
        if found:
            return found[-1][1]
        raise CommandError(f"{folder}: not a model directory: it holds no config.json")
    return path


def load(folder: str, where: str, dtype: str | None, quantize: str | None) -> tuple[Any, Any]:
    """Model and tokenizer of a directory."""
    from seqloom.text import Tokenizer

    path = model_directory(folder)
    machine(where)
    try:
        model = sl.models.from_pretrained(path, device=where, dtype=dtype, quantize=quantize)
        tokenizer = Tokenizer.from_pretrained(path)
    except USER_TROUBLE as error:
        raise CommandError(str(error)) from None
    except FileNotFoundError as error:
        raise CommandError(str(error)) from None
    model.eval()
    return model, tokenizer


def written(
    model: Any, ids: np.ndarray[Any, Any], count: int, settings: Mapping[str, Any]
) -> Iterator[int]:
    """Tokens that a model writes behind ids [1, T], `count` at most, as they come.

    When its positions are full it goes on from the last half of what it has in view.
    """
    most = getattr(model, "max_positions", None)
    reads_only = getattr(model, "_is_encoder_decoder", lambda: False)()
    history: list[int] = ids[0].tolist()
    now, ends = dict(settings), model.setting("eos_token_id")
    ends = settings.get("eos_token_id", ends)
    ends = set(ends) if isinstance(ends, (list, tuple)) else {ends}
    while count > 0:
        context = history
        if most is not None and not reads_only and len(history) >= most:
            context = history[-(most // 2) :]
        room = count if most is None or reads_only else min(count, most - len(context))
        fresh = 0
        for token in model.stream(np.array([context], np.int64), max_new_tokens=room, **now):
            fresh += 1
            history.append(int(np.asarray(token).reshape(-1)[0]))
            yield history[-1]
        count -= fresh
        if fresh < room or history[-1] in ends or reads_only:
            return
        if "seed" in now:
            now["seed"] += 1


def tokens_of(tokenizer: Any, text: str, name: str, *, special: bool) -> np.ndarray[Any, Any]:
    """Ids [1, T] of one text; a CommandError for one that the vocabulary can't spell."""
    try:
        ids = tokenizer.encode(text, add_special_tokens=special)
    except ValueError as error:
        raise CommandError(f"{name}: {error}") from None
    if not ids:
        raise CommandError(f"{name}: holds no tokens")
    return np.asarray([ids], np.int64)
