# SPDX-License-Identifier: Apache-2.0
"""Bad checkpoints and bad arguments: each is refused by name, and nothing of it is executed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

import seqloom as sl
from model_support import BART, BERT, MARIAN, T5
from seqloom.weights import CheckpointError, load_weights, save_weights

GPT2 = {"vocab_size": 61, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
LLAMA = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
BLOOM = {"vocab_size": 61, "hidden_size": 32, "n_layer": 2, "n_head": 4}
TINY = {
    "bert": lambda m: m.BertForMaskedLM(**BERT),
    "t5": lambda m: m.T5(**T5),
    "bart": lambda m: m.Bart(**BART),
    "marian": lambda m: m.Marian(**MARIAN),
    "gpt2": lambda m: m.GPT2(**GPT2),
    "llama": lambda m: m.Llama(**LLAMA),
    "bloom": lambda m: m.Bloom(**BLOOM),
    "rnn": lambda m: m.RNNLanguageModel(61, embed_dim=8, hidden_size=8),
    "seq2seq": lambda m: m.Seq2Seq(61, 61, embed_dim=8, hidden_size=8),
    "transformer": lambda m: m.Transformer(
        61, 61, d_model=16, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16
    ),
    "classifier": lambda m: m.SequenceClassifier(3, vocab_size=61),
    "forecaster": lambda m: m.Forecaster(3, 4, hidden_size=8),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory of each family, made when it is first asked for."""
    root = tmp_path_factory.mktemp("saved")

    def of(family: str) -> Path:
        if not (root / family).exists():
            TINY[family](sl.models).save_pretrained(root / family)
        return root / family

    return of


@pytest.fixture
def directory(request, saved, tmp_path):
    """A copy to spoil, of the family that the test is parametrised with."""
    spec = getattr(request.node, "callspec", None)
    family = spec.params.get("family", "bert") if spec else "bert"
    shutil.copytree(saved(family), tmp_path / "model")
    return tmp_path / "model"


def refused(directory, text, error=CheckpointError, **options):
    with pytest.raises(error, match=text) as caught:
        sl.models.from_pretrained(directory, **options)
    assert str(caught.value).startswith("from_pretrained: ")
    return str(caught.value)


def edit(directory, **fields):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(fields)
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not Ellipsis}))


# ---- config.json ---------------------------------------------------------------------------------

