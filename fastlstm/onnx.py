# SPDX-License-Identifier: MIT
"""ONNX: run an LSTM model's graph without ONNX Runtime, and write a model as one.

    import fastlstm.onnx

    session = fastlstm.onnx.load("model.onnx")
    (y,) = session.run(None, {"x": x})          # as onnxruntime.InferenceSession has it

Needs the extra ``fastlstm[onnx]``. The operators are those that models of LSTM, GRU and RNN
layers with dense layers around them are made of, in float32 and float64 (`onnx_ops` lists them).
"""

import os
import stat
from math import prod

import numpy as np

try:
    import onnx
    from google.protobuf.message import DecodeError
except ImportError as error:
    raise ImportError('fastlstm.onnx needs onnx: pip install "fastlstm[onnx]"') from error

from .onnx_export import export
from .onnx_graph import NodeArg, read_graph
from .onnx_ops import DTYPES, TYPE_NAMES
from .onnx_recurrent import RecurrentNode
from .tensorfile import FormatError, replace_file

__all__ = ["FormatError", "NodeArg", "Session", "load", "save"]

_MOST_FILE = 2**31 - 1  # what protobuf reads
_BY_TYPE = {TYPE_NAMES[code]: dtype for code, dtype in DTYPES.items()}


def load(model, *, max_bytes=2**32):
    """The session that runs an ONNX model.

    Parameters
    ----------
    model : str, os.PathLike, bytes or onnx.ModelProto
        A path, or the contents of a file.
    max_bytes : int
        No array that the model makes may be larger, nor all that are in use at one time: so a
        small file cannot ask for a large memory.

    Returns
    -------
    Session

    Raises
    ------
    FormatError
        The file is damaged, or has something that is not supported: an operator, one of its
        attributes or versions, a dtype, tensors in other files; the message names the node. It is
        a ValueError.
    OSError
        The file cannot be read.

    Notes
    -----
    Nothing in a file is executed, and no other file is opened. What depends on constants alone is
    computed once, here.

    Examples
    --------
    >>> import fastlstm as fl
    >>> import tempfile
    >>> model = fl.Sequential([fl.LSTM(3, 8, batch_first=True), fl.LastState(), fl.Dense(8, 2)])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, folder + "/model.onnx")
    ...     session = load(folder + "/model.onnx")
    >>> session.get_inputs()
    [NodeArg(name='x', type='tensor(float)', shape=['batch', 'time', 3])]
    >>> (y,) = session.run(None, {"x": np.zeros((4, 20, 3), np.float32)})
    >>> y.shape
    (4, 2)
    """
    if isinstance(model, onnx.ModelProto):
        return Session(model, max_bytes, "the model")
    what = "the model"
    if not isinstance(model, (bytes, bytearray, memoryview)):
        what = os.fsdecode(model)
        model = _contents(model)
    try:
        proto = onnx.ModelProto.FromString(bytes(model))
    except DecodeError:
        raise FormatError(f"{what}: truncated, or no ONNX file") from None
    return Session(proto, max_bytes, what)


