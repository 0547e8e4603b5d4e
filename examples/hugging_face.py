# SPDX-License-Identifier: Apache-2.0
"""Load a directory in Hugging Face's layout and generate, as it is and with 8-bit weights.

    huggingface-cli download gpt2 --local-dir gpt2
    python examples/hugging_face.py gpt2 --prompt "The owl said"

Without a directory it makes a small one with random weights, to show what one holds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time

import numpy as np

import seqloom as sl
from seqloom.text import IncrementalDecoder, Tokenizer


def small_directory() -> str:
    """A GPT-2 of random weights with a tokenizer, as `save_pretrained` writes them."""
    folder = tempfile.mkdtemp(prefix="small-gpt2-")
    tokenizer = Tokenizer.train_from_texts([sl.data.demo_text()], "bpe", 500)
    sl.manual_seed(0)
    model = sl.models.GPT2(vocab_size=len(tokenizer), n_layer=2, n_embd=64, n_head=2,
                           n_positions=128, bos_token_id=None, eos_token_id=None)  # fmt: skip
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="config.json, *.safetensors, a tokenizer")
    parser.add_argument("--prompt", default="The owl said")
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="a few tokens, to see that it runs")
    options = parser.parse_args()
    directory = options.directory or small_directory()
    print(f"{directory}: {', '.join(sorted(os.listdir(directory)))}")
    count = 8 if options.quick else options.tokens

    tokenizer = Tokenizer.from_pretrained(directory)
    ids = np.array([tokenizer.encode(options.prompt)])
    logits = []
    for quantize in (None, "int8"):
        model = sl.models.from_pretrained(directory, quantize=quantize)
        print(f"\n{type(model).__name__}, {quantize or model.dtype.name}:")
        decoder = IncrementalDecoder(tokenizer)
        print(options.prompt, end="")
        began, written = time.perf_counter(), 0
        for token in model.stream(ids, max_new_tokens=count, do_sample=True, top_k=50, seed=1):
            print(decoder.push(token), end="", flush=True)
            written += 1
        spent = time.perf_counter() - began
        print(f"{decoder.finish()}\n({written / spent:,.0f} tokens/s)")
        with sl.no_grad():
            logits.append(model(ids).to(dtype="float32").numpy())
    apart = np.abs(logits[1] - logits[0]).max() / np.ptp(logits[0])
    print(f"8 bits move the logits by at most {apart:.2%} of their range")


if __name__ == "__main__":
    main()