FIELDS = [
    ("bert", "model_type", ..., "model_type must be one of gpt2, llama"),
    ("bert", "model_type", "brt", "model_type must be one of .* got 'brt'"),
    ("bert", "model_type", ["bert"], "model_type must be one of"),
    ("bert", "architectures", ["BertLMHeadModel"], "architectures must be one of BertModel"),
    ("bert", "architectures", "BertModel", "architectures must be one of"),
    ("bert", "architectures", ["BertModel", "BertForMaskedLM"], "architectures must be one of"),
    ("bert", "architectures", [3], "architectures must be one of"),
    ("bert", "auto_map", {"AutoModel": "code.Bert"}, "auto_map asks for code .* never executed"),
    ("bert", "quantization_config", {"bits": 4}, "quantization_config must be null"),
    ("bert", "is_decoder", True, "is_decoder must be False, got True"),
    ("bert", "add_cross_attention", True, "add_cross_attention must be False"),
    ("bert", "pruned_heads", {"0": [1]}, "pruned_heads must be {}"),
    ("bert", "position_embedding_type", "relative_key", "position_embedding_type must be"),
    ("bert", "hidden_act", "gelu_10", "hidden_act must be one of 'gelu'.*got 'gelu_10'"),
    ("bert", "hidden_act", None, "hidden_act must be a string, got None"),
    ("bert", "hidden_size", 0, "hidden_size must be a positive integer, got 0"),
    ("bert", "hidden_size", "32", "hidden_size must be an integer, got '32'"),
    ("bert", "hidden_size", 32.0, "hidden_size must be an integer"),
    ("bert", "hidden_size", 34, "hidden_size must be a multiple of num_attention_heads = 4"),
    ("bert", "hidden_size", 64, r"word_embeddings.weight must have shape \[61, 64\]"),
    ("bert", "num_hidden_layers", 3, r"missing bert\.encoder\.layer\.2\."),
    ("bert", "num_hidden_layers", 1, r"unexpected bert\.encoder\.layer\.1\."),
    ("bert", "num_hidden_layers", 10**9, "num_hidden_layers must be at most 4096"),
    ("bert", "num_hidden_layers", True, "num_hidden_layers must be an integer, got True"),
    ("bert", "vocab_size", 2**40, "vocab_size must be at most"),
    ("bert", "vocab_size", 2**31 - 1, r"must have shape \[2147483647, 32\], got \[61, 32\]"),
    ("bert", "hidden_dropout_prob", 1.5, r"hidden_dropout_prob must be in \[0, 1\]"),
    ("bert", "layer_norm_eps", -1, "layer_norm_eps must not be negative"),
    ("bert", "initializer_range", 10**400, "initializer_range must be"),
    ("bert", "pad_token_id", 61, "padding_idx must be in"),
    ("bert", "pad_token_id", "x", "pad_token_id must be an integer or null"),
    ("bert", "id2label", ["a"], "id2label must be"),
    ("bert", "num_labels", 7, "num_labels must be the size of id2label = 2"),
    ("t5", "feed_forward_proj", "gated-mish", "feed_forward_proj must be one of"),
    ("t5", "feed_forward_proj", "relu-gelu", "feed_forward_proj must be one of"),
    ("t5", "feed_forward_proj", "gated-gelu", r"missing encoder.*wi_0.*unexpected .*wi\.weight"),
    ("t5", "relative_attention_num_buckets", 3, "relative_attention_num_buckets must be an even"),
    ("t5", "relative_attention_max_distance", 2, "relative_attention_max_distance must be above"),
    ("t5", "d_kv", 512, "d_kv must be at most 256"),
    ("t5", "is_encoder_decoder", False, "is_encoder_decoder must be True"),
    ("t5", "tie_encoder_decoder", True, "tie_encoder_decoder must be False"),
    ("t5", "eos_token_id", [1, "x"], "eos_token_id must be"),
    ("bart", "activation_function", "mish", "activation_function must be one of"),
    ("bart", "normalize_before", True, "normalize_before must be False"),
    ("bart", "add_final_layer_norm", True, "add_final_layer_norm must be False"),
    ("bart", "scale_embedding", "yes", "scale_embedding must be true or false"),
    ("bart", "decoder_attention_heads", 5, "d_model must be a multiple of decoder_attention_heads"),
    ("bart", "max_position_embeddings", 2**31 - 1, "embed_positions.weight must have shape"),
    ("marian", "static_position_embeddings", False, "static_position_embeddings must be True"),
    ("marian", "decoder_vocab_size", -1, "decoder_vocab_size must be a positive integer"),
    ("marian", "share_encoder_decoder_embeddings", False, r"unexpected model\.shared\.weight"),
    ("gpt2", "activation_function", "mish", "activation_function must be one of"),
    ("gpt2", "n_head", 5, "n_embd must be a multiple of n_head = 5"),
    ("gpt2", "n_embd", 16, r"c_attn\.weight must have shape \[16, 48\], got \[32, 96\]"),
    ("llama", "rope_scaling", {"type": "su", "factor": 2.0}, "rope_scaling"),
    ("llama", "num_key_value_heads", 3, "num_key_value_heads must divide"),
    ("llama", "hidden_act", "xielu", "hidden_act must be one of"),
    ("bloom", "n_head", 3, "n_head"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "field", "value", "text"), FIELDS)
def test_a_field_that_cannot_be_used_is_named(family, field, value, text, directory):
    edit(directory, **{field: value})
    message = refused(directory, text)
    assert str(directory) in message
    assert len(message) < 3000


