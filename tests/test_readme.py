# SPDX-License-Identifier: Apache-2.0
"""The README does what it says: its example runs, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")

pytestmark = pytest.mark.skipif(not (ROOT / "README.md").is_file(), reason="needs the source tree")


def readme() -> str:
    return (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", readme(), re.S | re.M)


def test_the_first_block_holds_the_two_commands():
    assert blocks("sh")[0].splitlines() == [
        "pip install . && seqloom demo",
        "pip install '.[test]' && python -m pytest -q",
    ]


def test_the_example_runs_and_learns(capsys):
    (code,) = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 15
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    loss, x = names["loss"], names["x"]
    # To say nothing but zero would cost the mean square of the sums.
    assert loss.item() < 0.1 * float((x.cumsum(0) ** 2).mean())
    assert capsys.readouterr().out.startswith("loss 0.")


def test_the_second_example_runs_too(tmp_path, monkeypatch):
    import numpy as np

    import seqloom as sl

    monkeypatch.chdir(tmp_path)
    tiny = {"vocab_size": 4000, "n_layer": 1, "n_embd": 32, "n_head": 2}
    sl.models.GPT2(**tiny).save_pretrained("gpt2-directory")
    (code,) = blocks("py")
    names: dict[str, object] = {"np": np, "sl": sl}
    exec(compile(code, "README.md", "exec"), names)
    assert names["ids"].shape == (1, 22)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing, missing
