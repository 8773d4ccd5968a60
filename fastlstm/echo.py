# SPDX-License-Identifier: MIT
"""Echo-state networks (Jaeger 2001): recurrent weights that nobody trains, and a linear readout.

A recurrent matrix whose spectral radius is below 1 lets the past fade away at a rate that the
radius sets; what is left of it in the states is enough for a linear readout, which ridge
regression finds in one pass.
"""

import time

import numpy as np

from .heads import Dense
from .leastsquares import LeastSquares
from .losses import squared_error
from .modules import is_recurrent
from .training import History, mean_loss

__all__ = ["check_readout", "fit_readout"]


def check_readout(model, loss, refused):
    """Refuse a model without a linear readout, another loss, and settings of a loop.

    Parameters
    ----------
    model : Sequential
    loss : callable
    refused : dict
        Settings that must be None or 0.
    """
    given = [name for name, value in refused.items() if value]
    if given:
        raise ValueError(
            f"train_recurrent=False is one solve, not a loop: it takes no {', '.join(given)}"
        )
    if loss is not squared_error:
        raise ValueError("train_recurrent=False needs loss='squared_error'")
    members = getattr(model, "modules", [])
    if not any(map(is_recurrent, members)):
        raise TypeError("train_recurrent=False needs a Sequential with a recurrent layer")
    head = members[-1]
    if not isinstance(head, Dense) or head.activation is not None or not head.bias:
        raise ValueError(
            "train_recurrent=False needs a Dense with bias and no activation at the end, "
            f"got {head!r}"
        )


def fit_readout(model, loss, data, held_back, batch_size, spectral_radius, l2):
    """Scale the recurrent weights, solve for the last member; return the `History`."""
    start, head = time.perf_counter(), model.modules[-1]
    for layer in filter(is_recurrent, model.modules):
        scale_recurrent(layer, spectral_radius)
    problem, total = LeastSquares(head.in_features, head.out_features), 0.0
    for batch in data.batches(batch_size):
        rows = model.features(batch.x, **batch.keywords).astype(np.float64)
        rows = rows.reshape(-1, head.in_features)
        targets = np.asarray(batch.y, np.float64).reshape(len(rows), -1)
        weight = np.ones(len(batch.x)) if batch.weight is None else batch.weight
        weight = np.repeat(weight.ravel(), len(rows) // weight.size)
        problem.add(rows, targets, weight)
        total += weight.sum()
    # The loss is the mean over rows and outputs: sum / (total * outputs) + l2/2 sum(w**2).
    solution = problem.solve(ridge=0.5 * l2 * total * head.out_features)
    head.parameters()["weight"][...] = solution[:-1].T
    head.parameters()["bias"][...] = solution[-1]
    history = History(loss=[mean_loss(model, loss, data, max(batch_size, 256))])
    if held_back is not None:
        history["val_loss"] = [mean_loss(model, loss, held_back, max(batch_size, 256))]
    history["seconds"], history["learning_rate"] = [time.perf_counter() - start], [0.0]
    history.best_epoch = 0
    return history


def scale_recurrent(layer, spectral_radius):
    """Scale the recurrent matrix of each gate of a layer to ``spectral_radius``, in place.

    With a projection h = W_hr m it is the matrix from m to the gate, W_hh W_hr. A matrix whose
    eigenvalues are all 0 stays as it is.

    Examples
    --------
    >>> import fastlstm as fl
    >>> lstm = fl.LSTM(1, 5, seed=0)
    >>> scale_recurrent(lstm, 0.5)
    >>> gate_i = lstm.parameters()["weight_hh_l0"][:5]
    >>> round(float(np.abs(np.linalg.eigvals(gate_i)).max()), 5)
    0.5
    """
    weights = layer.parameters()
    for name, w_hh in weights.items():
        if not name.startswith("weight_hh"):
            continue
        w_proj = weights.get(name.replace("weight_hh", "weight_hr"))
        H = w_hh.shape[1] if w_proj is None else w_proj.shape[1]
        for gate in w_hh.reshape(-1, H, w_hh.shape[1]):  # views
            matrix = gate.astype(np.float64) if w_proj is None else gate @ w_proj.astype(np.float64)
            radius = np.abs(np.linalg.eigvals(matrix)).max()
            if radius > 0:
                gate *= spectral_radius / radius
