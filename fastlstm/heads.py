# SPDX-License-Identifier: MIT
"""What stands around a recurrent layer: Dense, Dropout, LastState (see modules.py).

Weights are named and shaped as in torch.nn (Linear: ``weight (out, in)``, ``bias (out,)``).
"""

import copy
import math

import numpy as np

from . import checks
from .masks import dropout_mask
from .parameters import Parameters

__all__ = ["Dense", "Dropout", "LastState", "Module"]


class Module:
    """The parameter half of the protocol: one flat buffer, its views by name, and the files.

    A subclass calls ``super().__init__`` with the shapes of its parameters, and defines
    `config`, `forward`, `backward` and `__call__`.

    Attributes
    ----------
    dtype : dtype or None
        None where there are no parameters: such a module takes what comes.
    flat : ndarray (n,)
        All parameters.
    """

    def __init__(self, shapes, dtype):
        nothing = dtype is None and not shapes
        self.dtype = None if nothing else checks.float_dtype("dtype", dtype)
        self._parameters = Parameters(shapes, self.dtype or np.dtype("float32"))

    def _give_out(self):
        """The parameters, for others: whoever has their memory may write to it at any time."""
        return self._parameters

    @property
    def flat(self):
        """All parameters as one contiguous 1-D buffer."""
        return self._give_out().flat

    @flat.setter
    def flat(self, value):  # so that ``module.flat += step`` works; the buffer stays the same
        if value is not self.flat:
            self.flat[...] = value

    def parameters(self):
        """Return the parameters by name, as views into `flat`."""
        return self._give_out()

    def bind(self, flat):
        """Move the parameters, with their values, onto another buffer.

        Parameters
        ----------
        flat : ndarray (n,), dtype of the module, contiguous

        Raises
        ------
        ValueError
            The buffer has another dtype or size.
        """
        moved = Parameters(self._parameters.shapes, self._parameters.flat.dtype, flat)
        moved.flat[:] = self._parameters.flat
        self._parameters = moved

    def state_dict(self):
        """Return copies of the parameters by PyTorch's names."""
        return {name: a.copy() for name, a in self._parameters.items()}

    def load_state_dict(self, state):
        """Take over the values of a `state_dict`; another floating dtype is converted.

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape is wrong. The parameters are then as before.
        """
        check_names(state, self._parameters)
        arrays = {name: np.asarray(state[name]) for name in self._parameters}
        for name, a in arrays.items():
            expected = self._parameters[name].shape
            if a.shape != expected:
                raise ValueError(f"{name} must have shape {expected}, got {a.shape}")
        for name, a in arrays.items():
            self._parameters[name][...] = a

    @property
    def config(self):
        """The constructor's arguments with the name of the class as ``"type"``; JSON-able."""
        raise NotImplementedError(f"{type(self).__name__} must define config")

    @classmethod
    def from_config(cls, config):
        """Build a module from the `config` of another; its parameters are new."""
        return cls(**{name: value for name, value in config.items() if name != "type"})

    def __copy__(self):
        # A shallow copy would share the buffer, and its bind would tear the two apart.
        return copy.deepcopy(self)

    def __repr__(self):
        arguments = (f"{k}={v!r}" for k, v in self.config.items() if k != "type")
        return f"{type(self).__name__}({', '.join(arguments)})"


# activation: (function of z, derivative as a function of the result y)
_ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda y: y > 0),
    "tanh": (np.tanh, lambda y: 1 - y * y),
    # tanh neither overflows nor loses the tail: 1 / (1 + exp(-z)) does the first
    "sigmoid": (lambda z: 0.5 * np.tanh(0.5 * z) + 0.5, lambda y: y * (1 - y)),
}


