# SPDX-License-Identifier: Apache-2.0
"""Checkpoints in and out: dtypes, shards, ties, memory, files of others beside them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import seqloom as sl
from model_support import BART, BERT, T5, assert_near, reloaded, some_ids
from seqloom.weights import load_weights, open_weights, save_weights

IDS = some_ids(2, 7)
GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}


def make(name="GPT2"):
    sl.manual_seed(2)
    fields = {"GPT2": GPT2, "BertForMaskedLM": BERT, "T5": T5, "Bart": BART}[name]
    return getattr(sl.models, name)(**fields).eval()


def states_equal(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    return list(mine) == list(theirs) and all(
        np.array_equal(mine[name].cpu().numpy(), theirs[name].cpu().numpy()) for name in mine
    )


@pytest.mark.parametrize("name", ["GPT2", "BertForMaskedLM", "T5", "Bart"])
@pytest.mark.parametrize("shard", [None, "20KB"])
def test_a_model_survives_the_trip(name, shard, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard is not None)
    again = sl.models.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert not again.training
    assert states_equal(model, again)
    assert again.config.to_dict().items() >= model.config.to_dict().items()
    again.save_pretrained(tmp_path / "second")
    first, second = load_weights(tmp_path), load_weights(tmp_path / "second")
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[k], second[k]) for k in first)


def test_what_is_tied_is_one_tensor_and_written_once(tmp_path):
    model = reloaded(make(), tmp_path)
    assert model.lm_head.weight is model.transformer.wte.weight
    held = {f.path: len(f.header.tensors) for f in open_weights(tmp_path).files.values()}
    assert sum(held.values()) == len(model.state_dict()) - 1


def test_equal_tied_tensors_may_both_be_there(tmp_path):
    model = make()
    arrays = {k: np.array(v) for k, v in model.checkpoint_tensors().items()}
    assert "lm_head.weight" in arrays
    model.save_pretrained(tmp_path)
    save_weights(tmp_path, arrays)
    assert states_equal(model, sl.models.from_pretrained(tmp_path))


@pytest.mark.parametrize("kept", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("wanted", [None, "float32", "float16", "bfloat16"])
def test_dtypes(kept, wanted, tmp_path):
    model = make("T5").to(dtype=kept)
    again = reloaded(model, tmp_path, dtype=wanted)
    assert {p.dtype.name for p in again.parameters()} == {wanted or kept}
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] == kept
    a = again.shared.weight.detach().to(dtype="float32").numpy()
    b = model.to(dtype=wanted or kept).shared.weight.detach().to(dtype="float32").numpy()
    assert np.array_equal(a, b)


def test_a_mixed_checkpoint_takes_the_dtype_of_most_of_it(tmp_path):
    model = make("T5").to(dtype="bfloat16")
    model.save_pretrained(tmp_path)
    arrays = {k: np.array(v) for k, v in load_weights(tmp_path).items()}
    norm = "encoder.final_layer_norm.weight"
    arrays[norm] = arrays[norm].astype(np.float32)
    save_weights(tmp_path, {k: v for k, v in arrays.items() if k not in ("lm_head.weight",)})
    again = sl.models.from_pretrained(tmp_path)
    assert {p.dtype.name for p in again.parameters()} == {"bfloat16"}


def test_the_model_does_not_depend_on_the_file(tmp_path):
    model = reloaded(make(), tmp_path)
    before = model(IDS).detach().numpy().copy()
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    assert np.array_equal(model(IDS).detach().numpy(), before)
    loss = model(IDS).sum()
    loss.backward()
    sl.optim.SGD(model.parameters(), lr=0.1).step()
    assert not np.array_equal(model(IDS).detach().numpy(), before)


def test_files_of_others_are_left_alone(tmp_path):
    model = make()
    for name in ("tokenizer.json", "vocab.txt", "merges.txt", "README.md", "pytorch_model.bin"):
        (tmp_path / name).write_text("anything")
    (tmp_path / "onnx").mkdir()
    assert states_equal(model, reloaded(model, tmp_path))
    assert (tmp_path / "tokenizer.json").read_text() == "anything"


def test_unknown_fields_and_generation_defaults_travel(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    config.update(task_specific_params={"x": [1]}, _name_or_path="gpt2", transformers_version="4")
    (tmp_path / "a" / "config.json").write_text(json.dumps(config))
    defaults = {"eos_token_id": [3, 5], "max_new_tokens": 2}
    (tmp_path / "a" / "generation_config.json").write_text(json.dumps(defaults))
    again = sl.models.from_pretrained(tmp_path / "a")
    assert again.setting("eos_token_id") == [3, 5]
    assert again.generate(IDS).shape[1] <= IDS.shape[1] + 2
    third = reloaded(again, tmp_path / "b")
    assert third.generation_config == defaults
    assert third.config.extra["task_specific_params"] == {"x": [1]}
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == config


@pytest.mark.parametrize("name", ["GPT2", "BertForMaskedLM", "T5", "Bart"])
@pytest.mark.parametrize(("kind", "error"), [("int8", 0.03), ("int4", 0.3)])
def test_few_bits_are_near_many(name, kind, error, tmp_path):
    model = make(name)
    few = reloaded(model, tmp_path, quantize=kind)
    inputs = (IDS, IDS) if name in ("T5", "Bart") else (IDS,)
    with sl.no_grad():
        exact = model(*inputs).numpy()
        off = np.abs(few(*inputs).numpy() - exact).max()
    assert 0 < off < error * np.abs(exact).max()
    if hasattr(few, "generate"):
        assert few.generate(IDS, max_new_tokens=3).shape[0] == 2
    with pytest.raises(ValueError, match="save_pretrained: the model must have float weights"):
        few.save_pretrained(tmp_path / "few")


def test_a_failed_load_leaves_no_trace(tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="too short"):
        sl.models.from_pretrained(tmp_path)
    fresh = sl.nn.Linear(3, 3)
    assert fresh.weight.is_contiguous()
    assert np.abs(fresh.weight.detach().numpy()).max() > 0


def test_a_model_goes_to_the_device(device, tmp_path):
    model = make("Bart")
    expected = model(IDS, IDS).detach().numpy()
    again = reloaded(model, tmp_path, device=device)
    assert again.device.startswith(device)
    assert_near(again(IDS, IDS), expected, rtol=1e-4)
    back = reloaded(again, tmp_path / "back")
    assert states_equal(model, back)


@pytest.mark.parametrize(
    "build",
    [
        lambda m: m.GPT2(**GPT2),
        lambda m: m.Bart(**BART),
        lambda m: m.SequenceTagger(3, vocab_size=9),
        lambda m: m.Seq2Seq(9, 9, embed_dim=8, hidden_size=8),
        lambda m: m.Forecaster(2, 3, hidden_size=8),
    ],
)
def test_a_summary_counts_what_there_is(build):
    model = build(sl.models)
    text = model.summary()
    assert text.splitlines()[2].split()[:2] == ["-", type(model).__name__]
    size = sum(p.nbytes for p in model.parameters())
    assert f"{model.num_parameters():,} parameters" in text
    assert f"{size:,} bytes" in text


def test_every_class_of_the_registry_is_there():
    from seqloom.models.registry import CLASSES, FAMILIES

    for name in CLASSES:
        assert getattr(sl.models, name).__name__ == name
        assert f"import {name} as {name}" in Path(sl.models.__file__).read_text()
    for kind, family in FAMILIES.items():
        assert getattr(sl.models, family.config).model_type == kind
        for cls in family.architectures.values():
            assert issubclass(
                getattr(sl.models, family.config), getattr(sl.models, cls).config_class
            )


PEAK = """
import json, sys
import seqloom as sl
sl.models.GPT2, sl.models.T5

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(l.split()[1]) * 1024 for l in lines if l.startswith(key))

