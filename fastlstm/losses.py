# SPDX-License-Identifier: MIT
"""Losses: ``loss(prediction, target, sample_weight=None) -> (value, dprediction)``.

With l the loss of one element, w the weight of its sample and m the number of elements of a sample

    value        = sum(w * l) / (m * sum(w))          (w = 1 everywhere: the mean over all elements)
    dprediction  = w * dl/dprediction / (m * sum(w))

so a sample with weight 2 counts as two samples and one with weight 0 as none. The sum is taken in
float64 whatever the arrays are; ``dprediction`` has the dtype of ``prediction``.
"""

from functools import partial

import numpy as np

__all__ = [
    "LOSSES",
    "absolute_error",
    "cross_entropy",
    "get_loss",
    "huber",
    "quantile",
    "softmax",
    "squared_error",
]


def squared_error(prediction, target, sample_weight=None):
    """Return the mean squared error and its gradient.

    Parameters
    ----------
    prediction : ndarray (n, ...), float32 or float64
    target : ndarray of exactly the same shape and dtype (integers are converted)
    sample_weight : array_like (n,), optional
        Non-negative. ``(n, T)`` weighs every step of a sequence; in general any leading part of
        the shape of `prediction`.

    Returns
    -------
    value : float
    dprediction : ndarray, shape and dtype of `prediction`

    Raises
    ------
    ValueError
        The shapes differ (nothing is broadcast: ``(n,)`` against ``(n, 1)`` is an error), the
        prediction is empty, or a weight is negative, not finite or of the wrong shape.
    TypeError
        `prediction` is not float32 or float64, or `target` is of another floating dtype.

    Examples
    --------
    >>> import numpy as np
    >>> squared_error(np.array([[1.0], [3.0]]), np.array([[1.0], [1.0]]))
    (2.0, array([[0.],
           [2.]]))
    """
    prediction, target = _check_pair(prediction, target)
    error = prediction - target
    return _mean(error * error, error + error, sample_weight)


def absolute_error(prediction, target, sample_weight=None):
    """Return the mean absolute error and its gradient (0 where prediction equals target).

    Parameters, results and exceptions are those of `squared_error`.

    Examples
    --------
    >>> import numpy as np
    >>> absolute_error(np.array([1.0, 4.0]), np.array([2.0, 2.0]))
    (1.5, array([-0.5,  0.5]))
    """
    prediction, target = _check_pair(prediction, target)
    error = prediction - target
    return _mean(np.abs(error), np.sign(error), sample_weight)


def huber(delta=1.0):
    """Return the Huber loss: ``e**2 / 2`` for ``|e| <= delta``, ``delta * (|e| - delta/2)`` beyond.

    Parameters
    ----------
    delta : float, > 0

    Returns
    -------
    loss : callable
        With the parameters, results and exceptions of `squared_error`; can be pickled.

    Raises
    ------
    ValueError
        `delta` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> huber(delta=1.0)(np.array([0.5, 3.0]), np.zeros(2))
    (1.3125, array([0.25, 0.5 ]))
    """
    if not 0 < delta < np.inf:
        raise ValueError(f"delta must be a positive number, got {delta!r}")
    return partial(_huber, delta=float(delta))


def _huber(prediction, target, sample_weight=None, *, delta):
    prediction, target = _check_pair(prediction, target)
    error = prediction - target
    slope = np.clip(error, -delta, delta)
    # slope * (e - slope/2) is both branches: e*e/2 inside, delta * (|e| - delta/2) outside.
    return _mean(slope * (error - 0.5 * slope), slope, sample_weight)


