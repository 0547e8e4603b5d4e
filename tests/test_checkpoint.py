# SPDX-License-Identifier: Apache-2.0
"""Weights in and out: values, hostile files, interrupted writers."""

from __future__ import annotations

import builtins
import doctest
import errno
import importlib
import json
import os
import random
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from seqloom.weights import (
    CheckpointError,
    SafetensorsFile,
    load_weights,
    open_weights,
    save_weights,
)
from seqloom.weights.header import DTYPES
from seqloom.weights.writer import _write_file

MODULES = ["config", "header", "reader", "writer"]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    result = doctest.testmod(importlib.import_module(f"seqloom.weights.{name}"))
    assert result.attempted
    assert not result.failed


def raw_file(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """A file as an attacker writes it: any header, any announced length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype="F32", shape=(2,), begin=0, end=8):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def sample(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "float32": rng.standard_normal((3, 5)).astype(np.float32),
        "float16": rng.standard_normal((7,)).astype(np.float16),
        "bfloat16": rng.standard_normal((2, 3, 2)).astype(ml_dtypes.bfloat16),
        "float64": rng.standard_normal((2, 2)),
        "int64": rng.integers(-(2**60), 2**60, (4,)),
        "int8": rng.integers(-128, 128, (9,)).astype(np.int8),
        "bool": rng.integers(0, 2, (5,)).astype(bool),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 4), np.float32),
        "naïve \u2603 name": np.arange(3, dtype=np.uint8),
    }


def assert_same(got, want):
    assert set(got) == set(want)
    for name, array in want.items():
        assert got[name].dtype == array.dtype
        assert got[name].shape == array.shape
        assert got[name].tobytes() == array.tobytes()


def test_round_trip_all_kinds(tmp_path):
    tensors = sample()
    save_weights(tmp_path / "x.safetensors", tensors, metadata={"step": "7"})
    assert_same(load_weights(tmp_path / "x.safetensors"), tensors)
    file = SafetensorsFile(tmp_path / "x.safetensors")
    assert file.metadata == {"format": "pt", "step": "7"}
    assert all(file[name].flags.aligned for name in file)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_bit_for_bit(tmp_path, dtype):
    bits = np.arange(48, dtype=np.uint8)
    if dtype == "BOOL":
        bits = bits % 2
    array = bits.view(DTYPES[dtype])
    save_weights(tmp_path / "x.safetensors", {"t": array})
    got = load_weights(tmp_path / "x.safetensors")["t"]
    assert got.dtype == DTYPES[dtype]
    assert got.tobytes() == bits.tobytes()


def test_layouts_are_written_contiguously(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "strided": base[::2, ::-3],
        "big_endian": base.astype(">f4"),
        "row": base[1],
        "fortran": np.asfortranarray(base),
    }
    save_weights(tmp_path / "x.safetensors", tensors)
    for name, array in load_weights(tmp_path / "x.safetensors").items():
        np.testing.assert_array_equal(array, tensors[name])


def test_views_are_read_only_and_outlive_the_mapping(tmp_path):
    save_weights(tmp_path / "x.safetensors", {"w": np.arange(5, dtype=np.float32)})
    array = load_weights(tmp_path / "x.safetensors")["w"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    # A writer that replaces the file leaves old views as they were.
    save_weights(tmp_path / "x.safetensors", {"w": np.zeros(5, np.float32)})
    np.testing.assert_array_equal(array, np.arange(5))


def test_misaligned_data_arrives_aligned(tmp_path):
    header = json.dumps({"t": entry()}).encode()
    header += b" " * (1 - (8 + len(header)) % 4 + 4)
    data = np.array([1.5, -2], np.float32)
    path = raw_file(tmp_path / "x.safetensors", header, data.tobytes())
    got = load_weights(path)["t"]
    assert got.flags.aligned
    assert not got.flags.writeable
    np.testing.assert_array_equal(got, data)


def test_equal_content_gives_equal_bytes(tmp_path):
    tensors = sample()
    save_weights(tmp_path / "a.safetensors", tensors)
    save_weights(tmp_path / "b.safetensors", dict(reversed(tensors.items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_reading_and_writing_agree_with_the_reference_library(tmp_path):
    reference = pytest.importorskip("safetensors.numpy")
    tensors = sample()
    save_weights(tmp_path / "ours.safetensors", tensors)
    assert_same(reference.load_file(tmp_path / "ours.safetensors"), tensors)
    reference.save_file(tensors, tmp_path / "theirs.safetensors")
    assert_same(load_weights(tmp_path / "theirs.safetensors"), tensors)


def test_opening_reads_no_data(tmp_path):
    save_weights(tmp_path / "x.safetensors", {"w": np.zeros(4_000_000, np.float64)})
    tracemalloc.start()
    weights = load_weights(tmp_path / "x.safetensors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert weights["w"].nbytes == 32_000_000
    assert peak < 1_000_000


# ---------------------------------------------------------------------------- hostile files

GOOD = {"a": entry(), "b": entry("F16", (4,), 8, 16)}
DEEP = b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}"
HOSTILE = {
    "end past the file": ({"a": entry(end=800, shape=(200,))}, b"\0" * 8),
    "begin past the file": ({"a": entry(begin=100, end=108)}, b"\0" * 8),
    "begin after end": ({"a": entry(begin=8, end=0)}, b"\0" * 8),
    "negative begin": ({"a": entry(begin=-8, end=0)}, b"\0" * 8),
    "huge offsets": ({"a": entry(begin=2**64, end=2**64 + 8)}, b"\0" * 8),
    "offsets are floats": ({"a": entry(begin=0.0, end=8.0)}, b"\0" * 8),
    "offsets are booleans": ({"a": entry("U8", (1,), False, True)}, b"\0"),
    "offsets are strings": ({"a": entry(begin="0", end="8")}, b"\0" * 8),
    "three offsets": ({"a": {**entry(), "data_offsets": [0, 4, 8]}}, b"\0" * 8),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, b"\0" * 8),
    "offsets null": ({"a": {**entry(), "data_offsets": None}}, b"\0" * 8),
    "shape too large for range": ({"a": entry(shape=(3,))}, b"\0" * 8),
    "shape too small for range": ({"a": entry(shape=(1,))}, b"\0" * 8),
    "shape overflows 64 bits": ({"a": entry(shape=(2**32, 2**32, 2))}, b"\0" * 8),
    "shape overflows to the size": ({"a": entry("U8", (2**62, 4, 2**2), 0, 8)}, b"\0" * 8),
    "shape is negative twice": ({"a": entry(shape=(-1, -2))}, b"\0" * 8),
    "shape is a float": ({"a": entry(shape=(2.0,))}, b"\0" * 8),
    "shape is a string": ({"a": {**entry(), "shape": "2"}}, b"\0" * 8),
    "shape is null": ({"a": {**entry(), "shape": None}}, b"\0" * 8),
    "shape holds a list": ({"a": {**entry(), "shape": [[2]]}}, b"\0" * 8),
    "shape has 70 dimensions": ({"a": entry(shape=(1,) * 69 + (2,))}, b"\0" * 8),
    "dtype unknown": ({"a": entry(dtype="F31")}, b"\0" * 8),
    "dtype lower case": ({"a": entry(dtype="f32")}, b"\0" * 8),
    "dtype an object": ({"a": entry(dtype={"x": 1})}, b"\0" * 8),
    "dtype a number": ({"a": entry(dtype=3)}, b"\0" * 8),
    "dtype wider than its range": ({"a": entry(dtype="F64")}, b"\0" * 8),
    "dtype narrower than its range": ({"a": entry(dtype="F16")}, b"\0" * 8),
    "ranges overlap": ({"a": entry(), "b": entry(begin=4, end=12)}, b"\0" * 12),
    "ranges are equal": ({"a": entry(), "b": entry()}, b"\0" * 8),
    "a range inside another": ({"a": entry("U8", (8,)), "b": entry("U8", (1,), 3, 4)}, b"\0" * 8),
    "a gap between ranges": ({"a": entry(), "b": entry(begin=12, end=20)}, b"\0" * 20),
    "a gap in front": ({"a": entry(begin=4, end=12)}, b"\0" * 12),
    "bytes after the last range": ({"a": entry()}, b"\0" * 9),
    "data truncated": (GOOD, b"\0" * 15),
    "data absent": (GOOD, b""),
    "entry is a list": ({"a": [1, 2]}, b""),
    "entry is null": ({"a": None}, b""),
    "entry has an extra key": ({"a": {**entry(), "exec": "import os"}}, b"\0" * 8),
    "metadata is a list": ({"__metadata__": ["x"], "a": entry()}, b"\0" * 8),
    "metadata holds a number": ({"__metadata__": {"x": 1}, "a": entry()}, b"\0" * 8),
    "metadata ties to nothing": (
        {"__metadata__": {"seqloom.tied": '{"h": "nowhere"}'}, "a": entry()},
        b"\0" * 8,
    ),
    "metadata ties over a tensor": (
        {"__metadata__": {"seqloom.tied": '{"a": "a"}'}, "a": entry()},
        b"\0" * 8,
    ),
    "metadata ties are no JSON": (
        {"__metadata__": {"seqloom.tied": "__import__('os')"}, "a": entry()},
        b"\0" * 8,
    ),
    "a name twice": (b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 8),
    "a key twice": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b""),
    "header a list": (b"[1, 2]", b""),
    "header a string": (b'"abc"', b""),
    "header empty": (b"", b""),
    "header not JSON": (b"{not json}", b""),
    "header cut": (b'{"a": {"dtype": "F32"', b""),
    "header not UTF-8": (b'{"\xff\xfe": 1}', b""),
    "header with a byte order mark": (b'\xef\xbb\xbf{"a": 1}', b""),
    "header nested 200,000 deep": (DEEP, b""),
    "header with NaN": (b'{"a": {"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', b"\0" * 8),
    "header with a 5,000-digit size": (
        b'{"a": {"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,8]}}',
        b"\0" * 8,
    ),
    "header followed by more JSON": (b'{"a": {}} {"b": {}}', b""),
}
LENGTHS = {
    "length beyond the file": 10_000,
    "length one too long": len(json.dumps(GOOD)) + 17,
    "length of 2^63": 2**63,
    "length of 2^64 - 1": 2**64 - 1,
    "length over the limit": 100_000_001,
    "length one too short": len(json.dumps(GOOD)) - 1,
    "length zero": 0,
}
WHOLE = {
    "an empty file": b"",
    "seven bytes": b"\x02\0\0\0\0\0\0",
    "eight zero bytes": b"\0" * 8,
    "a pickle": b"\x80\x04\x95\x1f\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
    "a zip file": b"PK\x03\x04" + b"\0" * 60,
    "plain text": b"these are not weights\n" * 20,
    "a git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
}


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_hostile_header_is_refused(tmp_path, case):
    path = raw_file(tmp_path / "evil.safetensors", *HOSTILE[case])
    with pytest.raises(CheckpointError, match=r"load_weights: .*evil\.safetensors: .+"):
        load_weights(path)


@pytest.mark.parametrize("case", sorted(LENGTHS))
def test_lying_length_is_refused(tmp_path, case):
    path = raw_file(tmp_path / "evil.safetensors", GOOD, b"\0" * 16, length=LENGTHS[case])
    with pytest.raises(CheckpointError, match=r"evil\.safetensors: .+"):
        load_weights(path)


@pytest.mark.parametrize("case", sorted(WHOLE))
def test_foreign_file_is_refused(tmp_path, case):
    (tmp_path / "evil.safetensors").write_bytes(WHOLE[case])
    with pytest.raises(CheckpointError, match=r"evil\.safetensors: .+"):
        load_weights(tmp_path / "evil.safetensors")


def test_every_truncation_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_weights(path, {"a": np.arange(6, dtype=np.float32), "b": np.ones(3, np.int8)})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            load_weights(path)


def test_random_damage_never_escapes(tmp_path):
    """Flipped bytes either leave a readable file or are refused; nothing else happens."""
    path = tmp_path / "x.safetensors"
    save_weights(path, sample())
    whole = path.read_bytes()
    length = struct.unpack("<Q", whole[:8])[0] + 8
    rng, refused = random.Random(5), 0
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(length)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            for array in load_weights(path).values():
                array.tobytes()
        except CheckpointError:
            refused += 1
    assert refused > 200


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"load_weights: .*absent\.safetensors does not"):
        load_weights(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match="not a regular file"):
        load_weights(os.devnull)
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="not a regular file"):
        load_weights(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match="not a usable path"):
        load_weights("a\0b.safetensors")
    with pytest.raises(FileNotFoundError, match=r"holds no \.safetensors weights"):
        load_weights(tmp_path / "..")


def test_pickled_weights_are_never_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(WHOLE["a pickle"])
    with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin; pickled weights can run"):
        load_weights(tmp_path)
    with pytest.raises(CheckpointError, match="pickled weights"):
        load_weights(tmp_path / "pytorch_model.bin")


# ------------------------------------------------------------------------------ sharded sets

INDEXES = {
    "absolute path": {"weight_map": {"a": "/etc/passwd"}},
    "parent path": {"weight_map": {"a": "../outside.safetensors"}},
    "nested path": {"weight_map": {"a": "sub/one.safetensors"}},
    "backslash path": {"weight_map": {"a": "..\\outside.safetensors"}},
    "drive path": {"weight_map": {"a": "C:one.safetensors"}},
    "NUL in the path": {"weight_map": {"a": "one.safetensors\0.safetensors"}},
    "dot path": {"weight_map": {"a": ".."}},
    "hidden file": {"weight_map": {"a": ".safetensors"}},
    "empty path": {"weight_map": {"a": ""}},
    "path is a number": {"weight_map": {"a": 3}},
    "path is null": {"weight_map": {"a": None}},
    "a pickle as shard": {"weight_map": {"a": "one.bin"}},
    "missing shard": {"weight_map": {"a": "two.safetensors"}},
    "tensor not in its shard": {"weight_map": {"z": "one.safetensors"}},
    "no map": {"metadata": {}},
    "empty map": {"weight_map": {}},
    "map is a list": {"weight_map": ["one.safetensors"]},
    "index is a list": [1],
}


@pytest.mark.parametrize("case", sorted(INDEXES))
def test_hostile_index_is_refused(tmp_path, case):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder / "one.safetensors", tmp_path / "outside.safetensors"):
        save_weights(place, {"a": np.ones(2, np.float32)})
    (folder / "model.safetensors.index.json").write_text(json.dumps(INDEXES[case]))
    with pytest.raises(CheckpointError, match=r"index\.json: .+"):
        load_weights(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b'{"weight_map": {"a":"x","a":"y"}}'])
def test_malformed_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_bytes(text)
    with pytest.raises(CheckpointError, match=r"index\.json: .+"):
        load_weights(tmp_path)


def test_shards_round_trip(tmp_path):
    tensors = sample()
    save_weights(tmp_path, tensors, max_shard_size=64)
    shards = sorted(p.name for p in tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert_same(load_weights(tmp_path), tensors)
    assert open_weights(tmp_path).nbytes == sum(a.nbytes for a in tensors.values())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in tensors.values())


def test_a_later_save_is_what_is_read(tmp_path):
    """Sharded over single over sharded: nothing stale is left that would be preferred."""
    for seed, size in enumerate([None, 64, 200, None, 64]):
        tensors = sample(seed)
        save_weights(tmp_path, tensors, max_shard_size=size)
        assert_same(load_weights(tmp_path), tensors)
    save_weights(tmp_path, sample())
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_shards_of_two_saves_are_refused(tmp_path):
    save_weights(tmp_path / "a", sample(1), max_shard_size=64)
    save_weights(tmp_path / "b", sample(2), max_shard_size=64)
    name = next((tmp_path / "a").glob("model-00002-*")).name
    os.replace(tmp_path / "b" / name, tmp_path / "a" / name)
    with pytest.raises(CheckpointError, match="different saves"):
        load_weights(tmp_path / "a")


def test_foreign_shards_and_index(tmp_path):
    """A set as others write it: any file names, no marks of ours."""
    reference = pytest.importorskip("safetensors.numpy")
    tensors = sample()
    names = list(tensors)
    mapping = {}
    for part, chunk in enumerate((names[:4], names[4:])):
        reference.save_file({n: tensors[n] for n in chunk}, tmp_path / f"part{part}.safetensors")
        mapping.update(dict.fromkeys(chunk, f"part{part}.safetensors"))
    index = {"metadata": {"total_size": 1}, "weight_map": mapping}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_same(load_weights(tmp_path), tensors)


# ------------------------------------------------------------------------------ tied weights


@pytest.mark.parametrize("size", [None, 40])
def test_tied_weights_are_written_once(tmp_path, size):
    wte = np.arange(12, dtype=np.float32).reshape(4, 3)
    other = np.ones(5, np.float32)
    tensors = {"wte": wte, "other": other, "head": wte, "copy": wte.copy()}
    save_weights(tmp_path, tensors, max_shard_size=size)
    weights = open_weights(tmp_path)
    assert_same(weights, tensors)
    assert weights.nbytes == 2 * wte.nbytes + other.nbytes
    assert weights["head"].__array_interface__["data"] == weights["wte"].__array_interface__["data"]


def test_tied_by_name(tmp_path):
    wte = np.ones((4, 3), np.float32)
    save_weights(tmp_path, {"wte": wte, "head": wte.copy()}, tied={"head": "wte"})
    assert open_weights(tmp_path).nbytes == wte.nbytes
    assert sorted(load_weights(tmp_path)) == ["head", "wte"]
    with pytest.raises(ValueError, match="tied must map names to names that are saved"):
        save_weights(tmp_path, {"wte": wte}, tied={"head": "nothing"})
    with pytest.raises(ValueError, match="can't be tied"):
        save_weights(tmp_path, {"wte": wte, "head": wte.T}, tied={"head": "wte"})


def test_partial_views_of_one_buffer_are_not_tied(tmp_path):
    base = np.arange(6, dtype=np.float32)
    tensors = {"all": base, "front": base[:3], "back": base[3:], "bits": base.view(np.int32)}
    save_weights(tmp_path, tensors)
    assert_same(load_weights(tmp_path), tensors)
    assert open_weights(tmp_path).nbytes == 18 * 4


# --------------------------------------------------------------------------- broken writers


class FullDisk:
    """A file object that has room for `room` bytes."""

    def __init__(self, handle, room):
        self.handle, self.room = handle, room

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.handle.write(data)

    def __getattr__(self, name):
        return getattr(self.handle, name)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.handle.close()


@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize("room", [0, 100, 600])
def test_full_disk_keeps_the_old_checkpoint(tmp_path, monkeypatch, size, room):
    save_weights(tmp_path, sample(1), max_shard_size=size)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    real_open = builtins.open

    def small_open(path, mode="r", *args, **kwargs):
        handle = real_open(path, mode, *args, **kwargs)
        return FullDisk(handle, room) if "x" in mode else handle

    monkeypatch.setattr(builtins, "open", small_open)
    with pytest.raises(OSError, match=r"cannot write .*safetensors: No space left") as caught:
        save_weights(tmp_path, {"big": np.zeros(5000, np.float32)}, max_shard_size=size)
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    assert "untouched" in str(caught.value) or size is not None
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert_same(load_weights(tmp_path), sample(1))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_really_full_device():
    """/dev/full is the kernel's own full disk."""
    handle = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with handle, pytest.raises(OSError, match="No space left"):
        _write_file(handle, {"w": np.zeros(100)}, {})


def test_interrupted_writers_leave_nothing_behind(tmp_path, monkeypatch):
    save_weights(tmp_path, sample(1))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    for size in (None, 30):
        with pytest.raises(KeyboardInterrupt):
            save_weights(tmp_path, sample(2), max_shard_size=size)
        assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


ENDLESS_WRITER = """
import sys, numpy as np
from seqloom.weights import save_weights
value = 0
while True:
    save_weights(sys.argv[1], {"w": np.full(200_000, value, np.float32)})
    if value == 0:
        print("ready", flush=True)
    value += 1
"""


def test_killed_writer_keeps_the_old_checkpoint(tmp_path):
    """SIGKILL at random moments: what is read is always one whole save."""
    rng = random.Random(3)
    for _ in range(5):
        command = [sys.executable, "-c", ENDLESS_WRITER, str(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.random() * 0.03)
            process.kill()
        array = load_weights(tmp_path)["w"]
        assert array.shape == (200_000,)
        assert (array == array[0]).all()


def test_unwritable_places(tmp_path):
    with pytest.raises(OSError, match="cannot write"):
        save_weights(tmp_path / "absent" / "x.safetensors", {"a": np.zeros(2)})
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError):
        save_weights(tmp_path / "file" / "below", {"a": np.zeros(2)})


@pytest.mark.parametrize(
    ("tensors", "kwargs", "error", "message"),
    [
        ({"a": np.array(["x"])}, {}, TypeError, "'a' has the dtype <U1"),
        ({"a": np.array([None])}, {}, TypeError, "'a' has the dtype object"),
        ({"a": np.zeros(2, np.complex128)}, {}, TypeError, "complex128"),
        ({3: np.zeros(2)}, {}, TypeError, "names must be strings, got int"),
        ({"__metadata__": np.zeros(2)}, {}, ValueError, "reserved"),
        ({"a": np.zeros(2)}, {"metadata": {"a": 1}}, TypeError, "strings to strings"),
        ({"a": np.zeros(2)}, {"max_shard_size": "5 parsecs"}, ValueError, "max_shard_size"),
        ({"a": np.zeros(2)}, {"max_shard_size": 0}, ValueError, "must be positive"),
        ({"a": np.zeros(2)}, {"max_shard_size": True}, ValueError, "max_shard_size"),
    ],
)
def test_bad_arguments_of_save(tmp_path, tensors, kwargs, error, message):
    with pytest.raises(error, match=f"save_weights: .*{message}"):
        save_weights(tmp_path, tensors, **kwargs)
    assert list(tmp_path.iterdir()) == []