before = status("VmRSS")
model = sl.models.from_pretrained(sys.argv[1], **json.loads(sys.argv[2]))
held = sum(p.nbytes for p in model.parameters())
print(status("VmHWM") - before, status("RssFile"), held)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("name", "shard", "options"),
    [
        ("GPT2", None, {}),  # most of its matrices are transposed on the way
        ("GPT2", None, {"dtype": "bfloat16"}),
        ("T5", "40MB", {}),
    ],
)
def test_the_peak_of_loading_is_the_model_and_little_more(name, shard, options, tmp_path):
    fields = {
        "GPT2": {"n_embd": 768, "n_head": 12, "n_layer": 6, "vocab_size": 20000},
        "T5": {"d_model": 768, "num_heads": 12, "num_layers": 4, "d_ff": 2048},
    }[name]
    with sl.nn.init.skip():
        model = getattr(sl.models, name)(**fields)
    for p in model.parameters():
        p.detach().fill_(0.5)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    size = sum(p.nbytes for p in model.parameters())
    assert size > 200e6
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(tmp_path), json.dumps(options)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    peak, file_pages, held = map(int, done.stdout.split())
    assert held == (size // 2 if options else size)
    # The memory of the process counts the pages of mapped files, which are given back.
    assert peak <= 1.3 * held
    assert file_pages < 150e6
