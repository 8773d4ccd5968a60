# SPDX-License-Identifier: MIT
"""The samples that `fit` trains on: checked once, then handed out in batches."""

import copy
import math
from typing import NamedTuple

import numpy as np

from . import checks
from .losses import check_labels, cross_entropy

__all__ = ["Batch", "Dataset"]

# np.isfinite of so many numbers at a time: sliding windows are looked at, never expanded.
_CHUNK = 1 << 20


class Batch(NamedTuple):
    """Some samples: x (B, ...), y (B, ...), lengths (B,) or None, weight (B,), (B, T) or None.

    ``steps`` is how many steps each weight stands for: T in `pieces`, where T differs.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None
    weight: np.ndarray | None
    steps: int = 1

    @property
    def total(self):
        """How much the loss of this batch counts beside that of others."""
        return self.steps * (len(self.x) if self.weight is None else float(self.weight.sum()))

    @property
    def keywords(self):
        """What a model takes beside x; a model without recurrent layers knows no lengths."""
        return {} if self.lengths is None else {"lengths": self.lengths}

    def pieces(self, k):
        """Yield the batch cut along time into pieces of k steps, the last one maybe shorter."""
        for start in range(0, self.x.shape[1], k):
            part = slice(start, start + k)
            x, weight = self.x[:, part], self.weight
            lengths = None if self.lengths is None else np.clip(self.lengths - start, 0, x.shape[1])
            by_step = weight is not None and weight.ndim == 2
            piece = Batch(
                x, self.y[:, part], lengths, weight[:, part] if by_step else weight,
                1 if by_step else x.shape[1],
            )  # fmt: skip
            if piece.total > 0:  # else every row has ended before
                yield piece


class Dataset:
    """x, y, lengths and sample_weight of equal length n, checked against a model and a loss.

    Parameters
    ----------
    x : ndarray (n, ...), dtype of `model`
    y : ndarray (n, ...)
    lengths : ndarray (n,) of int, optional
    sample_weight : array_like (n,), optional
    model : module
    loss : callable
    name : str
        Put before "x" and "y" in messages.

    Raises
    ------
    ValueError, TypeError
        As `fit` lists them.
    """

    def __init__(self, x, y, lengths, sample_weight, model, loss, name=""):
        self.name = name
        self.x = checks.array(name + "x", x)
        self.y = np.asarray(y)
        if self.y.dtype.kind not in "iub":  # labels and counts have no dtype to agree on
            self.y = checks.array(name + "y", self.y)
        n = len(self.x) if self.x.ndim else 0
        if n == 0:
            raise ValueError(f"{name}x must hold one sample or more, got shape {self.x.shape}")
        for other, a in (("x", self.x), ("y", self.y)):
            if a.dtype.kind == "f" and a.dtype != model.flat.dtype:
                raise TypeError(
                    f"{name}{other} is {a.dtype} but the model is {model.flat.dtype}: convert "
                    f"{other} with {other}.astype({model.flat.dtype.name!r}), or build the model "
                    f"with dtype={a.dtype.name!r}"
                )
        for other, a in (("y", self.y), ("sample_weight", sample_weight), ("lengths", lengths)):
            if a is not None and (np.ndim(a) == 0 or len(a) != n):
                got = np.shape(a) if np.ndim(a) == 0 else len(a)
                raise ValueError(f"{name}x has n = {n} samples but {name}{other} has {got}")
        self.weight = None if sample_weight is None else _weight_array(sample_weight)
        self.lengths = None
        if lengths is not None:
            if self.x.ndim < 3:
                raise ValueError(f"lengths need x of shape (n, T, I), got {self.x.shape}")
            self.lengths = checks.lengths_array(lengths, self.x.shape[1], n)
        _check_finite(name + "x", self.x)
        if self.y.dtype.kind == "f":
            _check_finite(name + "y", self.y)
        self.per_step = False
        self._check_fit(model, loss)

    def _check_fit(self, model, loss):
        """Predict one sample and take its loss, so that nothing of this can fail later."""
        probe = self.batch(slice(0, 1))
        with np.errstate(over="ignore", invalid="ignore"):
            prediction = model(probe.x, **probe.keywords)
            try:
                loss(prediction, probe.y, None)
            except ValueError as fault:
                expected = (len(self), *prediction.shape[1:])
                raise ValueError(
                    f"{self.name}y of shape {self.y.shape} does not fit the model's prediction "
                    f"of shape {expected}; for the first sample: {fault}"
                ) from fault
        self.prediction_shape = (len(self), *prediction.shape[1:])
        last = getattr(model, "modules", [model])[-1]
        if loss is cross_entropy and getattr(last, "activation", None) == "softmax":
            raise ValueError(
                "loss cross_entropy takes logits, but the model ends in a softmax: train it "
                "without, as Sequential(model.modules[:-1])"
            )
        if loss is cross_entropy and self.y.ndim < prediction.ndim:
            check_labels(self.y, prediction.shape[-1], self.name + "y")
        # A prediction for every step of a ragged batch: the steps beyond a row's length are void.
        self.per_step = self.lengths is not None and prediction.ndim >= 3
        self._check_total()

    def _check_total(self):
        if not self.batch(slice(None)).total > 0:
            raise ValueError(
                f"sample_weight or lengths are 0 in all {len(self)} samples: nothing is left"
            )

    def __len__(self):
        return len(self.x)

    def batch(self, index):
        """Return the `Batch` of a slice (views) or of an index array (copies of these rows)."""
        x = self.x[index]
        lengths = None if self.lengths is None else self.lengths[index]
        weight = None if self.weight is None else self.weight[index]
        if self.per_step:
            steps = (np.arange(x.shape[1]) < lengths[:, None]).astype(np.float64)
            weight = steps if weight is None else steps * weight[:, None]
        return Batch(x, self.y[index], lengths, weight)

    def batches(self, batch_size, rng=None):
        """Yield all samples in batches, in the order that ``rng`` draws or as they lie."""
        order = None if rng is None else rng.permutation(len(self))
        for start in range(0, len(self), batch_size):
            part = slice(start, start + batch_size)
            yield self.batch(part if order is None else order[part])

    def split(self, fraction, by_time=False):
        """Return (first part, last part), the last one with ``fraction`` of the samples, or
        ``by_time`` of the steps of each.
        """
        size, what = (self.x.shape[1], "steps") if by_time else (len(self), "samples")
        n = size - math.ceil(size * fraction)
        if n == 0:
            raise ValueError(
                f"validation_fraction={fraction} of {size} {what} leaves none to train on"
            )
        if by_time:
            return self._steps(0, n), self._steps(n, size)
        return self._part(slice(0, n)), self._part(slice(n, None))

    def _part(self, rows):
        part = copy.copy(self)  # a view of data that are checked
        part.x, part.y = self.x[rows], self.y[rows]
        part.lengths = None if self.lengths is None else self.lengths[rows]
        part.weight = None if self.weight is None else self.weight[rows]
        part._check_total()
        return part

    def _steps(self, start, stop):
        part = copy.copy(self)
        part.x, part.y = self.x[:, start:stop], self.y[:, start:stop]
        if self.lengths is not None:
            part.lengths = np.clip(self.lengths - start, 0, stop - start)
        part._check_total()
        return part


def _weight_array(sample_weight):
    weight = np.asarray(sample_weight, dtype=np.float64)
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must have shape (n,), got {weight.shape}")
    if not np.all((weight >= 0) & (weight < np.inf)):
        raise ValueError("sample_weight must be finite and not negative")
    return weight


def _check_finite(name, a):
    """Refuse NaN and infinities, naming the first of them."""
    rows = max(1, _CHUNK // max(1, a[0].size))
    for start in range(0, len(a), rows):
        finite = np.isfinite(a[start : start + rows])
        if not finite.all():
            index = np.argwhere(~finite)[0]
            index[0] += start
            where = ", ".join(map(str, index))
            raise ValueError(f"{name} must be finite, got {a[tuple(index)]} at {name}[{where}]")
