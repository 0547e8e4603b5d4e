# SPDX-License-Identifier: Apache-2.0
"""The Tensor: an array with a dtype, a device and a gradient. No maths here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from . import _core
from .dtypes import BY_CODE, DType, as_dtype, bfloat16, float32
from .methods import Operand, TensorMethods, bind

if TYPE_CHECKING:
    from . import autograd as _autograd
    from . import ops as _ops
else:  # bound when both have loaded: they need Tensor first
    _autograd = _ops = None

__all__ = ["Operand", "Scalar", "Tensor", "from_dlpack", "from_numpy", "tensor"]

Scalar: TypeAlias = "bool | int | float"


class Tensor(TensorMethods, _core.TensorBase):
    """An n-dimensional array on the CPU or a CUDA device, with automatic differentiation.

    Made by :func:`tensor`, :func:`from_numpy`, :func:`from_dlpack` and the creation functions.
    Operators broadcast like NumPy's; methods take torch's arguments, and NumPy's ``axis`` and
    ``keepdims`` as other names of ``dim`` and ``keepdim``.

    Attributes
    ----------
    shape : tuple of int
    dtype : DType
    device : str
        ``"cpu"`` or ``"cuda:N"``.
    requires_grad : bool
    grad : Tensor or None
        Accumulated by :meth:`backward`.

    Examples
    --------
    >>> import seqloom as sl
    >>> x = sl.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    >>> (x @ x).sum().backward()
    >>> x.grad.tolist()
    [[7.0, 11.0], [9.0, 13.0]]
    """

    __slots__ = ()
    __array_priority__ = 1000
    __array_ufunc__ = None  # ndarray + Tensor is Tensor's business

    # ---- facts ----------------------------------------------------------------------------------

    @property
    def dtype(self) -> DType:
        return BY_CODE[self._dtype_code]

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def is_leaf(self) -> bool:
        return self._node is None

    @property
    def T(self) -> Tensor:
        """The transpose of a matrix; of more axes, all of them reversed."""
        return self.permute(*range(self.ndim - 1, -1, -1))

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        return self.transpose(-2, -1)

    def numel(self) -> int:
        return self.size

    def dim(self) -> int:
        return self.ndim

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len: a tensor of rank 0 has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if self.ndim == 0:
            raise TypeError("iter: a tensor of rank 0 can't be iterated over")
        return (self[i] for i in range(self.shape[0]))

    def __repr__(self) -> str:
        values = self.detach().cpu().numpy()
        if self._dtype_code in (1, 2):
            values = values.astype(np.float32)
        body = np.array2string(values, separator=", ", prefix="tensor(", threshold=1000)
        if self.size == 0 and self.shape != (0,):
            body = f"[], shape={list(self.shape)}"
        extra = "" if self._dtype_code in (0, 4, 8) else f", dtype={self.dtype.name}"
        extra += f", device='{self.device}'" if self.is_cuda else ""
        extra += ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({body}{extra})"

    # ---- to other worlds ------------------------------------------------------------------------

    def numpy(self) -> np.ndarray[Any, Any]:
        """A NumPy array over the same memory; bfloat16 as ``ml_dtypes.bfloat16``. CPU only."""
        if self.requires_grad:
            raise RuntimeError("numpy: the tensor requires a gradient; use .detach().numpy()")
        return _core.to_numpy(self)

    def item(self) -> Any:
        """The only element as a Python number."""
        return self._only("item")

    def _only(self, caller: str) -> Any:
        if self.size != 1:
            raise ValueError(f"{caller}: must have one element, got shape {list(self.shape)}")
        value = self.detach().cpu().numpy().reshape(())[()]
        return float(value) if self._dtype_code == 2 else value.item()

    def tolist(self) -> Any:
        """Nested lists of Python numbers."""
        values = self.detach().cpu().numpy()
        return (values.astype(np.float32) if self._dtype_code == 2 else values).tolist()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        a = self.numpy()
        if dtype is not None and np.dtype(dtype) != a.dtype:
            if copy is False:
                raise ValueError(f"__array__: {self.dtype.name} to {dtype} needs a copy")
            return a.astype(dtype)
        return a.copy() if copy else a

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        if self.requires_grad:
            raise BufferError("__dlpack__: the tensor requires a gradient; use .detach()")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(
                f"__dlpack__: the tensor is on {self.device}, not on device {dl_device}"
            )
        if self.is_cuda:
            if stream == 0:
                raise BufferError("__dlpack__: stream 0 is ambiguous on CUDA, use 1 or 2")
            if stream != -1:
                _core.order_streams(self, 1 if stream is None else stream, False)
        elif stream is not None:
            raise BufferError(f"__dlpack__: stream must be None on the CPU, got {stream}")
        if max_version is not None and not isinstance(max_version, tuple):
            raise TypeError(
                f"__dlpack__: max_version must be (major, minor), got {type(max_version).__name__}"
            )
        # Not every library can hold negative strides, and torch ends the process over them.
        backwards = any(s < 0 for s in self.strides)
        if backwards and copy is False:
            raise BufferError("__dlpack__: negative strides need a copy; use .clone()")
        copied = bool(copy) or backwards
        source = _core.clone(self) if copied else self
        return _core.to_dlpack(source, max_version is not None and max_version[0] >= 1, copied)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, int(self.device[5:])) if self.is_cuda else (1, 0)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if not self.is_cuda:
            raise AttributeError("__cuda_array_interface__: the tensor is on the CPU")
        if self.requires_grad:
            raise RuntimeError("__cuda_array_interface__: use .detach() first")
        step = self.dtype.itemsize
        return {
            "shape": self.shape,
            "typestr": self.dtype.numpy.str,
            "data": (_core.data_pointer(self), _core.read_only(self)),
            "strides": None if self.is_contiguous() else tuple(s * step for s in self.strides),
            "stream": _core.current_stream(self.device) or 1,
            "version": 3,
        }

    def __reduce__(self) -> tuple[Any, ...]:
        if self._node is not None:
            raise RuntimeError("pickle: only leaf tensors can be pickled; use .detach()")
        return (_unpickle, (self.detach().cpu().numpy(), self.device, self.requires_grad))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if self._node is not None:
            raise RuntimeError("deepcopy: only leaf tensors can be copied; use .detach()")
        copy = _core.clone(self)
        copy.requires_grad = self.requires_grad
        memo[id(self)] = copy
        return copy

    def to(self, *args: Any, device: Any = None, dtype: Any = None) -> Tensor:
        """To another device or dtype; the tensor itself when nothing changes.

        >>> import seqloom as sl
        >>> sl.ones(2).to(dtype="float16").dtype, sl.ones(2).to("cpu").device
        (seqloom.float16, 'cpu')
        """
        for a in args:
            if isinstance(a, Tensor):
                device, dtype = a.device, a.dtype
            elif isinstance(a, str) and (a == "cpu" or a.startswith("cuda")):
                device = a
            else:
                dtype = a
        return _ops.to(
            self,
            None if dtype is None else as_dtype(dtype),
            None if device is None else str(device),
        )

    def cpu(self) -> Tensor:
        return _ops.to(self, None, "cpu")

    def cuda(self, index: int = 0) -> Tensor:
        return _ops.to(self, None, f"cuda:{index}")

    def type(self, dtype: Any) -> Tensor:
        return _ops.to(self, as_dtype(dtype), None)

    def float(self) -> Tensor:
        return self.type("float32")

    def double(self) -> Tensor:
        return self.type("float64")

    def half(self) -> Tensor:
        return self.type("float16")

    def bfloat16(self) -> Tensor:
        return self.type("bfloat16")

    def long(self) -> Tensor:
        return self.type("int64")

    def int(self) -> Tensor:
        return self.type("int32")

    def bool(self) -> Tensor:
        return self.type("bool")

    def __float__(self) -> Any:
        return float(self._only("float"))

    def __int__(self) -> Any:
        return int(self._only("int"))

    def __bool__(self) -> Any:
        return bool(self._only("bool"))

    def __format__(self, spec: str) -> str:
        """``f"{loss:.3f}"``: a tensor of rank 0 as its number."""
        return format(self.item() if spec and self.ndim == 0 else str(self), spec)

    def __contains__(self, value: Any) -> Any:
        return bool((self == value).any()) if isinstance(value, (Tensor, int, float)) else False

    def __index__(self) -> Any:
        if self.dtype.is_floating_point:
            raise TypeError(f"index: dtype must be an integer, got {self.dtype.name}")
        return int(self._only("index"))

    # ---- autograd -------------------------------------------------------------------------------

    def backward(self, gradient: Tensor | None = None, retain_graph: Any = False) -> None:
        """Accumulate gradients of this tensor into the ``.grad`` of the leaves it came from.

        >>> import seqloom as sl
        >>> x = sl.tensor(3.0, requires_grad=True)
        >>> (x * x).backward()
        >>> x.grad.item()
        6.0
        """
        _autograd.backward(self, gradient, retain_graph)

    def requires_grad_(self, requires_grad: Any = True) -> Tensor:
        self.requires_grad = requires_grad
        return self

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Callable[[], None]:
        """Call ``hook(gradient)`` in backward; a returned Tensor replaces it. Gives a remover."""
        return _autograd.register_hook(self, hook)

    def retain_grad(self) -> None:
        """Keep the gradient of a tensor that is no leaf in ``.grad`` as well."""
        if self._node is not None:

            def keep(gradient: Tensor) -> None:
                held = self.grad
                self.grad = _core.clone(gradient) if held is None else _core.add(held, gradient)

            _autograd.register_hook(self, keep)

    __hash__ = object.__hash__


def _unpickle(values: np.ndarray[Any, Any], device: str, requires_grad: bool) -> Tensor:
    return tensor(values, device=device, requires_grad=requires_grad)


_core._set_tensor_type(Tensor)


# ---- making tensors -----------------------------------------------------------------------------


def tensor(data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A new tensor with a copy of `data`.

    Parameters
    ----------
    data : number, nested sequence, NumPy array, Tensor or DLPack array
        Python floats become float32, integers int64, as in torch; arrays keep their dtype.
    dtype : DType or str, optional
    device : str, optional
        ``"cpu"`` (the default), ``"cuda"``, ``"cuda:1"``.
    requires_grad : bool

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.tensor([[1, 2], [3, 4]]).shape
    (2, 2)
    >>> sl.tensor([0.5, 1.5], dtype="bfloat16")
    tensor([0.5, 1.5], dtype=bfloat16)
    """
    wanted = None if dtype is None else as_dtype(dtype)
    if isinstance(data, Tensor):
        source = data.detach()
    elif isinstance(data, (np.ndarray, np.generic)):
        source = _from_array("tensor", np.asarray(data), wanted)
    elif hasattr(data, "__dlpack__"):
        source = from_dlpack(data)
    else:
        source = _from_python(data, wanted)
    target = None if device is None else str(device)
    out = _core.convert(
        source,
        source._dtype_code if wanted is None else wanted.code,
        source.device if target is None else target,
        True,
    )
    out.requires_grad = requires_grad
    return out


