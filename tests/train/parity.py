# SPDX-License-Identifier: Apache-2.0
"""The same GPT trained here and in torch: data, seed weights and schedule are equal.

As a program it trains nanoGPT's character configuration on the bundled text for 200 steps and
compares the losses of every step with torch's, which `nanogpt_losses.json` holds:

    python tests/train/parity.py                    # about two minutes on two cores
    python tests/train/parity.py --side torch       # torch's anew, some ten minutes
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import time
import zlib
from pathlib import Path

import numpy as np

import seqloom as sl
from seqloom.data import Loader, RandomWindows, demo_text, encode_corpus
from seqloom.optim import AdamW
from seqloom.text import Tokenizer
from seqloom.train import Callback, Trainer, parameter_groups

# nanoGPT's config/train_shakespeare_char.py without dropout, whose random numbers differ.
NANO = {"n_layer": 6, "n_head": 6, "n_embd": 384, "n_positions": 256}
BATCH, STEPS = 12, 200
SMALL = {"n_layer": 2, "n_head": 2, "n_embd": 48, "n_positions": 32}
LR, MIN_RATIO, DECAY, BETAS, CLIP = 1e-3, 0.1, 0.1, (0.9, 0.99), 1.0


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_step(self, trainer, row):
        self.values.append(row["loss"])


def setup(size, batch, seed=1337):
    """Data and a freshly initialised model."""
    text = demo_text()
    tokenizer = Tokenizer.train_from_texts([text], kind="char", special_tokens={})
    tokens = encode_corpus([text], tokenizer)
    loader = Loader(RandomWindows(tokens, size["n_positions"], seed=seed), batch)
    sl.manual_seed(seed)
    model = sl.models.GPT2(
        vocab_size=len(tokenizer), **size, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return model, loader


def ours(size, batch, steps, warmup, precision="float32"):
    model, loader = setup(size, batch)
    losses = Losses()
    Trainer(
        model, "next-token", loader, callbacks=[losses], steps=steps, clip_norm=CLIP,
        optimizer=AdamW(parameter_groups(model, DECAY), lr=LR, betas=BETAS), schedule="cosine",
        warmup_steps=warmup, min_lr_ratio=MIN_RATIO, precision=precision, progress=False,
    ).train()  # fmt: skip
    return losses.values


def theirs(size, batch, steps, warmup):
    """The loop of nanoGPT's train.py in torch, over the same batches."""
    import torch
    import torch.nn.functional as F

    model, loader = setup(size, batch)
    p = {
        name: torch.nn.Parameter(torch.from_numpy(t.numpy().copy()))
        for name, t in model.state_dict().items()
        if name != "lm_head.weight"
    }
    heads, width = size["n_head"], size["n_embd"]

    def norm(x, name):
        return F.layer_norm(x, (width,), p[name + ".weight"], p[name + ".bias"], 1e-5)

    def linear(x, name):
        return F.linear(x, p[name + ".weight"], p[name + ".bias"])

    def forward(ids):
        x = p["transformer.wte.weight"][ids] + p["transformer.wpe.weight"][: ids.shape[1]]
        for i in range(size["n_layer"]):
            at = f"transformer.h.{i}."
            qkv = linear(norm(x, at + "ln_1"), at + "attn.c_attn").split(width, dim=2)
            q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in qkv)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(y.transpose(1, 2).flatten(2), at + "attn.c_proj")
            inner = F.gelu(linear(norm(x, at + "ln_2"), at + "mlp.c_fc"), approximate="tanh")
            x = x + linear(inner, at + "mlp.c_proj")
        return F.linear(norm(x, "transformer.ln_f"), p["transformer.wte.weight"])

    optimizer = torch.optim.AdamW(
        [
            {"params": [t for t in p.values() if t.ndim >= 2], "weight_decay": DECAY},
            {"params": [t for t in p.values() if t.ndim < 2], "weight_decay": 0.0},
        ],
        lr=LR,
        betas=BETAS,
    )
    losses = []
    while len(losses) < steps:
        for inputs, targets in loader:
            step = len(losses)
            if step == steps:
                break
            if step < warmup:
                rate = LR * step / warmup
            else:
                done = (step - warmup) / max(1, steps - warmup)
                rate = LR * (MIN_RATIO + (1 - MIN_RATIO) * 0.5 * (1 + math.cos(math.pi * done)))
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = forward(torch.from_numpy(inputs))
            loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(p.values(), CLIP)
            optimizer.step()
            losses.append(loss.item())
    return losses


TRACKED = Path(__file__).with_name("nanogpt_losses.json")


def fingerprint(size, batch):
    """[checksum of the first batch, mean size of the seed weights]: what a curve hangs on."""
    model, loader = setup(size, batch)
    first = zlib.crc32(np.concatenate(next(iter(loader))).tobytes())
    weights = np.concatenate([t.numpy().ravel() for t in model.state_dict().values()])
    return [first, round(float(np.abs(weights).mean(dtype=np.float64)), 9)]


def apart(losses, expected):
    """The largest relative difference of two curves, and its step."""
    difference = np.abs(np.array(losses) / np.array(expected) - 1)
    return float(difference.max()), int(difference.argmax())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", choices=("ours", "torch"), default="ours")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--keep", action="store_true", help="write our losses into the file, too")
    options = parser.parse_args()
    held = json.loads(TRACKED.read_text()) if TRACKED.is_file() else {}
    common = (NANO, BATCH, STEPS, STEPS // 10)
    began = time.monotonic()
    if options.side == "torch":
        held["torch"] = [round(v, 6) for v in theirs(*common)]
        held["made by"] = f"torch {importlib.metadata.version('torch')}"
        held["fingerprint"] = fingerprint(NANO, BATCH)
    else:
        losses = [round(v, 6) for v in ours(*common, options.precision)]
        most, step = apart(losses, held["torch"])
        print(f"largest difference {most:.3%} at step {step}; losses {losses[:: STEPS // 10]}")
        if options.keep:
            held[options.precision] = losses
    print(f"{time.monotonic() - began:.0f} s")
    if options.side == "torch" or options.keep:
        TRACKED.write_text(json.dumps(held) + "\n")


if __name__ == "__main__":
    main()
