# SPDX-License-Identifier: Apache-2.0
"""Forks trainings and kills them with SIGKILL at random moments, until one comes to its end.

One process imports everything; each attempt is a fork of it, so that an attempt costs little.
Arguments: directory, number of kills, seed. Prints the kills that hit and what was left behind.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from train_support import tiny_trainer

STEPS = 400


def attempt(folder: Path) -> None:
    """A training that saves at every third step and goes on where the last one was killed."""
    trainer = tiny_trainer(folder, steps=STEPS, save_every=3, eval_every=20)
    trainer.train(resume=True)


def main() -> None:
    folder, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    hits, finished = 0, 0
    while not finished or hits < kills:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                attempt(folder)
                status = 0
            finally:
                os._exit(status)
        if hits < kills:
            time.sleep(rng.uniform(0.01, 0.25))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            hits += 1
        elif os.WEXITSTATUS(status):
            sys.exit(f"attempt failed after {hits} kills")
        else:
            finished += 1
            if hits < kills:  # too quick: begin again elsewhere with the kills that are left
                folder = folder.with_name(folder.name + "x")
    print(hits, finished, folder)


if __name__ == "__main__":
    main()
