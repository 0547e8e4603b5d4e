# SPDX-License-Identifier: Apache-2.0
"""One tokenizer for all vocabularies: text to arrays and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqloom.data.readers import Paths, read_text
from seqloom.files import PathLike, write_json
from seqloom.text.batch import Batch
from seqloom.text.engine import ROLES, Encoded, Engine
from seqloom.text.loading import detect_special, load_engine, read_settings
from seqloom.text.subword import BERT_SPECIAL, SubwordEngine
from seqloom.text.training import train_subword
from seqloom.text.vocabulary import DEFAULT_SPECIAL, FILE, VocabularyEngine

Kind = Literal["bpe", "wordpiece", "unigram", "char", "word"]

#: Files that decide what `from_pretrained` sees; a save removes those of other kinds.
_DECISIVE = (FILE, "tokenizer.json")
_TRAINING_CHUNK = 1 << 16


def _check_texts(texts: Sequence[str], what: str) -> list[str]:
    checked = list(texts)
    for text in checked:
        if not isinstance(text, str):
            raise TypeError(f"Tokenizer: {what} must be str, got {type(text).__name__}")
    return checked


class Tokenizer:
    """Text to token ids and back.

    Made by `Tokenizer.from_pretrained(directory)` or `Tokenizer.train(files)`.

    Examples
    --------
    >>> tokenizer = Tokenizer.train_from_texts(["hello world"], kind="char")
    >>> ids = tokenizer.encode("low")
    >>> tokenizer.decode(ids)
    'low'
    >>> batch = tokenizer(["hello", "he"])
    >>> batch["input_ids"].shape, batch.lengths.tolist()
    ((2, 5), [5, 2])
    """

    def __init__(
        self,
        engine: Engine,
        special: Mapping[str, str] | None = None,
        *,
        padding_side: str = "right",
        truncation_side: str = "right",
        model_max_length: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self._engine = engine
        self._vocabulary = engine.vocabulary()
        self._tokens = {number: token for token, number in self._vocabulary.items()}
        self.special_tokens = {r: t for r, t in (special or {}).items() if t in self._vocabulary}
        self.padding_side, self.truncation_side = padding_side, truncation_side
        self.model_max_length = model_max_length
        self._settings = dict(settings or {})

    # ------------------------------------------------------------------------- making one

    @classmethod
    def from_pretrained(cls, directory: PathLike) -> Tokenizer:
        """Read the tokenizer of a model directory.

        Understood are `seqloom_tokenizer.json` (characters, words), `tokenizer.json`,
        `vocab.json` with `merges.txt` (GPT-2, RoBERTa, BART), `vocab.txt` (BERT), and, with the
        `sentencepiece` package, `spiece.model`, `tokenizer.model` and Marian's `source.spm`.

        Examples
        --------
        >>> import tempfile
        >>> directory = tempfile.mkdtemp()
        >>> Tokenizer.train_from_texts(["abc"], kind="char").save_pretrained(directory)
        >>> Tokenizer.from_pretrained(directory).encode("cab")
        [6, 4, 5]
        """
        folder = Path(directory)
        if not folder.is_dir():
            raise FileNotFoundError(
                f"from_pretrained: {folder} is not a directory; nothing is downloaded here, "
                "fetch the model's files first"
            )
        settings, special, model_type = read_settings(folder)
        engine, special = load_engine(folder, settings, special, model_type)
        vocabulary = engine.vocabulary()
        if not special:
            special = detect_special(vocabulary)
        if isinstance(engine, SubwordEngine):
            engine.add_special(t for t in dict.fromkeys(special.values()) if t in vocabulary)
        length = settings.get("model_max_length")
        limited = isinstance(length, (int, float)) and 0 < length < 1 << 31
        sides = {"padding_side": "right", "truncation_side": "right"}
        for name in sides:
            if settings.get(name) in ("left", "right"):
                sides[name] = settings[name]
        return cls(
            engine,
            special,
            **sides,
            model_max_length=int(length) if limited and length is not None else None,
            settings=settings,
        )

    @classmethod
    def train(
        cls,
        files: Paths,
        kind: Kind = "bpe",
        vocab_size: int | None = None,
        *,
        encoding: str = "utf-8",
        **options: Any,
    ) -> Tokenizer:
        """Make a vocabulary from text files, which are streamed.

        Parameters
        ----------
        files
            One path or many; `.gz` is unpacked on the way.
        kind
            `"bpe"` (bytes, as GPT-2: every text survives the round trip), `"wordpiece"` (as BERT),
            `"unigram"` (as T5; folds white space), `"char"`, or `"word"`. The first three need
            the `tokenizers` package: `pip install 'seqloom[text]'`.
        vocab_size
            Size with special tokens: 8,000 by default for subwords, no limit for the others.
        options
            What `train_from_texts` takes.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as f:
        ...     _ = f.write("the cat sat on the mat\\n" * 5)
        >>> tokenizer = Tokenizer.train(f.name, kind="bpe", vocab_size=300)
        >>> tokenizer.decode(tokenizer.encode("the mat \\u2603"))
        'the mat \\u2603'
        """
        reader = read_text(files, encoding=encoding, keep_newlines=True, skip_blank=False)
        return cls.train_from_texts(reader, kind, vocab_size, **options)

    @classmethod
    def train_from_texts(
        cls,
        texts: Iterable[str],
        kind: Kind = "bpe",
        vocab_size: int | None = None,
        *,
        special_tokens: Mapping[str, str] | None = None,
        extra_special_tokens: Sequence[str] = (),
        min_frequency: int = 2,
        lowercase: bool = False,
        add_bos: bool = False,
        add_eos: bool = False,
        model_max_length: int | None = None,
    ) -> Tokenizer:
        """Make a vocabulary from strings.

        Parameters
        ----------
        texts
            Strings; an iterator will do.
        kind, vocab_size
            As in `train`.
        special_tokens
            Role -> token, roles being pad, unk, bos, eos, cls, sep and mask. The default is
            BERT's five for `"wordpiece"`, and `<pad> <unk> <s> </s>` else. `{}` means none.
        extra_special_tokens
            Further tokens that are never cut.
        min_frequency
            Rarer words and merges are left out (words occurring once, by default).
        lowercase
            Fold the case.
        add_bos, add_eos
            Whether `encode` puts `bos` in front and `eos` behind.
        model_max_length
            Kept in the files for those who ask; nothing is cut unless a call says so.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(
        ...     ["a b", "b c"], kind="word", min_frequency=1, add_bos=True, add_eos=True)
        >>> tokenizer.decode(tokenizer.encode("c a"), skip_special_tokens=False)
        '<s> c a </s>'
        """
        if kind not in ("bpe", "wordpiece", "unigram", "char", "word"):
            raise ValueError(
                "Tokenizer.train: kind must be 'bpe', 'wordpiece', 'unigram', 'char' or 'word', "
                f"got {kind!r}"
            )
        if vocab_size is not None and vocab_size < 1:
            raise ValueError(f"Tokenizer.train: vocab_size must be positive, got {vocab_size}")
        if isinstance(texts, str):
            raise TypeError("Tokenizer.train: texts must be an iterable of strings, got one str")
        if special_tokens is None:
            special_tokens = BERT_SPECIAL if kind == "wordpiece" else DEFAULT_SPECIAL
        for role in special_tokens:
            if role not in ROLES:
                raise ValueError(
                    f"Tokenizer.train: special_tokens must have roles of {', '.join(ROLES)}, "
                    f"got {role!r}"
                )
        common: dict[str, Any] = {
            "special": special_tokens,
            "extra": extra_special_tokens,
            "min_frequency": min_frequency,
            "lowercase": lowercase,
            "add_bos": add_bos,
            "add_eos": add_eos,
        }
        engine: Engine
        if kind in ("char", "word"):
            engine = VocabularyEngine.train(texts, kind, vocab_size=vocab_size, **common)
        else:
            size = 8000 if vocab_size is None else vocab_size
            engine = train_subword(_Chunks(texts), kind, vocab_size=size, **common)
        return cls(engine, special_tokens, model_max_length=model_max_length)

    def save_pretrained(self, directory: PathLike) -> None:
        """Write everything that `from_pretrained` needs into a model directory.

        Examples
        --------
        >>> import os, tempfile
        >>> directory = tempfile.mkdtemp()
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="bpe", vocab_size=300)
        >>> tokenizer.save_pretrained(directory)
        >>> sorted(os.listdir(directory))
        ['special_tokens_map.json', 'tokenizer.json', 'tokenizer_config.json']
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        self._engine.save(folder)
        own = isinstance(self._engine, VocabularyEngine)
        subword = isinstance(self._engine, SubwordEngine)
        for name, keep in zip(_DECISIVE, (own, subword), strict=True):
            if not keep:
                (folder / name).unlink(missing_ok=True)
        roles = {f"{role}_token": token for role, token in self.special_tokens.items()}
        settings = {**self._settings, **roles}
        settings["padding_side"] = self.padding_side
        settings["truncation_side"] = self.truncation_side
        if self.model_max_length is not None:
            settings["model_max_length"] = self.model_max_length
        if subword:
            settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
        write_json(folder / "special_tokens_map.json", roles)
        write_json(folder / "tokenizer_config.json", settings)

    # ----------------------------------------------------------------------- what it knows

    @property
    def kind(self) -> str:
        """The kind of vocabulary: bpe, wordpiece, unigram, char, word or sentencepiece."""
        return self._engine.kind

    @property
    def vocab_size(self) -> int:
        """Rows that an embedding needs: one more than the largest id."""
        return self._engine.size()

    def __len__(self) -> int:
        return self.vocab_size

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def get_vocab(self) -> dict[str, int]:
        """Token -> id, a copy."""
        return dict(self._vocabulary)

    def token_to_id(self, token: str) -> int | None:
        """Id of a token, None for one that the vocabulary lacks."""
        return self._vocabulary.get(token)

    def id_to_token(self, number: int) -> str | None:
        """Token of an id, None for one that is out of range."""
        return self._tokens.get(int(number))

    def special_id(self, role: str) -> int | None:
        """Id of a special token by its role (`"pad"`, `"eos"`, ...), None when there is none.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> tokenizer.special_id("eos"), tokenizer.special_id("mask")
        (3, None)
        """
        token = self.special_tokens.get(role)
        return None if token is None else self._vocabulary[token]

    @property
    def pad_token_id(self) -> int | None:
        """Id that fills rows."""
        return self.special_id("pad")

    @property
    def unk_token_id(self) -> int | None:
        """Id of what the vocabulary lacks."""
        return self.special_id("unk")

    @property
    def bos_token_id(self) -> int | None:
        """Id that begins a text."""
        return self.special_id("bos")

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text."""
        return self.special_id("eos")

    @property
    def cls_token_id(self) -> int | None:
        """Id of BERT's first token."""
        return self.special_id("cls")

    @property
    def sep_token_id(self) -> int | None:
        """Id between two texts."""
        return self.special_id("sep")

    @property
    def mask_token_id(self) -> int | None:
        """Id that hides a token."""
        return self.special_id("mask")

    @property
    def special_ids(self) -> list[int]:
        """Ids of all special tokens with a role, sorted."""
        return sorted({self._vocabulary[token] for token in self.special_tokens.values()})

    # -------------------------------------------------------------------- text to ids, back

    def encode(
        self,
        text: str,
        pair: str | None = None,
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
    ) -> list[int]:
        """Ids of one text, or of a pair.

        Parameters
        ----------
        text, pair
            The text, and the second one of a pair.
        add_special_tokens
            Whether the vocabulary's own template ([CLS] ... [SEP], say) is put around.
        max_length
            Cut to so many tokens, special ones included; of a pair the longer text first.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char", add_eos=True)
        >>> tokenizer.encode("abc"), tokenizer.encode("abc", max_length=2)
        ([4, 5, 6, 3], [4, 3])
        """
        if pair is None:
            return self.encode_batch(
                [text], add_special_tokens=add_special_tokens, max_length=max_length
            )[0]
        return self._encode([text], [pair], add_special_tokens, max_length)[0].ids

    def encode_batch(
        self,
        texts: Sequence[str],
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
    ) -> list[list[int]]:
        """Ids of many texts, without padding.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> tokenizer.encode_batch(["a", "cb"])
        [[4], [6, 5]]
        """
        if max_length is None and not isinstance(texts, str):
            checked = _check_texts(texts, "text")
            return self._engine.encode_ids(checked, special=add_special_tokens)
        return [row.ids for row in self._encode(texts, None, add_special_tokens, max_length)]

    def _encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        special: bool,
        max_length: int | None,
    ) -> list[Encoded]:
        if isinstance(texts, str):
            raise TypeError("Tokenizer: texts must be a sequence of str, got one str")
        first = _check_texts(texts, "text")
        second = None if pairs is None else _check_texts(pairs, "pair")
        if second is not None and len(first) != len(second):
            raise ValueError(
                f"Tokenizer: pairs must have one text for each of the {len(first)} texts, "
                f"got {len(second)}"
            )
        if max_length is not None and max_length < 1:
            raise ValueError(f"Tokenizer: max_length must be positive, got {max_length}")
        return self._engine.encode(
            first,
            second,
            special=special,
            max_length=max_length,
            truncation_side=self.truncation_side,
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        pairs: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
        padding_side: str | None = None,
        pad_to_multiple_of: int = 1,
    ) -> Batch:
        """Encode texts to padded arrays.

        Parameters
        ----------
        texts, pairs
            One text or many; the second texts of pairs.
        add_special_tokens, max_length
            As in `encode`.
        padding
            Fill rows up to the longest one, or to `max_length`.
        padding_side
            `"left"` or `"right"`; the tokenizer's own `padding_side` when absent.
        pad_to_multiple_of
            Round the width up.

        Returns
        -------
        Batch
            int64 arrays `[B, T]`, a mapping for `model(**batch)` with lengths, offsets and masks
            as attributes.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> batch = tokenizer(["abc", "b"], padding_side="left")
        >>> batch.input_ids.tolist()
        [[4, 5, 6], [0, 0, 5]]
        >>> batch.attention_mask.tolist()
        [[1, 1, 1], [0, 0, 1]]
        """
        many = [texts] if isinstance(texts, str) else texts
        seconds = [pairs] if isinstance(pairs, str) else pairs
        side = self.padding_side if padding_side is None else padding_side
        if side not in ("left", "right"):
            raise ValueError(f"Tokenizer: padding_side must be 'left' or 'right', got {side!r}")
        if padding not in ("longest", "max_length"):
            raise ValueError(
                f"Tokenizer: padding must be 'longest' or 'max_length', got {padding!r}"
            )
        if padding == "max_length" and max_length is None:
            raise ValueError("Tokenizer: padding='max_length' needs max_length")
        if pad_to_multiple_of < 1:
            raise ValueError(
                f"Tokenizer: pad_to_multiple_of must be positive, got {pad_to_multiple_of}"
            )
        rows = self._encode(many, seconds, add_special_tokens, max_length)
        width = max((len(row.ids) for row in rows), default=0)
        if padding == "max_length" and max_length is not None:
            width = max_length
        width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        return Batch(
            rows, pad_id=self._fill(), width=width, side=side, with_types=self.kind == "wordpiece"
        )

    def _fill(self) -> int:
        """What fills rows: without a pad token anything will do, the mask hides it."""
        for role in ("pad", "eos"):
            found = self.special_id(role)
            if found is not None:
                return found
        return 0

    def decode(self, ids: Any, *, skip_special_tokens: bool = True) -> str:
        """Text of ids: a list, an array or a tensor, of one dimension, or one id.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> tokenizer.decode([1, 4, 5]), tokenizer.decode([1, 4], skip_special_tokens=False)
        ('ab', '<unk>a')
        """
        array = np.asarray(ids)
        if array.size == 0:
            array = array.astype(np.int64)
        if array.dtype.kind not in "iu" or array.ndim > 1:
            raise TypeError(
                f"decode: ids must be integers of one dimension, got {array.dtype} "
                f"{list(array.shape)}"
            )
        return self._engine.decode(array.reshape(-1).tolist(), skip_special=skip_special_tokens)

    def decode_batch(self, batch: Iterable[Any], *, skip_special_tokens: bool = True) -> list[str]:
        """Texts of many rows of ids.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> tokenizer.decode_batch([[4, 5], [6]])
        ['ab', 'c']
        """
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in batch]

    def tokens(self, ids: Any) -> list[str]:
        """The tokens of ids as readable strings, for pictures and tables.

        Examples
        --------
        >>> tokenizer = Tokenizer.train_from_texts(["abc"], kind="char")
        >>> tokenizer.tokens([4, 3])
        ['a', '</s>']
        """
        return [self._tokens.get(int(i), "?") for i in np.asarray(ids).reshape(-1)]


class _Chunks:
    """Lines that still have their ends joined, so that trainers see them in context."""

    def __init__(self, texts: Iterable[str]) -> None:
        # Some trainers pass twice over the texts.
        self._texts = list(texts) if isinstance(texts, Iterator) else texts

    def __iter__(self) -> Iterator[str]:
        block: list[str] = []
        size = 0
        for text in self._texts:
            block.append(text)
            size += len(text)
            if size >= _TRAINING_CHUNK or not text.endswith("\n"):
                yield "".join(block)
                block, size = [], 0
        if block:
            yield "".join(block)
