# SPDX-License-Identifier: MIT
"""Model files of one kind made into those of another, and checked by running both.

The suffix says the kind: .safetensors (fastlstm's own, or a PyTorch state dict), .keras, .onnx,
.pt and .pth (PyTorch state dicts), .json (RTNeural).
"""

import importlib
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import io
from .between import Embedding
from .modules import Activation, Dense, Dropout, LastState, Sequential, is_recurrent
from .state_dicts import from_state_dict
from .tensorfile import FormatError

__all__ = ["SUFFIXES", "Report", "convert"]

SUFFIXES = (".safetensors", ".keras", ".onnx", ".pt", ".pth", ".json")
_STEPS, _BATCH = 12, 3  # of the random input
# The largest difference that rounding makes, of numbers of order 1
_TOLERANCE = {"float32": 1e-4, "float64": 1e-5}  # ONNX Runtime and Keras compute in float32


class Report(NamedTuple):
    """What was converted.

    ``model`` is what was read; ``notes`` are lines about what the files do not say alike;
    ``runner`` and ``difference`` say who ran the new file, and how far off it is.
    """

    model: object
    notes: list
    runner: str
    difference: float


def convert(source, target, *, head=None):
    """Read a model, write it as another kind of file, and compare the two.

    Parameters
    ----------
    source, target : str or os.PathLike
        Their suffixes are of ``SUFFIXES``. An existing target is replaced.
    head : {None, "last", "all"}
        For a PyTorch state dict: whether its Linear reads the last step or all steps.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        A suffix is unknown, the source is damaged (FormatError) or has what the kind of the
        target has not, or the written file computes something else.
    ImportError
        What the kind of a file needs is not installed: the message says how to get it.
    OSError
        A file cannot be read or written.

    Examples
    --------
    >>> import fastlstm as fl, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fl.save(folder + "/a.safetensors", fl.LSTM(1, 4, batch_first=True, seed=0))
    ...     report = convert(folder + "/a.safetensors", folder + "/b.json")
    >>> report.model, report.runner, report.difference < 1e-6
    (LSTM(1, 4, batch_first=True), 'fastlstm', True)
    """
    source, target = (Path(os.fsdecode(path)) for path in (source, target))
    for path in (source, target):
        if path.suffix.lower() not in SUFFIXES:
            raise ValueError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    if os.path.realpath(source) == os.path.realpath(target):
        raise ValueError(f"{target} is named twice: it would be overwritten")
    notes = []
    model = _read(source, head, notes)
    written = _fitting(model, target.suffix.lower(), notes)
    _write(target, written)
    x = _random_input(model)
    want = _run(model, x)
    runner, got = _run_file(target, written, _laid_out(x, model, written))
    got = _laid_out(got, written, model) if got.ndim == 3 and want.ndim == 3 else got
    if target.suffix.lower() == ".json" and got.ndim == want.ndim + 1:
        got = got[:, -1]  # RTNeural's value of the last step
    if got.shape != want.shape:
        raise ValueError(f"{target} gives shape {got.shape}, {source} {want.shape}")
    difference = float(np.abs(got - want).max(initial=0))
    if not difference <= _TOLERANCE[want.dtype.name] * max(1.0, np.abs(want).max(initial=0)):
        raise ValueError(
            f"{target} was written, but differs from {source} by {difference:.2g} when it is run"
        )
    return Report(model, notes, runner, difference)


# -- reading -----------------------------------------------------------------------------------


def _read(path, head, notes):
    suffix = path.suffix.lower()
    if suffix == ".keras":
        from . import keras

        return keras.load(path)
    if suffix == ".onnx":
        _require("onnx", "onnx")
        from .onnx_stack import load_stack

        return load_stack(path)[0]
    if suffix == ".json":
        from . import rtneural

        return rtneural.load(path)
    if suffix == ".safetensors":
        tensors, metadata = io.load_tensors(path)
        if "fastlstm" in metadata:
            return io.load(path)
    else:
        tensors = _torch_tensors(path)
    try:
        model = from_state_dict(tensors, head)
    except ValueError as error:
        raise FormatError(f"{path}: {error}") from error
    notes.append("from a state dict: x is taken as (batch, time, features)")
    if isinstance(model, Sequential):
        notes.append("from a state dict: no activation is taken to follow a Linear, nor a Dropout")
    if any(type(m).__name__ == "RNN" for m in getattr(model, "modules", [model])):
        notes.append("from a state dict: the RNN is taken as one with tanh")
    return model


