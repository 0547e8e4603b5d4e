# SPDX-License-Identifier: Apache-2.0
"""`seqloom demo` as a new user runs it, on a tiny model."""

from __future__ import annotations

import importlib
import importlib.util
import shlex
import sys

import numpy as np
import pytest

import seqloom as sl
from seqloom import cli
from seqloom.text import Tokenizer
from seqloom.train import CSVLog


def run(folder, *options):
    return cli.main(["demo", "--quick", "--letters", "40", "--out", str(folder), *options])


def test_it_trains_writes_and_leaves_a_model_directory(tmp_path, capsys, device):
    folder = tmp_path / "model"
    assert run(folder, "--device", device, "--prompt", "The owl") == 0
    out, err = capsys.readouterr()
    assert err == ""  # no bar without a terminal
    assert f"on {device}: " in out
    assert "tokens/s" in out
    written = out.partition("The owl")[2].partition("\n\nmodel directory")[0]
    assert len(written) >= 40

    # The directory holds the model that wrote: loaded again it writes the same.
    tokenizer = Tokenizer.from_pretrained(folder)
    model = sl.models.from_pretrained(folder, device=device)
    assert model.config.vocab_size == len(tokenizer)
    demo = importlib.import_module("seqloom.commands.demo")
    options = demo._options(["--quick", "--letters", "40", "--device", device])
    start = np.array([tokenizer.encode("The owl")])
    assert "".join(demo._write(model, tokenizer, start, options)) == written
    rows = CSVLog.read(folder / "log.csv")
    assert rows[-1]["step"] == demo.QUICK_STEPS
    assert "eval_loss" in rows[-1]
    if importlib.util.find_spec("matplotlib") is not None:
        for name in ("loss.png", "attention.png"):
            assert (folder / name).stat().st_size > 10_000


def test_generate_goes_on_from_the_directory(tmp_path, capsys):
    prompt = 'Once upon a time "I" said'
    assert run(tmp_path / "a b", "--prompt", prompt) == 0
    hint = capsys.readouterr().out.splitlines()[-1]
    assert hint.startswith("go on with: seqloom generate ")
    words = shlex.split(hint.partition("seqloom ")[2])
    assert cli.main([*words, "--max-new-tokens", "30", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(prompt)
    assert len(out) > 40


def test_it_writes_beyond_the_models_positions(tmp_path, capsys):
    assert run(tmp_path, "--letters", "150", "--steps", "1") == 0
    out = capsys.readouterr().out
    assert len(out.partition("Once upon a time")[2].partition("\n\nmodel dir")[0]) >= 150


def test_the_loss_falls_and_a_seed_repeats_it(tmp_path):
    def losses(name):
        assert run(tmp_path / name, "--steps", "60", "--seed", "3") == 0
        return [row["loss"] for row in CSVLog.read(tmp_path / name / "log.csv")]

    first = losses("a")
    assert first[-1] < first[0] - 0.3
    assert losses("b") == first


def test_without_matplotlib_it_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    # None in sys.modules is how Python itself remembers that a module is not to be had.
    for name in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run(tmp_path) == 0
    assert "pip install 'seqloom[plot]'" in capsys.readouterr().out
    assert not (tmp_path / "loss.png").exists()


@pytest.mark.parametrize(
    "words",
    [["--steps", "0"], ["--seconds", "-1"], ["--device", "tpu"], ["--prompt", ""], ["--other"]],
)
def test_bad_options_exit_2(words, capsys):
    assert cli.main(["demo", *words]) == 2
    assert "usage:" in capsys.readouterr().err


def test_trouble_is_one_line_and_exit_1(tmp_path, capsys):
    (tmp_path / "file").write_text("not a directory")
    assert run(tmp_path / "file") == 1
    assert run(tmp_path / "model", "--prompt", "caf\u00e9") == 1
    assert run(tmp_path / "model", "--prompt", "The owl " * 9) == 1
    expected = 3
    if not sl.cuda.is_available():
        assert run(tmp_path / "model", "--device", "cuda") == 1
        expected = 4
    err = capsys.readouterr().err
    assert len(err.splitlines()) == expected
    assert all(line.startswith("seqloom: ") for line in err.splitlines())
    assert "has 72 letters, the model reads 64 at once" in err


def test_help_has_an_example(capsys):
    assert cli.main(["demo", "--help"]) == 0
    assert "example:" in capsys.readouterr().out
