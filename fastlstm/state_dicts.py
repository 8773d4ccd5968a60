# SPDX-License-Identifier: MIT
"""A model from a PyTorch state dict: what its names and shapes tell, and no more.

    lstm.weight_ih_l0 (4H, I), lstm.weight_hh_l0, ..., fc.weight (out, in), fc.bias (out,)

A state dict has weights, not the model. That dense layers follow in its order, with nothing
between, and that x is (B, T, features) is assumed; what they read, the last step or all steps,
the caller must say.
"""

import re

import numpy as np

from .modules import MODULES, Dense, Embedding, LastState, Sequential

__all__ = ["from_state_dict"]

_RECURRENT = re.compile(r"(weight_ih|weight_hh|weight_hr|bias_ih|bias_hh|bias)_l(\d+)(_reverse)?")
_CLASSES = {4: "LSTM", 3: "GRU", 1: "RNN"}


def from_state_dict(state, head=None):
    """The layer or the Sequential that a state dict belongs to.

    Parameters
    ----------
    state : dict of str to ndarray
        Of PyTorch modules: LSTM, GRU or RNN, Linear behind them, an Embedding before. float16
        becomes float32.
    head : {None, "last", "all"}
        Whether the Linear reads the last step of the recurrent layer or every step.

    Returns
    -------
    LSTM, GRU, RNN or Sequential
        With ``batch_first=True``.

    Raises
    ------
    ValueError
        An array belongs to none of these layers, or their sizes do not fit each other, or
        ``head`` is needed.

    Examples
    --------
    >>> import fastlstm as fl
    >>> from_state_dict(fl.LSTM(3, 8, 2, bidirectional=True).state_dict())
    LSTM(3, 8, num_layers=2, batch_first=True, bidirectional=True)
    """
    if not state:
        raise ValueError("the state dict is empty")
    arrays = {name: np.asarray(a) for name, a in state.items()}
    for name, a in arrays.items():
        if a.dtype.kind != "f":
            raise ValueError(f"{name} is {a.dtype}: weights must be floats")
    dtype = "float64" if any(a.dtype == np.float64 for a in arrays.values()) else "float32"
    groups = {}
    for name, a in arrays.items():
        prefix, _, own = name.rpartition(".")
        groups.setdefault(prefix, {})[own] = a
    layers = [(prefix, group, _is_recurrent(group)) for prefix, group in groups.items()]
    recurrent = [k for k, (_, _, kind) in enumerate(layers) if kind]
    if len(layers) == 1 and recurrent:
        return _recurrent(layers[0][0], layers[0][1], dtype)
    behind = bool(recurrent) and recurrent[-1] < len(layers) - 1
    if behind and head not in ("last", "all"):
        raise ValueError(
            "a state dict does not tell whether its head reads the last step or all steps: "
            "say head last or head all"
        )
    dense = len(layers) - (recurrent[-1] + 1 if recurrent else 0)
    if dense > 1:
        raise ValueError(
            f"a state dict does not tell the activations between {dense} dense layers: "
            + ", ".join(prefix for prefix, _, _ in layers[-dense:])
        )
    modules = []
    for k, (prefix, group, kind) in enumerate(layers):
        if kind:
            modules.append(_recurrent(prefix, group, dtype))
        elif k == 0 and recurrent:
            modules.append(_embedding(prefix, group, dtype))
        else:
            modules.append(_dense(prefix, group, dtype))
        if behind and head == "last" and k == recurrent[-1]:
            modules.append(LastState())
    return Sequential(modules)


def _is_recurrent(group):
    return any(_RECURRENT.fullmatch(name) for name in group)


def _recurrent(prefix, group, dtype):
    """The recurrent layer whose arrays these are."""
    where = f"{prefix}." if prefix else ""
    found = {name: _RECURRENT.fullmatch(name) for name in group}
    for name, match in found.items():
        if match is None:
            raise ValueError(f"{where}{name} is no array of an LSTM, GRU or RNN")
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in group or group[name].ndim != 2 or 0 in group[name].shape:
            raise ValueError(f"{where}{name} must be there, with two dimensions")
    numbers = {int(match[2]) for match in found.values()}
    if numbers != set(range(len(numbers))):
        raise ValueError(
            f"{where}weight_ih_l* must be numbered 0, 1, ..., got {sorted(numbers)[:9]}"
        )
    rows, columns = group["weight_hh_l0"].shape
    projection = group.get("weight_hr_l0")
    H = columns if projection is None else projection.shape[-1]
    gates, rest = divmod(rows, H)
    if rest or gates not in _CLASSES or _CLASSES[gates] not in MODULES:
        raise ValueError(f"{where}weight_hh_l0 of shape {(rows, columns)} is of no known layer")
    options = {} if projection is None else {"proj_size": columns}
    layer = MODULES[_CLASSES[gates]](
        group["weight_ih_l0"].shape[1],
        H,
        len(numbers),
        bias=any(name.startswith("bias") for name in group),
        batch_first=True,
        bidirectional=any(match[3] for match in found.values()),
        dtype=dtype,
        **options,
    )
    try:
        layer.load_state_dict({name: a.astype(dtype) for name, a in group.items()})
    except ValueError as error:
        raise ValueError(f"{where or 'the layer'} {error}") from error
    return layer


def _matrix(prefix, group, known, what):
    """The weight of a layer that has nothing but what is ``known``."""
    weight = group.get("weight")
    if weight is None or weight.ndim != 2 or 0 in weight.shape or not set(group) <= known:
        raise ValueError(
            f"{prefix or 'the state dict'} has {', '.join(group)}: no {what}, LSTM, GRU or RNN"
        )
    return weight


def _dense(prefix, group, dtype):
    weight = _matrix(prefix, group, {"weight", "bias"}, "Linear")
    dense = Dense(*weight.shape[::-1], bias="bias" in group, dtype=dtype)
    dense.load_state_dict(group)
    return dense


def _embedding(prefix, group, dtype):
    weight = _matrix(prefix, group, {"weight"}, "Embedding")
    embedding = Embedding(*weight.shape, dtype=dtype)
    embedding.load_state_dict(group)
    return embedding
