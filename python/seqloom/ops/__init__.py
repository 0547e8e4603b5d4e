# SPDX-License-Identifier: Apache-2.0
"""The kernels, callable on anybody's arrays: NumPy, torch, CuPy and JAX in, the same kind out."""

from .layout import *
from .loss import *
from .norm import *
from .softmax import *
