# SPDX-License-Identifier: MIT
"""What the estimators read as X: a table, a 3-D array, or a list of series.

    (n, steps)                       a table: every step is a feature, as scikit-learn counts them
    (n, steps, channels)             series of one length; channels_first: (n, channels, steps)
    [(steps, channels), (steps,)...] series of any lengths; channels_first: (channels, steps)

scikit-learn counts features along axis 1. So series are shown to it as (n, channels, steps): their
channels are the features, and their number of steps may differ between fit and predict.

The forecaster reads one series y, and exogenous variables beside it.
"""

import numpy as np
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import validate_data

__all__ = ["read_exog", "read_sequences", "read_series"]


def read_sequences(estimator, X, *, dtype, reset):
    """Check X as scikit-learn does and return what the network takes.

    Parameters
    ----------
    estimator : estimator with ``channels_first``
        Gets ``n_features_in_``, ``feature_names_in_`` and ``_takes_series`` where ``reset``;
        otherwise X must agree with them.
    X : array_like or list of ndarray
    dtype : dtype or list of dtype
        As for ``sklearn.utils.check_array``.
    reset : bool

    Returns
    -------
    x : ndarray (n, T, I)
        A view of X where its dtype allows that. Zeros behind the end of shorter series.
    lengths : ndarray (n,) of int, or None where all have T steps

    Raises
    ------
    ValueError
        scikit-learn's usual ones; a series is empty, has another number of channels than the
        first one, or X is of another kind than in fit.
    """
    lengths = None
    if _is_list_of_series(X) and (reset or estimator._takes_series):
        X, lengths = _padded(X, estimator.channels_first)
    elif _ndim(X) == 3:
        X = np.asarray(X)
        X = X if estimator.channels_first else X.swapaxes(1, 2)
    series = _ndim(X) == 3
    name = type(estimator).__name__
    if not reset and series != estimator._takes_series:
        kinds = ("a table (n_samples, n_steps)", "series with channels, (n, steps, channels)")
        raise ValueError(
            f"{name} was fitted on {kinds[estimator._takes_series]}, but X is {kinds[series]}"
        )
    if series and 0 in np.shape(X)[1:]:
        raise ValueError(
            f"Found array with {X.shape[2]} step(s) and {X.shape[1]} channel(s) while a minimum "
            f"of 1 is required by {name}."
        )
    x = validate_data(estimator, X, reset=reset, dtype=dtype, allow_nd=series)
    if reset:
        estimator._takes_series = series
    return (x.swapaxes(1, 2) if series else x[:, :, None]), lengths


def _ndim(X):
    """The number of dimensions of X, whatever it is."""
    if hasattr(X, "ndim"):
        return X.ndim
    try:
        return np.asarray(X).ndim
    except ValueError:  # rows of unequal length: scikit-learn says so
        return 2


def _is_list_of_series(X):
    """Whether X is a list or tuple of arrays; a list of lists is a table, as everywhere."""
    return isinstance(X, (list, tuple)) and bool(X) and all(isinstance(a, np.ndarray) for a in X)


def _padded(X, channels_first):
    """A list of series as one array (n, C, T) with zeros behind their ends, and their lengths."""
    series = [a[None, :] if a.ndim == 1 else a if channels_first else a.T for a in X]
    for k, a in enumerate(series):
        if a.ndim != 2:
            raise ValueError(f"X[{k}] must have 1 or 2 dimensions, got shape {X[k].shape}")
        if a.shape[1] == 0:
            raise ValueError(f"X[{k}] has no steps: shape {X[k].shape}")
        if len(a) != len(series[0]):
            raise ValueError(f"X[{k}] has {len(a)} channels, but X[0] has {len(series[0])}")
    lengths = np.array([a.shape[1] for a in series])
    steps_first = np.zeros((len(X), lengths.max(), len(series[0])), np.result_type(*series))
    for row, a in zip(steps_first, series, strict=True):
        row[: a.shape[1]] = a.T
    return steps_first.swapaxes(1, 2), lengths


def read_series(estimator, y, exog):
    """y (n,) and exog (n, k) or None, float64, finite; ValueError as scikit-learn's."""
    y = check_array(y, ensure_2d=False, dtype=np.float64, estimator=estimator, input_name="y")
    y = column_or_1d(y)
    if exog is not None:
        exog = read_exog(estimator, exog)
        if len(exog) != len(y):
            raise ValueError(f"y has {len(y)} steps but exog has {len(exog)}")
    return y, exog


def read_exog(estimator, exog):
    """exog (n, k), float64, finite, of (n,) or (n, k)."""
    exog = check_array(
        exog, ensure_2d=False, dtype=np.float64, estimator=estimator, input_name="exog"
    )
    return exog[:, None] if exog.ndim == 1 else exog
