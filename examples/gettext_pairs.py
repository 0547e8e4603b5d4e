# SPDX-License-Identifier: Apache-2.0
"""Sentence pairs for the translation examples, from the message catalogues on this machine.

Programs carry their translations in gettext catalogues (`.mo` files), tens of thousands of English
messages with their French, German or Spanish. They are read where they lie, with their own
licences; nothing of them is part of this package. Run this file to see what a machine has:

    python examples/gettext_pairs.py fr
"""

from __future__ import annotations

import argparse
import re
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOTS = ("/usr/share/locale", "/usr/share/locale-langpack", "/usr/local/share/locale")
MAX_BYTES = 64 << 20
_MAGIC = 0x950412DE
_CHARSET = re.compile(r"charset=([\w.-]+)", re.IGNORECASE)
_MARKUP = re.compile(r"</?[A-Za-z][^>]*>|\\[nt]")


def read_catalogue(path: Path) -> list[tuple[str, str]]:
    """Messages and translations of one `.mo` file; a damaged file is a `ValueError`.

    Of a message with plural forms the singular counts; contexts are left out.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"read_catalogue: {path}: {size} bytes are too many")
    data = path.read_bytes()
    order = next((o for o in "<>" if data[:4] == struct.pack(o + "I", _MAGIC)), None)
    if order is None or len(data) < 20:
        raise ValueError(f"read_catalogue: {path}: is not a gettext catalogue")
    count, *tables = struct.unpack_from(order + "3I", data, 8)
    columns: list[list[bytes]] = []
    for table in tables:
        if table + 8 * count > len(data):
            raise ValueError(f"read_catalogue: {path}: a table exceeds the file")
        entries = struct.unpack_from(f"{order}{2 * count}I", data, table)
        spans = list(zip(entries[0::2], entries[1::2], strict=True))
        if any(length + start > len(data) for length, start in spans):
            raise ValueError(f"read_catalogue: {path}: a message exceeds the file")
        columns.append([data[start : start + length] for length, start in spans])
    # The translation of the empty message holds the header.
    header = dict(zip(*columns, strict=True)).get(b"", b"")
    found = _CHARSET.search(header.decode("latin-1"))
    charset = found[1] if found else "utf-8"
    pairs = []
    for source, target in zip(*columns, strict=True):
        try:
            texts = [part.split(b"\0")[0].decode(charset) for part in (source, target)]
        except (UnicodeDecodeError, LookupError):
            continue
        if source:
            pairs.append((texts[0].rpartition("\x04")[2], texts[1]))
    return pairs


def clean(text: str) -> str:
    """One line of plain words: no markup, no marks of keyboard shortcuts.

    >>> clean("<b>_Open</b>\\n the file\u2026 ")
    'Open the file\u2026'
    """
    text = _MARKUP.sub(" ", text)
    text = re.sub(r"(?<![\w&])[_&](?=\w)", "", text)
    return " ".join(text.split())


def catalogues(language: str, roots: Sequence[str | Path] = ROOTS) -> list[Path]:
    """The catalogues of a language (`"fr"` finds `fr_FR` and `fr.UTF-8`, too), sorted."""
    found: set[Path] = set()
    for root in roots:
        base = Path(root)
        if base.is_dir():
            for folder in sorted(base.glob(f"{language}*")):
                if re.fullmatch(re.escape(language) + r"([_.@].*)?", folder.name):
                    found.update(folder.glob("LC_MESSAGES/*.mo"))
    return sorted(found)


def _usable(source: str, target: str, min_words: int, max_words: int) -> bool:
    words = len(source.split())
    return (
        min_words <= words <= max_words
        and 1 <= len(target.split()) <= 2 * max_words
        and source != target
        # Rulers, tables and lists of options teach nothing.
        and sum(c.isalpha() or c.isspace() for c in source) > 0.8 * len(source)
    )


def sentence_pairs(
    language: str,
    *,
    roots: Sequence[str | Path] = ROOTS,
    min_words: int = 3,
    max_words: int = 40,
    limit: int | None = None,
) -> list[tuple[str, str]]:
    """English messages with their translations: unique sources, in a fixed order.

    Raises `FileNotFoundError` with a hint on a machine without catalogues of the language, such as
    a minimal container.
    """
    paths = catalogues(language, roots)
    pairs: dict[str, str] = {}
    for path in paths:
        try:
            messages = read_catalogue(path)
        except (OSError, ValueError) as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        for source, target in messages:
            left, right = clean(source), clean(target)
            if _usable(left, right, min_words, max_words):
                pairs.setdefault(left, right)
    if not pairs:
        raise FileNotFoundError(
            f"sentence_pairs: no catalogues of {language!r} below {', '.join(map(str, roots))}; "
            "on Debian and Ubuntu: apt install libc-l10n git-gui coreutils gnupg (with locales)"
        )
    return list(pairs.items())[:limit]


def _main(arguments: Sequence[str] | None = None) -> Iterator[str]:
    parser = argparse.ArgumentParser(description="Show sentence pairs found on this machine.")
    parser.add_argument("language", nargs="?", default="fr")
    parser.add_argument("--show", type=int, default=5, help="pairs to print")
    options = parser.parse_args(arguments)
    pairs = sentence_pairs(options.language)
    files = len(catalogues(options.language))
    yield f"{len(pairs)} pairs en-{options.language} in {files} catalogues"
    step = max(1, len(pairs) // max(1, options.show))
    for source, target in pairs[::step][: options.show]:
        yield f"  {source}\n    {target}"


if __name__ == "__main__":
    try:
        print("\n".join(_main()))
    except FileNotFoundError as problem:
        sys.exit(str(problem))
