# SPDX-License-Identifier: Apache-2.0
"""Training steps."""

from __future__ import annotations

from collections.abc import Iterable

from seqloom.bench.case import Case, register


@register("training")
def cases() -> Iterable[Case]:
    return ()
