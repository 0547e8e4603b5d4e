# SPDX-License-Identifier: Apache-2.0
"""The examples' sentence pairs from message catalogues."""

from __future__ import annotations

import gettext
import importlib.util
import struct
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "examples" / "gettext_pairs.py"
if not SCRIPT.is_file():
    pytest.skip("needs the source tree", allow_module_level=True)

spec = importlib.util.spec_from_file_location("gettext_pairs", SCRIPT)
gettext_pairs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gettext_pairs)

HEADER = b"Content-Type: text/plain; charset=%s\n"
MESSAGES = {
    b"The file could not be opened.": "Le fichier n'a pas pu être ouvert.".encode(),
    b"%d file was removed\0%d files were removed": b"%d fichier retir\xc3\xa9\0%d fichiers",
    b"menu\x04_Open a new window": "_Ouvrir une nouvelle fenêtre".encode(),
    b"<b>Bold words are here</b>\n": b"<b>Voici des mots gras</b>\n",
    b"Short": b"Court",
    b"----------- ++++ ------": b"-----------",
    b"Never the same here": b"Never the same here",
}


def catalogue(messages, order="<", charset=b"UTF-8"):
    """The bytes of a `.mo` file."""
    items = sorted({b"": HEADER % charset, **messages}.items())
    head, blob = 28 + 16 * len(items), b""
    tables = [[], []]
    for number, column in enumerate(zip(*items, strict=True)):
        for text in column:
            tables[number] += [len(text), head + len(blob)]
            blob += text + b"\0"
    n = len(items)
    parts = struct.pack(order + "7I", 0x950412DE, 0, n, 28, 28 + 8 * n, 0, 0)
    return parts + struct.pack(f"{order}{4 * n}I", *tables[0], *tables[1]) + blob


def place(root, language, name, data):
    folder = root / language / "LC_MESSAGES"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.mo").write_bytes(data)
    return folder / f"{name}.mo"


@pytest.mark.parametrize("order", ["<", ">"])
def test_catalogues_are_read_as_gettext_reads_them(tmp_path, order):
    path = place(tmp_path, "fr", "a", catalogue(MESSAGES, order))
    with open(path, "rb") as handle:
        theirs = gettext.GNUTranslations(handle)
    pairs = dict(gettext_pairs.read_catalogue(path))
    for source in ("The file could not be opened.", "Short"):
        assert pairs[source] == theirs.gettext(source)
    assert pairs["%d file was removed"] == "%d fichier retiré"
    assert pairs["_Open a new window"] == theirs.pgettext("menu", "_Open a new window")


def test_sentence_pairs(tmp_path):
    place(tmp_path, "fr", "a", catalogue(MESSAGES))
    place(tmp_path, "fr_CA", "b", catalogue({b"One more message": "Un été".encode("latin-1")},
                                            charset=b"ISO-8859-1"))  # fmt: skip
    place(tmp_path, "fro", "c", catalogue({b"Not this old one": b"Ne pas lire"}))
    pairs = gettext_pairs.sentence_pairs("fr", roots=[tmp_path, tmp_path / "absent"])
    assert dict(pairs) == {
        "The file could not be opened.": "Le fichier n'a pas pu être ouvert.",
        "%d file was removed": "%d fichier retiré",
        "Open a new window": "Ouvrir une nouvelle fenêtre",
        "Bold words are here": "Voici des mots gras",
        "One more message": "Un été",
    }
    assert gettext_pairs.sentence_pairs("fr", roots=[tmp_path], limit=2) == pairs[:2]


def test_damaged_catalogues_are_skipped(tmp_path, capsys):
    whole = catalogue(MESSAGES)
    for name, data in {
        "a": b"",
        "b": b"GIF89a" + b"\0" * 40,
        "c": whole[:40],
        "d": whole[:-30],
        "e": whole[:8] + b"\xff\xff\xff\x7f" + whole[12:],
        "f": whole[:12] + b"\xff\xff\xff\xff" + whole[16:],
    }.items():
        path = place(tmp_path, "fr", name, data)
        with pytest.raises(ValueError, match=rf"read_catalogue: .*{name}\.mo"):
            gettext_pairs.read_catalogue(path)
    place(tmp_path, "fr", "good", whole)
    assert len(gettext_pairs.sentence_pairs("fr", roots=[tmp_path])) == 4
    assert capsys.readouterr().err.count("skipped: ") == 6


def test_a_bare_machine_gets_a_hint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no catalogues of 'fr' below .*apt install"):
        gettext_pairs.sentence_pairs("fr", roots=[tmp_path])
