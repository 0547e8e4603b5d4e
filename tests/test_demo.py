# SPDX-License-Identifier: Apache-2.0
"""`seqloom demo` as a new user runs it, on a tiny model."""

from __future__ import annotations

import importlib
import sys

import pytest

from seqloom import cli
from seqloom.text import Tokenizer
from seqloom.weights import load_config, load_weights


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

    config, tokenizer = load_config(folder), Tokenizer.from_pretrained(folder)
    weights = load_weights(folder)
    assert config["vocab_size"] == len(tokenizer) == len(weights["head.bias"])
    assert weights["rnn.weight_hh_l0"].shape == (4 * config["hidden_size"], config["hidden_size"])

    # The directory holds the model that wrote: loaded again it writes the same.
    demo = importlib.import_module("seqloom.commands.demo")
    model = demo.LetterModel(
        config["vocab_size"], config["embed_dim"], config["hidden_size"], device
    )
    model.load_state_dict(weights)
    options = demo._options(["--quick", "--letters", "40", "--device", device])
    again = tokenizer.decode(list(demo._write(model, tokenizer.encode("The owl"), options)))
    assert again == written


def test_the_loss_falls_and_a_seed_repeats_it():
    sl = importlib.import_module("seqloom")
    demo = importlib.import_module("seqloom.commands.demo")
    text = demo.demo_text()[: demo.QUICK_TEXT]
    tokenizer = Tokenizer.train_from_texts([text], kind="char", special_tokens={})
    tokens = demo.encode_corpus([text], tokenizer)
    options = demo._options(["--quick", "--steps", "40"])

    def losses():
        sl.manual_seed(3)
        model = demo.LetterModel(len(tokenizer), 16, 32, "cpu")
        return [row["loss"] for row in demo._train(model, tokens, options)[0]]

    first = losses()
    assert first[-1] < first[0] - 0.3
    assert losses() == first


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
    sl = importlib.import_module("seqloom")
    expected = 2
    if not sl.cuda.is_available():
        assert run(tmp_path / "model", "--device", "cuda") == 1
        expected = 3
    err = capsys.readouterr().err
    assert len(err.splitlines()) == expected
    assert all(line.startswith("seqloom: ") for line in err.splitlines())


def test_help_has_an_example(capsys):
    assert cli.main(["demo", "--help"]) == 0
    assert "example:" in capsys.readouterr().out