GARBAGE = [None, True, -1, 0, 3, 2**31 - 1, 2**70, 0.5, -1e300, "x", "", [], [[]], {}, {"a": 1}]


@pytest.mark.parametrize("family", TINY)
def test_any_value_of_any_field_loads_or_is_refused(family, directory):
    """Nothing else: no other exception, no flood of memory, no endless loop."""
    original = (directory / "config.json").read_text()
    for field in json.loads(original):
        for value in GARBAGE:
            edit(directory, **{field: value})
            error = None
            try:
                sl.models.from_pretrained(directory)
            except CheckpointError as caught:
                error = caught
            assert error is None or str(error).startswith(f"from_pretrained: {directory}")
            (directory / "config.json").write_text(original)


CONFIG_FILES = [
    (b"[]", "must hold a JSON object"),
    (b"", "not valid JSON"),
    (b"{", "not valid JSON"),
    (b'{"model_type": "bert", "model_type": "t5"}', "'model_type' occurs twice"),
    (b'{"model_type": "\xff"}', "not valid UTF-8"),
    (b'{"model_type": "bert", "layer_norm_eps": NaN}', "NaN is not JSON"),
    (b"[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("content", "text"), CONFIG_FILES)
def test_a_config_that_is_no_object_is_refused(content, text, directory):
    (directory / "config.json").write_bytes(content)
    assert "config.json" in refused(directory, text)


def test_weights_that_are_no_file_are_refused(directory):
    path = directory / "model.safetensors"
    path.unlink()
    path.mkdir()
    refused(directory, "model.safetensors is not a regular file")
    path.rmdir()
    os.mkfifo(path)
    refused(directory, "model.safetensors is not a regular file")
    path.unlink()
    path.symlink_to(path)
    refused(directory, "model.safetensors", OSError)


def test_a_config_that_is_no_file_is_refused(directory):
    (directory / "config.json").unlink()
    refused(directory, "holds no config.json", FileNotFoundError)
    (directory / "config.json").mkdir()
    refused(directory, "not a regular file")
    (directory / "config.json").rmdir()
    os.mkfifo(directory / "config.json")
    refused(directory, "not a regular file")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[]", "generation_config.json.*must hold a JSON object"),
        ("{", "generation_config.json: not valid JSON"),
        ('{"eos_token_id": "end"}', "eos_token_id must be an integer or a list of them"),
        ('{"pad_token_id": 1.5}', "pad_token_id must be an integer"),
    ],
)
def test_a_generation_config_is_judged_too(content, text, directory):
    (directory / "generation_config.json").write_text(content)
    refused(directory, text)


# ---- weights -------------------------------------------------------------------------------------


def change(directory, **changes):
    """Replace tensors (an array), or drop them (None)."""
    arrays = {k: np.array(v) for k, v in load_weights(directory).items()}
    tied = [k for k in arrays if k.endswith("decoder.weight")]
    for name in tied:
        del arrays[name]
    arrays.update({k.replace("__", "."): v for k, v in changes.items()})
    save_weights(directory, {k: v for k, v in arrays.items() if v is not None})


WORDS = "bert__embeddings__word_embeddings__weight"
NORM = "bert__embeddings__LayerNorm__weight"
TENSORS = [
    ({NORM: None}, r"missing bert\.embeddings\.LayerNorm\.weight"),
    (
        {WORDS: None},
        r"missing bert\.embeddings\.word_embeddings\.weight = cls.*decoder\.weight \(tied\)",
    ),
    ({"bert__extra": np.ones(2, np.float32)}, r"unexpected bert\.extra"),
    ({"extra": np.ones(2, np.float32)}, "unexpected extra"),
    ({NORM: np.ones(31, np.float32)}, r"LayerNorm\.weight must have shape \[32\], got \[31\]"),
    ({NORM: np.ones((1, 32), np.float32)}, r"must have shape \[32\], got \[1, 32\]"),
    ({NORM: np.ones(32, np.int32)}, "must be floating.*got int32"),
    (
        {"cls__predictions__decoder__weight": np.ones((61, 32), np.float32)},
        "tied by the configuration, but differ",
    ),
    ({"bert__embeddings__LayerNorm__gamma": np.ones(32, np.float32)}, "names of the same tensor"),
    (
        {f"bert__extra{i}": np.ones(1, np.float32) for i in range(30)},
        "and 22 more",
    ),
]


