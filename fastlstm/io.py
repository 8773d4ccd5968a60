# SPDX-License-Identifier: MIT
"""Layers and models in files: the arrays by PyTorch's names, the config as JSON beside them.

The format is safetensors (`tensorfile`); ``__metadata__["fastlstm"]`` holds
``{"format": 1, "type": "LSTM", ...}``, which only a class in ``modules.MODULES`` can answer to.
"""

import json
from collections.abc import Mapping

from .modules import MODULES, module_from_config
from .tensorfile import Fault, FormatError, load_tensors, parse_json, save_tensors

__all__ = ["FormatError", "load", "load_tensors", "save", "save_tensors"]

_FORMAT = 1  # of the config


def save(path, module):
    """Write a layer or a model to a file, which `load` and the safetensors package read.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        Usually ``*.safetensors``. An existing file is replaced in one step: whatever happens
        meanwhile, the file is the old one or the new one, whole. It keeps its permissions.
    module : LSTM, Sequential, Dense, ...
        Its ``state_dict()`` becomes the arrays, its ``config`` the metadata.

    Raises
    ------
    TypeError
        ``module`` is of a class that `load` does not know.
    OSError
        The file cannot be written: the old one is untouched.

    Examples
    --------
    >>> import fastlstm as fl, tempfile
    >>> lstm = fl.LSTM(3, 8, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fl.save(folder + "/lstm.safetensors", lstm)
    ...     again = fl.load(folder + "/lstm.safetensors")
    >>> bool((again.flat == lstm.flat).all())
    True
    """
    config = getattr(module, "config", None)
    if not isinstance(config, Mapping) or config.get("type") not in MODULES:
        raise TypeError(f"module must be one of {', '.join(MODULES)}, got {type(module).__name__}")
    text = json.dumps({"format": _FORMAT, **config}, allow_nan=False)
    save_tensors(path, module.state_dict(), {"fastlstm": text})


def load(path):
    """The layer or model that `save` wrote.

    Parameters
    ----------
    path : str, bytes or os.PathLike

    Returns
    -------
    LSTM, Sequential, Dense, ...

    Raises
    ------
    FormatError
        The file is damaged, or is no model of fastlstm's (a pickle is refused: reading one can
        execute code), or its arrays do not fit its config. It is a ValueError.
    OSError
        The file cannot be read.

    Examples
    --------
    See `save`.
    """
    tensors, metadata = load_tensors(path)
    fault = Fault(path)
    if "fastlstm" not in metadata:
        raise fault(
            "no model of fastlstm's: its metadata has no 'fastlstm'; for weights alone use "
            "load_tensors(path) and load_state_dict"
        )
    config = parse_json(metadata["fastlstm"], fault, "the config")
    if type(config) is not dict:
        raise fault("the config is no JSON object")
    version = config.pop("format", None)
    if type(version) is not int or version != _FORMAT:
        raise fault(f"its config has format {version!r}, this version reads {_FORMAT}")
    kind = config.get("type")
    if type(kind) is not str or kind not in MODULES:
        raise fault(f"its config has type {kind!r}, known are {', '.join(MODULES)}")
    try:
        wanted = _least_size(config)
        if wanted > (held := sum(array.size for array in tensors.values())):
            raise ValueError(f"it needs {wanted} numbers or more, the file has {held}")
        module = module_from_config(config)
    except MemoryError:
        raise
    except Exception as error:  # whatever a constructor says to values of any kind
        raise fault(f"its config does not work: {error}") from error
    _same_arrays(module.state_dict(), tensors, fault)
    module.load_state_dict(tensors)
    return module


def _least_size(config):
    """A lower bound of how many numbers the weights of ``config`` are.

    So that a small file cannot ask for a large model: what it asks for is bounded by what it
    holds. Values of the wrong type count as nothing, ``from_config`` refuses them.
    """
    sizes = {name: value for name, value in config.items() if type(value) is int and value > 0}
    total = 0
    hidden, D = config.get("hidden_size"), 2 if config.get("bidirectional") is True else 1
    I, N = sizes.get("input_size", 0), sizes.get("num_heads", 1)  # each unit sees P / N others
    if H := sizes.get("hidden_size"):
        P, L = sizes.get("proj_size", H), sizes.get("num_layers", 1)
        total = D * H * (I + P // N) + (L - 1) * D * H * (D * P + P // N)
    elif isinstance(hidden, list) and all(type(H) is int and H > 0 for H in hidden):
        for H in hidden:
            P = sizes.get("proj_size", H)
            total, I = total + D * H * (I + P // N), D * P
    elif {"in_features", "out_features"} <= set(sizes):
        total = sizes["in_features"] * sizes["out_features"]
    elif {"num_embeddings", "embedding_dim"} <= set(sizes):
        total = sizes["num_embeddings"] * sizes["embedding_dim"]
    for members in config.values():
        if isinstance(members, list):
            total += sum(_least_size(member) for member in members if isinstance(member, dict))
    return total


def _same_arrays(expected, tensors, fault):
    """Refuse arrays whose names, shapes or dtypes are not those of the module."""
    faults = [f"{name} is missing" for name in expected if name not in tensors]
    faults += [f"{name} is unexpected" for name in tensors if name not in expected]
    for name in expected.keys() & tensors.keys():
        want, got = expected[name], tensors[name]
        if got.shape != want.shape or got.dtype != want.dtype:
            faults.append(f"{name} must be {want.dtype} {want.shape}, got {got.dtype} {got.shape}")
    if faults:
        more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise fault("its arrays do not fit its config: " + "; ".join(sorted(faults)[:5]) + more)
