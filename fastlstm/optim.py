# SPDX-License-Identifier: MIT
"""Optimisers over one flat buffer, and gradient clipping.

``optimizer.step(flat, grad_flat)`` changes ``flat`` in place; the formulas are those of
``torch.optim`` (2.13), in its order of operations. With p the parameters, g the gradient:

    SGD     g += weight_decay * p;  m = momentum * m + g
            p -= lr * m, or with nesterov: p -= lr * (g + momentum * m)
    Adam    g += weight_decay * p;  m += (1 - beta1) * (g - m);  v = beta2 * v + (1 - beta2) * g * g
            p -= lr / (1 - beta1**t) * m / (sqrt(v) / sqrt(1 - beta2**t) + eps)
    AdamW   p *= 1 - lr * weight_decay, then Adam without the first term

A step is one pass over the buffers, in _optim.pyx.
"""

import math

import numpy as np

from . import _optim

__all__ = [
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "Optimizer",
    "clip_grad_norm",
    "clip_grad_value",
    "get_optimizer",
]


class Optimizer:
    """What the optimisers share: the state arrays, their checks, and `state_dict`.

    A subclass names its state arrays in `state_names` and has `_update(flat, grad_flat, *state)`.

    Attributes
    ----------
    lr : float
        The learning rate of the next step; may be set between steps (schedules do).
    steps : int
        How many steps were taken.

    Parameters
    ----------
    lr : float, >= 0
    weight_decay : float, >= 0

    Raises
    ------
    ValueError
        A number is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> class SignDescent(Optimizer):
    ...     def _update(self, flat, grad_flat):
    ...         flat -= self.lr * np.sign(grad_flat)
    >>> optimizer, flat = SignDescent(0.5, 0.0), np.ones(2)
    >>> optimizer.step(flat, np.array([3.0, -0.1]))
    >>> flat
    array([0.5, 1.5])
    """

    state_names = ()

    def __init__(self, lr, weight_decay):
        self.lr = _number("lr", lr, 0.0)
        self.weight_decay = _number("weight_decay", weight_decay, 0.0)
        self.steps = 0
        self._state = None

    def step(self, flat, grad_flat):
        """Update ``flat`` in place by one step; ``grad_flat`` is only read.

        Parameters
        ----------
        flat : ndarray (n,), float32 or float64, C-contiguous and writeable
            The parameters, as ``module.flat``. They must be the same n numbers in every call,
            because the optimiser keeps n numbers of state for them.
        grad_flat : ndarray (n,), dtype of `flat`

        Raises
        ------
        ValueError
            The shapes differ from each other or from those of the first step, or `flat` is
            read-only (a frozen module).
        TypeError
            `flat` is not a float32 or float64 array, or the dtypes differ.
        """
        if not isinstance(flat, np.ndarray) or flat.dtype not in (np.float32, np.float64):
            raise TypeError(f"flat must be a float32 or float64 array, got {_describe(flat)}")
        if not isinstance(grad_flat, np.ndarray) or grad_flat.dtype != flat.dtype:
            raise TypeError(f"grad_flat must be a {flat.dtype} array, got {_describe(grad_flat)}")
        if flat.ndim != 1 or grad_flat.shape != flat.shape:
            raise ValueError(
                f"flat and grad_flat must have one shape (n,), got {flat.shape} "
                f"and {grad_flat.shape}"
            )
        if not flat.flags.writeable:
            raise ValueError("flat must be writeable, got a read-only array (a frozen module?)")
        if not flat.flags.c_contiguous:
            raise ValueError("flat must be contiguous, got strides")
        state = self._state_for(flat)
        self.steps += 1
        self._update(flat, np.ascontiguousarray(grad_flat), *state)

    def _state_for(self, flat):
        if self._state is None:
            self._state = {name: np.zeros_like(flat) for name in self.state_names}
        for name, a in self._state.items():
            if a.shape != flat.shape or a.dtype != flat.dtype:
                raise ValueError(
                    f"flat must be {a.dtype} {a.shape}, as the optimiser's {name}, "
                    f"got {flat.dtype} {flat.shape}; a new model needs a new optimiser"
                )
        return list(self._state.values())

    def state_dict(self):
        """Return what a later run needs to go on to the same bits: copies of the state arrays by
        PyTorch's names, and ``steps``. Hyperparameters, `lr` among them, are not part of it.
        """
        return {"steps": self.steps, **{k: a.copy() for k, a in (self._state or {}).items()}}

    def load_state_dict(self, state):
        """Take over the result of `state_dict`.

        Parameters
        ----------
        state : dict
            Of an optimiser of this kind.

        Raises
        ------
        ValueError
            The names are not those of this kind of optimiser.
        """
        arrays = {name: np.array(a) for name, a in state.items() if name != "steps"}
        if "steps" not in state or (arrays and set(arrays) != set(self.state_names)):
            expected = ", ".join(("steps", *self.state_names))
            raise ValueError(
                f"the state of {type(self).__name__} must have the entries {expected}, "
                f"got {', '.join(state) or 'none'}"
            )
        self.steps = int(state["steps"])
        self._state = {name: arrays[name] for name in self.state_names} if arrays else None


