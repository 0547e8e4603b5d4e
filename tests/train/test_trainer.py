# SPDX-License-Identifier: Apache-2.0
"""The Trainer's promises: equal gradients, equal bits after a resume, clear errors."""

from __future__ import annotations

import doctest
import errno
import importlib
import json
import math

import numpy as np
import pytest
from train_support import TinyLM, corpus, tiny_trainer, weights

import seqloom as sl
from seqloom.data import DataError, LMWindows, Loader, RandomWindows, Reader, read_text
from seqloom.optim import SGD
from seqloom.train import (
    Callback,
    CSVLog,
    EarlyStopping,
    NextToken,
    Trainer,
    TrainingError,
)
from seqloom.train.checkpoint import checkpoints
from seqloom.weights import CheckpointError, load_weights

MODULES = ["callbacks", "checkpoint", "estimate", "logs", "memory", "precision", "predictor",
           "resuming", "setup", "tasks", "trainer"]  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"seqloom.train.{name}")
    result = doctest.testmod(module, extraglobs={"np": np, "sl": sl})
    assert result.failed == 0
    assert result.attempted or name == "checkpoint"


# ---- learning ------------------------------------------------------------------------------------


def test_it_learns_logs_and_leaves_the_best_model(tmp_path):
    trainer = tiny_trainer(tmp_path, steps=60)
    rows = trainer.train()
    assert rows[-1]["eval_loss"] < rows[1]["eval_loss"] - 0.3
    assert [row["step"] for row in rows] == list(range(5, 61, 5))
    assert rows[-1]["eval_perplexity"] == pytest.approx(math.exp(rows[-1]["eval_loss"]))
    read = CSVLog.read(tmp_path / "log.csv")
    assert read == rows
    best = min(rows, key=lambda row: row.get("eval_loss", math.inf))
    assert trainer.best == {"step": best["step"], "value": best["eval_loss"]}
    # The model in memory and the one in the directory are the best one.
    assert trainer.evaluate()["eval_loss"] == best["eval_loss"]
    held = TinyLM()
    held.load_state_dict(load_weights(tmp_path / "model.safetensors"))
    np.testing.assert_array_equal(weights(held), weights(trainer.model))
    kept = [step for step, _ in checkpoints(tmp_path / "checkpoints")]
    assert kept == sorted({best["step"], 60})


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_accumulation_equals_the_big_batch(precision):
    """Sequences of unequal length: a mean of means would be wrong."""
    rng = np.random.default_rng(0)
    batches = []
    for lengths in ([9, 2, 5], [3, 7, 1]):
        ids = rng.integers(0, 11, (3, 10))
        mask = (np.arange(10) < np.array(lengths)[:, None]).astype(np.int64)
        batches.append({"input_ids": ids, "attention_mask": mask})
    joined = {k: np.concatenate([b[k] for b in batches]) for k in batches[0]}

    def after_step(data, accumulate):
        sl.manual_seed(1)
        model = TinyLM(dropout=0.0)
        optimizer = sl.optim.SGD(model.parameters(), lr=1.0)
        Trainer(
            model, "next-token", Loader(data), optimizer=optimizer, steps=1, clip_norm=None,
            accumulate=accumulate, precision=precision, progress=False,
        ).train()  # fmt: skip
        return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])

    small, big = after_step(batches, 2), after_step([joined], 1)
    tolerance = 2e-6 if precision == "float32" else 2e-3
    np.testing.assert_allclose(small, big, rtol=0, atol=tolerance)


def test_mixed_precision_keeps_float32_weights_and_learns(tmp_path):
    trainer = tiny_trainer(tmp_path, steps=60, precision="bfloat16")
    seen = []

    class Spy(Callback):
        def on_step(self, trainer, row):
            seen.append({p.dtype.name for p in trainer.model.parameters()})

    original = trainer.model.forward
    inside = []

    def forward(ids):
        inside.append(trainer.model.lm_head.weight.dtype.name)
        return original(ids)

    trainer.model.forward = forward
    trainer.callbacks.append(Spy())
    rows = trainer.train()
    assert all(kinds == {"float32"} for kinds in seen)
    assert set(inside) == {"bfloat16"}
    full = tiny_trainer(steps=60).train()
    assert rows[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.03)
    assert load_weights(tmp_path)["lm_head.weight"].dtype == np.float32


