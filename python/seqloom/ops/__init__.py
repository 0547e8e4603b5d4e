# SPDX-License-Identifier: Apache-2.0
"""The kernels, callable on anybody's arrays: NumPy, torch, CuPy and JAX in, the same kind out."""

from .activation import *
from .attention import *
from .ctc import *
from .elementwise import *
from .in_place import *
from .indexing import *
from .layout import *
from .loss import *
from .matmul import *
from .norm import *
from .paged import *
from .quantized import *
from .reduction import *
from .rnn import *
from .rotary import *
from .selection import *
from .seq2seq_attention import *
from .softmax import *
from .unary import *
