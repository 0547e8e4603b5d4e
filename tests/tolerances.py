# SPDX-License-Identifier: Apache-2.0
"""The only table of tolerances.

A result is right when its largest error is at most

    multiple * (largest error of the same formula in NumPy) + floor * eps * (largest value)

where the formula is computed in float32 from inputs of the tested dtype and rounded to that
dtype once at the end, as a kernel with float32 accumulation may do, and eps is the spacing
of the dtype at one. The mean error obeys the same rule with the mean yardstick and value,
so that an error that the largest element hides is still seen.

Kinds: "formula" for one pass over the data; "product" where a factor may be rounded to the
dtype on its way into a matrix product (attention weights, gate gradients); "recurrence" where
a state is rounded to the dtype at every step and carried on; "long" where tens of thousands
of terms are summed, which NumPy does in pairs and a kernel in a few running sums. "ulp" is
the bound of each element alone, in units of the spacing at that element: for elementwise
functions.

"twice" has another rule, of the largest error alone: at most twice

    max(largest error of the same formula in NumPy, eps * (largest sum of the sizes of the terms))

Attention is judged so, NumPy being asked several times, with the features of the heads in another
order each, since the largest of few errors is chance. The second part is what the formula's own
rounding may cost and happens not to, where the first would ask for nothing: one key to see makes a
weight of exactly one, and gradients that cancel to exactly zero.
"""

from __future__ import annotations

from typing import NamedTuple

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Tolerance(NamedTuple):
    multiple: float
    floor: float


TOLERANCES: dict[str, dict[str, Tolerance]] = {
    "formula": {
        "float64": Tolerance(2, 64),
        "float32": Tolerance(4, 4),
        "float16": Tolerance(2, 1),
        "bfloat16": Tolerance(2, 1),
    },
    "product": {
        "float64": Tolerance(2, 256),
        "float32": Tolerance(4, 8),
        "float16": Tolerance(4, 2),
        "bfloat16": Tolerance(4, 2),
    },
    "long": {
        "float64": Tolerance(2, 256),
        "float32": Tolerance(4, 32),
        "float16": Tolerance(2, 1),
        "bfloat16": Tolerance(2, 1),
    },
    "recurrence": {
        "float64": Tolerance(2, 256),
        "float32": Tolerance(4, 8),
        "float16": Tolerance(4, 4),
        "bfloat16": Tolerance(4, 4),
    },
    "twice": dict.fromkeys(EPS, Tolerance(2, 1)),
}

ULPS = {"float64": 8.0, "float32": 4.0, "float16": 1.0, "bfloat16": 1.0}