def test_a_stream_of_unknown_length_ends_with_an_evaluation(tmp_path):
    windows = LMWindows(corpus(), 8)
    stream = Reader(lambda: iter([windows.take([i, i + 1]) for i in range(7)]))
    trainer = Trainer(
        TinyLM(), "next-token", Loader(stream), windows, batch_size=8, epochs=2, out=tmp_path,
        eval_every=100, progress=False,
    )  # fmt: skip
    rows = trainer.train()
    assert trainer.step == 14
    assert "eval_loss" in rows[-1]
    assert rows[-1]["step"] == 14
    assert [step for step, _ in checkpoints(tmp_path / "checkpoints")] == [14]


def test_time_limit_moves_the_schedule():
    trainer = tiny_trainer(steps=None, seconds=0.4, save_every=10**6, eval_every=10**6)
    rows = trainer.train()
    rates = [row["lr"] for row in rows]
    assert 0.3 < trainer.elapsed < 2
    assert max(rates) > 0.01
    assert rates[-1] < 0.2 * max(rates)


def test_early_stopping_waits_and_survives_a_resume(tmp_path):
    class Worse(Callback):
        def on_evaluate(self, trainer, metrics):
            metrics["eval_score"] = float(trainer.step if trainer.step <= 20 else 20)

    options = {"best_metric": "eval_score", "callbacks": [Worse()], "early_stopping": 2}
    trainer = tiny_trainer(tmp_path, steps=500, **options)
    trainer.greater_is_better = True
    trainer.train()
    assert trainer.step == 40
    assert "has not improved in 2 evaluations" in trainer.stop_reason
    assert trainer.best["step"] == 20
    again = tiny_trainer(tmp_path, steps=500, **options)
    again.train(resume=True)
    assert again.step == 40  # the decision was part of the checkpoint


# ---- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"accumulate": 3, "precision": "bfloat16"}])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor"])
def test_a_resumed_training_has_the_same_bits(tmp_path, options, optimizer):
    options = {**options, "optimizer": optimizer}
    whole = tiny_trainer(tmp_path / "whole", **options)
    expected = whole.train()

    class Interrupt(Callback):
        def on_step(self, trainer, row):
            if trainer.step == 17:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "halves", callbacks=[Interrupt()], **options).train()
    second = tiny_trainer(tmp_path / "halves", **options)
    sl.manual_seed(99)  # whatever happened in between
    rows = second.train(resume=True)
    np.testing.assert_array_equal(weights(second.model), weights(whole.model))
    timing = ("seconds", "tokens_per_second")
    strip = [[{k: v for k, v in row.items() if k not in timing} for row in r]
             for r in (rows, expected)]  # fmt: skip
    assert strip[0] == strip[1]
    assert CSVLog.read(tmp_path / "halves" / "log.csv") == rows


def test_a_stop_by_hand_saves_and_goes_on(tmp_path):
    whole = tiny_trainer(tmp_path / "whole")
    whole.train()

    class Hand(Callback):
        def on_step(self, trainer, row):
            if trainer.step == 13:
                trainer.stop("interrupted", final=False)

    tiny_trainer(tmp_path / "part", callbacks=[Hand()]).train()
    assert checkpoints(tmp_path / "part" / "checkpoints")[-1][0] == 13
    assert not (tmp_path / "part" / "model.safetensors").exists()
    second = tiny_trainer(tmp_path / "part", callbacks=[Callback()])
    second.train(resume=True)
    np.testing.assert_array_equal(weights(second.model), weights(whole.model))