def _from_python(data: Any, wanted: DType | None) -> Tensor:
    try:
        values = np.asarray(_plain(data))
    except (ValueError, TypeError) as error:
        raise ValueError(f"tensor: data must be a rectangular nest of numbers, {error}") from None
    if values.dtype == object and isinstance(data, int):
        raise ValueError("tensor: an integer does not fit in int64")
    if values.dtype == object or values.dtype.kind not in "biuf":
        raise TypeError(f"tensor: data must be numbers, got {_describe(data)}")
    if wanted is None and values.dtype == np.float64:
        wanted = float32
    return from_numpy(_native(values, wanted))


def _from_array(caller: str, a: np.ndarray[Any, Any], wanted: DType | None) -> Tensor:
    native = _native(a, wanted)
    if native.dtype.kind not in "biuf" and native.dtype != bfloat16.numpy:
        raise TypeError(f"{caller}: data must be of one of our dtypes, got {a.dtype}")
    return from_numpy(native)


def _plain(data: Any) -> Any:
    """Tensors inside lists, as ``[loss_a, loss_b]``, become numbers."""
    if isinstance(data, Tensor):
        return data.tolist()
    if isinstance(data, (list, tuple)):
        return [_plain(d) for d in data]
    return data


def _describe(data: Any) -> str:
    return (
        f"{type(data).__name__} of {type(data[0]).__name__}"
        if (isinstance(data, (list, tuple)) and data)
        else type(data).__name__
    )


