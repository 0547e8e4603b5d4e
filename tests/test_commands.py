# SPDX-License-Identifier: Apache-2.0
"""`seqloom train`, `generate`, `translate` as people call them: exit codes, one-line errors."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from seqloom import cli
from seqloom.train import CSVLog

TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--length", "16", "--batch-size", "4",
        "--dropout", "0"]  # fmt: skip


def train(*words):
    return cli.main(["train", *map(str, words), *TINY])


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("the cat sat on the mat. the dog sat on the log.\n" * 40, encoding="utf-8")
    return path


def stdin_is(monkeypatch, text):
    # As Python opens it in the locales C and C.UTF-8: whatever comes is let through.
    stream = io.TextIOWrapper(io.BytesIO(text if isinstance(text, bytes) else text.encode()),
                              encoding="utf-8", errors="surrogateescape")  # fmt: skip
    monkeypatch.setattr(sys, "stdin", stream)


def one_line(capsys):
    """The one line of an error; nothing else was said."""
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    assert err.startswith("seqloom: ")
    return err


# ---- text in, text out ---------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["gpt2", "llama", "lstm", "gru", "rnn"])
def test_language_models_learn_and_write(tmp_path, book, capsys, monkeypatch, model):
    out = tmp_path / "model"
    assert train("--model", model, "--data", book, "--out", out, "--steps", 60, "--lr", "0.01",
                 "--schedule", "constant") == 0  # fmt: skip
    said, err = capsys.readouterr()
    assert err == ""  # quiet without a terminal
    assert "60 steps" in said
    assert f"model directory: {out}" in said
    rows = CSVLog.read(out / "log.csv")
    assert rows[-1]["loss"] < 0.6 * rows[0]["loss"]

    words = ["generate", str(out), "--max-new-tokens", "12", "--seed", "4"]
    assert cli.main([*words, "--prompt", "the "]) == 0
    whole = capsys.readouterr().out
    assert whole.startswith("the ")
    assert cli.main([*words, "--prompt", "the ", "--stream"]) == 0
    assert capsys.readouterr().out == whole
    stdin_is(monkeypatch, "the \n")
    assert cli.main(words) == 0
    assert capsys.readouterr().out == whole
    assert cli.main([*words, "--prompt", "the ", "--only-new"]) == 0
    assert "the " + capsys.readouterr().out == whole
    stdin_is(monkeypatch, "the cat\n\nthe dog\n")
    assert cli.main([*words, "--lines", "--greedy"]) == 0
    first, _, second = capsys.readouterr().out.partition("\n\n")
    assert first.startswith("the cat")
    assert second.startswith("the dog")


def test_it_writes_beyond_the_positions_of_a_model(tmp_path, book, capsys):
    out = tmp_path / "model"
    assert train("--model", "gpt2", "--data", book, "--out", out, "--steps", 2) == 0
    capsys.readouterr()
    words = ["generate", str(out), "--prompt", "the cat", "--seed", "2", "--max-new-tokens", "90"]
    assert cli.main([*words, "--temperature", "0.01"]) == 0
    assert len(capsys.readouterr().out) > 60  # 16 positions; special tokens are not shown
    assert cli.main([*words[:-4], "--num-beams", "2"]) == 0
    assert len(capsys.readouterr().out) <= 17


def test_beams_stop_and_bpe(tmp_path, book, capsys):
    pytest.importorskip("tokenizers")
    out = tmp_path / "model"
    assert train("--model", "gpt2", "--data", book, "--out", out, "--steps", 60, "--lr", "0.01",
                 "--tokenizer", "bpe", "--vocab-size", 280) == 0  # fmt: skip
    capsys.readouterr()
    words = ["generate", str(out), "--prompt", "the cat", "--max-new-tokens", "12"]
    assert cli.main([*words, "--num-beams", "3"]) == 0
    assert capsys.readouterr().out.startswith("the cat sat on")
    assert cli.main([*words, "--greedy", "--stop", "on"]) == 0
    assert capsys.readouterr().out.rstrip().endswith("on")


def test_resume_gives_the_same_weights_and_a_dry_run_leaves_nothing(tmp_path, book, capsys):
    common = ["--model", "gpt2", "--data", book, "--save-every", 5, "--eval-every", 10]
    assert train(*common, "--out", tmp_path / "dry", "--steps", 20, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "transformer.wte.weight" in said
    assert "20 steps" in said
    assert "activations" in said
    assert not (tmp_path / "dry").exists()

    assert train(*common, "--out", tmp_path / "whole", "--epochs", 1) == 0
    script = [sys.executable, "-m", "seqloom", "train", *map(str, common), *TINY, "--out",
              str(tmp_path / "part"), "--epochs", "1"]  # fmt: skip
    process = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("part/checkpoints/step-*")) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # A quick machine may have been at the end.
    assert process.returncode in (130, 0)
    if process.returncode == 130:
        assert "--resume goes on from there" in err
    capsys.readouterr()
    assert train(*common, "--out", tmp_path / "part", "--epochs", 1, "--resume") == 0
    whole = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert (tmp_path / "part" / "model.safetensors").read_bytes() == whole
    capsys.readouterr()
    assert train(*common, "--out", tmp_path / "whole", "--epochs", 1) == 1
    assert "holds checkpoints of an earlier training" in one_line(capsys)


def test_a_configuration_file(tmp_path, book, capsys):
    config = tmp_path / "tiny.toml"
    config.write_text(
        '[model]\nmodel = "gpt2"\nlayers = 3\n[model-config]\nresid_pdrop = 0.0\nn_inner = 24\n'
        f'[data]\ndata = ["{book}"]\neval_share = 0.1\n[training]\nsteps = 2\ntensorboard = false\n'
    )
    out = tmp_path / "model"
    assert train("--config", config, "--out", out) == 0
    values = json.loads((out / "config.json").read_text())
    assert values["n_layer"] == 1  # the command line comes first
    assert values["n_inner"] == 24
    capsys.readouterr()
    for text, status in (
        ("steps = 0", 2), ("colour = 1", 2), ("steps = true", 2), ("resume = 3", 2),
        ('model = "gpt9"', 2), ("steps = ", 1), ("\xff\xfe", 1),
    ):  # fmt: skip
        config.write_bytes(text.encode("latin-1"))
        words = ["--config", config, "--data", book, "--out", tmp_path / "other"]
        words += [] if "gpt9" in text else ["--model", "gpt2"]
        assert train(*words) == status, text
        err = capsys.readouterr().err
        assert ("usage:" in err) == (status == 2)
        assert "Traceback" not in err


# ---- labels, pairs, series -----------------------------------------------------------------------


def test_classification(tmp_path, capsys):
    data = tmp_path / "data.csv"
    rows = ["text,label"]
    for i in range(60):
        rows.append(
            f"what a {'lovely' if i % 2 else 'dreadful'} day {i % 7},{'+' if i % 2 else '-'}"
        )
    data.write_text("\n".join(rows))
    for model, more in (("classifier", []), ("bert", ["--task", "classification"])):
        if model == "bert":
            pytest.importorskip("tokenizers")
        out = tmp_path / model
        assert train("--model", model, "--data", data, "--out", out, "--epochs", 8, "--lr", "0.02",
                     "--eval-share", "0.2", *more) == 0  # fmt: skip
        assert "accuracy 1" in capsys.readouterr().out
        assert json.loads((out / "labels.json").read_text()) == ["+", "-"]
        assert cli.main(["predict", str(out), "--text", "what a lovely day 3"]) == 0
        assert capsys.readouterr().out.startswith("+\t")
        assert cli.main(["predict", str(out), str(data), "--json"]) == 0
        told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [row["label"] for row in told] == ["-", "+"] * 30
        assert sum(told[0]["probabilities"].values()) == pytest.approx(1)
    assert cli.main(["generate", str(tmp_path / "classifier"), "--prompt", "a"]) == 1
    assert "does not write text" in one_line(capsys)


def test_tagging(tmp_path, capsys, monkeypatch):
    conll, jsonl = tmp_path / "data.conll", tmp_path / "data.jsonl"
    sentences = [[("Anna", "PER"), ("lives", "O"), ("in", "O"), ("Rome", "LOC")],
                 [("Rome", "LOC"), ("saw", "O"), ("Otto", "PER")]] * 20  # fmt: skip
    conll.write_text("\n\n".join("\n".join(f"{w} {t}" for w, t in s) for s in sentences))
    jsonl.write_text("\n".join(
        json.dumps({"tokens": [w for w, _ in s], "tags": [t for _, t in s]}) for s in sentences
    ))  # fmt: skip
    for data in (conll, jsonl):
        out = tmp_path / data.suffix[1:]
        assert train("--model", "tagger", "--data", data, "--out", out, "--epochs", 10, "--lr",
                     "0.03", "--eval-share", "0.2") == 0  # fmt: skip
        assert "accuracy 1" in capsys.readouterr().out
        stdin_is(monkeypatch, "Anna lives in Rome\n\nRome saw Otto\n")
        assert cli.main(["predict", str(out), "-"]) == 0
        said = "\n\n".join("\n".join(f"{w}\t{t}" for w, t in s) for s in sentences[:2])
        assert capsys.readouterr().out == said + "\n\n"


@pytest.mark.parametrize("model", ["seq2seq", "transformer"])
def test_translation(tmp_path, capsys, monkeypatch, model):
    words = {"one": "un", "two": "deux", "red": "rouge", "cat": "chat", "dog": "chien"}
    rng = np.random.default_rng(0)
    lines = []
    for _ in range(200):
        chosen = rng.choice(list(words), 3)
        lines.append(" ".join(chosen) + "\t" + " ".join(words[w] for w in chosen))
    data = tmp_path / "pairs.tsv"
    data.write_text("\n".join(lines))
    out = tmp_path / "model"
    assert train("--model", model, "--data", data, "--out", out, "--epochs", 12, "--lr", "0.01",
                 "--tokenizer", "word", "--schedule", "constant", "--width", 32) == 0  # fmt: skip
    assert "perplexity" in capsys.readouterr().out
    command = ["translate", str(out)]
    assert cli.main([*command, "--text", "two red cat"]) == 0
    assert capsys.readouterr().out == "deux rouge chat\n"
    stdin_is(monkeypatch, "one dog cat\n\nred dog two\n")
    assert cli.main([*command, "--num-beams", "2"]) == 0
    assert capsys.readouterr().out == "un chien chat\n\nrouge chien deux\n"
    assert cli.main([*command, "--text", "two red cat", "--stream"]) == 0
    assert capsys.readouterr().out == "deux rouge chat\n"
    pytest.importorskip("matplotlib")
    picture = tmp_path / "attention.png"
    assert cli.main([*command, "--text", "two red cat", "--plot-attention", str(picture)]) == 0
    out_text, err = capsys.readouterr()
    assert out_text == "deux rouge chat\n"
    assert err == ""
    assert picture.stat().st_size > 5000


def test_a_model_without_attention_has_no_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    data, out = tmp_path / "pairs.tsv", tmp_path / "model"
    data.write_text("one two\tun deux\n" * 40)
    assert train("--model", "seq2seq", "--attention", "none", "--data", data, "--out", out,
                 "--tokenizer", "word", "--steps", 20, "--lr", "0.02") == 0  # fmt: skip
    capsys.readouterr()
    picture = tmp_path / "attention.png"
    words = ["translate", str(out), "--text", "one two", "--plot-attention", str(picture)]
    assert cli.main(words) == 1
    assert "this Seq2Seq has no attention" in one_line(capsys)
    assert not picture.exists()


def test_forecasting(tmp_path, capsys):
    data = tmp_path / "series.csv"
    t = np.arange(300)
    rows = "\n".join(f"{np.sin(i / 5):.5f},{np.cos(i / 5):.5f}" for i in t)
    data.write_text("a,b\n" + rows)
    out = tmp_path / "model"
    assert train("--model", "forecaster", "--data", data, "--out", out, "--epochs", 6, "--lr",
                 "0.01", "--horizon", 3, "--eval-share", "0.2") == 0  # fmt: skip
    assert CSVLog.read(out / "log.csv")[-1]["eval_mae"] < 0.2
    scaling = json.loads((out / "scaling.json").read_text())
    assert (scaling["columns"], scaling["length"]) == (["a", "b"], 16)
    capsys.readouterr()
    assert cli.main(["predict", str(out), str(data)]) == 0
    said = np.genfromtxt(io.StringIO(capsys.readouterr().out), delimiter=",", names=True)
    assert said.dtype.names == ("a", "b")
    for name, true in (("a", np.sin), ("b", np.cos)):
        np.testing.assert_allclose(said[name], true(np.arange(300, 303) / 5), atol=0.4)
    assert cli.main(["predict", str(out)]) == 1
    assert "name one .csv file" in one_line(capsys)
    (out / "scaling.json").write_text('{"mean": [0], "scale": [1]}')
    assert cli.main(["predict", str(out), str(data)]) == 1
    assert "must hold mean and scale of 2 features" in one_line(capsys)
    # Held-out data of one's own, whose columns may come in another order.
    (tmp_path / "later.csv").write_text("b,a\n" + "\n".join(f"{i},{2 * i}" for i in range(50)))
    assert train("--model", "forecaster", "--data", data, "--out", tmp_path / "two", "--steps", 2,
                 "--eval-data", tmp_path / "later.csv") == 0  # fmt: skip
    assert CSVLog.read(tmp_path / "two" / "log.csv")[-1]["eval_mae"] > 10
    (tmp_path / "empty.csv").write_text("a,b\n")
    capsys.readouterr()
    assert train("--model", "forecaster", "--data", tmp_path / "empty.csv", "--out", out) == 1
    assert "empty.csv: holds no rows" in one_line(capsys)
    (tmp_path / "words.csv").write_text("a,b\n1,x\n")
    capsys.readouterr()
    assert train("--model", "forecaster", "--data", tmp_path / "words.csv", "--out", out) == 1
    assert "name --columns" in one_line(capsys)


def test_masked_words_are_filled_and_writers_are_refused(tmp_path, book, capsys):
    pytest.importorskip("tokenizers")
    out = tmp_path / "bert"
    assert train("--model", "bert", "--data", book, "--out", out, "--epochs", 40, "--lr",
                 "0.01") == 0  # fmt: skip
    capsys.readouterr()
    text = "the cat sat on the [MASK]. the dog sat on the log."
    assert cli.main(["predict", str(out), "--text", text]) == 0
    assert capsys.readouterr().out.strip().startswith("the cat sat on the ")
    assert cli.main(["predict", str(out), "--text", "the cat"]) == 1
    assert "must have a mask, [MASK]" in one_line(capsys)
    assert train("--model", "gpt2", "--data", book, "--out", tmp_path / "gpt", "--steps", 1) == 0
    capsys.readouterr()
    assert cli.main(["predict", str(tmp_path / "gpt"), "--text", "a"]) == 1
    assert "which predicts nothing" in one_line(capsys)


# ---- trouble -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "generate", "predict", "translate"])
def test_help_has_an_example(command, capsys):
    assert cli.main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"seqloom {command} " in out.partition("example:")[2]


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "--model", "gpt2", "--data", "x"],
        ["train", "--model", "gpt3", "--data", "x", "--out", "y"],
        ["train", "--model", "gpt2", "--data", "x", "--out", "y", "--lr", "-1"],
        ["train", "--model", "gpt2", "--data", "x", "--out", "y", "--task", "tagging"],
        ["train", "--model", "gpt2", "--data", "x", "--out", "y", "--model-config", "n_layer"],
        ["generate"],
        ["generate", "x", "--temperature", "0"],
        ["generate", "x", "--prompt", "a", "--top-p", "0"],
        ["generate", "x", "--num-beams", "2", "--stream"],
        ["generate", "x", "--prompt", ""],
        ["predict"],
        ["predict", "x", "--question", "who?"],
        ["predict", "x", "--text", " "],
        ["predict", "x", "y", "--text", "a"],
        ["translate"],
        ["translate", "x", "--num-beams", "0"],
    ],
)
def test_bad_options_exit_2(words, capsys):
    assert cli.main(words) == 2
    assert "usage:" in capsys.readouterr().err


def test_unusable_files_exit_1_with_one_line(tmp_path, book, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    binary = tmp_path / "latin.txt"
    binary.write_bytes(b"caf\xe9 au lait\n" * 50)
    short = tmp_path / "short.txt"
    short.write_text("abc")
    for data, words in (
        ("absent.txt", "absent.txt does not exist"),
        (tmp_path, "is not a regular file"),
        (binary, "latin.txt: line 1, byte 3: not valid UTF-8"),
        (short, "tokens are too few"),
    ):
        assert train("--model", "gpt2", "--data", data, "--out", tmp_path / "out") == 1
        assert words in one_line(capsys)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("no tab here\n")
    assert train("--model", "seq2seq", "--data", pairs, "--out", tmp_path / "out") == 1
    assert "has no tab" in one_line(capsys)
    assert train("--model", "classifier", "--data", book, "--out", tmp_path / "out") == 1
    assert "must be .csv, .tsv or .jsonl" in one_line(capsys)
    assert train("--model", "gpt2", "--data", book, "--out", book) == 1
    one_line(capsys)
    assert train("--model", "gpt2", "--data", book, "--out", tmp_path / "o", "--model-config",
                 "n_layers=2") == 1  # fmt: skip
    assert "n_layers" in one_line(capsys)


def test_data_may_come_through_a_pipe(tmp_path, book, capsys, monkeypatch):
    common = ["--model", "gpt2", "--steps", 2, "--out"]
    assert train(*common, tmp_path / "file", "--data", book) == 0
    for name, bytes_ in (
        ("plain", book.read_bytes()),
        ("packed", gzip.compress(book.read_bytes())),
    ):
        stdin_is(monkeypatch, bytes_)
        assert train(*common, tmp_path / name, "--data", "-") == 0
        weights = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("file", name)]
        assert weights[0] == weights[1]
    stdin_is(monkeypatch, book.read_bytes())
    assert train(*common[:3], 3, "--out", tmp_path / "plain", "--data", "-", "--resume") == 0
    rows = "".join(json.dumps({"text": w, "label": w[0]}) + "\n" for w in ["up", "down"] * 20)
    for text in (rows, "text,label\n" + "up,u\ndown,d\n" * 20):
        stdin_is(monkeypatch, text)
        out = tmp_path / str(len(text))
        assert train("--model", "classifier", "--steps", 2, "--out", out, "--data", "-") == 0
    capsys.readouterr()
    for data, text, message in (
        (["-"], b"caf\xe9", "standard input: line 1, byte 3: not valid UTF-8"),
        (["-"], b"\x1f\x8bnothing", "standard input: broken gzip file"),
        (["-"], b"", "standard input: holds no text"),
        (["-", "-"], b"text", "--data -: needs data on standard input, once"),
    ):
        stdin_is(monkeypatch, text)
        assert train("--model", "gpt2", "--out", tmp_path / "x", "--data", *data) == 1
        assert message in one_line(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--width", "15"], "--width must be a multiple of --heads = 2, got 15"),
        (["--model-config", "n_embd=15"], "GPT2Config: n_embd must be a multiple of n_head = 2"),
        (["--tokenizer", "bpe", "--vocab-size", "3"], "--vocab-size must be at least 260 for"),
        (["--data", "latin.txt"], "latin.txt: line 1, byte 3: not valid UTF-8 (0xe9); save the "
         "file as UTF-8 or pass its encoding, such as --encoding latin-1"),
        (["--data", "wide.txt"], "wide.txt: looks like UTF-16; pass --encoding utf-16"),
    ],
)  # fmt: skip
def test_errors_name_options(tmp_path, book, capsys, monkeypatch, words, message):
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes("caf\u00e9 ".encode("latin-1") * 40)
    (tmp_path / "wide.txt").write_text("text", encoding="utf-16")
    common = ["--model", "gpt2", "--data", str(book), "--out", "m"]
    assert cli.main(["train", *TINY, *common, *words]) == 1
    assert one_line(capsys).startswith(f"seqloom: {message}")


def test_unusable_models_exit_1_with_one_line(tmp_path, book, capsys, monkeypatch):
    out = tmp_path / "model"
    assert train("--model", "gpt2", "--data", book, "--out", out, "--steps", 2) == 0
    capsys.readouterr()
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder, words in ((tmp_path / "absent", "there is no such directory"),
                          (book, "not a directory"), (empty, "holds no config.json")):  # fmt: skip
        for command, option in (("generate", "--prompt"), ("translate", "--text")):
            assert cli.main([command, str(folder), option, "the"]) == 1
            assert words in one_line(capsys)
    generate = ["generate", str(out)]
    assert cli.main(["translate", str(out), "--text", "the"]) == 1
    assert "does not translate" in one_line(capsys)
    assert cli.main([*generate, "--prompt", "t" * 40]) == 1
    assert "reads at most 16" in one_line(capsys)
    stdin_is(monkeypatch, b"caf\xe9")
    assert cli.main(generate) == 1
    assert "not valid UTF-8" in one_line(capsys)
    stdin_is(monkeypatch, "\n")
    assert cli.main(generate) == 1
    assert "holds no text" in one_line(capsys)
    weights = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(weights[:-100])
    assert cli.main([*generate, "--prompt", "the"]) == 1
    assert "model.safetensors" in one_line(capsys)
    (out / "config.json").write_text('{"model_type": "gpt5"}')
    assert cli.main([*generate, "--prompt", "the"]) == 1
    assert "model_type" in one_line(capsys)


def test_options_that_do_not_fit_are_told_before_the_training(tmp_path, book, capsys):
    common = ["--model", "gpt2", "--data", book, "--steps", 2]
    for words, message in (
        (["--best-metric", "accuracy"], "must be one of eval_loss, eval_perplexity"),
        (["--early-stopping", 2, "--eval-share", 0], "nothing is held out"),
    ):
        assert train(*common, "--out", tmp_path / "no", *words) == 1
        assert message in one_line(capsys)
        assert not (tmp_path / "no").exists()
    tags = tmp_path / "tags.jsonl"
    tags.write_text('{"tokens": ["a"], "tags": 5}\n' * 30)
    assert train("--model", "tagger", "--data", tags, "--out", tmp_path / "no") == 1
    assert "tokens and tags must be lists of one length" in one_line(capsys)


def test_weights_of_another_kind_of_model_are_refused(tmp_path, book, capsys):
    for model in ("gpt2", "lstm"):
        assert train("--model", model, "--data", book, "--out", tmp_path / model, "--steps", 2) == 0
    for model, held, class_name in (
        ("lstm", "gpt2", "GPT2"), ("llama", "lstm", "RNNLanguageModel"),
        ("gru", "lstm", "RNNLanguageModel"),
    ):  # fmt: skip
        capsys.readouterr()
        words = ["--model", model, "--from", tmp_path / held, "--data", book, "--steps", 2]
        assert train(*words, "--out", tmp_path / "no") == 1
        assert f"holds a {class_name}, not a model for --model {model}" in one_line(capsys)
    words = ["--from", tmp_path / "lstm", "--data", book, "--steps", 2, "--out", tmp_path / "more"]
    assert train("--model", "lstm", *words) == 0


LIMITED = """
import resource, sys
from seqloom import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing_half(tmp_path, book):
    pytest.importorskip("resource")
    out = tmp_path / "model"
    words = ["train", "--model", "gpt2", "--data", book, "--out", out, "--steps", 4, *TINY]
    done = subprocess.run([sys.executable, "-c", LIMITED, *map(str, words)], capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "File too large" in done.stderr
    assert list((out / "checkpoints").iterdir()) == []


def test_a_pretrained_bert_gets_a_new_head(tmp_path, book, capsys):
    pytest.importorskip("tokenizers")
    base, data = tmp_path / "base", tmp_path / "data.csv"
    assert train("--model", "bert", "--data", book, "--out", base, "--steps", 4, "--vocab-size",
                 60, "--eval-share", "0.1") == 0  # fmt: skip
    data.write_text("text,label\n" + "the cat sat,a\nthe dog sat,b\n" * 20)
    with pytest.warns(UserWarning, match=r"classifier\.weight"):
        assert train("--model", "bert", "--task", "classification", "--from", base, "--data", data,
                     "--out", tmp_path / "fine", "--steps", 4) == 0  # fmt: skip
    script = [sys.executable, "-m", "seqloom", "train", "--model", "bert", "--task",
              "classification", "--from", str(base), "--data", str(data), "--out",
              str(tmp_path / "again"), "--steps", "1", *TINY]  # fmt: skip
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("seqloom: from_pretrained: ")
    config = json.loads((tmp_path / "fine" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "a", "1": "b"}


def test_an_unfinished_training_can_be_read(tmp_path, book, capsys):
    out = tmp_path / "model"
    assert train("--model", "gpt2", "--data", book, "--out", out, "--steps", 4, "--save-every", 2,
                 "--keep", 2) == 0  # fmt: skip
    for name in ("config.json", "model.safetensors"):
        os.unlink(out / name)
    capsys.readouterr()
    assert cli.main(["generate", str(out), "--prompt", "the", "--max-new-tokens", "3"]) == 0
    assert capsys.readouterr().out.startswith("the")