class Dense(Module):
    """``y = activation(x @ weight.T + bias)``: the head on a recurrent layer (torch.nn.Linear).

    Parameters
    ----------
    in_features, out_features : int, >= 1
    bias : bool
    activation : {None, "relu", "tanh", "sigmoid"}
        There is no "softmax": `losses.cross_entropy` takes logits, and `losses.softmax` makes
        probabilities of them.
    dtype : {"float32", "float64"}
    seed : int, optional
        Weights and bias are uniform in ``+-1 / sqrt(in_features)``, as in PyTorch.

    Raises
    ------
    ValueError
        A size is not positive or the activation is not known.
    TypeError
        A size is not an integer, or the dtype is none of the two.

    Examples
    --------
    >>> import numpy as np
    >>> head = Dense(3, 2, seed=0)
    >>> head(np.ones((5, 4, 3), "float32")).shape
    (5, 4, 2)
    >>> {name: w.shape for name, w in head.parameters().items()}
    {'weight': (2, 3), 'bias': (2,)}
    """

    def __init__(
        self,
        in_features,
        out_features,
        *,
        bias=True,
        activation=None,
        dtype="float32",
        seed=None,
    ):
        self.in_features = checks.integer("in_features", in_features, 1)
        self.out_features = checks.integer("out_features", out_features, 1)
        self.activation = activation
        self.bias = bool(bias)
        if activation == "softmax":
            raise ValueError(
                "activation 'softmax' is part of losses.cross_entropy, which takes logits; "
                "losses.softmax(model(x)) gives probabilities"
            )
        if activation is not None and activation not in _ACTIVATIONS:
            known = ", ".join(map(repr, _ACTIVATIONS))
            raise ValueError(f"activation must be None or one of {known}, got {activation!r}")
        shapes = {"weight": (out_features, in_features)}
        if bias:
            shapes["bias"] = (out_features,)
        super().__init__(shapes, dtype)
        bound = 1 / math.sqrt(in_features)
        self.flat[:] = np.random.default_rng(seed).uniform(-bound, bound, self.flat.size)

    @property
    def config(self):
        """The constructor's arguments but the seed, with ``"type"``."""
        return {
            "type": "Dense",
            "in_features": self.in_features,
            "out_features": self.out_features,
            "bias": self.bias,
            "activation": self.activation,
            "dtype": self.dtype.name,
        }

    def __call__(self, x):
        """Return y (..., out_features) for x (..., in_features)."""
        return self.forward(x)[0]

    def forward(self, x, rng=None):
        """Return y and the tape.

        Parameters
        ----------
        x : ndarray (..., in_features), dtype of the module
        rng : Generator, optional
            Not used.

        Returns
        -------
        y : ndarray (..., out_features)
        tape : opaque

        Raises
        ------
        ValueError
            The last dimension of `x` is not ``in_features``.
        TypeError
            `x` has another dtype.
        """
        x = checks.array("x", x)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"x must have shape (..., in_features) = (..., {self.in_features}), got {x.shape}"
            )
        checks.same_dtype(("weight", self.flat), x=x)
        rows = x.reshape(-1, self.in_features)
        y = rows @ self._parameters["weight"].T
        if self.bias:
            y += self._parameters["bias"]
        if self.activation:
            y = _ACTIVATIONS[self.activation][0](y)
        return y.reshape(*x.shape[:-1], self.out_features), (rows, y, x.shape)

    def backward(self, tape, dy):
        """Return dx and the gradients of the parameters.

        Parameters
        ----------
        tape : what `forward` returned
        dy : ndarray (..., out_features)

        Returns
        -------
        dx : ndarray (..., in_features)
        grads : Parameters, with the names of `parameters`

        Raises
        ------
        ValueError, TypeError
            `dy` has not the shape or not the dtype of y.
        """
        rows, y, x_shape = tape
        dy = checks.array("dy", dy)
        checks.shape("dy", dy, "..., out_features", (*x_shape[:-1], self.out_features))
        checks.same_dtype(("weight", self.flat), dy=dy)
        dz = dy.reshape(-1, self.out_features)
        if self.activation:
            dz = dz * _ACTIVATIONS[self.activation][1](y)
        grads = self._parameters.empty_like()
        np.matmul(dz.T, rows, out=grads["weight"])
        if self.bias:
            dz.sum(axis=0, out=grads["bias"])
        return (dz @ self._parameters["weight"]).reshape(x_shape), grads


