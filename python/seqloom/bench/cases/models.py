# SPDX-License-Identifier: Apache-2.0
"""Whole models at inference: GPT-2 (124M) reading a prompt and writing, BERT-base reading."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from seqloom.bench import onnx_graphs
from seqloom.bench.case import DTYPE_NAMES, Answer, Built, Case, Context, Work, register
from seqloom.bench.cases import checkpoints

DTYPES = ("f32", "bf16", "int8", "int4")
GPT2 = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 50257, "positions": 1024}
BERT = {"layers": 12, "width": 768, "heads": 12, "vocabulary": 30522, "positions": 512}
# CTranslate2 has no bfloat16 on most CPUs; it refuses by itself where it does not.
_CT2_TYPES = {"f32": "float32", "int8": "int8", "bf16": "bfloat16"}


@functools.lru_cache(maxsize=1)
def _ours(path: Path, dtype: str, device: str) -> Any:
    models = importlib.import_module("seqloom.models")
    options: dict[str, Any] = {"device": device}
    if dtype in ("int8", "int4"):
        options["quantize"] = dtype
    else:
        options["dtype"] = DTYPE_NAMES[dtype]
    return models.from_pretrained(path, **options).eval()


@functools.lru_cache(maxsize=1)
def _transformers(path: Path, kind: str, dtype: str, device: str) -> Any:
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    model = getattr(transformers, kind).from_pretrained(
        path, dtype=getattr(torch, DTYPE_NAMES[dtype])
    )
    return model.to(device).eval()


@functools.lru_cache(maxsize=1)
def _ct2(path: Path, kind: str, dtype: str, threads: int) -> Any:
    library = importlib.import_module("ctranslate2")
    return getattr(library, kind)(
        str(checkpoints.ctranslate2(path)),
        compute_type=_CT2_TYPES[dtype],
        intra_threads=threads,
        inter_threads=1,
    )


@functools.lru_cache(maxsize=1)
def _onnx(path: Path, kind: str, dtype: str, threads: int) -> Any:
    from safetensors.numpy import load_file

    library = importlib.import_module("onnxruntime")
    weights = load_file(path / "model.safetensors")
    sizes = GPT2 if kind == "gpt2" else BERT
    graph = getattr(onnx_graphs, kind)(weights, sizes["layers"], sizes["heads"])
    return onnx_graphs.session(library, graph, threads, int8=dtype == "int8")


def _gpt2_logits(path: Path, ids: Any, ref: Any, dtype: Any) -> Any:
    """Logits [B, V] after the last of ids [B, T], from the reference's ops."""
    from safetensors.numpy import load_file

    weights = {n: w.astype(dtype) for n, w in load_file(path / "model.safetensors").items()}
    batch, length = ids.shape
    heads = GPT2["heads"]

    def norm(x: Any, name: str) -> Any:
        return ref.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-5)

    def linear(x: Any, name: str, **options: Any) -> Any:
        return ref.linear(x, weights[f"{name}.weight"].T, weights[f"{name}.bias"], **options)

    x = weights["transformer.wte.weight"][ids] + weights["transformer.wpe.weight"][:length]
    for k in range(GPT2["layers"]):
        block = f"transformer.h.{k}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k_, v = qkv.reshape(batch, length, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        a = ref.scaled_dot_product_attention(q, k_, v, is_causal=True)
        x = x + linear(a.transpose(0, 2, 1, 3).reshape(x.shape), f"{block}.attn.c_proj")
        h = linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc", activation="gelu_tanh")
        x = x + linear(h, f"{block}.mlp.c_proj")
    return norm(x[:, -1], "transformer.ln_f") @ weights["transformer.wte.weight"].T


