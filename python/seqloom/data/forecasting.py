# SPDX-License-Identifier: Apache-2.0
"""Time series: windows of past and future, and scaling that doesn't look ahead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Series = npt.NDArray[np.float32]


def _as_series(series: Any, what: str) -> Series:
    array = np.asarray(series, np.float32)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{what}: series must have shape [T] or [T, F], got {list(array.shape)}")
    return array


class ForecastWindows:
    """Windows of a series, a map-style dataset: the past as input, the future as target.

    Parameters
    ----------
    series
        float `[T]` or `[T, F]`.
    context
        Steps that are seen.
    horizon
        Steps that are to be forecast.
    stride
        Steps from one window to the next.
    targets
        Features that are forecast, all when absent.

    Item i is `(past [context, F], future [horizon, len(targets)])`, float32.

    Examples
    --------
    >>> windows = ForecastWindows(np.arange(6.0), context=3, horizon=2)
    >>> len(windows), windows[1][0].ravel().tolist(), windows[1][1].ravel().tolist()
    (2, [1.0, 2.0, 3.0], [4.0, 5.0])
    """

    def __init__(
        self,
        series: Any,
        context: int,
        horizon: int,
        *,
        stride: int = 1,
        targets: Sequence[int] | None = None,
    ) -> None:
        for name, value in (("context", context), ("horizon", horizon), ("stride", stride)):
            if value < 1:
                raise ValueError(f"ForecastWindows: {name} must be positive, got {value}")
        self.series = _as_series(series, "ForecastWindows")
        features = self.series.shape[1]
        self.targets = list(range(features)) if targets is None else list(targets)
        if any(not 0 <= t < features for t in self.targets):
            raise IndexError(
                f"ForecastWindows: targets must be in [0, {features}), got {self.targets}"
            )
        if len(self.series) < context + horizon:
            raise ValueError(
                f"ForecastWindows: series must have at least context + horizon = "
                f"{context + horizon} steps, got {len(self.series)}"
            )
        self.context, self.horizon, self.stride = context, horizon, stride

    def __len__(self) -> int:
        return (len(self.series) - self.context - self.horizon) // self.stride + 1

    def __getitem__(self, index: int) -> tuple[Series, Series]:
        if not 0 <= index < len(self):
            raise IndexError(f"ForecastWindows: index must be in [0, {len(self)}), got {index}")
        start = index * self.stride
        middle = start + self.context
        past = self.series[start:middle].copy()
        return past, self.series[middle : middle + self.horizon][:, self.targets]


class Standardizer:
    """Zero mean and unit spread, as seen in the training part.

    Examples
    --------
    >>> scaler = Standardizer(np.array([1.0, 2.0, 3.0]))
    >>> scaled = scaler.transform(np.array([2.0, 4.0]))
    >>> scaler.inverse(scaled).ravel().tolist()
    [2.0, 4.0]
    """

    def __init__(self, series: Any) -> None:
        values = _as_series(series, "Standardizer").astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError("Standardizer: series must be finite; fill gaps first")
        self.mean = values.mean(axis=0)
        spread = values.std(axis=0)
        self.scale = np.where(spread > 0, spread, 1.0)

    def transform(self, series: Any) -> Series:
        """Scale a series `[T]` or `[T, F]`; the result is `[T, F]`."""
        values = _as_series(series, "Standardizer")
        scaled: Series = ((values - self.mean) / self.scale).astype(np.float32)
        return scaled

    def inverse(self, values: Any, targets: Sequence[int] | None = None) -> Series:
        """Undo `transform` for `[..., F]`, or for `[..., len(targets)]` of some features."""
        scaled = np.asarray(values, np.float64)
        chosen = slice(None) if targets is None else list(targets)
        result: Series = (scaled * self.scale[chosen] + self.mean[chosen]).astype(np.float32)
        return result


def chronological_split(series: Any, *shares: float) -> list[npt.NDArray[Any]]:
    """Cut a series in time: the future never leaks into the past.

    Examples
    --------
    >>> [len(part) for part in chronological_split(np.arange(10), 0.6, 0.2, 0.2)]
    [6, 2, 2]
    """
    array = np.asarray(series)
    if not shares or any(s <= 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(f"chronological_split: shares must be positive and sum to 1, got {shares}")
    ends = np.rint(np.cumsum(shares)[:-1] * len(array)).astype(int)
    return list(np.split(array, ends))
