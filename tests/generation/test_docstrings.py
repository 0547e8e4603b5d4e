# SPDX-License-Identifier: Apache-2.0
"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "generation.cache",
        "generation.generative",
        "generation.layered",
        "generation.options",
        "generation.processors",
        "generation.sampling",
        "models.bloom",
        "models.gpt2",
        "models.inputs",
        "models.layers",
        "models.llama",
        "models.loading",
        "models.rope",
    ],
)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(f"seqloom.{name}"))
    assert result.attempted > 0
    assert result.failed == 0
