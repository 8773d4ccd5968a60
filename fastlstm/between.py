# SPDX-License-Identifier: MIT
"""What stands between layers: Activation, Flatten, MergeDirections, Reverse, and Embedding before.

Modules as in modules.py. But for Embedding they have no parameters and take either dtype.
"""

import math

import numpy as np

from . import checks
from .activations import activation as activation_of
from .heads import Module
from .losses import softmax
from .parameters import Parameters
from .spec import check_activation

__all__ = ["Activation", "Embedding", "Flatten", "MergeDirections", "Reverse"]


class _Plain(Module):
    """A module without parameters: a call is `forward` without the tape."""

    def __init__(self):
        super().__init__({}, None)

    def __call__(self, x):
        """Return y; see `forward`."""
        return self.forward(x)[0]


class Activation(_Plain):
    """``y = activation(x)``, number by number; softmax over the last axis.

    Parameters
    ----------
    activation : str or tuple
        "softmax", or an activation as `Spec` writes it: "relu", ("leaky_relu", 0.2), ...

    Raises
    ------
    ValueError, TypeError
        There is no such activation, or its parameters are wrong.

    Notes
    -----
    `losses.cross_entropy` takes logits: train a classifier without the softmax at its end.

    Examples
    --------
    >>> import numpy as np
    >>> Activation("softmax")(np.array([[0.0, np.log(3)]]))
    array([[0.25, 0.75]])
    >>> Activation(("leaky_relu", 0.5))(np.array([-2.0, 2.0]))
    array([-1.,  2.])
    """

    def __init__(self, activation):
        super().__init__()
        if activation != "softmax":
            activation = check_activation("activation", activation)
        self.activation = activation

    @property
    def config(self):
        """``activation``, with ``"type"``."""
        return {"type": "Activation", "activation": self.activation}

    def forward(self, x, rng=None):
        """Return y, shaped as x, and the tape: y.

        Parameters
        ----------
        x : ndarray, float32 or float64
        rng : Generator, optional
            Not used.

        Raises
        ------
        TypeError
            `x` has another dtype.
        ValueError
            `x` has no axis for a softmax.
        """
        x = checks.array("x", x)
        if self.activation == "softmax":
            if x.ndim == 0:
                raise ValueError("x must have an axis for the softmax, got shape ()")
            y = softmax(x)
        else:
            y = activation_of(self.activation)[0](x).astype(x.dtype, copy=False)
        return y, y

    def backward(self, tape, dy):
        """Return dx for dy, shaped as y, and no gradients."""
        y, dy = tape, checks.array("dy", dy)
        checks.shape("dy", dy, "as y", y.shape)
        checks.same_dtype(("y", y), dy=dy)
        if self.activation == "softmax":
            dx = y * (dy - (dy * y).sum(axis=-1, keepdims=True))
        else:
            dx = np.asarray(activation_of(self.activation)[1](y, dy), y.dtype)
        return dx, self.parameters()


class Flatten(_Plain):
    """All axes but the first side by side: (B, T, F) becomes (B, T*F).

    Examples
    --------
    >>> import numpy as np
    >>> Flatten()(np.zeros((5, 4, 3))).shape
    (5, 12)
    """

    changes_size = True

    @property
    def config(self):
        """Only the ``"type"``."""
        return {"type": "Flatten"}

    def forward(self, x, rng=None):
        """Return y (B, ...) with one axis after the batch, and the tape: the shape of x.

        Raises
        ------
        ValueError
            `x` has no axis.
        """
        x = checks.array("x", x)
        if x.ndim == 0:
            raise ValueError("x must have a batch axis, got shape ()")
        return x.reshape(len(x), math.prod(x.shape[1:])), x.shape

    def backward(self, tape, dy):
        """Return dx for dy (B, ...), and no gradients."""
        dy = checks.array("dy", dy)
        checks.shape("dy", dy, "B, features", (tape[0], math.prod(tape[1:])))
        return dy.reshape(tape), self.parameters()


# (the result of forwards and backwards, their gradients)
_MERGES = {
    "sum": (lambda a, b: a + b, lambda a, b, dy: (dy, dy)),
    "ave": (lambda a, b: (a + b) / 2, lambda a, b, dy: (dy / 2, dy / 2)),
    "mul": (lambda a, b: a * b, lambda a, b, dy: (dy * b, dy * a)),
}


class MergeDirections(_Plain):
    """The two directions of a bidirectional layer made one: their sum, average or product.

    It stands behind a bidirectional layer, or behind the LastState after one, whose outputs have
    both directions side by side: (..., 2*H) becomes (..., H).

    Parameters
    ----------
    mode : {"sum", "ave", "mul"}

    Raises
    ------
    ValueError
        There is no such mode.

    Examples
    --------
    >>> import numpy as np
    >>> MergeDirections("ave")(np.array([[1.0, 2.0, 5.0, 8.0]]))
    array([[3., 5.]])
    """

    changes_size = True

    def __init__(self, mode):
        super().__init__()
        if mode not in _MERGES:
            raise ValueError(f"mode must be one of {', '.join(map(repr, _MERGES))}, got {mode!r}")
        self.mode = mode

    @property
    def config(self):
        """``mode``, with ``"type"``."""
        return {"type": "MergeDirections", "mode": self.mode}

    def forward(self, x, rng=None):
        """Return y (..., H) for x (..., 2*H), and the tape: the two halves.

        Raises
        ------
        ValueError
            The last axis of `x` has no two halves.
        """
        x = checks.array("x", x)
        if x.ndim == 0 or x.shape[-1] % 2:
            raise ValueError(f"x must have shape (..., 2*H), got {x.shape}")
        halves = np.split(x, 2, axis=-1)
        return _MERGES[self.mode][0](*halves), halves

    def backward(self, tape, dy):
        """Return dx (..., 2*H) for dy (..., H), and no gradients."""
        dy = checks.array("dy", dy)
        checks.shape("dy", dy, "..., H", tape[0].shape)
        return np.concatenate(_MERGES[self.mode][1](*tape, dy), axis=-1), self.parameters()


