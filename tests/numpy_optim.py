# SPDX-License-Identifier: MIT
"""The optimisers' steps in NumPy, an operation a line: what fastlstm/_optim.pyx must give, bit by
bit. Scalars are rounded to the dtype of the arrays, as NumPy does with Python's floats.
"""

import math

import numpy as np


def step(optimizer, p, g, state, t):
    """p and the state arrays after step t (counted from 1); nothing is changed in place."""
    name = type(optimizer).__name__
    if name == "SGD":
        return _sgd(optimizer, p, g, *state)
    decay = optimizer.weight_decay
    if name == "AdamW":
        p = p * (1 - optimizer.lr * decay)
    elif decay:
        g = p * decay + g
    return _adam(optimizer, p, g, *state, t)


def _sgd(optimizer, p, g, m=None):
    if optimizer.weight_decay:
        g = p * optimizer.weight_decay + g
    if m is None:
        return p - g * optimizer.lr, []
    m = m * optimizer.momentum
    m = m + g
    g = m * optimizer.momentum + g if optimizer.nesterov else m
    return p - g * optimizer.lr, [m]


def _adam(optimizer, p, g, m, v, t):
    beta1, beta2 = optimizer.betas
    m = m + (g - m) * (1 - beta1)
    v = v * beta2 + g * g * (1 - beta2)
    root = np.sqrt(v) / math.sqrt(1 - beta2**t)
    return p - m / (root + optimizer.eps) * (optimizer.lr / (1 - beta1**t)), [m, v]