def _native(a: np.ndarray[Any, Any], wanted: DType | None) -> np.ndarray[Any, Any]:
    """An aligned array in one of our dtypes and this machine's byte order."""
    if wanted is not None and a.dtype.kind in "biuf" and a.dtype != wanted.numpy:
        with np.errstate(over="ignore", invalid="ignore"):
            return a.astype(wanted.numpy)
    if a.dtype.kind in "biuf" and not a.dtype.isnative:
        a = a.astype(a.dtype.newbyteorder("="))
    if a.dtype.kind == "f" and a.dtype.itemsize > 8:
        a = a.astype(np.float64)
    elif a.dtype.kind in "iu" and a.dtype not in (np.int64, np.int32, np.int8, np.uint8):
        if a.dtype == np.uint64 and a.size and a.max() > np.iinfo(np.int64).max:
            raise ValueError("tensor: a uint64 value does not fit in int64")
        a = a.astype(np.int64 if a.dtype.itemsize > 2 or a.dtype.kind == "u" else np.int32)
    step = a.dtype.itemsize
    if not a.flags.aligned or any(s % step for s in a.strides):
        a = a.copy()
    return a


def from_numpy(a: np.ndarray[Any, Any]) -> Tensor:
    """A tensor over the memory of a NumPy array: changes show on both sides.

    Parameters
    ----------
    a : numpy.ndarray
        Of one of our dtypes (bfloat16 as ``ml_dtypes.bfloat16``), any strides. A read-only array
        gives a read-only tensor.

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> a = np.zeros(2, np.float32)
    >>> t = sl.from_numpy(a)
    >>> a[0] = 5
    >>> t.tolist()
    [5.0, 0.0]
    """
    return _core.from_numpy(a)