def quantile(q=0.5):
    """Return the quantile (pinball) loss: ``q * e`` for ``e = target - prediction >= 0``, else
    ``(q - 1) * e``; the prediction that minimises it is the q-quantile of the target.

    Parameters
    ----------
    q : float or sequence of floats, in (0, 1)
        A sequence gives every column of the last axis its own quantile: a network with three
        outputs and ``q=(0.05, 0.5, 0.95)`` learns a median with a 90 % interval, from a target
        whose column is repeated three times.

    Returns
    -------
    loss : callable
        With the parameters, results and exceptions of `squared_error`; can be pickled.

    Raises
    ------
    ValueError
        A quantile lies outside (0, 1); on call: the sequence does not fit the last axis.

    Examples
    --------
    >>> import numpy as np
    >>> quantile(0.75)(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    (0.5, array([-0.375,  0.125]))
    """
    values = np.asarray(q, dtype=np.float64)
    if values.ndim > 1 or values.size == 0 or not np.all((values > 0) & (values < 1)):
        raise ValueError(f"q must lie strictly between 0 and 1, got {q!r}")
    return partial(_quantile, q=float(values) if values.ndim == 0 else tuple(values.tolist()))


def _quantile(prediction, target, sample_weight=None, *, q):
    prediction, target = _check_pair(prediction, target)
    if isinstance(q, tuple) and prediction.shape[-1] != len(q):
        raise ValueError(
            f"prediction must have {len(q)} columns, one for each quantile of {q}, "
            f"got shape {prediction.shape}"
        )
    q = np.asarray(q, dtype=prediction.dtype)
    error = target - prediction
    slope = np.where(error >= 0, -q, 1 - q)
    return _mean(-slope * error, slope, sample_weight)


def cross_entropy(prediction, target, sample_weight=None):
    """Return the cross entropy of ``softmax(prediction)`` and its gradient.

    Parameters
    ----------
    prediction : ndarray (n, C) or (n, ..., C), float32 or float64
        Logits, that is the outputs of a Dense without activation.
    target : ndarray (n, ...) of integers in [0, C), or (n, ..., C)
        Labels; or one-hot rows or probabilities, which must sum to 1.
    sample_weight : array_like (n,), optional
        As for `squared_error`. An element is one row of logits here.

    Returns
    -------
    value : float
    dprediction : ndarray, shape and dtype of `prediction`

    Raises
    ------
    ValueError
        The shapes do not fit, a label lies outside [0, C), probabilities are negative or do not
        sum to 1, or the weights are wrong as for `squared_error`.
    TypeError
        `prediction` is not float32 or float64, or labels are not integers.

    Examples
    --------
    >>> import numpy as np
    >>> value, dlogits = cross_entropy(np.zeros((1, 4)), np.array([2]))
    >>> round(value, 6), dlogits  # ln(4)
    (1.386294, array([[ 0.25,  0.25, -0.75,  0.25]]))
    """
    prediction = _check_prediction(prediction)
    target = np.asarray(target)
    if prediction.ndim < 2 or target.shape not in (prediction.shape, prediction.shape[:-1]):
        expected = f"{prediction.shape[:-1]} (labels) or {prediction.shape} (probabilities)"
        raise ValueError(
            f"target must have shape {expected} to fit prediction (n, ..., C) = "
            f"{prediction.shape}, got {target.shape}"
        )
    # log softmax(z) = z - max - log(sum(exp(z - max))): no exp overflows, no log of 0.
    z = prediction - prediction.max(axis=-1, keepdims=True)
    p = np.exp(z)
    total = p.sum(axis=-1, keepdims=True)
    p /= total
    z -= np.log(total)
    if target.ndim < prediction.ndim:
        labels = check_labels(target, prediction.shape[-1])[..., None]
        elements = -np.take_along_axis(z, labels, axis=-1)[..., 0]
        np.put_along_axis(p, labels, np.take_along_axis(p, labels, axis=-1) - 1, axis=-1)
    else:
        target = _check_probabilities(target, prediction.dtype)
        # A probability of 0 takes nothing from a log-probability of -inf.
        elements = -(target * np.where(target == 0, 0, z)).sum(axis=-1)
        p -= target
    return _mean(elements, p, sample_weight)


