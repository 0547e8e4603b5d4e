# SPDX-License-Identifier: Apache-2.0
"""A GPT over characters, the settings of nanoGPT's small one: any text file, or the bundled text.

python examples/char_gpt.py --data book.txt --minutes 10
"""

from __future__ import annotations

import argparse
import math

import numpy as np

import seqloom as sl
from seqloom.data import LMWindows, Loader, RandomWindows, demo_text, encode_corpus, read_text
from seqloom.optim import AdamW
from seqloom.text import Tokenizer
from seqloom.train import Trainer, parameter_groups


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", help="UTF-8 text")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--quick", action="store_true", help="a smaller model and 200 steps: seconds"
    )
    options = parser.parse_args()

    text = next(iter(read_text(options.data, unit="file"))) if options.data else demo_text()
    tokenizer = Tokenizer.train_from_texts([text], kind="char", special_tokens={})
    tokens = encode_corpus([text], tokenizer)
    cut = len(tokens) * 9 // 10
    length, width, layers = (64, 64, 2) if options.quick else (128, 192, 4)
    sl.manual_seed(1337)
    model = sl.models.GPT2(
        vocab_size=len(tokenizer), n_positions=length, n_embd=width, n_layer=layers, n_head=4,
        embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0, initializer_range=0.06, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    print(f"{model.num_parameters():,} parameters, {len(tokens):,} characters")
    stop = {"steps": 200} if options.quick else {"seconds": 60 * options.minutes}
    trainer = Trainer(
        model, "next-token", Loader(RandomWindows(tokens[:cut], length, seed=1), 12),
        Loader(LMWindows(tokens[cut:], length), 12), schedule="cosine", warmup_steps=50,
        optimizer=AdamW(parameter_groups(model, 0.1), lr=2e-3, betas=(0.9, 0.99)),
        eval_every=100 if options.quick else 200, precision=options.precision, **stop,
    )  # fmt: skip
    rows = trainer.train()
    loss = rows[-1]["eval_loss"]
    print(f"{trainer.step} steps, {trainer.tokens / trainer.elapsed:,.0f} tokens/s")
    shares = np.bincount(tokens[:cut], minlength=len(tokenizer)) + 1.0
    alone = -np.log2(shares / shares.sum())[tokens[cut:]].mean()
    print(f"{loss / math.log(2):.3f} bits a character on text it has not seen, "
          f"{alone:.3f} from the frequencies of letters alone")  # fmt: skip
    start = tokenizer.encode(text[:1])
    ids = model.generate(np.array([start]), max_new_tokens=length - 1, do_sample=True,
                         temperature=0.7, seed=1)  # fmt: skip
    print(tokenizer.decode(ids[0]))


if __name__ == "__main__":
    main()