class SGD(Optimizer):
    """Gradient descent with momentum, as ``torch.optim.SGD`` (dampening 0).

    Parameters
    ----------
    lr : float
    momentum : float, in [0, 1)
    nesterov : bool
        Needs a momentum.
    weight_decay : float

    Raises
    ------
    ValueError
        A number is out of range.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0, 2.0]), SGD(lr=0.5)
    >>> optimizer.step(p, np.array([1.0, -1.0]))
    >>> p
    array([0.5, 2.5])
    """

    def __init__(self, lr=1e-2, momentum=0.0, nesterov=False, weight_decay=0.0):
        super().__init__(lr, weight_decay)
        self.momentum = _number("momentum", momentum, 0.0, 1.0)
        self.nesterov = bool(nesterov)
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs a momentum greater than 0")
        self.state_names = ("momentum_buffer",) if momentum else ()

    def _update(self, p, g, m=None):
        _optim.sgd(p, g, m, self.lr, self.momentum, self.nesterov, self.weight_decay)


class Adam(Optimizer):
    """Adam (Kingma and Ba 2015), as ``torch.optim.Adam``: `weight_decay` is an L2 penalty.

    Parameters
    ----------
    lr : float
    betas : pair of float, in [0, 1)
        Decay of the running means of the gradient and of its square.
    eps : float
    weight_decay : float

    Raises
    ------
    ValueError
        A number is out of range.

    Notes
    -----
    The state is ``exp_avg`` and ``exp_avg_sq``, each as large as the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0, 2.0]), Adam(lr=0.5)
    >>> optimizer.step(p, np.array([1e3, -1e-3]))
    >>> p.round(4)
    array([0.5, 2.5])
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        super().__init__(lr, weight_decay)
        beta1, beta2 = betas
        self.betas = (_number("betas[0]", beta1, 0.0, 1.0), _number("betas[1]", beta2, 0.0, 1.0))
        self.eps = _number("eps", eps, 0.0)

    def _update(self, p, g, m, v):
        self._moments(p, g, m, v, self.weight_decay, 1.0)

    def _moments(self, p, g, m, v, l2, shrink):
        beta1, beta2 = self.betas
        rate, correction = self.lr / (1 - beta1**self.steps), math.sqrt(1 - beta2**self.steps)
        _optim.adam(p, g, m, v, beta1, beta2, rate, correction, self.eps, l2, shrink)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as ``torch.optim.AdamW``.

    Parameters and exceptions are those of `Adam`.

    Examples
    --------
    >>> import numpy as np
    >>> p, optimizer = np.array([1.0]), AdamW(lr=0.5, weight_decay=0.1)
    >>> optimizer.step(p, np.array([1.0]))
    >>> p.round(4)
    array([0.45])
    """

    def __init__(self, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(lr, betas, eps, weight_decay)

    def _update(self, p, g, m, v):
        self._moments(p, g, m, v, 0.0, 1 - self.lr * self.weight_decay)


OPTIMIZERS = {"sgd": SGD, "adam": Adam, "adamw": AdamW}


def get_optimizer(optimizer):
    """Return a new optimiser for a name in `OPTIMIZERS`, or the `Optimizer` itself.

    Parameters
    ----------
    optimizer : str or Optimizer

    Returns
    -------
    Optimizer

    Raises
    ------
    ValueError
        The name is not known.

    Examples
    --------
    >>> get_optimizer("adam").lr
    0.001
    """
    if isinstance(optimizer, Optimizer):
        return optimizer
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer must be one of {', '.join(OPTIMIZERS)}, or an Optimizer, got {optimizer!r}"
        )
    return OPTIMIZERS[optimizer]()


def clip_grad_norm(grads, max_norm):
    """Scale the gradients in place so that their 2-norm is at most ``max_norm``; return the norm
    that they had.

    Parameters
    ----------
    grads : Parameters or ndarray
        All gradients of a model: one norm is taken over all of them.
    max_norm : float, > 0
        ``inf`` only measures.

    Returns
    -------
    norm : float
        Before clipping. If it is not finite the gradients are left as they are (scaling would
        turn all of them into 0 or NaN): look before you step.

    Raises
    ------
    ValueError
        `max_norm` is not positive.

    Notes
    -----
    The squares are summed in float64, so float32 gradients above 1e19 do not overflow. The
    factor is ``max_norm / (norm + 1e-6)`` as in ``torch.nn.utils.clip_grad_norm_``.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([3.0, 4.0])
    >>> clip_grad_norm(g, 1.0), g.round(4)
    (5.0, array([0.6, 0.8]))
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm must be positive, got {max_norm!r}")
    g = _buffer(grads)
    norm = grad_norm(g)
    scale = max_norm / (norm + 1e-6)
    if scale < 1 and math.isfinite(norm):
        g *= scale
    return norm


def grad_norm(grads):
    """Return the 2-norm of all gradients, summed in float64; see `clip_grad_norm`."""
    return math.sqrt(_optim.sum_of_squares(np.ascontiguousarray(_buffer(grads)).reshape(-1)))


def clip_grad_value(grads, value):
    """Clip every element of the gradients to [-value, value], in place. NaN stays NaN.

    Parameters
    ----------
    grads : Parameters or ndarray
    value : float, > 0

    Raises
    ------
    ValueError
        `value` is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> g = np.array([-3.0, 0.5])
    >>> clip_grad_value(g, 1.0)
    >>> g
    array([-1. ,  0.5])
    """
    if not value > 0:
        raise ValueError(f"value must be positive, got {value!r}")
    g = _buffer(grads)
    np.clip(g, -value, value, out=g)


def _buffer(grads):
    # ndarray has an attribute "flat" too: another thing.
    return grads if isinstance(grads, np.ndarray) else grads.flat


def _describe(value):
    return value.dtype if isinstance(value, np.ndarray) else type(value).__name__


def _number(name, value, low, below=math.inf):
    if not low <= value < below:
        raise ValueError(f"{name} must be in [{low:g}, {below:g}), got {value!r}")
    return float(value)
