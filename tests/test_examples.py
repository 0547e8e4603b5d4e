# SPDX-License-Identifier: Apache-2.0
"""Every example runs to its end with --quick and says what it reached."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import seqloom as sl

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("needs the source tree", allow_module_level=True)

# script, extra arguments, what it must say, packages that it needs
RUNS = [
    ("classify_topics.py", [], r"accuracy \d+\.\d%; always saying", None),
    ("finetune_bert.py", [], r"(?s)masked words: .*accuracy \d+\.\d% over 8", "tokenizers"),
    ("tag_names.py", [], r"(?s)accuracy \d+\.\d%.*function +\d+\.\d%", None),
    ("translate_gettext.py", ["--model", "seq2seq"], r"BLEU = |nothing to learn", "tokenizers"),
    ("translate_gettext.py", ["--model", "transformer"], r"BLEU = |nothing to learn", "tokenizers"),
    ("forecast_sunspots.py", [], r"(?s)GRU +\d+\.\d\d.*the last value +\d+\.\d\d", None),
    ("char_gpt.py", [], r"\d\.\d{3} bits a character", None),
    ("ctc_speech.py", [], r"(?s)\d% of the digits wrong.*spoken .*heard ", None),
    (
        "hugging_face.py",
        [],
        r"(?s)GPT2, float32:.*GPT2, int8:.*tokens/s",
        "tokenizers seqloom.models.quantize",
    ),
    ("gettext_pairs.py", ["fr"], r"pairs en-fr|no catalogues", None),
]


def test_every_example_is_run():
    scripts = {p.name for p in EXAMPLES.glob("*.py")} - {"stdlib_texts.py"}
    assert scripts == {name for name, *_ in RUNS}


@pytest.mark.parametrize(("name", "more", "says", "needs"), RUNS)
def test_quick_run(tmp_path, name, more, says, needs):
    for package in (needs or "").split():
        pytest.importorskip(package)
    quick = [] if name == "gettext_pairs.py" else ["--quick"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *quick, *more],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        env={
            **os.environ, "PYTHONIOENCODING": "utf-8", "TMPDIR": str(tmp_path),
            "PYTHONPATH": os.path.abspath(os.path.join(os.path.dirname(sl.__file__), "..")),
        },
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said[-2000:]
    assert re.search(says, said), said[-2000:]
    if "no catalogues" not in said:
        assert done.returncode == 0