@pytest.mark.parametrize(("changes", "text"), TENSORS)
def test_a_tensor_that_does_not_fit_is_named(changes, text, directory):
    change(directory, **changes)
    assert str(directory) in refused(directory, text)


def header_of(path):
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(path, header, body):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def lie(field, value):
    """A file whose header tells this about its first tensor."""

    def spoil(directory):
        path = directory / "model.safetensors"
        header, body = header_of(path)
        name = next(n for n in header if n != "__metadata__")
        header[name][field] = value
        write_header(path, header, body)

    return spoil


def cut(n):
    def spoil(directory):
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:n])

    return spoil


def only_pickles(directory):
    (directory / "model.safetensors").unlink()
    (directory / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))


def index(content, shard=True):
    def spoil(directory):
        single = directory / "model.safetensors"
        names = sorted(load_weights(directory))
        single.rename(directory / "part.safetensors")
        text = json.dumps(content(names) if callable(content) else content)
        (directory / "model.safetensors.index.json").write_text(text)
        if not shard:
            (directory / "part.safetensors").unlink()

    return spoil


def mapped(shard):
    return lambda names: {"weight_map": dict.fromkeys(names, shard)}


FILES = [
    ("offsets-beyond", lie("data_offsets", [0, 10**12]), "claims the bytes 0 to 1000000000000"),
    ("offsets-backwards", lie("data_offsets", [64, 0]), "claims the bytes"),
    ("offsets-overlap", lie("data_offsets", [4, 8]), "its offsets span|overlaps|belong to no"),
    ("shape-negative", lie("shape", [-1]), "impossible shape"),
    ("shape-huge", lie("shape", [2**40, 2**40]), "but its offsets span"),
    ("dtype-unknown", lie("dtype", "F1"), "unknown dtype 'F1'"),
    ("empty", cut(0), "too short"),
    ("header-cut", cut(100), "truncated or not a safetensors file"),
    ("data-cut", cut(-5), "claims the bytes|belong to no tensor"),
    ("pickle", only_pickles, "pickled weights can run code and aren't read"),
    ("no-weights", lambda d: (d / "model.safetensors").unlink(), "holds no .safetensors weights"),
    ("index-list", index([]), "must hold an object weight_map"),
    ("index-path", index(mapped("../part.safetensors")), "points outside the directory"),
    ("index-absolute", index(mapped("/etc/passwd")), "points outside the directory"),
    ("index-pickle", index(mapped("part.bin")), "is not a .safetensors file"),
    ("index-shard-missing", index(mapped("part.safetensors"), shard=False), "is missing"),
    (
        "index-name-missing",
        index(lambda n: {"weight_map": dict.fromkeys([*n, "ghost"], "part.safetensors")}),
        "'ghost' is not in its shard",
    ),
]  # fmt: skip


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_an_untied_head_must_be_there(family, directory):
    head = {"bert": "cls.predictions.decoder.weight"}.get(family, "lm_head.weight")
    tied = {k: np.array(v) for k, v in load_weights(directory).items() if k != head}
    save_weights(directory, tied)
    edit(directory, tie_word_embeddings=False)
    refused(directory, f"missing {head}")


@pytest.mark.parametrize(("spoil", "text"), [f[1:] for f in FILES], ids=[f[0] for f in FILES])
def test_a_file_that_lies_is_refused(spoil, text, directory):
    spoil(directory)
    refused(directory, text, (CheckpointError, FileNotFoundError))
    assert not EXPLODED


EXPLODED: list[int] = []


class _Bomb:
    def __reduce__(self):
        return (EXPLODED.append, (1,))


