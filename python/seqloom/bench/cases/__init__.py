# SPDX-License-Identifier: Apache-2.0
"""The case table: one module for each family of operations.

It is installed with the package, because ``seqloom bench`` must work from a wheel; the tests and
the scripts under ``benchmarks/`` import it from here. A family's module has a builder for each
operation (any size will do) and registers the sizes that are worth a row.
"""

from __future__ import annotations

from importlib import import_module

# The order of the table.
FAMILIES = (
    "softmax", "norm", "elementwise", "embedding", "loss", "matmul", "attention", "rnn",
    "optimizer", "overhead", "models", "training",
)  # fmt: skip


def load() -> None:
    """Import every family, which registers its cases."""
    for family in FAMILIES:
        import_module(f"seqloom.bench.cases.{family}")
