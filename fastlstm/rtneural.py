# SPDX-License-Identifier: MIT
"""Models in the JSON files of RTNeural, the library that runs small networks in audio plug-ins.

    {"in_shape": [null, null, 1], "layers": [{"type": "lstm", "activation": "",
     "shape": [null, null, 8], "weights": [kernel, recurrent_kernel, bias]}, ...]}

Kernels are transposed, as in Keras. RTNeural goes step by step: a model gives a value for every
step.
"""

import json
import os
import stat

import numpy as np

from .modules import MODULES, Activation, Dense, Dropout, LastState, Sequential, is_recurrent
from .tensorfile import Fault, FormatError, brief, parse_json, replace_file
from .weights import PARAMETERS, from_layout, to_layout

__all__ = ["FormatError", "load", "save"]

_MAX_BYTES = 64 << 20  # JSON takes some 20 bytes a number, and parsed some 60
_ACTIVATIONS = {"tanh": "tanh", "relu": "relu", "sigmoid": "sigmoid", "softmax": "softmax",
                "elu": ("elu", 1.0)}  # fmt: skip
_NAMES = {value: name for name, value in _ACTIVATIONS.items()}
_DENSE = ("dense", "time-distributed-dense")
_CELLS = {"lstm": "LSTM", "gru": "GRU"}


def load(path, dtype="float32"):
    """The model in a JSON file of RTNeural.

    Parameters
    ----------
    path : str, bytes or os.PathLike
    dtype : {"float32", "float64"}
        The file has decimal numbers; this is what they become.

    Returns
    -------
    Sequential
        Of LSTM, GRU, Dense and Activation; x is (B, T, features), and so is y.

    Raises
    ------
    FormatError
        The file is damaged, too long, or has a layer that is not supported: it is named. It is a
        ValueError.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import fastlstm as fl, fastlstm.rtneural, tempfile
    >>> model = fl.Sequential([fl.LSTM(1, 4, batch_first=True), fl.Dense(4, 1)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastlstm.rtneural.save(model, folder + "/model.json")
    ...     again = fastlstm.rtneural.load(folder + "/model.json")
    >>> again
    Sequential([LSTM(1, 4, batch_first=True), Dense(in_features=4, out_features=1, ...)])
    """
    fault = Fault(path)
    config = parse_json(_read(path, fault), fault, "the file")
    layers = config.get("layers") if type(config) is dict else None
    if type(layers) is not list or not layers:
        raise fault("no file of RTNeural's: it has no list of layers")
    try:
        modules = [m for k, layer in enumerate(layers) for m in _modules(k, layer, dtype, fault)]
        model = Sequential(modules)
        _check_input(config, model, fault)
    except (FormatError, MemoryError):
        raise
    except Exception as error:  # whatever is said to values of any kind
        raise fault(f"its model does not work: {error}") from error
    return model