def test_two_trainings_in_one_directory_are_refused(tmp_path):
    class Second(Callback):
        def on_step(self, trainer, row):
            with pytest.raises(BlockingIOError, match="another process is at work in"):
                tiny_trainer(tmp_path, steps=5).train(resume=True)

    tiny_trainer(tmp_path, steps=5, callbacks=[Second()]).train()
    again = tiny_trainer(tmp_path, steps=5)
    again.train(resume=True)  # the mark is gone
    assert again.step == 5


def test_an_earlier_training_is_not_overwritten(tmp_path):
    tiny_trainer(tmp_path, steps=5).train()
    with pytest.raises(ValueError, match="holds checkpoints of an earlier training"):
        tiny_trainer(tmp_path, steps=5).train()


# ---- what goes wrong -----------------------------------------------------------------------------


def test_nan_stops_before_it_reaches_the_weights(tmp_path):
    trainer = tiny_trainer(tmp_path)
    before = []

    class Spoil(Callback):
        def on_step(self, trainer, row):
            if trainer.step == 12:
                before.append(weights(trainer.model))
                trainer.model.lm_head.bias.detach()[0] = float("nan")
                before.append(weights(trainer.model))

    trainer.callbacks.append(Spoil())
    with pytest.raises(TrainingError, match=r"loss is nan at step 13 .*step-00000010"):
        trainer.train()
    np.testing.assert_array_equal(weights(trainer.model), before[1])
    again = tiny_trainer(tmp_path)
    again.train(resume=True)
    assert again.step == 40


def test_a_huge_learning_rate_is_told(tmp_path):
    data = LMWindows(corpus(), 8)
    model = TinyLM()
    trainer = Trainer(
        model, "next-token", data, batch_size=4, steps=400, lr=1e30, clip_norm=None,
        optimizer="sgd", progress=False,
    )  # fmt: skip
    with pytest.raises(TrainingError, match="try a smaller learning rate"):
        trainer.train()


def damage(path, how):
    file = path / "training.safetensors"
    data = file.read_bytes()
    if how == "truncated":
        file.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        file.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif how == "missing":
        file.unlink()
    elif how == "no state":
        (path / "training.json").unlink()
    elif how == "bad state":
        (path / "training.json").write_bytes(b'{"format": "seqloom-tr')
    elif how == "foreign":
        (path / "training.json").write_text(json.dumps({"format": "other", "epoch": 3}))
    elif how == "newer":
        state = json.loads((path / "training.json").read_text())
        (path / "training.json").write_text(json.dumps({**state, "version": 99}))
    elif how == "changed state":  # still JSON, and nothing of it is missing
        state = json.loads((path / "training.json").read_text())
        (path / "training.json").write_text(json.dumps({**state, "step": state["step"] + 1}))
    elif how == "less state":
        state = json.loads((path / "training.json").read_text())
        del state["schedule"]
        (path / "training.json").write_text(json.dumps(state))
    elif how == "weights":
        model = path / "model.safetensors"
        model.write_bytes(model.read_bytes()[:100])


HOW = {
    "truncated": "truncated or was changed",
    "flipped": "checksum differs",
    "missing": "is missing",
    "no state": "is not a checkpoint of a training",
    "bad state": "not valid JSON",
    "foreign": "not the state of a seqloom training",
    "newer": "version 99",
    "changed state": r"training\.json is corrupt: its checksum differs",
    "less state": r"training\.json is corrupt: its checksum differs",
    "weights": "truncated or was changed",
}


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_checkpoint_is_named_and_the_older_one_works(tmp_path, how):
    tiny_trainer(tmp_path, steps=20, keep=3, eval_every=100).train()
    (_, older), (_, newest) = checkpoints(tmp_path / "checkpoints")[-2:]
    damage(newest, how)
    with pytest.raises(CheckpointError, match=HOW[how]) as caught:
        tiny_trainer(tmp_path, steps=20, keep=3).train(resume=True)
    assert str(newest) in str(caught.value)
    assert f"an older checkpoint to resume from is {older}" in str(caught.value)
    assert "once the damaged one is deleted" in str(caught.value)
    again = tiny_trainer(tmp_path, steps=20, keep=3, eval_every=100)
    again.train(resume=older)
    assert again.step == 20