def _bert_hidden(path: Path, ids: Any, ref: Any, dtype: Any) -> Any:
    """Hidden states [B, T, D] of the last layer, from the reference's ops."""
    from safetensors.numpy import load_file

    weights = {n: w.astype(dtype) for n, w in load_file(path / "model.safetensors").items()}
    batch, length = ids.shape

    def norm(x: Any, name: str) -> Any:
        return ref.layer_norm(x, weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-12)

    def linear(x: Any, name: str, **options: Any) -> Any:
        return ref.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"], **options)

    table = "embeddings.{}_embeddings.weight"
    x = weights[table.format("word")][ids] + weights[table.format("position")][:length]
    x = norm(x + weights[table.format("token_type")][0], "embeddings.LayerNorm")
    for k in range(BERT["layers"]):
        block = f"encoder.layer.{k}"
        q, k_, v = (
            linear(x, f"{block}.attention.self.{part}")
            .reshape(batch, length, BERT["heads"], -1)
            .swapaxes(1, 2)
            for part in ("query", "key", "value")
        )
        a = ref.scaled_dot_product_attention(q, k_, v).swapaxes(1, 2).reshape(x.shape)
        x = norm(
            x + linear(a, f"{block}.attention.output.dense"), f"{block}.attention.output.LayerNorm"
        )
        h = linear(x, f"{block}.intermediate.dense", activation="gelu")
        x = norm(x + linear(h, f"{block}.output.dense"), f"{block}.output.LayerNorm")
    return x


def gpt2_generate(
    name: str, batch: int, prompt: int, new: int, *, counted: int, **changes: Any
) -> Case:
    """Greedy generation; `counted` tokens a call make the rate."""

    def ours(context: Context) -> Callable[[], Any]:
        model = _ours(checkpoints.gpt2(**GPT2), context.dtype, context.device)
        ids = context.inputs["ids"]
        return lambda: model.generate(ids, max_new_tokens=new, eos_token_id=[])

    def judged(context: Context, reference: Any) -> Answer:
        """The logits of a step that follows a prompt, through the cache."""
        path = checkpoints.gpt2(**GPT2)
        model = _ours(path, context.dtype, context.device)
        ids = context.inputs["ids"][:2, :8]
        state = model.start(ids.shape[0], capacity=8)
        model.decode(ids[:, :-1], state)
        value = model.decode(ids[:, -1:], state).to(dtype="float32").cpu().numpy()
        return Answer(
            value, lambda dtype: _gpt2_logits(path, ids, reference, dtype), 2 * GPT2["layers"]
        )

    def in_torch(context: Context) -> Callable[[], Any]:
        torch, path = context.library, checkpoints.gpt2(**GPT2)
        model = _transformers(path, "GPT2LMHeadModel", context.dtype, context.device)
        ids = torch.from_numpy(context.inputs["ids"]).to(context.device)
        mask = torch.ones_like(ids)

        def call() -> Any:
            with torch.no_grad():
                return model.generate(
                    ids, attention_mask=mask, max_new_tokens=new, min_new_tokens=new,
                    do_sample=False, pad_token_id=0,
                )  # fmt: skip

        return call

    def in_ct2(context: Context) -> Callable[[], Any]:
        generator = _ct2(checkpoints.gpt2(**GPT2), "Generator", context.dtype, context.threads)
        words = [[f"w{k}" for k in row] for row in context.inputs["ids"].tolist()]
        return lambda: generator.generate_batch(
            words, max_length=new, min_length=new, include_prompt_in_result=False
        )

    def in_onnx(context: Context) -> Callable[[], Any]:
        session = _onnx(checkpoints.gpt2(**GPT2), "gpt2", context.dtype, context.threads)
        size = GPT2["width"] // GPT2["heads"]
        writer = onnx_graphs.Writer(session, GPT2["layers"], GPT2["heads"], size)
        ids = context.inputs["ids"]
        return lambda: writer(ids, new)

    width, layers, vocabulary = GPT2["width"], GPT2["layers"], GPT2["vocabulary"]
    blocks = 12 * layers * width * width
    head = vocabulary * width

    def work(mode: str, item: float) -> Work:
        read = prompt * batch
        pairs = batch * (prompt * prompt / 2 + new * (prompt + new / 2))
        flops = 2.0 * blocks * (read + batch * (new - 1)) + 2.0 * head * batch * new
        flops += 4.0 * layers * width * pairs
        return Work((blocks + head) * item * new, flops)

    return Case(
        family="models",
        name=name,
        label=f"b{batch}_p{prompt}_n{new}",
        sizes={"batch": batch, "prompt": prompt, "new": new},
        make=lambda rng: {"ids": rng.integers(0, 50000, (batch, prompt))},
        ours=Built(ours, dtypes=DTYPES, judged=judged),
        needs=("models.from_pretrained",),
        work=work,
        peers={
            "torch": Built(in_torch, dtypes=("f32", "bf16")),
            "ctranslate2": Built(in_ct2, dtypes=("f32", "int8")),
            "onnxruntime": Built(in_onnx, dtypes=("f32", "int8")),
        },
        modes=("fwd",),
        dtypes=DTYPES,
        cache="warm",
        unit="tok/s",
        per_call=float(counted),
        **changes,
    )