def _read(path, fault):
    """The bytes of the file, if it is not too long."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise fault("not a regular file")
    with open(path, "rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES:
        raise fault(f"longer than {_MAX_BYTES} bytes of JSON")
    return text


def _modules(k, layer, dtype, fault):
    """The modules of one layer of the file."""
    kind = layer.get("type") if type(layer) is dict else None
    name = f"layer {k} ({brief(kind)})"
    if kind not in (*_DENSE, *_CELLS, "activation") or _CELLS.get(kind, "LSTM") not in MODULES:
        known = ", ".join((*_DENSE, *_CELLS, "activation"))
        raise fault(f"{name} is not supported; supported are {known}")
    weights = layer.get("weights", [])
    if type(weights) is not list:
        raise fault(f"{name} has no list of weights")
    activation = layer.get("activation", "")
    if type(activation) is not str:
        raise fault(f"{name} has activation {brief(activation)}, which is no name")
    if kind in _CELLS:  # what Keras calls the activation of the cell is always tanh
        if activation not in ("", "tanh"):
            raise fault(f"{name} has activation {brief(activation)}, supported is tanh")
        return [_recurrent(kind, name, weights, dtype, fault)]
    if activation != "" and activation not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise fault(f"{name} has activation {brief(activation)}, supported are {known}")
    after = [Activation(_ACTIVATIONS[activation])] if activation else []
    if kind == "activation":
        return after
    return [_dense(name, weights, dtype, fault), *after]


def _recurrent(kind, name, weights, dtype, fault):
    try:
        cell = from_layout("rtneural", {"type": kind, "weights": weights}, cell=kind)
    except (ValueError, TypeError) as error:
        raise fault(f"the weights of {name} do not fit it: {error}") from error
    _check_finite(name, cell, fault)
    H, I = cell["w_hh"].shape[1], cell["w_ih"].shape[1]
    module = MODULES[_CELLS[kind]](I, H, batch_first=True, dtype=dtype)
    module.load_state_dict({f"{PARAMETERS[w]}_l0": a for w, a in cell.items()})
    return module


def _dense(name, weights, dtype, fault):
    try:
        kernel, bias = (np.asarray(w, "f8") for w in weights)
        out = bias.size
        if kernel.ndim != 2 or bias.ndim != 1 or kernel.shape[1] != out or 0 in kernel.shape:
            raise ValueError(f"kernel {kernel.shape}, bias {bias.shape}")
    except (ValueError, TypeError) as error:
        raise fault(
            f"the weights of {name} must be (in, out) and (out,) numbers: {error}"
        ) from None
    _check_finite(name, {"kernel": kernel, "bias": bias}, fault)
    dense = Dense(len(kernel), out, dtype=dtype)
    dense.load_state_dict({"weight": kernel.T, "bias": bias})
    return dense


def _check_finite(name, arrays, fault):
    for array in arrays.values():
        if not np.isfinite(array).all():
            raise fault(f"{name} has a number that is too large")


def _check_input(config, model, fault):
    """``in_shape`` must say what the first layer takes."""
    shape = config.get("in_shape")
    sizes = (getattr(m, n, None) for m in model.modules for n in ("input_size", "in_features"))
    size = next((n for n in sizes if n is not None), None)
    if type(shape) is list and shape and size is not None and shape[-1] != size:
        raise fault(f"in_shape is {brief(shape)}, but the first layer takes {size} features")


def save(model, path):
    """Write a model to a JSON file for RTNeural.

    Parameters
    ----------
    model : Sequential, or one layer
        Of LSTM and GRU in one direction, Dense, Activation, and Dropout, which is left out. A
        LastState is left out too: RTNeural gives a value for every step, the model's own is
        the last.
    path : str, bytes or os.PathLike
        An existing file is replaced in one step.

    Raises
    ------
    TypeError
        It is no model of fastlstm's.
    ValueError
        RTNeural has no such layer or option: it is named. Or a weight is not finite.
    OSError
        The file cannot be written: an old one is untouched.

    Examples
    --------
    See `load`.
    """
    if type(model) not in MODULES.values():
        raise TypeError(f"model must be one of {', '.join(MODULES)}, got {type(model).__name__}")
    members = model.modules if isinstance(model, Sequential) else [model]
    layers = [layer for m in members for layer in _layers(m)]
    sized = [m for m in members if hasattr(m, "input_size") or hasattr(m, "in_features")]
    if not sized:
        raise ValueError("RTNeural needs a layer that says how many inputs there are")
    size = getattr(sized[0], "input_size", None) or sized[0].in_features
    config = {"in_shape": [None, None, size], "layers": layers}
    replace_file(path, [json.dumps(config, allow_nan=False).encode()])


def _layers(m):
    """The layers of the file that a member becomes."""
    if isinstance(m, (Dropout, LastState)):
        return []
    if isinstance(m, Sequential):
        return [layer for inner in m.modules for layer in _layers(inner)]
    if isinstance(m, Activation):
        if m.activation not in _NAMES:
            raise ValueError(f"RTNeural has no activation {m.activation!r}")
        entry = {"type": "activation", "activation": _NAMES[m.activation]}
        return [{**entry, "shape": [None, None, None], "weights": []}]
    if isinstance(m, Dense):
        kernel = m.state_dict()["weight"].T
        bias = m.state_dict().get("bias", np.zeros(m.out_features))
        return [{
            "type": "dense",
            "activation": m.activation or "",
            "shape": [None, None, m.out_features],
            "weights": [kernel.tolist(), bias.tolist()],
        }]  # fmt: skip
    if not is_recurrent(m) or type(m).__name__ not in _CELLS.values():
        raise ValueError(f"RTNeural has no {type(m).__name__}")
    return _cells(m)


def _cells(m):
    """The layers of a stack of recurrent layers."""
    kind = type(m).__name__.lower()
    plain = type(m)(m.input_size, m.hidden_size, m.num_layers)
    free = ("bias", "batch_first", "dropout", "dtype")
    for name, value in m.config.items():
        if name not in free and value != plain.config[name]:
            raise ValueError(f"RTNeural's {kind} has no {name}={value!r}")
    weights = m.cell_weights()
    return [to_layout("rtneural", w, cell=kind) for w in weights]