def test_callbacks_may_come_and_go_between_trainings(tmp_path):
    class Nothing(Callback):
        """Has no state."""

    level = {"schedule": "constant"}  # so that more steps are no other training
    tiny_trainer(tmp_path, steps=20, callbacks=[Nothing()], early_stopping=9, **level).train()
    stopping = EarlyStopping(9)
    callbacks = [stopping, Nothing(), EarlyStopping(8)]
    again = tiny_trainer(tmp_path, steps=30, callbacks=callbacks, **level)
    again.train(resume=True)
    assert stopping.reference == again.best["value"]
    assert again.step == 30


CHANGES = {
    "accumulate": ({"accumulate": 2}, "its accumulate is 1, this one's 2"),
    "precision": ({"precision": "bfloat16"}, "its precision is 'float32', this one's 'bfloat16'"),
    "clip_norm": ({"clip_norm": 0.5}, "its clip_norm is 1.0, this one's 0.5"),
    "lr": ({"lr": 0.5}, r"its lr is \[0.02, 0.02\], this one's \[0.5, 0.5\]"),
    "weight_decay": ({"weight_decay": 0.3}, "its weight_decay is"),
    "schedule": ({"schedule": "linear"}, "its schedule.name is 'cosine', this one's 'linear'"),
    "warm-up": ({"warmup_steps": 2}, "its schedule.warmup_steps is 5, this one's 2"),
    "steps": ({"steps": 4}, "its schedule.total_steps is 5, this one's 4"),
    "a schedule of one's own": (
        {"schedule": lambda o: sl.optim.Schedule(o, lambda step: 0.5**step)},
        "its schedule.name is 'cosine'",
    ),
    "task": ({"task": NextToken(label_smoothing=0.1)}, "its task.label_smoothing is 0.0"),
    "batch size": (
        {"data": (0, 5)},
        "its data.batch_size is 4, this one's 5",
    ),
    "data": (
        {"data": (9, 4)},
        r"its data.checksum is \d+, this one's \d+; allow changes",
    ),
    "evaluation": ({"judge": 8}, r"its evaluation.checksum is \d+, this one's \d+; allow"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_of_another_training_is_refused_unless_it_is_allowed(tmp_path, name):
    options, message = CHANGES[name]
    tiny_trainer(tmp_path, steps=5).train()
    changed = {"steps": 5, **options}
    with pytest.raises(CheckpointError, match=rf"is of another training: .*{message}"):
        tiny_trainer(tmp_path, **changed).train(resume=True)
    again = tiny_trainer(tmp_path, **{**changed, "steps": 9})
    rates = list(again.schedule.base_lrs)
    again.train(resume=True, allow_changes=True)
    assert again.step == 9
    assert again.schedule.base_lrs == rates
    assert [g["initial_lr"] for g in again.optimizer.param_groups] == rates
    assert again.best is not None
    if name == "evaluation":
        assert again.best["step"] == 9  # what the other data thought best is forgotten
    if name == "weight_decay":
        assert again.optimizer.param_groups[0]["weight_decay"] == 0.3


def test_a_checkpoint_of_another_model_or_optimizer_is_refused_whatever_is_allowed(tmp_path):
    tiny_trainer(tmp_path, steps=5).train()
    for options, name in (
        ({"optimizer": "sgd"}, "optimizer"),
        ({"width": 20}, "number of parameters"),
    ):
        with pytest.raises(CheckpointError, match=f"its {name} is [^;]*$"):
            tiny_trainer(tmp_path, steps=5, **options).train(resume=True, allow_changes=True)


def test_options_of_the_optimizer_are_not_ignored(tmp_path):
    def trainer(beta):
        sl.manual_seed(0)
        model = TinyLM()
        return Trainer(
            model, "next-token", Loader(RandomWindows(corpus(), 8), 4), steps=3, out=tmp_path,
            optimizer=sl.optim.AdamW(model.parameters(), betas=(0.9, beta)), progress=False,
        )  # fmt: skip

    trainer(0.95).train()
    with pytest.raises(CheckpointError, match=r"its optimizer options is .*0\.95.*0\.99"):
        trainer(0.99).train(resume=True)
    again = trainer(0.99)
    again.train(resume=True, allow_changes=True)
    assert again.optimizer.param_groups[0]["betas"] == (0.9, 0.99)


def test_the_configuration_of_a_model_must_be_the_same(tmp_path):
    """As many parameters, other heads: the weights would fit, and mean something else."""

    def trainer(heads):
        model = sl.models.GPT2(vocab_size=11, n_embd=12, n_layer=1, n_head=heads, n_positions=8)
        windows = RandomWindows(corpus(), 8)
        return Trainer(model, "next-token", windows, batch_size=4, steps=2, out=tmp_path)

    trainer(2).train()
    with pytest.raises(CheckpointError, match=r"its config\.n_head is 2, this one's 3"):
        trainer(3).train(resume=True)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, at):
    """The disk is full at the n-th file of the second checkpoint."""
    import os

    from seqloom import files

    real, count = os.fsync, []

    def full(handle):
        if armed and not os.path.isdir(f"/proc/self/fd/{handle}"):
            count.append(handle)
            if len(count) >= at:
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle)

    monkeypatch.setattr(files.os, "fsync", full)
    armed = False

    class Arm(Callback):
        def on_save(self, trainer, path):
            nonlocal armed
            armed = True

    with pytest.raises(OSError, match="No space left") as caught:
        tiny_trainer(tmp_path, callbacks=[Arm()]).train()
    assert caught.value.errno == errno.ENOSPC
    armed = False
    names = [p.name for p in (tmp_path / "checkpoints").iterdir()]
    assert names == ["step-00000005"]  # and nothing half done
    whole = tiny_trainer(tmp_path / "whole")
    whole.train()
    again = tiny_trainer(tmp_path)
    again.train(resume=True)
    np.testing.assert_array_equal(weights(again.model), weights(whole.model))


