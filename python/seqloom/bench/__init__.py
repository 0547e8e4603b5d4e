# SPDX-License-Identifier: Apache-2.0
"""Benchmarks of seqloom's kernels and models: ``seqloom bench``, or from Python.

>>> from seqloom import bench
>>> [case.id for case in bench.select(bench.all_cases(), ["softmax/8x64"])]
['softmax/8x64']
"""

from seqloom.bench.case import Case, all_cases, select
from seqloom.bench.comparison import compare
from seqloom.bench.record import Report, Row, load, save
from seqloom.bench.runner import Runner, Settings, plan

__all__ = [
    "Case",
    "Report",
    "Row",
    "Runner",
    "Settings",
    "all_cases",
    "compare",
    "load",
    "plan",
    "save",
    "select",
]
