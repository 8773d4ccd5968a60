# SPDX-License-Identifier: MIT
"""Models of Keras 3: read from its files, without Keras, and written back for it.

Needs the extra ``keras`` (h5py).
"""

import json
import os

from . import keras_config
from .keras_file import Weights, read_archive, write_archive
from .keras_layers import Builder
from .keras_save import Writer
from .modules import MODULES, Sequential
from .tensorfile import Fault, FormatError, parse_json

__all__ = ["FormatError", "load", "save"]

_VERSION = "3.0.0"  # what is written has been readable since


def load(path, config=None):
    """The model in a file of Keras 3.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        ``*.keras``, or ``*.weights.h5`` with its ``config``.
    config : str or dict, optional
        What ``model.to_json()`` or ``model.get_config()`` gave; for a ``*.weights.h5`` alone.

    Returns
    -------
    Sequential
        Of the model's dtype. ``model.predict(x)`` gives what Keras' gives, x being (B, T, F), or
        (B, T) of integers before an Embedding. It can be trained and saved as any other.

    Raises
    ------
    FormatError
        The file is damaged or no such file, or the model has a layer or an option that is not
        supported: it is named. It is a ValueError. Nothing in a file is ever executed.
    ImportError
        h5py is not installed.
    OSError
        The file cannot be read.

    Notes
    -----
    Supported are Sequential and functional models that are a single chain of LSTM, GRU,
    SimpleRNN, Bidirectional, Dense, TimeDistributed(Dense), Dropout, Embedding, Masking,
    Flatten, Activation, ReLU, LeakyReLU, ELU and Softmax. What matters to training alone
    (initializers, regularizers, constraints, the optimizer) is not taken over.

    Examples
    --------
    >>> import fastlstm.keras
    >>> model = fastlstm.keras.load("model.keras")  # doctest: +SKIP
    >>> model.predict(x)  # doctest: +SKIP
    """
    fault = Fault(path)
    data = None
    if config is None:
        config, data = read_archive(path)
    elif isinstance(config, (str, bytes)):
        config = parse_json(config, fault, "the config")
    else:
        config = json.loads(json.dumps(config))  # tuples become lists
    with Weights(path, data) as weights:
        try:
            builder = Builder(weights, fault)
            layers = keras_config.chain(config, fault)
            return Sequential([m for layer in layers for m in builder.modules(layer)])
        except (FormatError, MemoryError, NotImplementedError):
            raise
        except Exception as error:  # whatever is said to values of any kind
            raise fault(f"its model does not work: {error}") from error


def save(model, path):
    """Write a model to a ``.keras`` file, which ``keras.saving.load_model`` of Keras 3 reads.

    Parameters
    ----------
    model : Sequential, or one layer
        Of what `load` makes; all recurrent layers with ``batch_first=True``. A stack of layers
        becomes several, with Dropout between.
    path : str, bytes or os.PathLike
        ``*.keras``. An existing file is replaced in one step.

    Raises
    ------
    TypeError
        It is no model of fastlstm's.
    ValueError
        Keras has no such layer or option, as peepholes: it is named. Or the name of the file does
        not end in .keras, which Keras insists on.
    ImportError
        h5py is not installed.
    OSError
        The file cannot be written: an old one is untouched.

    Examples
    --------
    >>> import fastlstm as fl, fastlstm.keras
    >>> model = fl.Sequential([fl.LSTM(3, 8, batch_first=True), fl.LastState(), fl.Dense(8, 1)])
    >>> fastlstm.keras.save(model, "model.keras")  # doctest: +SKIP
    """
    if type(model) not in MODULES.values():
        raise TypeError(f"model must be one of {', '.join(MODULES)}, got {type(model).__name__}")
    if not os.fsdecode(path).endswith(".keras"):
        raise ValueError(f"the name of a Keras file must end in .keras, got {os.fsdecode(path)!r}")
    writer = Writer(model)
    write_archive(path, writer.config, writer.arrays, _VERSION)
