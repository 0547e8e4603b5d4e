# SPDX-License-Identifier: Apache-2.0
"""SentencePiece models (T5, Marian, LLaMA) over the `sentencepiece` package."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqloom.files import atomic_write, check_regular_file, read_json, write_json
from seqloom.text.engine import Piece, SegmentingEngine
from seqloom.text.subword import HINT

MODEL_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.model")
MAX_MODEL_BYTES = 256 << 20
_SPACE = "\u2581"


def _processor(path: Path) -> tuple[Any, bytes]:
    try:
        sentencepiece = importlib.import_module("sentencepiece")
    except ImportError as error:
        raise ImportError(
            f"from_pretrained: {path} needs the 'sentencepiece' package: {HINT}"
        ) from error
    if check_regular_file(path, "from_pretrained") > MAX_MODEL_BYTES:
        raise ValueError(f"from_pretrained: {path} is too large for a SentencePiece model")
    data = path.read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        usable = processor.get_piece_size() > 0
    except Exception:
        usable = False
    if not usable:
        raise ValueError(f"from_pretrained: {path} is not a usable SentencePiece model")
    return processor, data


def _with_offsets(processor: Any, text: str) -> list[tuple[str, int, int]]:
    """Pieces and the characters that they stand for, from any version of the package."""
    if hasattr(processor, "EncodeAsOffsetMapping"):
        found = processor.encode(text, out_type="offset_mapping")
        return [(p, b, e) for p, (b, e) in zip(found["pieces"], found["offsets"], strict=True)]
    found = processor.encode(text, out_type="immutable_proto")
    return [(p.piece, p.begin, p.end) for p in found.pieces]


class SentencePieceEngine(SegmentingEngine):
    """One SentencePiece model, or Marian's two with their common `vocab.json`."""

    kind = "sentencepiece"

    def __init__(
        self,
        source: Path,
        special: Mapping[str, str],
        *,
        target: Path | None = None,
        table: Mapping[str, int] | None = None,
        extra_ids: int = 0,
        prefix: Sequence[str] = (),
        suffix: Sequence[str] = (),
    ) -> None:
        self.source, source_bytes = _processor(source)
        self.target = self.source
        self.files = {source.name: source_bytes}
        if target is not None:
            self.target, self.files[target.name] = _processor(target)
        self.marian = table is not None
        if table is not None:
            tokens = sorted(table, key=lambda token: table[token])
            if [table[token] for token in tokens] != list(range(len(tokens))):
                raise ValueError("from_pretrained: vocab.json must number its tokens from 0")
        else:
            tokens = [self.source.id_to_piece(i) for i in range(self.source.get_piece_size())]
        # T5 counts its sentinels down at the end of the vocabulary.
        added = [f"<extra_id_{i}>" for i in reversed(range(extra_ids))]
        present = {r: t for r, t in special.items() if t in set(tokens)}
        control = [
            tokens[i]
            for i in range(0 if table is not None else self.source.get_piece_size())
            if self.source.is_control(i)
        ]
        recognised = [*added, *(t for r, t in present.items() if r != "unk")]
        super().__init__(
            [*tokens, *added],
            present,
            prefix=prefix,
            middle=list(suffix),
            suffix=suffix,
            added=list(dict.fromkeys([*recognised, *control])),
        )
        self.unknown = self.ids[present["unk"]] if "unk" in present else 0

    def segment(self, text: str) -> list[Piece]:
        """Cut plain text into known tokens."""
        pieces, word = [], -1
        for piece, begin, end in _with_offsets(self.source, text):
            if word < 0 or piece.startswith(_SPACE):
                word += 1
            pieces.append(Piece(self.ids.get(piece, self.unknown), begin, end, word))
        return pieces

    def join(self, tokens: Sequence[str]) -> str:
        """Glue tokens together."""
        out: list[str] = []
        run: list[str] = []
        plain = self.special_ids
        for token in tokens:
            if self.ids[token] in plain:
                out.append(self.target.decode_pieces(run) if run else "")
                out.append(token)
                run = []
            else:
                run.append(token)
        out.append(self.target.decode_pieces(run) if run else "")
        return " ".join(part for part in out if part)

    def save(self, directory: Path) -> None:
        """Write the model files as they were read."""
        for name, data in self.files.items():
            with atomic_write(directory / name) as handle:
                handle.write(data)
        if self.marian:
            write_json(directory / "vocab.json", self.ids)


def load_marian(directory: Path, special: Mapping[str, str]) -> SentencePieceEngine:
    """Read `source.spm`, `target.spm` and `vocab.json`."""
    table = read_json(directory / "vocab.json", "from_pretrained")
    if not isinstance(table, dict) or not all(isinstance(i, int) for i in table.values()):
        raise ValueError(f"from_pretrained: {directory / 'vocab.json'} must map tokens to ids")
    target = directory / "target.spm"
    return SentencePieceEngine(
        directory / "source.spm",
        special,
        target=target if target.exists() else None,
        table=table,
        suffix=[special["eos"]] if special.get("eos") in table else [],
    )
