# SPDX-License-Identifier: Apache-2.0
"""Matrix products: matmul, linear with its activation, and einsum on top of matmul."""

from __future__ import annotations

from collections.abc import Sequence

from .. import _core
from ..autograd import Node, record
from ..tensor import Tensor
from ._arrays import public

__all__ = ["einsum", "linear", "matmul"]

Gradients = tuple["Tensor | None", ...]


@public
def matmul(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product, with NumPy's batches and vectors.

    Parameters
    ----------
    a : Tensor [..., M, K] or [K]
    b : Tensor [..., K, N] or [K]
        Of a's dtype. Leading axes broadcast; 16-bit dtypes accumulate in float32.

    Returns
    -------
    Tensor [..., M, N], without M or N where an operand is a vector

    Examples
    --------
    >>> import seqloom as sl
    >>> (sl.tensor([[1.0, 2.0]]) @ sl.tensor([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    y = _core.matmul(a, b)
    if y.requires_grad:
        record(y, "matmul", (a, b), _matmul_backward, (a, b), (a.requires_grad, b.requires_grad))
    return y


def _matmul_backward(node: Node, grad: Tensor) -> Gradients:
    a, b = node.saved_tensors()
    of_a, of_b = _core.matmul_backward(grad, a, b, *node.context)
    if of_a is not None and of_a.shape != a.shape:
        of_a = _core.sum_to(of_a, a.shape, a._dtype_code)
    if of_b is not None and of_b.shape != b.shape:
        of_b = _core.sum_to(of_b, b.shape, b._dtype_code)
    return of_a, of_b


@public
def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, activation: str | None = None
) -> Tensor:
    """``activation(x @ weight.T + bias)`` in one kernel.

    Parameters
    ----------
    x : Tensor [..., in]
    weight : Tensor [out, in]
    bias : Tensor [out], optional
    activation : None, "relu", "gelu", "gelu_tanh" or "silu"

    Returns
    -------
    Tensor [..., out]

    Examples
    --------
    >>> import seqloom as sl
    >>> w = sl.tensor([[1.0, -1.0]])
    >>> sl.ops.linear(sl.tensor([[2.0, 5.0]]), w, activation="relu").tolist()
    [[0.0]]
    """
    y = _core.linear(x, weight, bias, activation)
    if type(y) is tuple:
        y, kept = y
    elif not y.requires_grad:
        return y  # type: ignore[no-any-return]
    else:
        kept = None if activation is None else y.detach()
    needs = (x.requires_grad, weight.requires_grad, bias is not None and bias.requires_grad)
    record(y, "linear", (x, weight, bias), _linear_backward, (x, weight, kept), (activation, needs))
    return y  # type: ignore[no-any-return]


def _linear_backward(node: Node, grad: Tensor) -> Gradients:
    x, weight, kept = node.saved_tensors()
    activation, needs = node.context
    return _core.linear_backward(grad, x, weight, kept, activation, *needs)


# ---- einsum -------------------------------------------------------------------------------------


def einsum(equation: str, *operands: Tensor | Sequence[Tensor]) -> Tensor:
    """Sums of products over named axes, as in NumPy and torch.

    Parameters
    ----------
    equation : str
        Letters name axes, ``...`` the rest; without ``->`` the result has the letters that occur
        once, in alphabetical order. A letter twice in one operand takes the diagonal.
    *operands : Tensor
        Contracted from left to right.

    Examples
    --------
    >>> import seqloom as sl
    >>> sl.einsum("ij,kj->ik", sl.tensor([[1.0, 2.0]]), sl.tensor([[3.0, 4.0]])).tolist()
    [[11.0]]
    """
    if not isinstance(equation, str):
        raise TypeError(f"einsum: equation must be a string, got {type(equation).__name__}")
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    tensors: list[Tensor] = []
    for t in operands:
        if not isinstance(t, Tensor):
            raise TypeError(f"einsum: operands must be Tensors, got {type(t).__name__}")
        tensors.append(t)
    terms, result = _parse(equation, tensors)
    sizes: dict[str, int] = {}
    for term, t in zip(terms, tensors, strict=True):
        for label, n in zip(term, t.shape, strict=True):
            held = sizes.get(label, 1)
            if held != 1 and n not in (1, held):
                raise ValueError(
                    f"einsum: axis {_spelled(label)!r} must have one extent, got {held} and {n}"
                )
            sizes[label] = n if held == 1 else held
    # A letter that one operand alone has and the result has not is summed at once.
    left, labels = _single(tensors[0], terms[0])
    for i, (t, term) in enumerate(zip(tensors[1:], terms[1:], strict=True), 1):
        later = set(result).union(*terms[i + 1 :])
        right, right_labels = _single(t, term)
        left, labels = _pair(left, labels, right, right_labels, later, sizes)
    extra = tuple(i for i, label in enumerate(labels) if label not in result)
    if extra:
        left = left.sum(extra)
        labels = "".join(label for label in labels if label in result)
    left = left.permute(*(labels.index(label) for label in result)) if result != labels else left
    return left if any(left is not t for t in tensors) else left.reshape(left.shape)


def _spelled(label: str) -> str:
    return "..." if label.isdigit() else label


def _parse(equation: str, tensors: Sequence[Tensor]) -> tuple[list[str], str]:
    """One letter per axis for each operand and the result; digits stand for the ellipsis."""
    text = equation.replace(" ", "")
    inputs, arrow, output = text.partition("->")
    terms = inputs.split(",")
    if len(terms) != len(tensors):
        raise ValueError(
            f"einsum: equation must have one term per operand = {len(tensors)}, got {equation!r}"
        )
    for term in (*terms, output):
        letters = term.replace("...", "", 1)
        if not all(c.isalpha() and c.isascii() for c in letters):
            raise ValueError(
                f"einsum: equation must be letters, commas, '...' and one '->', got {equation!r}"
            )
    rest = 0
    for term, t in zip(terms, tensors, strict=True):
        named = len(term.replace("...", ""))
        if named > t.ndim or (named < t.ndim and "..." not in term):
            raise ValueError(f"einsum: term {term!r} must name the axes of shape {list(t.shape)}")
        if "..." in term:
            rest = max(rest, t.ndim - named)
    dots = "0123456789"[:rest]
    full = [
        term.replace("...", dots[rest - (t.ndim - len(term.replace("...", ""))) :])
        for term, t in zip(terms, tensors, strict=True)
    ]
    if arrow:
        result = output.replace("...", dots)
        if len(set(result)) != len(result):
            raise ValueError(f"einsum: the result must name an axis once, got {output!r}")
        unknown = set(result) - set("".join(full))
        if unknown:
            raise ValueError(
                f"einsum: the result names {_spelled(min(unknown))!r}, which no operand has"
            )
    else:
        letters = "".join(term.replace("...", "") for term in terms)
        result = dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return full, result


def _single(t: Tensor, term: str) -> tuple[Tensor, str]:
    """Diagonals of the letters that occur twice."""
    labels = list(term)
    for label in sorted(set(term)):
        while labels.count(label) > 1:
            i = labels.index(label)
            j = labels.index(label, i + 1)
            if t.shape[i] != t.shape[j]:
                raise ValueError(
                    f"einsum: axis {label!r} must have one extent, got {t.shape[i]} and"
                    f" {t.shape[j]}"
                )
            t = _diagonal(t, i, j)
            labels.pop(j)
    return t, "".join(labels)


def _diagonal(t: Tensor, i: int, j: int) -> Tensor:
    """Axes i < j with one index, which stays at i."""
    n = t.shape[i]
    order = [a for a in range(t.ndim) if a not in (i, j)]
    flat = t.permute(i, j, *order).reshape(n * n, *(t.shape[a] for a in order))
    picked = flat[:: n + 1] if n > 0 else flat
    back = list(range(1, picked.ndim))
    back.insert(i, 0)
    return picked.permute(*back)


def _sum_alone(t: Tensor, labels: str, needed: set[str]) -> tuple[Tensor, str]:
    """Sum over the letters that nobody else needs."""
    alone = tuple(i for i, c in enumerate(labels) if c not in needed)
    if not alone:
        return t, labels
    return t.sum(alone), "".join(c for c in labels if c in needed)


def _pair(
    a: Tensor, a_labels: str, b: Tensor, b_labels: str, later: set[str], sizes: dict[str, int]
) -> tuple[Tensor, str]:
    """One batched product: shared letters that go on are batches, those that end are summed."""
    a, a_labels = _sum_alone(a, a_labels, later.union(b_labels))
    b, b_labels = _sum_alone(b, b_labels, later.union(a_labels))
    batch = [c for c in a_labels if c in b_labels and c in later]
    inner = [c for c in a_labels if c in b_labels and c not in later]
    rows = [c for c in a_labels if c not in b_labels]
    columns = [c for c in b_labels if c not in a_labels]

    def arranged(t: Tensor, labels: str, groups: Sequence[Sequence[str]]) -> Tensor:
        t = t.permute(*(labels.index(c) for g in groups for c in g))
        # Extents of 1 stretch where the other operand needs it; batches do so in matmul.
        wanted = [
            sizes[c] if g is inner else n
            for (g, c), n in zip(((g, c) for g in groups for c in g), t.shape, strict=True)
        ]
        t = t.expand(*wanted) if tuple(wanted) != t.shape else t
        lead = t.shape[: len(groups[0])]
        shape, at = [*lead], len(lead)
        for g in groups[1:]:
            n = 1
            for extent in t.shape[at : at + len(g)]:
                n *= extent
            shape.append(n)
            at += len(g)
        return t.reshape(*shape) if tuple(shape) != t.shape else t

    y = matmul(
        arranged(a, a_labels, (batch, rows, inner)), arranged(b, b_labels, (batch, inner, columns))
    )
    extents = [*y.shape[: len(batch)]]
    extents += [a.shape[a_labels.index(c)] for c in rows]
    extents += [b.shape[b_labels.index(c)] for c in columns]
    labels = "".join([*batch, *rows, *columns])
    return (y.reshape(*extents) if tuple(extents) != y.shape else y), labels
