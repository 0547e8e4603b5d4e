# SPDX-License-Identifier: Apache-2.0
"""Weights in and out: `.safetensors` files, sharded sets of them, and `config.json`.

Reading maps the file and hands out views, so that loading costs no copy; nothing in a file is
ever executed, and a file that lies about itself is refused with its name and the reason.
Writing is atomic. The package works on NumPy arrays alone and knows no model.
"""

from seqloom.weights.config import load_config, save_config
from seqloom.weights.header import CheckpointError
from seqloom.weights.reader import SafetensorsFile, Weights, load_weights, open_weights
from seqloom.weights.writer import save_weights

__all__ = [
    "CheckpointError",
    "SafetensorsFile",
    "Weights",
    "load_config",
    "load_weights",
    "open_weights",
    "save_config",
    "save_weights",
]
