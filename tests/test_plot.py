# SPDX-License-Identifier: Apache-2.0
"""Pictures: what they show, what they refuse, and that nothing global changes."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import numpy as np
import pytest

from seqloom import plot


@pytest.fixture(autouse=True)
def matplotlib():
    return pytest.importorskip("matplotlib")


def causal(heads, size, seed=0):
    weights = np.tril(np.random.default_rng(seed).random((heads, size, size)))
    return weights / weights.sum(-1, keepdims=True)


def drawn(figure):
    """The images of a figure, with the rows and columns they were labelled with."""
    result = []
    for axes in figure.axes:
        if axes.images:
            rows = [t.get_text() for t in axes.get_yticklabels()]
            columns = [t.get_text() for t in axes.get_xticklabels()]
            result.append((axes.images[0], rows, columns))
    return result


def dark(path):
    """Whether a PNG holds more than white."""
    from matplotlib.image import imread

    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    return (pixels[..., :3].min(axis=-1) < 0.5).mean() > 0.002


@pytest.mark.parametrize("name", ["curve", "heatmap"])
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"seqloom.plot.{name}"))
    assert result.attempted
    assert not result.failed


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_one_head(tmp_path, suffix):
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    path = tmp_path / f"a.{suffix}"
    source, target = ["the", "\u2581red", "house", "."], ["la", "\u0120maison", "rouge"]
    figure = plot.attention(weights, target, source, path=path, title="alignment")
    ((image, rows, columns),) = drawn(figure)
    np.testing.assert_allclose(image.get_array(), weights)
    assert rows == ["la", "maison", "rouge"]
    assert columns == ["the", "red", "house", "."]
    assert path.stat().st_size > 1000
    if suffix == "png":
        assert dark(path)
    numbers = [t.get_text() for t in image.axes.texts]
    assert f"{weights[0, 0]:.2f}".removeprefix("0") in numbers


@pytest.mark.parametrize("heads", [2, 5, 12])
def test_many_heads(tmp_path, heads):
    weights = causal(heads, 6)
    figure = plot.attention(weights[None], list("abcdef"), path=tmp_path / "a.png")
    images = drawn(figure)
    assert len(images) == heads
    for (image, _, columns), head in zip(images, weights, strict=True):
        np.testing.assert_allclose(image.get_array(), head)
        assert columns == list("abcdef")
        assert image.get_clim() == (0, weights.max())
    assert images[0][1] == list("abcdef")
    names = [image.axes.get_xlabel() for image, _, _ in images]
    assert names == [f"head {i + 1}" for i in range(heads)]
    assert dark(tmp_path / "a.png")


@pytest.mark.parametrize("heads", [1, 4])
def test_nothing_is_cut_at_the_rim(tmp_path, heads):
    from matplotlib.image import imread

    long = ["a-rather-long-token", "b", "process", "code", "%", "ld"]
    path = tmp_path / "a.png"
    plot.attention(causal(heads, 6), long, path=path, query_label="translation", key_label="source")
    plot.training_curve({"loss": [3.0, 2.0], "lr": [1e-3, 1e-4]}, path=tmp_path / "b.png",
                        unit="nats a token", title="t" * 90)  # fmt: skip
    for name in ("a.png", "b.png"):
        pixels = imread(tmp_path / name)[..., :3].min(axis=-1)
        rim = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(),
                              pixels[:, :2].ravel(), pixels[:, -2:].ravel()])  # fmt: skip
        assert rim.min() > 0.99, name


def test_labels_and_units_are_said():
    figure = plot.attention(causal(3, 4), list("abcd"), query_label="rows", key_label="columns")
    texts = [t.get_text() for t in figure.findobj(lambda o: hasattr(o, "get_text"))]
    assert {"rows", "columns", "weight"} <= set(texts)
    curve = plot.training_curve({"loss": [2, 1]}, unit="nats a letter")
    assert curve.axes[0].get_ylabel() == "loss (nats a letter)"


def test_odd_tokens_are_drawn_as_they_are(tmp_path):
    tokens = ["$x$", "\\frac{", "_^", " ", "\n", "", "\u4eca\u65e5", "\U0001f469", "\x00", "w" * 99]
    figure = plot.attention(causal(1, 10), tokens, path=tmp_path / "a.png")
    ((_, rows, _),) = drawn(figure)
    assert rows[:6] == ["$x$", "\\frac{", "_^", "\u00b7", "\\n", "\u00b7"]
    assert rows[8] == "\u25a1"
    assert len(rows[9]) == 24
    assert dark(tmp_path / "a.png")


def test_sizes_from_one_cell_to_a_page(tmp_path):
    for size in (1, 2, 40, 300):
        plot.attention(causal(1, size), path=tmp_path / "a.png", dpi=60)
        figure = plot.attention(causal(3, size), columns=2, path=tmp_path / "b.png", dpi=60)
        assert max(figure.get_size_inches()) < 25
    plot.attention(causal(1, 90), [f"t{i}" for i in range(90)], path=tmp_path / "c.png", dpi=60)
    plot.attention(np.zeros((2, 2)), path=tmp_path / "d.png")


def test_other_arrays():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (np.float16, ml_dtypes.bfloat16, np.int64):
        plot.attention(np.eye(3).astype(dtype), list("abc"))
    plot.attention(np.eye(3).tolist())


def test_axes_of_ones_own(matplotlib):
    from matplotlib.figure import Figure

    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plot.attention(np.eye(3), list("abc"), ax=left, title="x") is figure
    assert plot.training_curve({"loss": [2, 1]}, ax=right) is figure
    assert len(figure.axes) == 2
    assert left.get_title() == "x"


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        (([1.0, 2.0],), {}, ValueError, "weights must have shape"),
        ((np.zeros((0, 3)),), {}, ValueError, "weights must have shape"),
        ((np.zeros((2, 3, 4, 4)),), {}, ValueError, r"pass weights\[i\]"),
        (([[np.nan]],), {}, ValueError, "weights must be finite"),
        (([["a"]],), {}, TypeError, "weights must be numbers"),
        ((np.eye(2), ["a"]), {}, ValueError, "queries must have one entry"),
        ((np.eye(2), None, ["a"]), {}, ValueError, "keys must have one entry"),
        ((np.eye(2), "ab"), {}, TypeError, "got one str"),
        ((causal(2, 3),), {"heads": ["a"]}, ValueError, "heads must have 2 names"),
        ((causal(2, 3),), {"ax": object()}, ValueError, "ax takes one head"),
        ((causal(2, 3),), {"columns": 0}, ValueError, "columns must be positive"),
    ],
)
def test_bad_attention_arguments(args, kwargs, error, message):
    with pytest.raises(error, match=f"plot.attention: .*{message}"):
        plot.attention(*args, **kwargs)


# ------------------------------------------------------------------------- training curves


def log_rows(count=300):
    for step in range(1, count + 1):
        row = {"step": step, "loss": 1 + 3 / step, "eval_loss": "", "lr": 1e-3 / step}
        if step % 50 == 0:
            row["eval_loss"] = 1.5 + abs(step - 150) / 100
        yield row


def lines(figure):
    return {line.get_label(): line for axes in figure.axes for line in axes.lines}


def test_training_curve_from_csv_rows_and_columns(tmp_path):
    rows = list(log_rows())
    names = list(rows[0])
    text = "\n".join([",".join(names), *(",".join(str(r[n]) for n in names) for r in rows)])
    (tmp_path / "log.csv").write_text(text)
    columns = {name: [row[name] for row in rows] for name in names}
    for log in (tmp_path / "log.csv", rows, iter(rows), columns):
        figure = plot.training_curve(log, path=tmp_path / "a.png", title="t")
        found = lines(figure)
        assert found["training"].get_xdata().tolist() == list(range(1, 301))
        assert found["evaluation"].get_xdata().tolist() == [50, 100, 150, 200, 250, 300]
        assert found["best 1.5 at step 150"].get_xdata().tolist() == [150]
        assert not found["best 1.5 at step 150"].get_clip_on()  # whole at the last step, too
        assert len(figure.axes) == 2  # the learning rate has its strip
        assert dark(tmp_path / "a.png")


def test_smoothing_follows_without_lag():
    noise = np.random.default_rng(0).normal(0, 0.3, 2000)
    truth = 1 + 3 * np.exp(-np.arange(2000) / 400)
    figure = plot.training_curve({"loss": truth + noise}, show_lr=False)
    curve = lines(figure)["training"].get_ydata()
    assert np.abs(curve - truth)[50:-50].max() < 0.2
    assert abs((curve - truth)[50:-50].mean()) < 0.02
    raw = plot.training_curve({"loss": truth}, smooth=0)
    np.testing.assert_array_equal(lines(raw)["training"].get_ydata(), truth)


def test_logs_with_gaps(tmp_path):
    figure = plot.training_curve(
        {"iteration": [1, 2, 3], "train_loss": [3.0, np.nan, 1.0], "lr": [None] * 3}, log_scale=True
    )
    assert lines(figure)["training"].get_xdata().tolist() == [1, 3]
    assert figure.axes[0].get_xlabel() == "iteration"
    assert len(figure.axes) == 1
    only = plot.training_curve({"epoch": [1, 2], "val_loss": [2.0, 1.0]}, path=tmp_path / "a.png")
    assert "training" not in lines(only)
    plot.training_curve({"loss": [np.nan]}, path=tmp_path / "b.png")
    plot.training_curve({"loss": [1.0], "eval_loss": [""]}, path=tmp_path / "c.png")


def test_bad_logs(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.csv").write_bytes(b"loss\n\xff\n")
    for log, error, message in (
        (tmp_path / "absent.csv", FileNotFoundError, r"absent\.csv does not exist"),
        (tmp_path / "empty.csv", ValueError, r"empty\.csv has no rows"),
        (tmp_path / "bad.csv", ValueError, r"bad\.csv is not a CSV file"),
        ([], TypeError, "log must be a CSV file"),
        ([1, 2], TypeError, "log must be a CSV file"),
        ({"accuracy": [1]}, ValueError, "must have a column loss or eval_loss"),
        ({"loss": [1], "step": [1, 2]}, ValueError, "same length"),
    ):
        with pytest.raises(error, match=f"plot.training_curve: .*{message}"):
            plot.training_curve(log)
    with pytest.raises(ValueError, match="smooth must be in"):
        plot.training_curve({"loss": [1]}, smooth=1)


# ------------------------------------------------------------------------- good manners


def test_without_matplotlib_there_is_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'seqloom\[plot\]'"):
        plot.attention(np.eye(2))
    with pytest.raises(ImportError, match=r"pip install 'seqloom\[plot\]'"):
        plot.training_curve({"loss": [1, 2]})


def test_pyplot_stays_out():
    code = (
        "import sys, numpy as np; from seqloom import plot; assert 'matplotlib' not in sys.modules;"
        "plot.attention(np.eye(3), list('abc')); plot.training_curve({'loss': [2, 1]});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
