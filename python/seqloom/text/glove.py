# SPDX-License-Identifier: Apache-2.0
"""Pretrained word vectors in text form: GloVe's, and word2vec's with its first line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from seqloom.data.readers import DataError, as_paths, numbered_lines
from seqloom.files import PathLike
from seqloom.text.tokenizer import Tokenizer

Matrix = npt.NDArray[np.float32]


class WordVectors:
    """Words and their vectors.

    Attributes
    ----------
    vocabulary
        Word -> row.
    matrix
        float32 `[words, dimension]`.
    found
        How many words the file had a vector for.
    """

    def __init__(self, vocabulary: dict[str, int], matrix: Matrix, found: int) -> None:
        self.vocabulary, self.matrix, self.found = vocabulary, matrix, found

    @property
    def dim(self) -> int:
        """Numbers per vector."""
        return int(self.matrix.shape[1])

    def __len__(self) -> int:
        return len(self.vocabulary)

    def __getitem__(self, word: str) -> Matrix:
        row: Matrix = self.matrix[self.vocabulary[word]]
        return row

    def __contains__(self, word: str) -> bool:
        return word in self.vocabulary

    def __repr__(self) -> str:
        return f"WordVectors({len(self)} words, dim={self.dim}, found={self.found})"

    def fill(self, embedding: Any) -> None:
        """Load the matrix into an `nn.Embedding` of the same shape."""
        shape = list(embedding.weight.shape)
        if shape != list(self.matrix.shape):
            raise ValueError(
                f"WordVectors.fill: embedding must have weight {list(self.matrix.shape)}, "
                f"got {shape}"
            )
        embedding.load_state_dict({"weight": self.matrix})

    def nearest(self, word: str, count: int = 5) -> list[tuple[str, float]]:
        """The words with the largest cosine to a word's vector.

        Examples
        --------
        >>> vectors = WordVectors(
        ...     {"a": 0, "b": 1, "c": 2}, np.array([[1, 0], [0, 1], [3, 1]], np.float32), 3)
        >>> [name for name, _ in vectors.nearest("a")]
        ['c', 'b']
        """
        norms = np.linalg.norm(self.matrix, axis=1)
        unit = self.matrix / np.where(norms > 0, norms, 1)[:, None]
        cosine = unit @ unit[self.vocabulary[word]]
        names = {row: name for name, row in self.vocabulary.items()}
        order = [int(i) for i in np.argsort(-cosine, kind="stable") if names.get(int(i)) != word]
        return [(names[i], float(cosine[i])) for i in order if i in names][:count]


def _vectors(path: str, encoding: str) -> Iterator[tuple[str, str, int, str]]:
    """Word, its numbers as text, their count, and where that is, line by line."""
    dim = 0
    for number, line in numbered_lines(path, encoding, "load_glove"):
        where = f"load_glove: {path}: line {number}"
        line = line.rstrip()
        if not line:
            continue
        if dim == 0:
            fields = line.split(" ")
            if number == 1 and len(fields) == 2 and all(f.isdigit() for f in fields):
                continue  # word2vec says how many vectors of what size follow
            # Words may hold spaces, so the numbers are counted from the right.
            while dim < len(fields) - 1 and _is_number(fields[-1 - dim]):
                dim += 1
            if dim == 0:
                raise DataError(f"{where}: must be a word and its numbers, got {line[:60]!r}")
        parts = line.rsplit(" ", dim)
        if len(parts) != dim + 1:
            raise DataError(f"{where}: has fewer than {dim} numbers: {line[:60]!r}")
        yield parts[0], line[len(parts[0]) + 1 :], dim, where


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse(text: str, where: str) -> Matrix:
    try:
        row = np.array([float(field) for field in text.split(" ")], np.float32)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not np.isfinite(row).all():
        raise DataError(f"{where}: numbers must be finite")
    return row


def load_glove(
    path: PathLike,
    *,
    vocabulary: Tokenizer | Mapping[str, int] | Sequence[str] | None = None,
    embedding: Any = None,
    limit: int | None = None,
    seed: int = 0,
    encoding: str = "utf-8",
) -> WordVectors:
    """Read word vectors as GloVe and word2vec (text form) ship them.

    Parameters
    ----------
    path
        The file: a word and its numbers a line; `.gz` is unpacked on the way.
    vocabulary
        A tokenizer, word -> row, or a list of words: only their vectors are kept, row by row
        where the vocabulary wants them. A word that the file has in lower case only gets that
        vector. Other rows are drawn from a normal distribution with the spread of the found
        vectors, except the padding token of a tokenizer, which is zero. Without a vocabulary
        all words of the file are kept, in its order.
    embedding
        An `nn.Embedding` of the right shape, filled on the way.
    limit
        Read so many vectors at most (files are sorted by frequency).
    seed
        For the rows that the file lacks.
    encoding
        The file's encoding.

    Returns
    -------
    WordVectors
        with `vocabulary`, `matrix` [words, dimension] float32, and `found`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as f:
    ...     _ = f.write("the 0.1 0.2\\ncat 1 -1\\n")
    >>> load_glove(f.name)["cat"]
    array([ 1., -1.], dtype=float32)
    >>> load_glove(f.name, vocabulary=["dog", "Cat"]).matrix[1]
    array([ 1., -1.], dtype=float32)
    """
    (name,) = as_paths(path, "load_glove")
    if vocabulary is None:
        result = _load_all(name, limit, encoding)
    else:
        pad = None
        if isinstance(vocabulary, Tokenizer):
            pad, table, rows = vocabulary.pad_token_id, vocabulary.get_vocab(), len(vocabulary)
        else:
            table = (
                dict(vocabulary)
                if isinstance(vocabulary, Mapping)
                else {word: row for row, word in enumerate(vocabulary)}
            )
            rows = max(table.values(), default=-1) + 1
        result = _load_some(name, table, rows, pad, limit, seed, encoding)
    if embedding is not None:
        result.fill(embedding)
    return result


def _load_all(path: str, limit: int | None, encoding: str) -> WordVectors:
    table: dict[str, int] = {}
    rows: list[Matrix] = []
    for word, text, _, where in _vectors(path, encoding):
        if limit is not None and len(rows) >= limit:
            break
        if word not in table:  # some files have a few words twice; the first is the frequent one
            table[word] = len(rows)
            rows.append(_parse(text, where))
    if not rows:
        raise DataError(f"load_glove: {path}: holds no vectors")
    return WordVectors(table, np.stack(rows), len(rows))


def _load_some(
    path: str,
    table: dict[str, int],
    rows: int,
    pad: int | None,
    limit: int | None,
    seed: int,
    encoding: str,
) -> WordVectors:
    lowered: dict[str, list[int]] = {}
    for word, row in table.items():
        if word.lower() != word:
            lowered.setdefault(word.lower(), []).append(row)
    exact: dict[int, Matrix] = {}
    folded: dict[int, Matrix] = {}
    dim = 0
    for count, (word, text, size, where) in enumerate(_vectors(path, encoding)):
        if limit is not None and count >= limit:
            break
        dim = size
        if word in table or word in lowered:
            vector = _parse(text, where)
            if word in table:
                exact.setdefault(table[word], vector)
            for row in lowered.get(word, ()):
                folded.setdefault(row, vector)
    if dim == 0:
        raise DataError(f"load_glove: {path}: holds no vectors")
    found = {**folded, **exact}
    spread = float(np.std(np.stack(list(found.values())))) if found else 0.1
    matrix = np.random.default_rng(seed).normal(0.0, spread, (rows, dim)).astype(np.float32)
    for row, vector in found.items():
        matrix[row] = vector
    if pad is not None:
        matrix[pad] = 0
    return WordVectors(table, matrix, len(found))