def _torch_tensors(path):
    """The arrays of a PyTorch checkpoint, which PyTorch reads without executing anything."""
    torch = _require("torch", "torch")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of the pickle, the zip, or the tensors
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise FormatError(f"{path}: PyTorch cannot read it as weights alone: {text}") from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    tensors = {}
    for name, value in state.items() if isinstance(state, dict) else ():
        if isinstance(name, str) and isinstance(value, torch.Tensor):
            half = value.dtype in (torch.float16, torch.bfloat16)
            tensors[name] = (value.float() if half else value).detach().numpy()
    if not tensors:
        raise FormatError(f"{path}: it is no state dict")
    return tensors


def _require(module, extra):
    """A module of an extra, or an ImportError that says how to get it."""

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{module} is needed: pip install 'fastlstm[{extra}]'") from error


# -- writing -----------------------------------------------------------------------------------


def _fitting(model, suffix, notes):
    """The model as the target can say it: Keras and RTNeural have the batch first."""
    if suffix not in (".keras", ".json"):
        return model
    if suffix == ".json" and any(isinstance(m, LastState) for m in getattr(model, "modules", ())):
        notes.append("RTNeural gives a value for every step: the model's is the last")
    config, changed = _batch_first(model.config)
    if not changed:
        return model
    notes.append("x is (batch, time, features) in the new file, (time, batch, features) in the old")
    again = type(model).from_config(config)
    again.load_state_dict(model.state_dict())
    return again


def _batch_first(config):
    """A config with ``batch_first=True`` all through; whether that changed it."""
    inner = [_batch_first(c) for c in config.get("modules", ())]
    changed = config.get("batch_first") is False or any(c for _, c in inner)
    config = {**config, "batch_first": True} if "batch_first" in config else dict(config)
    if inner:
        config["modules"] = [c for c, _ in inner]
    return config, changed


def _write(path, model):
    suffix = path.suffix.lower()
    if suffix == ".keras":
        from . import keras

        keras.save(model, path)
    elif suffix == ".onnx":
        _require("onnx", "onnx")
        from . import onnx

        onnx.save(model, path)
    elif suffix == ".json":
        from . import rtneural

        rtneural.save(model, path)
    elif suffix == ".safetensors":
        io.save(path, model)
    else:
        torch = _require("torch", "torch")
        _torch_modules(torch, model)
        state = {name: torch.from_numpy(a) for name, a in model.state_dict().items()}
        torch.save(state, path)


# -- running both ------------------------------------------------------------------------------


def _random_input(model):
    """Random x for a model, in its own layout."""
    rng = np.random.default_rng(0)
    members = getattr(model, "modules", [model])
    shape = [_BATCH]
    if any(is_recurrent(m) or type(m).__name__ == "Reverse" for m in members):
        flat = [m for m in members if type(m).__name__ == "Flatten"]
        steps = _flat_steps(members) if flat else _STEPS
        first = getattr(model, "batch_first", None) is not False
        shape = [_BATCH, steps] if first else [steps, _BATCH]
    if isinstance(members[0], Embedding):
        return rng.integers(members[0].num_embeddings, size=shape)
    sizes = (getattr(m, n, None) for m in members for n in ("input_size", "in_features"))
    size = next((n for n in sizes if n is not None), 4)
    return rng.standard_normal((*shape, size)).astype(model.dtype or "f4")


def _flat_steps(members):
    """How many steps the Dense behind a Flatten has weights for."""
    size = None
    for k, m in enumerate(members):
        if type(m).__name__ == "Flatten":
            dense = next((n for n in members[k:] if isinstance(n, Dense)), None)
            return dense.in_features // size if dense is not None else _STEPS
        if type(m).__name__ == "MergeDirections":
            size //= 2
        size = getattr(m, "output_size", getattr(m, "out_features", size))
    return _STEPS


def _laid_out(x, before, after):
    """An array in the layout of one model brought into that of another."""
    same = getattr(before, "batch_first", None) == getattr(after, "batch_first", None)
    return x if same or x.ndim < 2 else np.ascontiguousarray(x.swapaxes(0, 1))