class Dropout(Module):
    """Zeroes each element with probability p in training and scales the others by ``1/(1-p)``.

    Parameters
    ----------
    p : float, in [0, 1]
    shared_axis : int, optional
        Along this axis of x all elements share their fate: with the axis of time, the same
        features are dropped in all steps of a sequence (Gal & Ghahramani 2016).
    seed : int, optional
        Of the module's own generator, for `forward` without ``rng``.

    Raises
    ------
    ValueError
        `p` is out of range, or x has no such axis.

    Examples
    --------
    >>> import numpy as np
    >>> dropout, x = Dropout(0.5), np.ones(8)
    >>> bool((dropout(x) == x).all())
    True
    >>> y, tape = dropout.forward(x, np.random.default_rng(0))
    >>> y
    array([2., 2., 2., 2., 2., 2., 2., 0.])
    """

    def __init__(self, p=0.5, *, shared_axis=None, seed=None):
        self.p = checks.probability("p", p)
        self.shared_axis = shared_axis
        if shared_axis is not None:
            self.shared_axis = checks.integer("shared_axis", shared_axis, 0)
        self._rng = np.random.default_rng(seed)
        super().__init__({}, None)

    @property
    def config(self):
        """``p`` and, where there is one, ``shared_axis``, with ``"type"``."""
        shared = {} if self.shared_axis is None else {"shared_axis": self.shared_axis}
        return {"type": "Dropout", "p": self.p, **shared}

    def __call__(self, x):
        """Return x itself."""
        return x

    def forward(self, x, rng=None):
        """Return y, shaped as x, and the tape: the mask, scaled.

        Parameters
        ----------
        x : ndarray, float32 or float64
        rng : Generator, optional
            Draws the mask; None = the module's own.
        """
        x = checks.array("x", x)
        if self.p == 0:
            return x, None
        rng = self._rng if rng is None else rng
        shape = list(x.shape)
        if self.shared_axis is not None:
            if self.shared_axis >= x.ndim:
                raise ValueError(f"x must have an axis {self.shared_axis}, got shape {x.shape}")
            shape[self.shared_axis] = 1
        mask = dropout_mask(rng, self.p, shape, x.dtype)
        return x * mask, mask

    def backward(self, tape, dy):
        """Return dx = dy * mask, and no gradients."""
        return (dy if tape is None else dy * tape), self.parameters()


class LastState(Module):
    """The last hidden state of the recurrent layer before it, both directions side by side.

    Inside a Sequential it stands directly behind a recurrent layer and takes ``h_n`` of its top
    layer, so that with ragged input every row is read at its own length, and the reverse
    direction where it has seen the whole row.

    Examples
    --------
    >>> import numpy as np
    >>> h = np.array([[[1.0, 2.0]], [[3.0, 4.0]]])  # 2 directions, batch of 1, 2 units
    >>> LastState()(h)
    array([[1., 2., 3., 4.]])
    """

    def __init__(self):
        super().__init__({}, None)

    @property
    def config(self):
        """Only the ``"type"``."""
        return {"type": "LastState"}

    def __call__(self, h):
        """Return y (B, D*H) for h (D, B, H)."""
        return np.concatenate(tuple(h), axis=-1)

    def forward(self, h, rng=None):
        """Return y (B, D*H) for h (D, B, H), or (D*H,) for (D, H); and the tape."""
        return self(h), len(h)

    def backward(self, tape, dy):
        """Return dh (D, B, H) for dy (B, D*H), and no gradients."""
        return np.stack(np.split(dy, tape, axis=-1)), self.parameters()


def check_names(state, expected):
    """Raise ValueError naming what a state dict lacks and what it has too much."""
    missing = [name for name in expected if name not in state]
    unknown = [name for name in state if name not in expected]
    if missing or unknown:
        parts = [f"lacks {', '.join(missing)}"] * bool(missing)
        parts += [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        raise ValueError(f"the state dict {' and '.join(parts)}")