def from_dlpack(x: Any) -> Tensor:
    """A tensor over the memory of any DLPack array (torch, CuPy, JAX, NumPy), on its device.

    Parameters
    ----------
    x : object with ``__dlpack__`` and ``__dlpack_device__``, or with ``__cuda_array_interface__``

    Examples
    --------
    >>> import numpy as np, seqloom as sl
    >>> sl.from_dlpack(np.arange(3.0)).tolist()
    [0.0, 1.0, 2.0]
    """
    if isinstance(x, Tensor):
        return x.detach()
    export = getattr(x, "__dlpack__", None)
    if export is None:
        interface = getattr(x, "__cuda_array_interface__", None)
        if interface is not None:
            return _from_cuda_interface(x, interface)
        if type(x).__name__ == "PyCapsule":
            return _core.from_dlpack(x)
        raise TypeError(f"from_dlpack: must have __dlpack__, got {type(x).__name__}")
    try:
        kind, index = map(int, x.__dlpack_device__())
    except (TypeError, ValueError, AttributeError):
        raise TypeError("from_dlpack: __dlpack_device__ must give a type and a number") from None
    arguments: dict[str, Any] = {}
    if kind == 2:
        arguments["stream"] = _core.current_stream(f"cuda:{index}") or 1
    try:
        capsule = export(max_version=(1, 0), **arguments)
    except TypeError:
        capsule = export(**arguments)  # a producer from before version 1
    return _core.from_dlpack(capsule)


def _from_cuda_interface(x: Any, interface: dict[str, Any]) -> Tensor:
    dtype = as_dtype(np.dtype(interface["typestr"]))
    strides = interface.get("strides")
    if strides is not None:
        strides = tuple(s // dtype.itemsize for s in strides)
    address, read_only = interface["data"]
    shape = tuple(interface["shape"])
    index = 0 if 0 in shape else _core.pointer_device(address)  # of nothing there is no address
    t = _core.from_pointer(address, shape, strides, dtype.code, f"cuda:{index}", read_only, x)
    stream = interface.get("stream")
    if stream is not None:
        _core.order_streams(t, stream, True)
    return t


def _bind(ops: Any, autograd: Any) -> None:
    """Called once, when the modules that methods hand over to have loaded."""
    global _ops, _autograd
    _ops, _autograd = ops, autograd
    bind(ops)
    # The operators of inner loops skip one Python call.
    for name in ("add", "sub", "mul"):
        setattr(Tensor, f"__{name}__", getattr(ops, name))
    Tensor.__truediv__ = ops.div  # type: ignore[method-assign]
    Tensor.__matmul__ = ops.matmul  # type: ignore[method-assign]