def _run(model, x):
    y = model(x)
    return y[0] if isinstance(y, tuple) else y


def _run_file(path, model, x):
    """Who ran the new file, and what it gave: the framework where it is there, else we."""
    suffix = path.suffix.lower()
    runner = {".keras": _run_keras, ".onnx": _run_onnx, ".pt": _run_torch, ".pth": _run_torch}
    if suffix in runner:
        return runner[suffix](path, model, x)
    return "fastlstm", _run(_read(path, None, []), x)


def _run_keras(path, model, x):
    from . import keras

    try:
        import keras as theirs
    except Exception:  # not there, or none of its backends
        return "fastlstm", keras.load(path).predict(x)
    return f"Keras {theirs.__version__}", np.asarray(
        theirs.saving.load_model(path).predict(x, verbose=0)
    )


def _run_onnx(path, model, x):
    from . import onnx

    session, runner = onnx.load(path), "fastlstm"
    if x.dtype != np.float64:  # whose recurrent layers ONNX Runtime has not
        try:
            import onnxruntime
        except ImportError:
            pass
        else:
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            runner = f"ONNX Runtime {onnxruntime.__version__}"
    (value,) = session.get_inputs()
    x = x.astype("i4" if "int32" in value.type else x.dtype)
    return runner, session.run(None, {value.name: x})[0]


def _run_torch(path, model, x):
    import torch

    module = _torch_modules(torch, model)
    state = torch.load(path, weights_only=True)
    if not isinstance(model, Sequential):
        state = {f"0.{name}": value for name, value in state.items()}
    module.load_state_dict(state)
    y = torch.from_numpy(x)
    with torch.no_grad():
        for k, inner in enumerate(module):
            if isinstance(inner, torch.nn.RNNBase):
                y, h = inner(y)
                h = h[0] if isinstance(h, tuple) else h
                if k + 1 < len(module) and type(module[k + 1]) is torch.nn.Identity:
                    y = torch.cat(tuple(h[-1 - inner.bidirectional :]), -1)
            else:
                y = inner(y)
    return f"PyTorch {torch.__version__}", y.numpy()


def _torch_modules(torch, model):
    """The PyTorch modules that a model's state dict belongs to; an Identity for LastState."""
    nn, made = torch.nn, []
    dtype = getattr(torch, "float32" if model.dtype is None else model.dtype.name)
    for m in getattr(model, "modules", [model]):
        if is_recurrent(m):
            made.append(_torch_recurrent(nn, m, dtype))
        elif isinstance(m, Dense) and m.activation is None:
            made.append(nn.Linear(m.in_features, m.out_features, bias=m.bias, dtype=dtype))
        elif isinstance(m, Embedding) and not m.mask_zero:
            made.append(nn.Embedding(m.num_embeddings, m.embedding_dim, dtype=dtype))
        elif isinstance(m, (Dropout, LastState)):
            made.append(nn.Dropout(0) if isinstance(m, Dropout) else nn.Identity())
        elif isinstance(m, Activation) and m.activation == "softmax":
            made.append(nn.Softmax(-1))
        elif isinstance(m, Activation) and m.activation in _TORCH:
            made.append(getattr(nn, _TORCH[m.activation])())
        else:
            raise ValueError(f"a PyTorch state dict has nothing for {m!r}")
    return nn.Sequential(*made)


_TORCH = {"relu": "ReLU", "tanh": "Tanh", "sigmoid": "Sigmoid"}


def _torch_recurrent(nn, m, dtype):
    """The layer of torch.nn with the same options; refuses what it has not."""
    theirs = getattr(nn, type(m).__name__, None)
    shared = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "proj_size")
    options = {name: getattr(m, name) for name in shared if name in m.config}
    if theirs is None:
        raise ValueError(f"torch.nn has no {type(m).__name__}")
    plain = type(m)(m.input_size, m.hidden_size, **options)
    for name, value in m.config.items():
        if name != "dtype" and value != plain.config[name]:
            raise ValueError(f"torch.nn.{type(m).__name__} has no {name}={value!r}")
    if not isinstance(m.hidden_size, int):
        raise ValueError("torch.nn has one hidden_size for all layers")
    return theirs(m.input_size, m.hidden_size, dtype=dtype, **options)
