# SPDX-License-Identifier: MIT
"""Linear least squares over rows that come in pieces."""

import numpy as np

__all__ = ["LeastSquares"]


class LeastSquares:
    """Weights W and a constant b for ``min sum |a W + b - y|**2`` over all rows a and targets y.

    [a 1 y] = Q R: the problem of R is that of all rows. It is kept by a QR decomposition of the
    rows so far, which loses no digits to squares, and needs memory for one piece.

    Parameters
    ----------
    features, outputs : int

    Examples
    --------
    >>> problem = LeastSquares(1, 1)
    >>> problem.add(np.array([[0.0], [1.0]]), np.array([[3.0], [5.0]]))
    >>> problem.solve().round(6)
    array([[2.],
           [3.]])
    """

    def __init__(self, features, outputs):
        self.features = features
        self.r = np.empty((0, features + 1 + outputs))

    def add(self, rows, targets, weight=None):
        """Add rows (n, features) with targets (n, outputs), float64; ``weight`` (n,) of each."""
        part = np.concatenate((rows, np.ones((len(rows), 1)), targets), axis=1)
        if weight is not None:
            part *= np.sqrt(weight)[:, None]
        self.r = np.linalg.qr(np.concatenate((self.r, part)), mode="r")

    def solve(self, ridge=0.0):
        """[W; b] (features + 1, outputs), with the penalty ``ridge * sum(W**2)``."""
        a, y = np.split(self.r, [self.features + 1], axis=1)
        if ridge:
            shrink = np.sqrt(ridge) * np.eye(self.features, self.features + 1)
            a, y = np.concatenate((a, shrink)), np.pad(y, ((0, self.features), (0, 0)))
        return np.linalg.lstsq(a, y, rcond=None)[0]
