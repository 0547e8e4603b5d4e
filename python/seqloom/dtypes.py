# SPDX-License-Identifier: Apache-2.0
"""Element types: ``sl.float32`` and friends, and how other spellings become one of them."""

from __future__ import annotations

from typing import Any, Final

import ml_dtypes
import numpy as np

__all__ = [
    "DType",
    "as_dtype",
    "bfloat16",
    "bool_",
    "float16",
    "float32",
    "float64",
    "int8",
    "int32",
    "int64",
    "uint8",
]


class DType:
    """An element type.

    Attributes
    ----------
    name : str
        For example ``"float32"``.
    itemsize : int
        Bytes of one element.
    numpy : numpy.dtype
        The same type for NumPy; bfloat16 is ``ml_dtypes.bfloat16``.

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.bfloat16.itemsize
    2
    >>> sl.zeros(3, dtype="int64").dtype
    seqloom.int64
    """

    __slots__ = ("code", "is_floating_point", "itemsize", "name", "numpy")

    def __init__(self, code: int, name: str, numpy_type: Any) -> None:
        self.code = code
        self.name = name
        self.numpy: np.dtype[Any] = np.dtype(numpy_type)
        self.itemsize: int = self.numpy.itemsize
        self.is_floating_point = code <= 3

    def __repr__(self) -> str:
        return f"seqloom.{self.name}"

    def __reduce__(self) -> tuple[Any, ...]:
        return (as_dtype, (self.name,))


float32: Final = DType(0, "float32", np.float32)
float16: Final = DType(1, "float16", np.float16)
bfloat16: Final = DType(2, "bfloat16", ml_dtypes.bfloat16)
float64: Final = DType(3, "float64", np.float64)
int64: Final = DType(4, "int64", np.int64)
int32: Final = DType(5, "int32", np.int32)
int8: Final = DType(6, "int8", np.int8)
uint8: Final = DType(7, "uint8", np.uint8)
bool_: Final = DType(8, "bool", np.bool_)

BY_CODE: Final = (float32, float16, bfloat16, float64, int64, int32, int8, uint8, bool_)
_BY_NAME: Final = {d.name: d for d in BY_CODE}


def as_dtype(spelling: Any) -> DType:
    """Turn a DType, a name, a NumPy dtype or a Python number type into a DType.

    >>> import numpy as np, seqloom as sl
    >>> sl.as_dtype(np.float16), sl.as_dtype("bfloat16"), sl.as_dtype(float)
    (seqloom.float16, seqloom.bfloat16, seqloom.float32)
    """
    if type(spelling) is DType:
        return spelling
    if spelling is float:
        return float32
    if spelling is int:
        return int64
    if spelling is bool:
        return bool_
    name = spelling
    if not isinstance(spelling, str):
        try:
            name = np.dtype(spelling).name
        except (TypeError, ValueError):
            name = str(spelling).removeprefix("torch.")
    found = _BY_NAME.get(name)
    if found is None:
        raise TypeError(f"dtype: must be one of {', '.join(_BY_NAME)}, got {spelling!r}")
    return found
