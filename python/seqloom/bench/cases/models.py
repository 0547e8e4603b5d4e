# SPDX-License-Identifier: Apache-2.0
"""Whole models at inference."""

from __future__ import annotations

from collections.abc import Iterable

from seqloom.bench.case import Case, register


@register("models")
def cases() -> Iterable[Case]:
    return ()