def bert_encode(batch: int, length: int, **changes: Any) -> Case:
    """Hidden states of BERT-base."""

    def ours(context: Context) -> Callable[[], Any]:
        model = _ours(checkpoints.bert(**BERT), context.dtype, context.device)
        library = importlib.import_module("seqloom")
        ids = library.tensor(context.inputs["ids"], device=context.device)
        mask = library.tensor(np.ones_like(context.inputs["ids"]), device=context.device)

        def call() -> Any:
            with library.no_grad():
                return model(ids, attention_mask=mask)

        return call

    def judged(context: Context, reference: Any) -> Answer:
        """The first tokens of two rows."""
        path = checkpoints.bert(**BERT)
        model = _ours(path, context.dtype, context.device)
        library, ids = importlib.import_module("seqloom"), context.inputs["ids"][:2, :16]
        with library.no_grad():
            value = model(library.tensor(ids, device=context.device))
        value = value.to(dtype="float32").cpu().numpy()
        return Answer(
            value, lambda dtype: _bert_hidden(path, ids, reference, dtype), 2 * BERT["layers"]
        )

    def in_torch(context: Context) -> Callable[[], Any]:
        torch, path = context.library, checkpoints.bert(**BERT)
        model = _transformers(path, "BertModel", context.dtype, context.device)
        ids = torch.from_numpy(context.inputs["ids"]).to(context.device)
        mask = torch.ones_like(ids)

        def call() -> Any:
            with torch.no_grad():
                return model(ids, attention_mask=mask).last_hidden_state

        return call

    def in_ct2(context: Context) -> Callable[[], Any]:
        encoder = _ct2(checkpoints.bert(**BERT), "Encoder", context.dtype, context.threads)
        ids = context.inputs["ids"].tolist()
        return lambda: encoder.forward_batch(ids).last_hidden_state

    def in_onnx(context: Context) -> Callable[[], Any]:
        session = _onnx(checkpoints.bert(**BERT), "bert", context.dtype, context.threads)
        ids = context.inputs["ids"]
        feed = {"ids": ids, "positions": np.arange(ids.shape[1])}
        return lambda: session.run(None, feed)

    width, layers = BERT["width"], BERT["layers"]
    blocks = 12 * layers * width * width

    def work(mode: str, item: float) -> Work:
        flops = 2.0 * blocks * batch * length + 4.0 * layers * width * batch * length * length
        return Work(blocks * item, flops)

    return Case(
        family="models",
        name="bert_encode",
        label=f"{batch}x{length}",
        sizes={"batch": batch, "length": length},
        make=lambda rng: {"ids": rng.integers(5, 30000, (batch, length))},
        ours=Built(ours, dtypes=DTYPES[:3], judged=judged),
        needs=("models.from_pretrained",),
        work=work,
        peers={
            "torch": Built(in_torch, dtypes=("f32", "bf16")),
            "ctranslate2": Built(in_ct2, dtypes=("f32", "int8")),
            "onnxruntime": Built(in_onnx, dtypes=("f32", "int8")),
        },
        modes=("fwd",),
        dtypes=DTYPES[:3],
        cache="warm",
        unit="tok/s",
        per_call=float(batch * length),
        **changes,
    )


@register("models")
def cases() -> Iterable[Case]:
    # Reading: the time to the first token. Writing: a short prompt, so that steps are what counts.
    yield gpt2_generate("gpt2_prefill", 1, 512, 1, counted=512)
    yield gpt2_generate("gpt2_decode", 1, 8, 64, counted=64, quick_cuda=("fwd/bf16",))
    yield gpt2_generate("gpt2_decode", 8, 8, 64, counted=512)
    yield bert_encode(8, 128)
