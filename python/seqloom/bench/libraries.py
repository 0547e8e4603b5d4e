# SPDX-License-Identifier: Apache-2.0
"""How each library takes part: its arrays, its gradients, its threads, its clock.

A library is imported only when a case has a contestant for it, and only if it is installed.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqloom.bench.case import DTYPE_NAMES, Built, Case, Contender, Context, Inputs
from seqloom.bench.environment import installed_peers
from seqloom.bench.timing import Call, Clock, EventClock, HostClock


class Unsupported(Exception):
    """This library cannot run this mode, dtype or device."""


def rounded(array: Any, dtype: str) -> Any:
    """A float array in the dtype of the case; everything else as it is."""
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        return array
    if dtype == "f16":
        return array.astype(np.float16)
    if dtype == "bf16":
        import ml_dtypes

        return array.astype(ml_dtypes.bfloat16)
    return array.astype(np.float32)


def round_inputs(case: Case, inputs: Inputs, dtype: str) -> Inputs:
    """The inputs as the kernels see them."""
    return {
        name: value if name in case.keep_f32 else rounded(value, dtype)
        for name, value in inputs.items()
    }


def first(outputs: Any) -> Any:
    """The output that the gradient flows into."""
    return outputs[0] if isinstance(outputs, (tuple, list)) else outputs


class Library:
    """NumPy, and the base of the others."""

    name = "numpy"

    def __init__(self, device: str, threads: int, module: Any = None) -> None:
        self.device = device
        self.threads = threads
        self.module = importlib.import_module(self.name) if module is None else module

    @property
    def version(self) -> str:
        return str(getattr(self.module, "__version__", "unknown"))

    def function(self, contender: Contender) -> Callable[..., Any]:
        assert not isinstance(contender, Built)
        module = self.module
        return lambda **inputs: contender(module, **inputs)

    def calls(
        self, case: Case, contender: Contender, copies: Sequence[Inputs], mode: str, dtype: str
    ) -> list[Call]:
        """One call for each set of inputs."""
        if isinstance(contender, Built):
            if mode not in contender.modes or dtype not in contender.dtypes:
                raise Unsupported
            return [
                contender.build(
                    Context(self.module, inputs, mode, dtype, self.device, self.threads, index)
                )
                for index, inputs in enumerate(copies)
            ]
        return [self.call(case, contender, inputs, mode, dtype) for inputs in copies]

    def call(self, case: Case, contender: Contender, inputs: Inputs, mode: str, dtype: str) -> Call:
        if mode != "fwd" or dtype != "f32" or self.device != "cpu":
            raise Unsupported
        function = self.function(contender)
        arrays = {n: v.copy() if isinstance(v, np.ndarray) else v for n, v in inputs.items()}
        return lambda: function(**arrays)

    def clock(self) -> Clock:
        return HostClock()


class NumPy(Library):
    def __init__(self, device: str, threads: int, module: Any = None) -> None:
        super().__init__(device, threads, module)
        _set_openblas_threads(threads)


def _set_openblas_threads(threads: int) -> None:
    # NumPy has no call for this; its wheels bundle OpenBLAS under this symbol.
    try:
        with open("/proc/self/maps", encoding="utf-8") as file:
            paths = {line.split()[-1] for line in file if "openblas" in line}
    except OSError:
        return
    for path in paths:
        for symbol in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads"):
            try:
                getattr(ctypes.CDLL(path), symbol)(ctypes.c_int(threads))
            except (OSError, AttributeError):
                continue


class Torch(Library):
    name = "torch"

    def __init__(self, device: str, threads: int, module: Any = None) -> None:
        super().__init__(device, threads, module)
        self.module.set_num_threads(threads)
        if device.startswith("cuda") and not self.module.cuda.is_available():
            raise Unsupported

    def call(self, case: Case, contender: Contender, inputs: Inputs, mode: str, dtype: str) -> Call:
        torch = self.module
        function = self.function(contender)
        target = getattr(torch, DTYPE_NAMES[dtype])
        wrt = case.wrt if mode != "fwd" else ()

        def convert(name: str, value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            tensor = torch.from_numpy(value).clone()
            if tensor.is_floating_point() and name not in case.keep_f32:
                tensor = tensor.to(target)
            tensor = tensor.to(self.device)
            return tensor.requires_grad_() if name in wrt else tensor

        tensors = {name: convert(name, value) for name, value in inputs.items()}
        if mode == "fwd":
            return lambda: function(**tensors)
        leaves = [tensors[name] for name in wrt]
        grad = torch.autograd.grad
        y = first(function(**tensors))
        dy = torch.from_numpy(upstream(tuple(y.shape))).to(y.dtype).to(self.device)
        if mode == "bwd":
            return lambda: grad(y, leaves, dy, retain_graph=True)
        return lambda: grad(first(function(**tensors)), leaves, dy)

    def clock(self) -> Clock:
        if self.device == "cpu":
            return HostClock()
        cuda = self.module.cuda
        return EventClock(lambda: cuda.Event(enable_timing=True), cuda.synchronize, self._capture)

    def _capture(self, calls: Sequence[Call]) -> Call | None:
        # What a graph cannot hold (a synchronisation, say) is timed call by call.
        cuda = self.module.cuda
        graph = cuda.CUDAGraph()
        held = []
        try:
            with cuda.graph(graph):
                held += [call() for call in calls]
        except RuntimeError:
            cuda.synchronize()
            return None
        return lambda: (graph.replay(), held)[0]


class TorchCompile(Torch):
    """The same functions through torch.compile; one compilation serves all copies."""

    def calls(
        self, case: Case, contender: Contender, copies: Sequence[Inputs], mode: str, dtype: str
    ) -> list[Call]:
        if isinstance(contender, Built):
            raise Unsupported
        # All cases share one code object here, and after a few compilations of the same one
        # torch gives up and runs it eagerly: each case begins with nothing compiled.
        self.module.compiler.reset()
        self._compiled = self.module.compile(super().function(contender), dynamic=False)
        return super().calls(case, contender, copies, mode, dtype)

    def function(self, contender: Contender) -> Callable[..., Any]:
        return self._compiled  # type: ignore[no-any-return]


class Jax(Library):
    name = "jax"

    def __init__(self, device: str, threads: int, module: Any = None) -> None:
        # XLA sizes its pool by the CPUs the process may use; the command line sets those.
        os.environ.setdefault("JAX_PLATFORMS", "cpu" if device == "cpu" else "cuda")
        # By default it takes three quarters of a GPU's memory for itself.
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
        super().__init__(device, threads, module)
        try:
            self.module.devices()
        except (AssertionError, RuntimeError):  # no such backend here
            raise Unsupported from None

    def calls(
        self, case: Case, contender: Contender, copies: Sequence[Inputs], mode: str, dtype: str
    ) -> list[Call]:
        self._compiled: Any = None  # one compilation serves all copies
        return super().calls(case, contender, copies, mode, dtype)

    def call(self, case: Case, contender: Contender, inputs: Inputs, mode: str, dtype: str) -> Call:
        jax = self.module
        jnp = importlib.import_module("jax.numpy")
        target = getattr(jnp, DTYPE_NAMES[dtype])
        plain = {n: v for n, v in inputs.items() if not isinstance(v, np.ndarray)}
        arrays = {}
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                array = jnp.asarray(value)
                floating = jnp.issubdtype(array.dtype, jnp.floating)
                arrays[name] = array.astype(target) if floating else array

        def forward(leaves: dict[str, Any], rest: dict[str, Any]) -> Any:
            assert not isinstance(contender, Built)
            return contender(jax, **leaves, **rest, **plain)

        leaves = {n: v for n, v in arrays.items() if n in case.wrt}
        rest = {n: v for n, v in arrays.items() if n not in case.wrt}
        if mode == "fwd":
            compiled = self._compiled = self._compiled or jax.jit(forward)
            return lambda: jax.block_until_ready(compiled(leaves, rest))
        if mode == "bwd":
            raise Unsupported  # a jitted backward repeats the forward pass
        shape = jax.eval_shape(forward, leaves, rest)
        dy = jnp.asarray(upstream(tuple(first(shape).shape))).astype(first(shape).dtype)

        def both(leaves: dict[str, Any], rest: dict[str, Any]) -> Any:
            y, pull = jax.vjp(lambda values: first(forward(values, rest)), leaves)
            return y, pull(dy)

        compiled = self._compiled = self._compiled or jax.jit(both)
        return lambda: jax.block_until_ready(compiled(leaves, rest))


class OnnxRuntime(Library):
    """Sessions come from `onnx_models`; plain functions make no sense here. On the CPU only."""

    name = "onnxruntime"

    def __init__(self, device: str, threads: int, module: Any = None) -> None:
        if device != "cpu":
            raise Unsupported
        super().__init__(device, threads, module)

    def call(self, case: Case, contender: Contender, inputs: Inputs, mode: str, dtype: str) -> Call:
        raise Unsupported


class CTranslate2(OnnxRuntime):
    name = "ctranslate2"


class Seqloom(Library):
    """Ourselves."""

    name = "seqloom"

    def __init__(self, device: str, threads: int, module: Any = None) -> None:
        super().__init__(device, threads, module)
        if hasattr(self.module, "set_num_threads"):
            self.module.set_num_threads(threads)

    def tensors(self, case: Case, inputs: Inputs, dtype: str, wrt: Sequence[str]) -> Inputs:
        """The inputs as Tensors on the device."""

        def convert(name: str, value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            return self.module.tensor(value, device=self.device, requires_grad=name in wrt)

        return {n: convert(n, v) for n, v in round_inputs(case, inputs, dtype).items()}

    def call(self, case: Case, contender: Contender, inputs: Inputs, mode: str, dtype: str) -> Call:
        sl = self.module
        function = self.function(contender)
        tensors = self.tensors(case, inputs, dtype, case.wrt if mode != "fwd" else ())
        if mode == "fwd":
            return lambda: function(**tensors)
        leaves = [tensors[name] for name in case.wrt]
        grad = sl.autograd.grad
        y = first(function(**tensors))
        dy = self.upstream(y)
        if mode == "bwd":
            return lambda: grad(y, leaves, dy, retain_graph=True)
        return lambda: grad(first(function(**tensors)), leaves, dy)

    def upstream(self, y: Any) -> Any:
        """The gradient that arrives at the output."""
        return self.module.tensor(upstream(tuple(y.shape)), device=self.device).to(dtype=y.dtype)

    def clock(self) -> Clock:
        if self.device == "cpu":
            return HostClock()
        cuda = self.module.cuda
        return EventClock(lambda: cuda.Event(enable_timing=True), cuda.synchronize, self._capture)

    def _capture(self, calls: Sequence[Call]) -> Call | None:
        cuda = self.module.cuda
        graph = cuda.Graph()
        held = []  # a graph's tensors must live as long as it is replayed
        try:
            with graph.capture():
                held += [call() for call in calls]
        except (RuntimeError, MemoryError):
            return None
        return lambda: (graph.replay(), held)[0]


def upstream(shape: tuple[int, ...]) -> Any:
    """The same gradient for everybody: ones for a scalar, else normal numbers from one seed."""
    if not shape:
        return np.ones((), np.float32)
    return np.random.default_rng(7).standard_normal(shape, np.float32)


_CLASSES: dict[str, type[Library]] = {
    "numpy": NumPy,
    "torch": Torch,
    "torch.compile": TorchCompile,
    "onnxruntime": OnnxRuntime,
    "ctranslate2": CTranslate2,
    "jax": Jax,
}

PEER_NAMES = tuple(_CLASSES)


class Peers:
    """The installed peers that were asked for, each imported at its first use."""

    def __init__(self, device: str, threads: int, wanted: Sequence[str] | None = None) -> None:
        self.device = device
        self.threads = threads
        available = installed_peers()
        self.names = [
            name
            for name in _CLASSES
            if name.partition(".")[0] in available and (wanted is None or name in wanted)
        ]
        self._open: dict[str, Library | None] = {}

    def library(self, key: str) -> Library | None:
        """The library for ``torch``, ``torch.compile`` or a variant such as ``torch.fused``."""
        name = key if key in _CLASSES else key.partition(".")[0]
        if name not in self.names:
            return None
        if name not in self._open:
            try:
                self._open[name] = _CLASSES[name](self.device, self.threads)
            except (Unsupported, ImportError):
                self._open[name] = None
            # The hundred thousand objects of a framework need not be looked at by every collection.
            gc.freeze()
        return self._open[name]

    def contenders(self, case: Case, *, compiled: bool) -> dict[str, Contender]:
        """The case's contestants among these peers; ``torch.compile`` is derived from ``torch``."""
        out = {key: c for key, c in case.peers.items() if self.library(key) is not None}
        if compiled and case.compiled and "torch" in out and "torch.compile" in self.names:
            out["torch.compile"] = out["torch"]
        return out
