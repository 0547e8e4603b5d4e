# SPDX-License-Identifier: Apache-2.0
"""Predictor: what a trained directory says about a text, a question, a recording or a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..autograd import no_grad
from ..data import context_tokens, encode_texts
from ..files import PathLike, read_json
from ..text import Tokenizer
from ..weights import CheckpointError
from .tasks import best_path

LABELS, SCALING = "labels.json", "scaling.json"
# Methods of Predictor, by the class of the model; a tagger of vectors transcribes.
_METHODS = {
    "BertForQuestionAnswering": "answer",
    "BertForSequenceClassification": "classify",
    "SequenceClassifier": "classify",
    "BertForTokenClassification": "tag",
    "SequenceTagger": "tag",
    "BertForMaskedLM": "fill",
    "Forecaster": "forecast",
}


class Predictor:
    """A model with what its directory holds beside it: tokenizer, labels, scaling.

    Made by :meth:`from_pretrained`. Models that write have `generate` instead.

    Attributes
    ----------
    model : Model
        In evaluation mode.
    method : str
        The method for this model: "answer", "classify", "tag", "fill", "transcribe" or "forecast".
    labels : list of str
        Names of the classes or tags.

    Examples
    --------
    >>> import tempfile, seqloom as sl
    >>> folder = tempfile.mkdtemp()
    >>> sl.models.Forecaster(1, 3, hidden_size=8).save_pretrained(folder)
    >>> predictor = sl.train.Predictor.from_pretrained(folder)
    >>> predictor.method, predictor.forecast([[0.1], [0.2], [0.3]]).shape
    ('forecast', (3, 1))
    """

    def __init__(self, model: Any, tokenizer: Any, labels: list[str], scaling: Any, where: str):
        self.model, self.tokenizer, self.labels = model, tokenizer, labels
        self._scaling, self._where = scaling, where
        name = type(model).__name__
        method = _METHODS.get(name)
        if name in ("SequenceTagger", "SequenceClassifier") and model.config.vocab_size is None:
            method = "transcribe" if name == "SequenceTagger" else None
        if method is None:
            raise ValueError(f"Predictor: {where} holds a {name}, which predicts nothing of a text")
        self.method = method

    @classmethod
    def from_pretrained(
        cls,
        directory: PathLike,
        *,
        device: Any = None,
        dtype: Any = None,
        quantize: str | None = None,
    ) -> Predictor:
        """Load a directory that `Trainer`, `seqloom train` or ``transformers`` has left.

        Parameters
        ----------
        directory, device, dtype, quantize
            As of :func:`seqloom.models.from_pretrained`.
        """
        folder = Path(directory)
        model = models.from_pretrained(folder, device=device, dtype=dtype, quantize=quantize)
        tokenizer = None
        try:
            tokenizer = Tokenizer.from_pretrained(folder)
        except FileNotFoundError:
            if model.config.get("vocab_size") is not None:
                raise
        labels = _labels(folder, model)
        scaling = _scaling(folder / SCALING, model) if (folder / SCALING).exists() else None
        return cls(model, tokenizer, labels, scaling, str(folder))

    def _must_be(self, method: str) -> None:
        if self.method != method:
            raise ValueError(
                f"Predictor.{method}: {self._where} holds a {type(self.model).__name__}, which can "
                f"{self.method}"
            )

    @property
    def _longest(self) -> int:
        """Tokens that the model reads at once."""
        config = self.model.config
        most = config.get("max_position_embeddings")
        if most is None and config.get("body") == "transformer":
            most = config.get("max_positions")
        return 1 << 20 if most is None else int(most)

    def _run(self, *inputs: Any, **more: Any) -> Any:
        with no_grad():
            return self.model(*inputs, **more)

    # ---- texts -----------------------------------------------------------------------------------

    def classify(self, text: str) -> dict[str, float]:
        """Labels and their probabilities, the likeliest first. A long text is cut."""
        self._must_be("classify")
        item = encode_texts([text], self.tokenizer, max_length=self._longest)[0]
        if not len(item["input_ids"]):
            raise ValueError("Predictor.classify: text holds no tokens")
        logits = _array(self._run(item["input_ids"][None], **self._types(item)))[0]
        share = _softmax(logits)
        return {self.labels[i]: float(share[i]) for i in np.argsort(-share, kind="stable")}

    def tag(self, words: str | Sequence[str]) -> list[tuple[str, str]]:
        """(word, tag) of a sentence, which a text becomes at its white space."""
        self._must_be("tag")
        every = words.split() if isinstance(words, str) else [str(w) for w in words]
        found: list[tuple[str, str]] = []
        part: list[tuple[str, list[int]]] = []
        for word in every:
            pieces = self.tokenizer.encode(word, add_special_tokens=False)[: self._longest]
            if part and sum(len(p) for _, p in part) + len(pieces) > self._longest:
                found += self._tagged(part)
                part = []
            part.append((word, pieces))
        return found + self._tagged(part)

    def _tagged(self, part: list[tuple[str, list[int]]]) -> list[tuple[str, str]]:
        ids = [i for _, pieces in part for i in pieces]
        if not ids:
            return [(word, "") for word, _ in part]
        best = _array(self._run(np.array([ids], np.int64)))[0].argmax(axis=-1)
        found, at = [], 0
        for word, pieces in part:  # the first token of a word has its tag
            found.append((word, self.labels[int(best[at])] if pieces else ""))
            at += len(pieces)
        return found

    def fill(self, text: str) -> str:
        """The text with the likeliest token in place of each mask."""
        self._must_be("fill")
        item = encode_texts([text], self.tokenizer, max_length=self._longest)[0]
        ids = item["input_ids"].copy()
        holes = ids == self.tokenizer.mask_token_id
        if not holes.any():
            mask = self.tokenizer.special_tokens.get("mask")
            raise ValueError(f"Predictor.fill: text must have a mask, {mask}")
        logits = _array(self._run(ids[None], **self._types(item)))[0]
        logits[:, self.tokenizer.special_ids] = -np.inf
        ids[holes] = logits[holes].argmax(axis=-1)
        said: str = self.tokenizer.decode(ids)
        return said

    def answer(self, question: str, context: str, *, longest: int = 30) -> dict[str, Any]:
        """What the context answers to a question.

        A context that is longer than the model reads at once goes through it in windows that
        overlap by half.

        Parameters
        ----------
        question, context : str
        longest : int
            Tokens of an answer.

        Returns
        -------
        dict
            `answer`, a part of the context, empty where the model says that there is none;
            `start`, at which character it begins (-1); `probability`.
        """
        self._must_be("answer")
        batch = self.tokenizer([question], [context], padding_side="right")
        ids, types, offsets = batch.input_ids[0], batch.token_type_ids[0], batch.offsets[0]
        inside = context_tokens(types, batch.special_tokens_mask[0] == 0)
        places = np.flatnonzero(inside)
        none = {"answer": "", "start": -1, "probability": 1.0}
        if not len(places):
            return none
        first, last = int(places[0]), int(places[-1]) + 1
        room = self._longest - first - (len(ids) - last)
        if room < 1:
            raise ValueError(
                f"Predictor.answer: question must leave room for its context, got {first} tokens "
                f"of the {self._longest} that the model reads"
            )
        best: tuple[float, float, int, int] | None = None
        for start in range(first, last, max(1, room // 2)):
            end = min(start + room, last)
            kept = np.r_[0:first, start:end, last : len(ids)]
            begins, ends = self._run(ids[kept][None], token_type_ids=types[kept][None])
            scores = [_log_softmax(_array(x)[0]) for x in (begins, ends)]
            own = slice(first, first + end - start)
            pairs = scores[0][own, None] + scores[1][None, own]
            length = np.arange(end - start)
            apart = length[None, :] - length[:, None]
            pairs = np.where((apart >= 0) & (apart < longest), pairs, -np.inf)
            i, j = np.unravel_index(int(pairs.argmax()), pairs.shape)
            null = float(scores[0][0] + scores[1][0])
            found = (float(pairs[i, j]), null, start + int(i), start + int(j))
            best = found if best is None or found[0] > best[0] else best
            if end == last:
                break
        assert best is not None
        if first > 0 and best[1] > best[0]:  # the first token is no part of the context
            return {**none, "probability": float(np.exp(best[1]))}
        begin, stop = int(offsets[best[2], 0]), int(offsets[best[3], 1])
        return {
            "answer": context[begin:stop],
            "start": begin,
            "probability": float(np.exp(best[0])),
        }

    def _types(self, item: Mapping[str, Any]) -> dict[str, Any]:
        bert = self.model.config.model_type == "bert"
        return {"token_type_ids": item["token_type_ids"][None]} if bert else {}

    # ---- numbers ---------------------------------------------------------------------------------

    def transcribe(self, features: Any) -> str:
        """The text of a recording, features [T, F], by its likeliest path."""
        self._must_be("transcribe")
        if self.tokenizer is None:
            raise ValueError(f"Predictor.transcribe: {self._where} holds no tokenizer")
        inputs = np.asarray(features, np.float32)
        if inputs.ndim != 2:
            raise ValueError(
                f"Predictor.transcribe: features must have shape [T, F], got {list(inputs.shape)}"
            )
        path = _array(self._run(inputs[None]))[0].argmax(axis=-1)
        said: str = self.tokenizer.decode(best_path(path, self.tokenizer.pad_token_id or 0))
        return said

    @property
    def columns(self) -> list[str] | None:
        """Names of a forecaster's features, where the directory has them."""
        return None if self._scaling is None else self._scaling["columns"]

    def forecast(self, series: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The next steps [horizon, F] of a series [T, F], in its own units.

        The model sees the last steps, as many as in training.
        """
        self._must_be("forecast")
        past = np.asarray(series, np.float64)
        past = past[:, None] if past.ndim == 1 else past
        width = self.model.config.input_size
        if past.ndim != 2 or past.shape[1] != width or not len(past):
            raise ValueError(
                f"Predictor.forecast: series must have shape [T, F] with F = {width}, got "
                f"{list(past.shape)}"
            )
        scaling = self._scaling or {"mean": 0.0, "scale": 1.0, "length": None}
        if scaling["length"]:
            past = past[-scaling["length"] :]
        scaled = ((past - scaling["mean"]) / scaling["scale"]).astype(np.float32)
        out = _array(self._run(scaled[None]))[0]
        return np.asarray(out * scaling["scale"] + scaling["mean"], np.float32)


def _labels(folder: Path, model: Any) -> list[str]:
    count: int = getattr(model.config, "num_classes", 0) or getattr(model.config, "labels", 0)
    path = folder / LABELS
    if path.exists():
        names = read_json(path, "Predictor")
        if not isinstance(names, list) or len(names) != count:
            raise CheckpointError(f"Predictor: {path}: must hold {count} labels")
        return [str(name) for name in names]
    told = model.config.get("id2label") or {}
    return [str(told.get(str(i), f"LABEL_{i}")) for i in range(count)]


def _scaling(path: Path, model: Any) -> dict[str, Any]:
    """Mean and scale [F], how many steps are seen, and the names of the features."""
    told = read_json(path, "Predictor")
    width = model.config.input_size
    try:
        found = {name: np.asarray(told[name], np.float64) for name in ("mean", "scale")}
        length, columns = told.get("length"), told.get("columns")
        good = all(v.shape == (width,) and np.isfinite(v).all() for v in found.values())
        good = good and (length is None or (type(length) is int and length > 0))
        good = good and (columns is None or len([str(c) for c in columns]) == width)
    except (TypeError, ValueError, KeyError, AttributeError):
        good = False
    if not good:
        raise CheckpointError(f"Predictor: {path}: must hold mean and scale of {width} features")
    return {**found, "length": length, "columns": columns and [str(c) for c in columns]}


def _array(x: Any) -> np.ndarray[Any, Any]:
    """Float32 on the host, to be changed."""
    array: np.ndarray[Any, Any] = np.array(x.to(dtype="float32").cpu().numpy())
    return array


def _log_softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    wide = x.astype(np.float64) - x.max()
    out: np.ndarray[Any, Any] = wide - np.log(np.exp(wide).sum())
    return out


def _softmax(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    out: np.ndarray[Any, Any] = np.exp(_log_softmax(x))
    return out
