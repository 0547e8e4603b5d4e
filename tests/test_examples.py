# SPDX-License-Identifier: Apache-2.0
"""Every example runs to its end with --quick and reaches more than a guess would."""

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

SHARE, NUMBER = r"(\d+\.\d+)%", r"(\d+\.\d+)"
TRANSLATED = rf"perplexity {NUMBER} a token on unseen sentences, {NUMBER} by|(nothing to learn)"

# script, extra arguments, the numbers it says, what must hold of them, packages that it needs.
# The bounds lie well between knowing nothing and what --quick reaches (in the comments).
RUNS = [
    # 37 against 19 for the commonest topic
    ("classify_topics.py", [], rf"accuracy {SHARE}; always saying \S+ gives {SHARE}",
     lambda found, common: found > common + 8, None),
    # 60 against 23 and 55 against 20, with the texts of two Pythons
    ("finetune_bert.py", [], rf"accuracy {SHARE} over 8 .* gives {SHARE}",
     lambda found, common: found > common + 12, "tokenizers"),
    # 86 against 45
    ("tag_names.py", [], rf"accuracy {SHARE} over all tokens, .* gives {SHARE}",
     lambda found, common: found > common + 20, None),
    # 232 and 241 against 316
    ("translate_gettext.py", ["--model", "seq2seq"], TRANSLATED,
     lambda found, alone: found < 0.9 * alone, "tokenizers"),
    ("translate_gettext.py", ["--model", "transformer"], TRANSLATED,
     lambda found, alone: found < 0.9 * alone, "tokenizers"),
    # 28 against 61 for the last value
    ("forecast_sunspots.py", [], rf"(?s)GRU +{NUMBER}.*the last value +{NUMBER}",
     lambda found, last: found < 0.65 * last, None),
    # 3.35 against 4.5
    ("char_gpt.py", [], rf"{NUMBER} bits a character .*, {NUMBER} from",
     lambda found, alone: found < alone - 0.6, None),
    # 65; one who says nothing has 100
    ("ctc_speech.py", [], rf"{SHARE} of the digits wrong", lambda found: found < 85, None),
    ("hugging_face.py", [], rf"(?s)GPT2, float32:.*GPT2, int8:.*at most {SHARE}",
     lambda apart: apart < 5, "tokenizers seqloom.models.quantize"),
    ("gettext_pairs.py", ["fr"], r"(\d+) pairs en-fr|(no catalogues)",
     lambda pairs: pairs > 0, None),
]  # fmt: skip


def test_every_example_is_run():
    scripts = {p.name for p in EXAMPLES.glob("*.py")} - {"stdlib_texts.py"}
    assert scripts == {name for name, *_ in RUNS}


@pytest.mark.parametrize(("name", "more", "says", "holds", "needs"), RUNS)
def test_quick_run(tmp_path, name, more, says, holds, needs):
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
    told = re.search(says, said)
    assert told, said[-2000:]
    numbers = [float(text) for text in told.groups() if text and text[0].isdigit()]
    if numbers:
        assert done.returncode == 0
        assert holds(*numbers), said[-2000:]
    else:
        assert told[0] in ("no catalogues", "nothing to learn")
