# SPDX-License-Identifier: Apache-2.0
"""`seqloom train`: questions and recordings, what a resume refuses, encodings, short errors."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

import seqloom as sl
from seqloom import cli
from seqloom.commands.train import EXAMPLE
from seqloom.data import encode_questions
from seqloom.text import Tokenizer
from seqloom.train import CSVLog

NAMES = ("ann", "bob", "eve", "tom")
TOWNS = ("rome", "paris", "oslo", "bern")
SIZE = ["--layers", "1", "--width", "32", "--heads", "2", "--batch-size", "16", "--dropout", "0"]


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def error_of(capsys):
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1, err
    return err


# ---- question answering --------------------------------------------------------------------------


def questions(count=300):
    """What is asked for, the name or the town, decides; where they stand varies."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        found = {"who": rng.choice(NAMES), "where": rng.choice(TOWNS)}
        rest = ["lives", "in", "the", "town", "of"]
        words = rest[: rng.integers(1, 6)]
        for word in found.values():
            words.insert(int(rng.integers(len(words) + 1)), str(word))
        asked = str(rng.choice(list(found)))
        rows.append({"question": asked, "context": " ".join(words), "answer": found[asked]})
    return rows


def test_answers_are_found(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    data = write_lines(tmp_path / "qa.jsonl", questions())
    out = tmp_path / "model"
    words = ["train", "--model", "bert", "--task", "question-answering", "--data", data, "--out",
             str(out), "--length", "24", "--epochs", "12", "--lr", "0.005", "--best-metric",
             "eval_exact_match"]  # fmt: skip
    assert cli.main([*words, *SIZE]) == 0, capsys.readouterr().err
    assert "exact match" in capsys.readouterr().out
    last = max(row["eval_exact_match"] for row in CSVLog.read(out / "log.csv")
               if "eval_exact_match" in row)  # fmt: skip
    assert last > 0.9
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["BertForQuestionAnswering"]

    rows = questions(40)
    asked = write_lines(tmp_path / "asked.jsonl", rows)
    capsys.readouterr()
    assert cli.main(["predict", str(out), asked]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(a == row["answer"] for a, row in zip(said, rows, strict=True)) >= 36
    row = rows[0]
    words = ["predict", str(out), "--text", row["context"]]
    assert cli.main([*words, "--question", row["question"], "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["answer"] == said[0]
    assert row["context"][told["start"] :].startswith(said[0])
    assert 0 < told["probability"] <= 1
    assert cli.main(words) == 1
    assert "give a --question" in error_of(capsys)
    # Longer than the 24 positions: in windows, and the places are those of the whole text.
    predictor = sl.train.Predictor.from_pretrained(out)
    for row in rows[:10]:
        found = predictor.answer(row["question"], "in the town of " * 30 + row["context"])
        if found["answer"]:
            assert ("in the town of " * 30 + row["context"])[found["start"] :].startswith(
                found["answer"]
            )
    with pytest.raises(ValueError, match="question must leave room"):
        predictor.answer("who " * 30, "ann")
    assert predictor.answer("who", "")["answer"] == ""
    with pytest.raises(ValueError, match="holds a BertForQuestionAnswering, which can answer"):
        predictor.classify("ann")


def test_places_of_answers():
    """Against the text that the tokens between the places spell."""
    texts = [row["context"] + row["question"] for row in questions(50)]
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    for kind in ("char", "word", "wordpiece"):
        if kind == "wordpiece":
            pytest.importorskip("tokenizers")
        more = {"special_tokens": roles} if kind != "wordpiece" else {}
        tokenizer = Tokenizer.train_from_texts(texts, kind, 90, **more)
        for row in questions(50):
            item = encode_questions([row], tokenizer)[0]
            first, last = item["start_positions"], item["end_positions"]
            said = tokenizer.decode(item["input_ids"][first : last + 1])
            assert said.replace(" ", "") == row["answer"], kind
    # The question holds the answer as well: only the context counts.
    row = {"question": "rome rome", "context": "rome or rome", "answer": "rome", "answer_start": 8}
    tokenizer = Tokenizer.train_from_texts([row["context"]], "word")
    item = encode_questions([row], tokenizer)[0]
    assert (item["start_positions"], item["end_positions"]) == (
        5,
        5,
    )  # of "rome rome </s> rome or rome"
    none = encode_questions([{**row, "answer": "", "answer_start": 0}], tokenizer)[0]
    assert (none["start_positions"], none["end_positions"]) == (0, 0)
    cut = encode_questions([row], tokenizer, max_length=5)[0]
    assert (cut["start_positions"], cut["end_positions"]) == (-1, -1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": "cairo"}, "record 1: 'cairo' is not in the context"),
        ({"answer": 3}, "answer of record 1 must be a text"),
        ({"answer_start": 2}, "is not at character 2 of the context"),
        ({"answer_start": True}, "answer_start of record 1 must be an integer"),
    ],
)
def test_bad_questions_are_named(change, message):
    tokenizer = Tokenizer.train_from_texts(["ann lives"], "word")
    with pytest.raises(ValueError, match=message):
        encode_questions([{**questions(1)[0], **change}], tokenizer)


def test_questions_without_what_they_need(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    common = ["train", "--model", "bert", "--task", "question-answering", "--out",
              str(tmp_path / "m"), *SIZE]  # fmt: skip
    bare = write_lines(tmp_path / "bare.jsonl", [{"question": "q", "context": "c"}] * 30)
    assert cli.main([*common, "--data", bare]) == 1
    assert "answer" in error_of(capsys)
    (tmp_path / "qa.csv").write_text("question,context,answer\n")
    assert cli.main([*common, "--data", str(tmp_path / "qa.csv")]) == 1
    assert "must be .jsonl" in error_of(capsys)
    data = write_lines(tmp_path / "qa.jsonl", questions(40))
    assert cli.main([*common, "--data", data, "--length", "7", "--steps", "20"]) == 0
    late = {"question": "who", "context": "in " * 30 + "ann", "answer": "ann"}
    data = write_lines(tmp_path / "late.jsonl", [late] * 30)
    assert cli.main([*common, "--data", data, "--length", "12"]) == 1
    assert "choose a larger --length" in error_of(capsys)


# ---- recordings ----------------------------------------------------------------------------------


def recordings(folder, count=160):
    """Every letter sounds for two or three steps in its own feature."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        text = "".join(rng.choice(list("abcd"), rng.integers(2, 5)))
        steps = [" abcd".index(c) for c in " ".join(text) for _ in range(rng.integers(2, 4))]
        sound = np.eye(5, dtype=np.float32)[steps] + rng.normal(0, 0.1, (len(steps), 5))
        np.save(folder / f"{number}.npy", sound.astype(np.float32))
        rows.append({"features": f"{number}.npy", "text": text})
    return rows


def test_recordings_are_understood(tmp_path, capsys):
    data = write_lines(tmp_path / "speech.jsonl", recordings(tmp_path))
    out = tmp_path / "model"
    words = ["train", "--model", "tagger", "--task", "ctc", "--body", "gru", "--data", data,
             "--out", str(out), "--epochs", "25", "--lr", "0.02"]  # fmt: skip
    assert cli.main([*words, *SIZE]) == 0, capsys.readouterr().err
    assert "label error rate" in capsys.readouterr().out
    rates = [r["eval_label_error_rate"] for r in CSVLog.read(out / "log.csv")
             if "eval_label_error_rate" in r]  # fmt: skip
    assert min(rates) < 0.1
    rows = recordings(tmp_path, 20)
    capsys.readouterr()
    files = [str(tmp_path / row["features"]) for row in rows]
    assert cli.main(["predict", str(out), *files]) == 0
    said = capsys.readouterr().out.splitlines()
    assert sum(a == row["text"] for a, row in zip(said, rows, strict=True)) >= 17
    np.save(tmp_path / "narrow.npy", np.zeros((4, 2), np.float32))
    assert cli.main(["predict", str(out), str(tmp_path / "narrow.npy")]) == 1
    assert "F = 5" in error_of(capsys)
    assert cli.main(["predict", str(out), "--text", "hello"]) == 1
    assert "name .npy files" in error_of(capsys)
    assert cli.main([*words, *SIZE, "--dry-run"]) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.unlink(), "there is no such file"),
        (lambda f: f.write_bytes(b"RIFF and so on"), "not a .npy file of numbers"),
        (lambda f: f.write_bytes(f.read_bytes()[:150]), "not a .npy file of numbers"),
        (lambda f: np.save(f, np.zeros(9)), r"must hold numbers [T, F], got shape [9]"),
        (lambda f: np.save(f, np.zeros((3, 9))), "has 9 features a step, the first file has 5"),
        (lambda f: np.save(f, np.full((3, 5), np.nan)), "must hold finite numbers"),
        (lambda f: np.save(f, np.array([[None]])), "not a .npy file of numbers"),
    ],
)
def test_recordings_that_cannot_be_read(tmp_path, capsys, spoil, message):
    data = write_lines(tmp_path / "speech.jsonl", recordings(tmp_path, 20))
    spoil(tmp_path / "3.npy")
    words = ["train", "--model", "tagger", "--task", "ctc", "--data", data, "--out",
             str(tmp_path / "m"), "--steps", "1"]  # fmt: skip
    assert cli.main([*words, *SIZE]) == 1
    err = error_of(capsys)
    assert message in err
    assert "3.npy" in err


# ---- what a resume refuses, encodings, short errors ----------------------------------------------


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("the cat sat on the mat. the dog sat on the log.\n" * 40, encoding="utf-8")
    return path


def gpt(out, data, *more):
    words = ["train", "--model", "gpt2", "--data", str(data), "--out", str(out), "--length", "16"]
    return cli.main([*words, *SIZE, *map(str, more)])


def test_a_resume_names_what_differs_and_goes_on_when_it_may(tmp_path, book, capsys):
    out, other = tmp_path / "model", tmp_path / "other.txt"
    other.write_text(book.read_text().replace("dog", "god"), encoding="utf-8")
    assert gpt(out, book, "--steps", 4) == 0
    for words, message in (
        (["--steps", 3], "its schedule.total_steps is 4, this one's 3; allow changes (--allow-"),
        (["--steps", 4, "--lr", "0.5"], "its lr is [0.001, 0.001], this one's [0.5, 0.5]"),
        (["--steps", 4, "--batch-size", 3], "its data.batch_size is 16, this one's 3"),
    ):
        capsys.readouterr()
        assert gpt(out, book, "--resume", *words) == 1
        assert message in error_of(capsys)
    capsys.readouterr()
    assert gpt(out, other, "--steps", 4, "--resume") == 1
    assert "its data.checksum is" in error_of(capsys)
    assert gpt(out, other, "--steps", 6, "--resume", "--allow-changes") == 0
    assert "6 steps" in capsys.readouterr().out
    assert gpt(out, book, "--steps", 9, "--resume", "--allow-changes", "--width", 16) == 1
    err = error_of(capsys)
    assert "its number of parameters is" in err
    assert "allow" not in err


@pytest.mark.parametrize("words", [["--steps", 80], ["--epochs", 9]], ids=["steps", "epochs"])
def test_a_resume_trains_longer_with_the_warm_up_that_it_began_with(tmp_path, book, capsys, words):
    out = tmp_path / "model"
    assert gpt(out, book, "--steps", 40) == 0
    assert gpt(out, book, *words, "--resume") == 0, capsys.readouterr().err
    newest = sorted((out / "checkpoints").iterdir())[-1] / "training.json"
    schedule = json.loads(newest.read_text())["run"]["schedule"]
    assert schedule["warmup_steps"] == 2  # a twentieth of forty
    assert schedule["total_steps"] > 40
    capsys.readouterr()
    assert gpt(out, book, "--steps", 500, "--resume", "--warmup-steps", 9) == 1
    assert "its schedule.warmup_steps is 2, this one's 9" in error_of(capsys)


def test_other_encodings(tmp_path, capsys):
    path = tmp_path / "book.txt"
    path.write_bytes(("der B\u00e4r mag \u00c4pfel.\n" * 40).encode("latin-1"))
    assert gpt(tmp_path / "a", path, "--steps", 1) == 1
    assert "not valid UTF-8" in error_of(capsys)
    assert gpt(tmp_path / "b", path, "--steps", 1, "--encoding", "latin-1") == 0
    vocabulary = (tmp_path / "b" / "seqloom_tokenizer.json").read_text(encoding="utf-8")
    assert "\u00e4" in json.dumps(json.loads(vocabulary), ensure_ascii=False)
    config = tmp_path / "c.toml"
    config.write_bytes(b"\xef\xbb\xbfencoding = 'latin-1'\r\nsteps = 1\r\n")  # as editors leave it
    assert gpt(tmp_path / "d", path, "--config", config) == 0
    capsys.readouterr()
    assert gpt(tmp_path / "c", path, "--steps", 1, "--encoding", "klingon") == 2
    assert "there is no encoding 'klingon'" in capsys.readouterr().err
    assert gpt(tmp_path / "e", path, "--steps", 1, "--encoding", "rot13") == 2
    assert "there is no encoding 'rot13'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "1.5"], "argument --steps: must be an integer, got '1.5'"),
        (["--lr", "fast"], "argument --lr: must be a number, got 'fast'"),
        (["--config", "c.toml"], "c.toml: steps takes one value, got [1, 2]"),
    ],
)
def test_bad_options_are_told_in_few_lines(tmp_path, book, capsys, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text("steps = [1, 2]\n")
    assert gpt(tmp_path / "m", book, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert len(lines) <= 3


def test_an_empty_file_holds_no_text(tmp_path, capsys):
    (tmp_path / "empty.txt").write_bytes(b"")
    assert gpt(tmp_path / "m", tmp_path / "empty.txt", "--steps", 1) == 1
    assert "empty.txt: holds no text" in error_of(capsys)


# ---- the examples of --help ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:from_pretrained:UserWarning")  # the head is new
def test_the_examples_of_the_help_run_as_they_stand(tmp_path, book, capsys, monkeypatch):
    """Every line, with one step and a small model behind it."""
    pytest.importorskip("tokenizers")
    monkeypatch.chdir(tmp_path)
    reviews = [f"{w} book,{i % 2}" for i, w in enumerate(["good", "bad"] * 20)]
    (tmp_path / "reviews.csv").write_text("text,stars\n" + "\n".join(reviews) + "\n")
    (tmp_path / "en-fr.tsv").write_text("a cat\tun chat\na dog\tun chien\n" * 20)
    write_lines(tmp_path / "squad.jsonl", questions(40))
    write_lines(tmp_path / "speech.jsonl", recordings(tmp_path, 20))
    lines = EXAMPLE.splitlines()
    toml = lines[next(i for i, line in enumerate(lines) if "configuration file" in line) + 1 :]
    (tmp_path / "gpt.toml").write_text("\n".join(line.strip() for line in toml) + "\n")
    small = ["--layers", "1", "--width", "16", "--heads", "2", "--batch-size", "4", "--steps", "2",
             "--length", "16", "--save-every", "1"]  # fmt: skip
    bert = ["train", "--model", "bert", "--data", str(book), "--out", "bert", *small]
    assert cli.main([*bert, "--task", "masked-token"]) == 0
    commands = [line.strip() for line in lines if line.strip().startswith("seqloom train")]
    assert len(commands) > 6
    for command in commands:
        words = shlex.split(command)[1:]
        assert cli.main([*words, *small]) == 0, (command, capsys.readouterr().err)
    assert (tmp_path / "my-gpt" / "config.json").is_file()
    assert (tmp_path / "qa" / "config.json").is_file()