def softmax(logits):
    """Return the probabilities that belong to logits, along the last axis.

    Parameters
    ----------
    logits : ndarray (..., C), float32 or float64

    Returns
    -------
    p : ndarray, shape and dtype of `logits`; every row sums to 1

    Raises
    ------
    TypeError
        `logits` is not float32 or float64.

    Examples
    --------
    >>> import numpy as np
    >>> softmax(np.array([[1000.0, 1000.0]]))
    array([[0.5, 0.5]])
    """
    logits = _check_prediction(logits, "logits")
    p = np.exp(logits - logits.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    return p


LOSSES = {
    "squared_error": squared_error,
    "absolute_error": absolute_error,
    "huber": huber(),
    "quantile": quantile(),
    "cross_entropy": cross_entropy,
}


def get_loss(loss):
    """Return the loss function of a name in `LOSSES`, or the callable itself.

    Parameters
    ----------
    loss : str or callable
        A callable takes (prediction, target, sample_weight) and returns (value, dprediction).

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        The name is not known.

    Examples
    --------
    >>> get_loss("squared_error") is squared_error
    True
    """
    if callable(loss):
        return loss
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, or a callable, got {loss!r}")
    return LOSSES[loss]


def _mean(elements, slopes, sample_weight):
    """Return (mean of elements, slopes scaled in place); see the formula at the top of the file.

    elements (n, ...) one loss each; slopes (n, ...) or (n, ..., C) their derivatives.
    """
    if sample_weight is None:
        slopes *= 1 / elements.size
        return float(elements.sum(dtype=np.float64)) / elements.size, slopes
    weight = np.asarray(sample_weight, dtype=np.float64)
    expected = elements.shape[: max(weight.ndim, 1)]
    if weight.shape != expected:
        raise ValueError(
            f"sample_weight must have shape {expected}, as prediction begins, got {weight.shape}"
        )
    if not np.all((weight >= 0) & (weight < np.inf)):
        raise ValueError("sample_weight must be finite and not negative")
    total = weight.sum() * (elements.size // weight.size)
    # All weights zero: nothing is asked of the prediction, so the loss and its gradient are 0.
    scale = weight / total if total > 0 else weight
    value = (elements * scale.reshape(scale.shape + (1,) * (elements.ndim - scale.ndim))).sum()
    slopes *= scale.reshape(scale.shape + (1,) * (slopes.ndim - scale.ndim))
    return float(value), slopes


def _check_prediction(prediction, name="prediction"):
    prediction = np.asarray(prediction)
    if prediction.dtype not in (np.float32, np.float64):
        raise TypeError(f"{name} must be float32 or float64, got {prediction.dtype}")
    if prediction.ndim == 0 or prediction.size == 0:
        raise ValueError(f"{name} must not be empty, got shape {prediction.shape}")
    return prediction


def _check_pair(prediction, target):
    prediction, target = _check_prediction(prediction), np.asarray(target)
    if target.shape != prediction.shape:
        raise ValueError(
            f"target must have the shape of prediction {prediction.shape}, got {target.shape}"
        )
    return prediction, _check_target_dtype(target, prediction.dtype)


def _check_target_dtype(target, dtype):
    if target.dtype != dtype and target.dtype.kind not in "iub":
        raise TypeError(f"prediction is {dtype} but target is {target.dtype}; they must be alike")
    return target.astype(dtype, copy=False)


def check_labels(labels, n_classes, name="target"):
    """Return labels as intp, or raise for one that is no integer in [0, n_classes)."""
    if labels.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integer labels, got {labels.dtype}")
    wrong = (labels < 0) | (labels >= n_classes)
    if wrong.any():
        where = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(
            f"{name} must hold labels in [0, C) = [0, {n_classes}), got {labels[where]} at {where}"
        )
    return labels.astype(np.intp, copy=False)


def _check_probabilities(target, dtype):
    target = _check_target_dtype(target, dtype)
    total = target.sum(axis=-1)
    # 1e-3 passes rounded percentages and float32 sums over many classes, and stops logits.
    if not (np.all(target >= 0) and np.all(np.abs(total - 1) <= 1e-3)):
        raise ValueError(
            "target must hold probabilities: not negative, and each row of the last axis sums to 1"
        )
    return target