def _contents(path):
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise FormatError(f"{os.fsdecode(path)}: not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > _MOST_FILE:
            raise FormatError(
                f"{os.fsdecode(path)}: {size} bytes, an ONNX file has less than 2 GiB"
            )
        return file.read(_MOST_FILE + 1)


def save(model, path, *, lengths=False, state=False):
    """Write a layer or a model as an ONNX file, which ONNX Runtime runs to the same numbers.

    Parameters
    ----------
    model : LSTM, Sequential, ...
        A recurrent layer has the inputs and outputs ``x``, ``y``, ``h_n`` (``c_n``), a
        Sequential ``x`` and ``y``, in the layout that the layer has. Dropout is off.
    path : str or os.PathLike
        An existing file is replaced in one step.
    lengths : bool
        A further input ``lengths`` (B,) of int32. A row of length 0 ends with states of 0 in
        ONNX Runtime, not with its initial ones.
    state : bool
        Further inputs ``h0`` (and ``c0``), (L*D, B, H); only for a layer by itself. Without them
        it starts from zeros.

    Raises
    ------
    ValueError
        What ONNX cannot say: a projection, or a field of the layer's `Spec`, which is named.
    TypeError
        ``model``, or a member of it, is of a class that cannot be written.
    OSError
        The file cannot be written: an old one is untouched.

    Notes
    -----
    Opset 17. ONNX Runtime computes recurrent layers in float32 only; this module also in float64.

    Examples
    --------
    See `load`.
    """
    proto = export(model, lengths=lengths, state=state)
    if proto.ByteSize() > _MOST_FILE:
        raise ValueError(f"the model has {proto.ByteSize()} bytes, an ONNX file less than 2 GiB")
    replace_file(path, [proto.SerializeToString()])


class Session:
    """A model that is ready to run; made by `load`. Threads may share it."""

    def __init__(self, model, max_bytes, what):
        self._max_bytes = max_bytes
        try:
            graph = read_graph(model, self._room)
            self._inputs, self._outputs = graph.inputs, graph.outputs
            self._prepare(graph)
        except FormatError as error:
            raise FormatError(f"{what}: {error}") from None

    def get_inputs(self):
        """The inputs, each with ``name``, ``type`` ("tensor(float)", ...) and ``shape``."""
        return list(self._inputs)

    def get_outputs(self):
        """The outputs, as `get_inputs`."""
        return list(self._outputs)

    def steps(self):
        """The nodes that a run computes, in order: pairs (step, its constant inputs, None: others).

        What depends on constants alone is no step any more.
        """
        return [
            (step, [self._constants.get(name) for name in step.inputs]) for step, _ in self._plan
        ]

    def run(self, output_names, input_feed):
        """The outputs of the model.

        Parameters
        ----------
        output_names : list of str or None
            Which outputs; None: all.
        input_feed : dict of str to array_like
            An array for each input, of its dtype and rank.

        Returns
        -------
        list of ndarray

        Raises
        ------
        TypeError, ValueError
            An input is missing, unknown, of another dtype or shape than the model says; an output
            does not exist.
        FormatError
            A node cannot compute its inputs; the message names it. It is a ValueError.

        Examples
        --------
        See `load`.
        """
        known = [value.name for value in self._outputs]
        names = known if output_names is None else list(output_names)
        for name in names:
            if name not in known:
                raise ValueError(f"the model has no output {name!r}; it has {', '.join(known)}")
        inputs = self._checked(input_feed)
        values = {**self._constants, **inputs}
        self._run_steps(self._plan, values)
        return _own([values[name] for name in names], [*inputs.values(), *self._constants.values()])

    def _checked(self, feed):
        """The inputs as arrays, by name."""
        known = [value.name for value in self._inputs]
        for name in feed:
            if name not in known:
                raise ValueError(f"the model has no input {name!r}; it has {', '.join(known)}")
        arrays = {}
        for value in self._inputs:
            if value.name not in feed:
                raise ValueError(f"the input {value.name!r} is missing")
            a = np.asarray(feed[value.name])
            dtype = _BY_TYPE[value.type]
            if a.dtype.newbyteorder("=") != dtype:
                raise TypeError(f"the input {value.name!r} must be {dtype}, got {a.dtype}")
            if value.shape is not None and not _fits(a.shape, value.shape):
                raise ValueError(
                    f"the input {value.name!r} must have shape {value.shape}, got {a.shape}"
                )
            arrays[value.name] = np.require(a, dtype, "A")
        return arrays

    def _room(self, shape, dtype):
        """Refuse an array that would be too large."""
        if (size := prod(shape) * dtype.itemsize) > self._max_bytes:
            raise ValueError(f"it would make {size} bytes, max_bytes is {self._max_bytes}")

    def _prepare(self, graph):
        """Compute what is constant, pack constant weights, and plan what is kept how long."""
        values, steps = dict(graph.constants), []
        for step in graph.steps:
            if isinstance(step.run, RecurrentNode):
                steps.append(_packed(step, values))
            elif all(name in values for name in step.inputs if name):
                self._run_steps([(step, ())], values)
            else:
                steps.append(step)
        wanted = {value.name for value in self._outputs}
        self._plan = []  # pairs (step, names that nothing after it needs)
        for step in reversed(steps):
            outputs, inputs = set(filter(None, step.outputs)), set(filter(None, step.inputs))
            if not wanted.isdisjoint(outputs):
                self._plan.append((step, (inputs | outputs) - wanted))
                wanted |= inputs
        self._plan.reverse()
        self._constants = {name: values[name] for name in wanted if name in values}

    def _run_steps(self, plan, values):
        """Run the steps on ``values`` (name -> array), dropping what is not needed any more."""
        used = sum(a.nbytes for a in values.values())
        for step, ends in plan:
            given = [values[name] if name else None for name in step.inputs]
            try:
                with np.errstate(all="ignore"):  # inf and NaN are results like others
                    results = step.run(*given)
            except (ValueError, TypeError, IndexError, ArithmeticError) as error:
                raise FormatError(f"{step.label}: {error}") from None
            results = results if type(results) is tuple else (results,)
            if len(step.outputs) > len(results):
                raise FormatError(f"{step.label}: it has {len(results)} outputs here")
            for name, result in zip(step.outputs, results, strict=False):
                if name:
                    values[name] = np.asarray(result)
                    used += values[name].nbytes
            if used > self._max_bytes:
                raise FormatError(
                    f"{step.label}: {used} bytes are in use, max_bytes is {self._max_bytes}"
                )
            for name in ends:
                used -= values.pop(name).nbytes


def _packed(step, constants):
    """The step with its weights packed, where they are constants."""
    weights = {k: name for k, name in enumerate(step.inputs) if k in (1, 2, 3, 7)}
    if not all(name in constants for name in weights.values() if name):
        return step
    given = [constants[name] if name else None for name in weights.values()]
    try:
        step.run.cells = step.run.pack(*given)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{step.label}: {error}") from None
    # by their places: a weight may be the input X of a node too
    return step._replace(
        inputs=tuple("" if k in weights else name for k, name in enumerate(step.inputs))
    )


def _fits(shape, expected):
    """Whether a shape has the dimensions that are numbers in ``expected``."""
    return len(shape) == len(expected) and all(
        n == m for n, m in zip(shape, expected, strict=True) if isinstance(m, int)
    )


def _own(arrays, shared):
    """The arrays, contiguous and the caller's alone: none is one of ``shared`` or a view."""
    taken = {id(a) for a in shared}
    results = []
    for a in arrays:
        if not (a.flags.owndata and a.flags.c_contiguous) or id(a) in taken:
            a = np.array(a, order="C")
        taken.add(id(a))
        results.append(a)
    return results
