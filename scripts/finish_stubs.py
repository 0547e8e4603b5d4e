# SPDX-License-Identifier: Apache-2.0
"""Turns what pybind11-stubgen writes for _core into the stubs that the package is typed with.

Front doors give and take arrays, which Python sees as Tensors; functions that give several arrays
say ``tuple``, whose items are Tensors or None.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

HEAD = '''# SPDX-License-Identifier: Apache-2.0
# Written by scripts/make_stubs.sh from the built module; don't edit.
from __future__ import annotations

import typing
from typing import Any

import numpy
import numpy.typing

from .tensor import Tensor

class TensorBase:
    """What C keeps of a Tensor."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def strides(self) -> tuple[int, ...]: ...
    @property
    def ndim(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> str: ...
    @property
    def is_cuda(self) -> bool: ...
    requires_grad: bool
    grad: Tensor | None
    _hooks: list[Any] | None
    @property
    def _dtype_code(self) -> int: ...
    @property
    def _version(self) -> int: ...
    @property
    def _needs_grad(self) -> bool: ...
    @property
    def _node(self) -> Any: ...
    @property
    def _node_output(self) -> int: ...
    @property
    def _base(self) -> Tensor | None: ...
    def _set_node(self, node: Any, output: int, /) -> None: ...
    def _set_base(self, x: Tensor, /) -> None: ...
    def _bump_version(self) -> None: ...
    def _adopt(self, other: Tensor, /) -> None: ...
    def detach(self) -> Tensor: ...
    def is_contiguous(self) -> bool: ...

'''
# What C++ declares as an object is a Tensor made from whatever array came in, but for these and
# for the operators of (a, b), which give None when neither operand is one they know.
NOT_TENSORS = (
    r"fit_context|layer_norm_forward|linear|rms_norm_forward|to_dlpack|(?!matmul\()\w+\(a: \S+ b: "
)
# Bound in builds with CUDA, or with the emulator, only.
CUDA = """
def current_stream(device: str) -> int: ...
def order_streams(tensor: Tensor, other: int, we_wait: bool) -> None: ...
def __getattr__(name: str) -> Any: ...
"""


def finish(text: str) -> str:
    # Functions only: the one class that every build has is written by hand above.
    first = re.search(r"^def ", text, flags=re.M)
    if first is None:
        raise SystemExit("finish_stubs: no function in the stubs")
    body = text[first.start() :]
    body = re.sub(r"\nclass (Cuda|Emul)\w+.*?(?=\n(?:def|class) )", "\n", body, flags=re.S)
    body = re.sub(
        r"\ndef (cuda_(?!why|device_count|runtime|driver)\w+|emulation_\w+|current_stream"
        r"|set_current_stream|order_streams)\(.*?\.\.\.\n",
        "\n",
        body,
        flags=re.S,
    )
    body = body.replace("TensorBase", "Tensor")
    body = re.sub(
        rf"^(def (?!{NOT_TENSORS})\w+\([^()]*\)) -> (?:typing\.Any|object):",
        r"\1 -> Tensor:",
        body,
        flags=re.M,
    )
    body = re.sub(r"-> tuple:", "-> tuple[Any, ...]:", body)
    body = re.sub(r"-> dict:", "-> dict[str, Any]:", body)
    body = re.sub(r"-> list:", "-> list[Any]:", body)
    body = re.sub(r": tuple(?=[,)])", ": tuple[Any, ...]", body)
    body = re.sub(r": list(?=[,)])", ": list[Any]", body)
    body = re.sub(r"-> object:", "-> Any:", body)
    body = re.sub(r": object(?=[,)= ])", ": Any", body)
    body = re.sub(r"-> numpy\.ndarray.*?:\n", "-> numpy.typing.NDArray[Any]:\n", body)
    body = re.sub(r"typing\.Supports(Int|Float)( \| typing\.SupportsIndex)?", "Any", body)
    return HEAD + body.strip() + "\n" + CUDA


def main() -> None:
    path = Path(sys.argv[1])
    path.write_text(finish(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
