# SPDX-License-Identifier: Apache-2.0
"""Atomic files and directories, JSON, and a model directory's `config.json`."""

from __future__ import annotations

import doctest

import pytest

from seqloom import files
from seqloom.weights import load_config, save_config

DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


def test_docstring_examples():
    result = doctest.testmod(files)
    assert result.attempted
    assert not result.failed


def test_config_round_trip(tmp_path):
    config = {"model_type": "gpt2", "n_embd": 8, "nested": {"a": [1, None, True]}, "é": 0.1}
    save_config(tmp_path / "new", config)
    assert load_config(tmp_path / "new") == config
    assert load_config(tmp_path / "new" / "config.json") == config


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b'{"a": }', b"\xff", b'{"a": 1, "a": 2}', b'{"a": NaN}', DEEP, b"{}{}"],
)
def test_bad_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"load_config: .*config\.json"):
        load_config(tmp_path)


def test_missing_and_huge_config(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        load_config(tmp_path)
    monkeypatch.setattr(files, "MAX_JSON_BYTES", 10)
    save_config(tmp_path, {"a": "long enough"})
    with pytest.raises(ValueError, match="more than the 10"):
        load_config(tmp_path)


def test_atomic_directory_replaces_or_keeps(tmp_path):
    target = tmp_path / "run"
    with files.atomic_directory(target) as folder:
        (folder / "a").write_text("1")

    def fail():
        with files.atomic_directory(target) as folder:
            (folder / "a").write_text("2")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (target / "a").read_text() == "1"
    with files.atomic_directory(target) as folder:
        (folder / "b").write_text("3")
    assert [p.name for p in target.iterdir()] == ["b"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
