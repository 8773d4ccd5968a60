# SPDX-License-Identifier: MIT
"""The functions that squash gates, candidate and output: values and derivatives, in NumPy.

`Spec` writes one as its name, or with its parameters as (name, alpha) or (name, alpha, beta).
The names and formulas are ONNX's; each derivative is read off the value y, so that a tape
needs nothing but the values. The engine's own are in _activations.pxd.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = ["ACTIVATIONS", "activation", "sigmoid"]


def sigmoid(x):
    """The logistic function 1 / (1 + exp(-x)), without overflow.

    Parameters
    ----------
    x : ndarray of float32 or float64

    Returns
    -------
    ndarray, shape and dtype of x

    Examples
    --------
    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def _elu(x, alpha):
    return np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


def _softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


class Activation(NamedTuple):
    """y = forward(x, *parameters) and dx = backward(y, dy, *parameters)."""

    forward: Callable
    backward: Callable
    parameters: tuple = ()
    positive_alpha: bool = False  # else x could not be told from y


# The order is that of Kind in _activations.pxd. NaN in, NaN out.
ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, lambda y, dy: dy * y * (1 - y)),
    "tanh": Activation(np.tanh, lambda y, dy: dy * (1 - y**2)),
    "identity": Activation(lambda x: x, lambda y, dy: dy),
    "hard_sigmoid": Activation(
        lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
        lambda y, dy, alpha, beta: np.where((y <= 0) | (y >= 1), 0, dy * alpha),
        ("alpha", "beta"),
    ),
    "relu": Activation(lambda x: np.maximum(x, 0), lambda y, dy: np.where(y <= 0, 0, dy)),
    "leaky_relu": Activation(
        lambda x, alpha: np.where(x < 0, alpha * x, x),
        lambda y, dy, alpha: np.where(y < 0, dy * alpha, dy),
        ("alpha",),
        positive_alpha=True,
    ),
    "thresholded_relu": Activation(
        lambda x, alpha: np.where(x <= alpha, 0, x),
        lambda y, dy, alpha: np.where(y == 0, 0, dy),
        ("alpha",),
        positive_alpha=True,
    ),
    "elu": Activation(
        _elu,
        lambda y, dy, alpha: np.where(y < 0, dy * (y + alpha), dy),
        ("alpha",),
        positive_alpha=True,
    ),
    "scaled_tanh": Activation(
        lambda x, alpha, beta: alpha * np.tanh(beta * x),
        lambda y, dy, alpha, beta: dy * beta * (alpha - y**2 / alpha),
        ("alpha", "beta"),
        positive_alpha=True,
    ),
    "affine": Activation(
        lambda x, alpha, beta: alpha * x + beta,
        lambda y, dy, alpha, beta: dy * alpha,
        ("alpha", "beta"),
    ),
    "softsign": Activation(lambda x: x / (1 + np.abs(x)), lambda y, dy: dy * (1 - np.abs(y)) ** 2),
    "softplus": Activation(_softplus, lambda y, dy: dy * -np.expm1(-y)),
}


def activation(value):
    """The pair forward(x), backward(y, dy) of an activation as `Spec` writes it.

    Parameters
    ----------
    value : str or tuple
        A name, or a name and its parameters: ("hard_sigmoid", alpha, beta).

    Returns
    -------
    forward : callable
        x -> y, elementwise.
    backward : callable
        y, dy -> dx.

    Examples
    --------
    >>> forward, backward = activation(("hard_sigmoid", 0.2, 0.5))
    >>> forward(np.array([-9.0, 1.0])), backward(np.array([0.0, 0.7]), 1.0)
    (array([0. , 0.7]), array([0. , 0.2]))
    """
    name, *numbers = (value,) if isinstance(value, str) else value
    kind = ACTIVATIONS[name]
    return lambda x: kind.forward(x, *numbers), lambda y, dy: kind.backward(y, dy, *numbers)