def test_float8_weights_are_refused(directory):
    import ml_dtypes

    change(directory, **{NORM: np.ones(32, ml_dtypes.float8_e4m3fn)})
    refused(directory, r"LayerNorm\.weight must be floating \(16 bits or more\), got float8_e4m3fn")


def test_code_beside_a_checkpoint_is_not_run(directory):
    marker = directory / "marker"
    code = f"open({str(marker)!r}, 'w')"
    for name in ("__init__.py", "modeling_bert.py", "configuration_bert.py", "sitecustomize.py"):
        (directory / name).write_text(code)
    sl.models.from_pretrained(directory)
    assert not marker.exists()


# ---- arguments -----------------------------------------------------------------------------------


def load(**options):
    return lambda directory: sl.models.from_pretrained(directory, **options)


ARGUMENTS = [
    (load(dtype="int8"), TypeError, "dtype must be floating, got int8"),
    (load(dtype="float99"), TypeError, "float99"),
    (load(quantize="int3"), ValueError, "quantize must be 'int8', 'int4' or None, got 'int3'"),
    (load(quantize=8), ValueError, "quantize must be"),
    (load(device="tpu"), ValueError, "device"),
    (load(device=3), ValueError, "device"),
    (lambda d: sl.models.from_pretrained(d / "none"), FileNotFoundError, "none does not exist"),
    (lambda d: sl.models.from_pretrained(d / "config.json"), NotADirectoryError, "is a file"),
    (lambda d: sl.models.from_pretrained("a\0b"), FileNotFoundError, "does not exist"),
    (lambda d: sl.models.from_pretrained(None), TypeError, "directory must be a path"),
    (lambda d: sl.models.T5.from_pretrained(d), ValueError, "model_type must be one that T5 can"),
    (lambda d: sl.models.Bert.from_pretrained(d, depth=3), TypeError, "'depth' is no field"),
    (lambda d: sl.models.Bert(depth=3), TypeError, "Bert: 'depth' is no field"),
    (lambda d: sl.models.Bert(sl.models.T5Config()), TypeError, "Bert: config must be a BertConf"),
    (lambda d: sl.models.Bert({"vocab_size": 3}), TypeError, "Bert: config must be a BertConfig"),
    (
        lambda d: sl.models.Bert(sl.models.BertConfig(), vocab_size=3),
        TypeError,
        "Bert: give a configuration or its fields, not both",
    ),
    (lambda d: sl.models.Bert(vocab_size=-3), ValueError, "BertConfig: vocab_size must be a pos"),
    (lambda d: sl.models.BertConfig(hidden_dropout_prob="x"), TypeError, "must be a number"),
    (lambda d: sl.models.BertConfig.from_dict([]), TypeError, "BertConfig: values must be a map"),
    (lambda d: sl.models.BertConfig.from_dict({"model_type": "t5"}), ValueError, "must be 'bert'"),
    (
        lambda d: sl.models.Bert(**BERT).save_pretrained(3),
        TypeError,
        "save_pretrained: directory must be a path, got int",
    ),
    (
        lambda d: sl.models.Bert(**BERT).save_pretrained(d / "config.json"),
        NotADirectoryError,
        "save_pretrained: .* is a file",
    ),
    (
        lambda d: sl.models.Bert(**BERT).save_pretrained(d, max_shard_size="big"),
        ValueError,
        "max_shard_size must be bytes or text",
    ),
    (lambda d: sl.models.Gpt5, AttributeError, "seqloom.models' has no attribute 'Gpt5'"),
]


@pytest.mark.parametrize(("call", "error", "text"), ARGUMENTS)
def test_a_bad_argument_is_named(call, error, text, directory):
    with pytest.raises(error, match=text):
        call(directory)


def test_there_are_at_least_sixty_cases():
    assert len(FIELDS) + len(CONFIG_FILES) + len(TENSORS) + len(FILES) + len(ARGUMENTS) >= 100
