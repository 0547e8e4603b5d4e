# SPDX-License-Identifier: Apache-2.0
"""Pictures of attention and of training; matplotlib is needed: `pip install 'seqloom[plot]'`.

Figures are made without `pyplot`, so that no window opens and no global state changes; they show
by themselves in notebooks, and `path=` writes them to a file (`.png`, `.pdf`, `.svg`).
"""

from seqloom.plot.curve import training_curve
from seqloom.plot.heatmap import attention

__all__ = ["attention", "training_curve"]
