# SPDX-License-Identifier: Apache-2.0
"""Speech without alignment: CTC learns which digits are 'spoken' in synthetic sound.

Every digit is a chord of two tones that glide, as vowels do; speakers differ in pitch, speed and
noise, and digits follow each other without a pause. What the model gets is a spectrogram, and the
digits without a word about when they were spoken.

    python examples/ctc_speech.py

After 400 steps (twelve seconds) it hears all digits of 300 new utterances.
"""

from __future__ import annotations

import argparse

import numpy as np

import seqloom as sl
from seqloom.data import Loader, pad
from seqloom.train import Trainer, best_path

RATE, FRAME, HOP = 8000, 256, 128
LOW = np.linspace(300, 850, 5)
HIGH = np.linspace(1000, 2600, 4)
BLANK = 0


def spoken(digits: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sound of some digits by one speaker."""
    pitch, speed = rng.uniform(0.93, 1.07), rng.uniform(0.8, 1.3)
    parts = []
    for digit in digits:
        time = np.arange(int(RATE * 0.12 * speed * rng.uniform(0.7, 1.4))) / RATE
        glide = 1 + 0.15 * (digit % 2 - 0.5) * time / time[-1]
        tones = (LOW[digit % 5], HIGH[digit // 3])
        wave = sum(np.sin(2 * np.pi * f * pitch * np.cumsum(glide) / RATE) for f in tones)
        parts.append(wave * np.hanning(len(time)) ** 0.3)
    sound = np.concatenate(parts)
    return sound + rng.normal(0, rng.uniform(0.05, 0.4), len(sound))


def spectrogram(sound: np.ndarray) -> np.ndarray:
    """Log energies [frames, 48] below 3 kHz, zero mean and unit spread."""
    starts = np.arange(0, len(sound) - FRAME, HOP)
    frames = np.stack([sound[s : s + FRAME] for s in starts]) * np.hanning(FRAME)
    energy = np.log1p(np.abs(np.fft.rfft(frames))[:, :96].reshape(len(frames), 48, 2).sum(-1))
    return ((energy - energy.mean()) / energy.std()).astype(np.float32)


def utterances(count: int, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    items = []
    for _ in range(count):
        digits = rng.integers(0, 10, rng.integers(3, 9))
        items.append({"inputs": spectrogram(spoken(digits, rng)), "labels": digits + 1})
    return items


def collate(items: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    inputs, lengths = pad([item["inputs"] for item in items])
    labels, _ = pad([item["labels"] for item in items], -100)
    return {"inputs": inputs, "lengths": lengths, "labels": labels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--quick", action="store_true", help="fewer recordings and steps: seconds")
    options = parser.parse_args()

    train = utterances(500 if options.quick else 3000, seed=1)
    test = utterances(20 if options.quick else 300, seed=2)
    sl.manual_seed(0)
    model = sl.models.SequenceTagger(
        11, input_size=48, body="gru", hidden_size=96, num_layers=2, bidirectional=True, dropout=0.1
    )
    trainer = Trainer(
        model, "ctc", Loader(train, 32, shuffle=True, collate=collate),
        Loader(test, 32, collate=collate), lr=3e-3, schedule="cosine", warmup_steps=20,
        steps=120 if options.quick else options.steps,
    )  # fmt: skip
    trainer.train()
    rate = trainer.evaluate()["eval_label_error_rate"]
    print(f"{rate:.1%} of the digits wrong, over {len(test)} utterances")
    model.eval()
    for item in test[:3]:
        with sl.no_grad():
            path = model(item["inputs"][None]).numpy()[0].argmax(-1)
        said = " ".join(str(label - 1) for label in best_path(path, BLANK))
        print(f"  spoken {' '.join(str(d - 1) for d in item['labels'])}\n  heard  {said}")


if __name__ == "__main__":
    main()