class Reverse(_Plain):
    """The steps of a sequence in reverse order: the last one first.

    Before a recurrent layer it makes Keras' ``go_backwards=True``, whose outputs stay reversed.
    It knows no ``lengths``: for ragged rows use a bidirectional layer or ``reverse=True``.

    Parameters
    ----------
    batch_first : bool
        x is (B, T, F) instead of (T, B, F). Without a batch it is (T, F) either way.

    Examples
    --------
    >>> import numpy as np
    >>> Reverse(batch_first=True)(np.array([[[1.0], [2.0], [3.0]]]))[0, :, 0]
    array([3., 2., 1.])
    """

    def __init__(self, batch_first=False):
        super().__init__()
        self.batch_first = bool(batch_first)

    @property
    def config(self):
        """``batch_first``, with ``"type"``."""
        return {"type": "Reverse", "batch_first": self.batch_first}

    def forward(self, x, rng=None):
        """Return y, shaped as x, and no tape.

        Raises
        ------
        ValueError
            `x` has not 2 or 3 axes.
        """
        x = checks.array("x", x)
        if x.ndim not in (2, 3):
            layout = "B, T, F" if self.batch_first else "T, B, F"
            raise ValueError(f"x must have shape ({layout}) or (T, F), got {x.shape}")
        return np.flip(x, 1 if self.batch_first and x.ndim == 3 else 0), None

    def turned(self, mask):
        """Return the mask of y for that of x: (B, T), (T, B) or (T,)."""
        return np.flip(mask, 1 if self.batch_first and mask.ndim == 2 else 0)

    def backward(self, tape, dy):
        """Return dx for dy, and no gradients."""
        return self.forward(dy)[0], self.parameters()


class Embedding(Module):
    """A vector for each integer: the rows of a table (torch.nn.Embedding).

    Parameters
    ----------
    num_embeddings : int, >= 1
        How many integers there are: 0 to ``num_embeddings - 1``.
    embedding_dim : int, >= 1
    mask_zero : bool
        A 0 marks a step that does not count: the recurrent layers behind pass over it.
    dtype : {"float32", "float64"}
        Of the vectors.
    seed : int, optional
        The table is standard normal at first, as in PyTorch.

    Raises
    ------
    ValueError
        A size is not positive.
    TypeError
        A size is not an integer, or the dtype is none of the two.

    Examples
    --------
    >>> import numpy as np
    >>> table = Embedding(5, 3, seed=0)
    >>> table(np.array([[0, 4], [1, 1]])).shape
    (2, 2, 3)
    """

    in_features = None

    def __init__(
        self, num_embeddings, embedding_dim, *, mask_zero=False, dtype="float32", seed=None
    ):
        self.num_embeddings = checks.integer("num_embeddings", num_embeddings, 1)
        self.embedding_dim = checks.integer("embedding_dim", embedding_dim, 1)
        self.mask_zero = bool(mask_zero)
        super().__init__({"weight": (self.num_embeddings, self.embedding_dim)}, dtype)
        self.flat[:] = np.random.default_rng(seed).standard_normal(self.flat.size)

    @property
    def out_features(self):
        """Numbers per integer."""
        return self.embedding_dim

    @property
    def config(self):
        """The constructor's arguments but the seed, with ``"type"``."""
        return {
            "type": "Embedding",
            "num_embeddings": self.num_embeddings,
            "embedding_dim": self.embedding_dim,
            "mask_zero": self.mask_zero,
            "dtype": self.dtype.name,
        }

    def mask_of(self, x):
        """Return a bool for each integer, with ``mask_zero`` whether it counts; else None."""
        return np.asarray(x) != 0 if self.mask_zero else None

    def __call__(self, x):
        """Return y (..., embedding_dim) for x (...) of integers."""
        return self.forward(x)[0]

    def forward(self, x, rng=None):
        """Return y and the tape: x as integers.

        Parameters
        ----------
        x : ndarray (...)
            Integers, or floats that are whole numbers.
        rng : Generator, optional
            Not used.

        Returns
        -------
        y : ndarray (..., embedding_dim)
        tape : ndarray (...) of int

        Raises
        ------
        ValueError
            A number is not whole, or not one of 0 to ``num_embeddings - 1``.
        TypeError
            `x` holds no numbers.
        """
        index = self._index(x)
        return self._parameters["weight"][index], index

    def _index(self, x):
        x = np.asarray(x)
        if x.dtype.kind not in "iuf":
            raise TypeError(f"x must hold integers, got {x.dtype}")
        # NaN fails the comparisons too
        wrong = ~((x >= 0) & (x < self.num_embeddings))
        if x.dtype.kind == "f" and not wrong.any():
            wrong = x != np.floor(x)
        if wrong.any():
            raise ValueError(
                f"x must hold whole numbers from 0 to num_embeddings - 1 = "
                f"{self.num_embeddings - 1}, got {x[wrong].flat[0]}"
            )
        return x.astype(np.intp)

    def backward(self, tape, dy):
        """Return None, for integers have no gradient, and the gradient of the table."""
        dy = checks.array("dy", dy)
        checks.shape("dy", dy, "..., embedding_dim", (*tape.shape, self.embedding_dim))
        checks.same_dtype(("weight", self.flat), dy=dy)
        grads = Parameters(self._parameters.shapes, self.dtype)
        np.add.at(grads["weight"], tape.ravel(), dy.reshape(-1, self.embedding_dim))
        return None, grads
