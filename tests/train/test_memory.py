# SPDX-License-Identifier: Apache-2.0
"""The memory that a dry run announces, against the peak of the training itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import seqloom as sl
from seqloom import cli
from seqloom.data import Loader, PadCollate, RandomWindows
from seqloom.train import Trainer, estimate
from seqloom.train.memory import WORK, first_batch, kept

# A dry run or a training, in a process of its own; prints bytes announced or bytes grown.
SCRIPT = """
import sys
import numpy as np
import seqloom as sl
import seqloom.models, tqdm
from seqloom.data import Loader, PadCollate, RandomWindows
from seqloom.train import Trainer
from seqloom.train.memory import needed

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(key))

kind, precision, optimizer, what = sys.argv[1:]
rng = np.random.default_rng(0)
before = status("VmRSS")
words, task = 2000, "next-token"
if kind == "gpt2":
    model = sl.models.GPT2(vocab_size=words, n_embd=256, n_layer=3, n_head=4, n_positions=128)
elif kind == "wide":  # weights, gradients and states rather than activations
    model = sl.models.GPT2(vocab_size=20000, n_embd=256, n_layer=2, n_head=4, n_positions=128)
elif kind == "lstm":
    model = sl.models.RNNLanguageModel(words, embed_dim=256, hidden_size=256, num_layers=2)
else:
    task = "classification"
    model = sl.models.SequenceClassifier(5, vocab_size=words, body="lstm", embed_dim=128,
                                         hidden_size=128)
if task == "classification":
    items = [{"input_ids": rng.integers(0, words, 100), "labels": i % 5} for i in range(200)]
    data = Loader(items, 64, collate=PadCollate())
else:
    data = Loader(RandomWindows(rng.integers(0, words, 20000), 128), 12)
trainer = Trainer(model, task, data, optimizer=optimizer, lr=1e-3, steps=3, precision=precision,
                  progress=False)
if what == "announced":
    print(needed(trainer).total)
else:
    trainer.train()
    print(status("VmHWM") - before)
"""


def run(*words):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    "words",
    [
        ("gpt2", "float32", "adamw"),
        ("wide", "bfloat16", "adamw"),
        ("wide", "float32", "adafactor"),
        ("lstm", "bfloat16", "sgd"),
        ("classifier", "float32", "adamw"),
    ],
    ids="-".join,
)
def test_a_dry_run_is_right_about_the_memory(words):
    """Within 15 %, and 16 MiB that Python and its threads take whatever is trained."""
    announced, peak = run(*words, "announced"), run(*words, "peak")
    assert abs(announced - peak) < 0.15 * peak + (16 << 20), f"{announced:,} of {peak:,}"


WORDS = 300
BIG = {
    "gpt2": lambda: sl.models.GPT2(
        vocab_size=WORDS, n_embd=192, n_layer=4, n_head=4, n_positions=64
    ),
    "qwen3": lambda: sl.models.Qwen3(
        vocab_size=WORDS, hidden_size=160, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, head_dim=48, intermediate_size=400, max_position_embeddings=64,
    ),
    "lstm": lambda: sl.models.RNNLanguageModel(
        WORDS, embed_dim=192, hidden_size=256, num_layers=3
    ),
    "t5": lambda: sl.models.T5(
        vocab_size=WORDS, d_model=160, d_kv=40, d_ff=300, num_layers=3, num_decoder_layers=3,
        num_heads=4,
    ),
    "seq2seq": lambda: sl.models.Seq2Seq(WORDS, WORDS, embed_dim=192, hidden_size=192),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", BIG)
def test_small_models_tell_what_large_ones_keep(kind, precision):
    rng = np.random.default_rng(0)
    task, data = "next-token", Loader(RandomWindows(rng.integers(0, WORDS, 2000), 32), 6)
    if kind in ("t5", "seq2seq"):
        row = {"input_ids": 20, "decoder_input_ids": 15, "labels": 15}
        items = [{k: rng.integers(4, WORDS, n) for k, n in row.items()} for _ in range(6)]
        task, data = "seq2seq", Loader(items, 6, collate=PadCollate())
    with sl.nn.init.shapes_only():
        outline = BIG[kind]()
    told = estimate.estimated(Trainer(outline, task, data, steps=1), precision)
    trainer = Trainer(BIG[kind](), task, data, steps=1, precision=precision)
    found = WORK * kept(trainer, trainer.model.train(), trainer.precision, first_batch(trainer))
    assert abs(told.activations - found) < 0.15 * found
    assert told.weights == sum(p.nbytes for p in trainer.model.parameters())


def plan(tmp_path, *more):
    book = tmp_path / "book.txt"
    book.write_text("the cat sat on the mat. " * 60, encoding="utf-8")
    words = ["train", "--model", "gpt2", "--data", str(book), "--out", str(tmp_path / "out")]
    return cli.main([*words, "--length", "32", *more])


def test_what_cannot_fit_is_told_and_never_built(tmp_path, capsys):
    size = ["--layers", "96", "--width", "25600"]  # 755 thousand million parameters
    for more, said in ((["--dry-run"], "it needs"), ([], "what the optimizer keeps")):
        assert plan(tmp_path, *size, *more) == 1
        out, err = capsys.readouterr()
        assert len(err.splitlines()) == 1
        assert "does not fit" in err
        assert said in err
        assert ("755,0" in out and "activations" in out) == bool(more)
    assert not (tmp_path / "out").exists()


def test_a_model_of_a_directory_that_cannot_fit_is_not_read(tmp_path, capsys, monkeypatch):
    assert plan(tmp_path, "--layers", "3", "--width", "128", "--steps", "1") == 0
    capsys.readouterr()
    monkeypatch.setattr(estimate, "free_memory", lambda device: 2 << 20)
    start = ["--from", str(tmp_path / "out"), "--dry-run"]
    assert plan(tmp_path, *start) == 1
    out, err = capsys.readouterr()
    assert "by smaller models of its kind" in out
    assert "does not fit" in err
    assert "cpu has 2.0 MiB left" in err