def test_bad_data_in_the_middle_name_the_line_and_leave_the_last_checkpoint(tmp_path):
    lines = [b"0 1 2 3 4 5 6 7 8\n"] * 40 + [b"0 1 \xff\n"]
    (tmp_path / "data.txt").write_bytes(b"".join(lines))

    def batch(line):
        ids = np.array([[int(word) for word in line.split()]])
        return ids[:, :-1], ids[:, 1:]

    stream = read_text(tmp_path / "data.txt").map(batch)
    trainer = Trainer(TinyLM(), "next-token", Loader(stream), steps=99, out=tmp_path / "out",
                      save_every=10, progress=False)  # fmt: skip
    with pytest.raises(DataError, match=r"data.txt: line 41, byte \d+: not valid UTF-8"):
        trainer.train()
    assert [step for step, _ in checkpoints(tmp_path / "out" / "checkpoints")] == [40]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be positive"),
        ({"steps": None}, "must say when to stop"),
        ({"steps": None, "seconds": float("inf")}, "seconds must be positive"),
        ({"min_lr_ratio": -1.0}, "min_lr_ratio must be in"),
        ({"precision": "float16"}, "precision must be"),
        ({"optimizer": "lion"}, "optimizer must be one of"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"best_metric": "eval_blue"}, "best_metric must be one of eval_loss, eval_perplexity"),
        ({"tensorboard": True}, "tensorboard needs out"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        tiny_trainer(**{"steps": 20, **options}).train()
    for name in ("steps", "epochs", "accumulate", "keep", "eval_every"):
        for value in (1.5, True, "3"):
            with pytest.raises(TypeError, match=f"{name} must be an integer"):
                tiny_trainer(**{name: value})
    for name, value, message in (
        ("lr", "fast", "lr must be a number, got str"),
        ("min_lr_ratio", "a", "min_lr_ratio must be a number, got str"),
        ("warmup_steps", 1.5, "warmup_steps must be an integer, got float"),
        ("callbacks", [print], "callbacks must be Callbacks, got builtin_function"),
        ("extras", [1], "extras must have save_pretrained, got int"),
        ("early_stopping", "soon", "patience must be an integer, got str"),
    ):
        with pytest.raises(TypeError, match=message):
            tiny_trainer(**{name: value})
    with pytest.raises(ValueError, match="warmup_steps must not be negative"):
        tiny_trainer(steps=None, seconds=1, warmup_steps=-1000)
    with pytest.raises(ValueError, match="task must be one of next-token"):
        Trainer(TinyLM(), "sorting", [], batch_size=1, steps=1)
    with pytest.raises(ValueError, match="patience must be at least 1"):
        EarlyStopping(0)


@pytest.mark.parametrize("shared", ["loader", "dataset"])
@pytest.mark.parametrize("cut", [6, 13])
def test_training_and_evaluation_may_read_the_same_data(tmp_path, shared, cut):
    """An evaluation in the middle of an epoch moves neither the order nor what a resume finds."""

    def trainer(out=None, one=True, stop=None):
        class Stop(Callback):
            def on_step(self, trainer, row):
                if trainer.step == stop:
                    trainer.stop("enough", final=False)

        def data():
            return RandomWindows(corpus(), 8, seed=3)

        def loader(windows):
            return Loader(windows, 8, shuffle=True, seed=5)

        sl.manual_seed(7)
        model, windows = TinyLM(), data()
        train = loader(windows)
        judged = train if shared == "loader" else loader(windows)
        if not one:
            judged = loader(data())
        return Trainer(
            model, "next-token", train, judged, epochs=3, eval_every=5, save_every=1, log_every=1,
            out=out, progress=False, callbacks=[Stop()],
        )  # fmt: skip

    whole = trainer()
    whole.train()
    apart = trainer(one=False)
    apart.train()
    np.testing.assert_array_equal(weights(whole.model), weights(apart.model))
    trainer(tmp_path / "run", stop=cut).train()
    again = trainer(tmp_path / "run")
    again.train(resume=True)
    np.testing.assert_array_equal(weights(again.model), weights(whole.model))


def test_what_a_callback_measures_is_logged_and_outlives_a_resume(tmp_path):
    class Mine(Callback):
        def on_evaluate(self, trainer, metrics):
            if trainer.step >= 20:
                metrics["eval_mine"] = trainer.step / 2

    tiny_trainer(tmp_path, steps=20, callbacks=[Mine()]).train()
    trainer = tiny_trainer(tmp_path, steps=40, callbacks=[Mine()])
    rows = trainer.train(resume=True, allow_changes=True)
    read = CSVLog.read(tmp_path / "log.csv")
    assert read == rows
    assert [row.get("eval_mine") for row in read if "eval_loss" in row] == [None, 10, 15, 20]


def test_numbers_of_numpy_are_numbers(tmp_path):
    """They come out of searches and configurations, and must not fail at the first checkpoint."""

    def options(whole, real):
        return {
            "steps": whole(20), "warmup_steps": whole(2), "accumulate": whole(2), "keep": whole(1),
            "eval_every": whole(10), "lr": real(0.0625), "clip_norm": real(0.5),
            "weight_decay": real(0.125), "min_lr_ratio": real(0.25),
        }  # fmt: skip

    expected = tiny_trainer(**options(int, float))
    expected.train()
    kinds = np.int64, np.float32
    whole = tiny_trainer(tmp_path, **options(*kinds))

    class Stop(Callback):
        def on_step(self, trainer, row):
            if trainer.step == 7:
                trainer.stop("enough", final=False)

    whole.callbacks.append(Stop())
    whole.train()
    again = tiny_trainer(tmp_path, **options(*kinds))
    again.train(resume=True)
    np.testing.assert_array_equal(weights(again.model), weights(expected.model))


def test_an_optimizer_of_another_model_is_refused():
    other = SGD(TinyLM().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer must hold parameters of the model"):
        tiny_trainer(optimizer=other, lr=None)
