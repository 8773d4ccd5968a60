# SPDX-License-Identifier: MIT
"""Named arrays in a file of the safetensors format, written in one step, read with distrust.

A file is an unsigned 64-bit little-endian length n, n bytes of JSON, then the raw arrays::

    {"__metadata__": {str: str}, NAME: {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}}

The offsets count from the end of the JSON; the arrays cover the rest of the file without a
gap, little-endian and row-major. What is read is checked against the size of the file before
anything is allocated for it; nothing in it is ever executed.
"""

import contextlib
import errno
import json
import os
import secrets
import stat
import struct
from math import prod

import numpy as np

__all__ = [
    "Fault",
    "FormatError",
    "brief",
    "load_tensors",
    "parse_json",
    "replace_file",
    "save_tensors",
]

_MAX_HEADER = 16 << 20  # bytes; an entry takes about 100
_MAX_BYTES = 2**63 - 1  # what NumPy can address

_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "|u1",
    "BOOL": "|b1",
    "C64": "<c8",
    "BF16": "<u2",  # the upper half of a float32: NumPy has no such type, read as float32
}
_CODES = {np.dtype(code): name for name, code in _DTYPES.items() if name != "BF16"}


class FormatError(ValueError):
    """A file that is not what it should be; the message names the file and the fault."""


def save_tensors(path, tensors, metadata=None):
    """Write named arrays to a safetensors file, replacing an old one in one step.

    Parameters
    ----------
    path : str, bytes or os.PathLike
    tensors : dict of str to ndarray
        Floats of 16 to 64 bits, integers, booleans, complex64; any strides.
    metadata : dict of str to str, optional

    Raises
    ------
    TypeError
        A name or metadata is no string, or an array has a dtype that the format lacks.
    ValueError
        An array is named ``__metadata__``, or the names and metadata exceed 16 MiB.
    OSError
        The file cannot be written: the old one is untouched.

    Notes
    -----
    The arrays go to a temporary file beside ``path``, which is flushed to the disk and renamed.
    Only a killed process can leave one behind (``.fastlstm-*.tmp``).

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_tensors(folder + "/a.safetensors", {"a": np.arange(3.0)}, {"unit": "m"})
    ...     load_tensors(folder + "/a.safetensors")
    ({'a': array([0., 1., 2.])}, {'unit': 'm'})
    """
    metadata = {} if metadata is None else dict(metadata)
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata must map str to str, got {key!r}: {value!r}")
    arrays = {}
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"names must be str, got {name!r}")
        if name == "__metadata__":
            raise ValueError("an array cannot be named __metadata__")
        array = np.asarray(value)
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _CODES:
            raise TypeError(f"{name} has dtype {array.dtype}, which safetensors files cannot hold")
        arrays[name] = np.asarray(array, dtype)
    # the widest first: so that each is aligned
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))
    header = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        shape = list(array.shape)
        header[name] = {"dtype": _CODES[array.dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > _MAX_HEADER:
        raise ValueError(f"names and metadata must fit {_MAX_HEADER} bytes, got {len(text)}")
    replace_file(path, [struct.pack("<Q", len(text)), text, *map(_bytes, arrays.values())])


def load_tensors(path):
    """The arrays and the metadata of a safetensors file.

    Parameters
    ----------
    path : str, bytes or os.PathLike

    Returns
    -------
    tensors : dict of str to ndarray
        New arrays in the order of the file, native byte order; bfloat16 becomes float32.
    metadata : dict of str to str

    Raises
    ------
    FormatError
        Anything about the file's contents: it is truncated, has a header that is too long, no
        JSON or not of the format's form, a shape that is negative or too large, data that
        overlap, leave a gap, exceed the file or do not fill it. It is a ValueError.
    OSError
        The file cannot be read.

    Examples
    --------
    See `save_tensors`.
    """
    fault = Fault(path)
    if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
        raise fault("not a regular file")
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(16)
        length = int.from_bytes(head[:8], "little")
        if len(head) < 9 or length > size - 8 or length > _MAX_HEADER or head[8:9] != b"{":
            raise fault(_stranger(path, head, length, size))
        file.seek(8)
        text = file.read(length)
        entries, metadata = _entries(text, size - 8 - length, fault)
        tensors = {}
        for name, dtype, shape, _ in entries:
            array = np.empty(shape, _DTYPES[dtype])
            if file.readinto(_bytes(array)) != array.nbytes:
                raise fault(f"truncated inside {brief(name)} while it was read")
            if dtype == "BF16":
                wide = array.astype("u4")
                wide <<= 16
                array = wide.view("f4")
            if dtype == "BOOL" and (array.view("u1") > 1).any():
                raise fault(f"{brief(name)} is BOOL, but has bytes that are neither 0 nor 1")
            tensors[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return tensors, metadata


class Fault:
    """Makes the errors about one file."""

    def __init__(self, path):
        self.path = os.fsdecode(path)

    def __call__(self, text):
        """A `FormatError` that names the file."""
        return FormatError(f"{self.path}: {text}")


def _bytes(array):
    """The elements in row-major order as bytes: the array's own memory where it is C-contiguous."""
    return array.reshape(-1).view(np.uint8)


def _stranger(path, head, length, size):
    """What is wrong with a file that does not begin as a safetensors file does."""
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    pickled = suffix in (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt")
    if head[:1] == b"\x80" or head[:4] == b"PK\x03\x04" or pickled:
        return (
            "not a safetensors file; it looks like a pickle or a PyTorch or Keras archive. "
            "Pickles are never read, since reading one can execute code: load it with the "
            "framework that wrote it, and give its state_dict to load_state_dict"
        )
    if len(head) < 9:
        return f"not a safetensors file: {size} bytes are too few"
    if length > size - 8:
        return f"truncated or not a safetensors file: {length} bytes of header, {size} in all"
    if length > _MAX_HEADER:
        return f"the header has {length} bytes, allowed are {_MAX_HEADER}"
    return "not a safetensors file: the header is no JSON object"


def parse_json(text, fault, what):
    """The value of a JSON text; keys that occur twice, NaN and deep nesting are refused."""

    def unique(pairs):
        value = {}
        for key, item in pairs:
            if key in value:
                raise ValueError(f"key {brief(key)} occurs twice")
            value[key] = item
        return value

    def constant(name):
        raise ValueError(f"{name} is no JSON")

    try:
        text = text.decode() if isinstance(text, bytes) else text
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (ValueError, RecursionError) as error:
        raise fault(f"{what} is no valid JSON: {error}") from None


def _entries(text, available, fault):
    """The checked header: a list of (name, dtype, shape, (begin, end)) in file order; metadata."""
    header = parse_json(text, fault, "the header")
    metadata = header.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata
    if type(metadata) is not dict or any(type(v) is not str for v in metadata.values()):
        raise fault("__metadata__ must map strings to strings")
    if not all(map(_encodable, (*header, *metadata, *metadata.values()))):
        raise fault("the header has a string that is no Unicode text")
    entries = [(name, *_entry(name, info, fault)) for name, info in header.items()]
    entries.sort(key=lambda entry: entry[3])
    position = 0
    for name, _, _, (begin, end) in entries:
        name = brief(name)
        if begin != position:
            what = "overlaps what is before it" if begin < position else "leaves a hole before it"
            raise fault(f"{name} {what}: it begins at {begin}, expected {position}")
        if end > available:
            raise fault(f"truncated: {name} ends at byte {end} of the data, it has {available}")
        position = end
    if position != available:
        raise fault(f"{available - position} trailing bytes after the last array")
    return entries, metadata


def _entry(name, info, fault):
    """(dtype, shape, (begin, end)) of one array, checked by themselves."""
    name = brief(name)
    if type(info) is not dict or set(info) != {"dtype", "shape", "data_offsets"}:
        raise fault(f"{name} must have dtype, shape and data_offsets, nothing else")
    dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if type(dtype) is not str or dtype not in _DTYPES:
        raise fault(f"{name} has dtype {brief(dtype)}, known are {', '.join(_DTYPES)}")
    if not _naturals(shape) or len(shape) > 32:
        raise fault(f"{name} must have a shape of at most 32 integers >= 0, got {brief(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise fault(f"{name} must have two data_offsets >= 0, got {brief(offsets)}")
    itemsize = np.dtype(_DTYPES[dtype]).itemsize
    if prod(n for n in shape if n) * itemsize > _MAX_BYTES:
        raise fault(f"{name} has shape {brief(shape)}, which overflows")
    nbytes = prod(shape) * itemsize
    if offsets[1] - offsets[0] != nbytes:
        raise fault(
            f"{name} is {dtype} of shape {tuple(shape)} and takes {nbytes} bytes, but its "
            f"data_offsets are {brief(offsets)}"
        )
    return dtype, tuple(shape), tuple(offsets)


def _encodable(text):
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, written as an escape
        return False
    return True


def _naturals(value):
    return type(value) is list and all(type(n) is int and 0 <= n <= _MAX_BYTES for n in value)


def brief(value):
    """What a message shows of a value of any length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def replace_file(path, chunks):
    """Write ``chunks`` to a new file and put it in the place of ``path``, in one step."""
    target = os.path.realpath(os.fsdecode(path))  # through a symbolic link to what it names
    folder = os.path.dirname(target)
    temporary = os.path.join(folder, f".fastlstm-{secrets.token_hex(8)}.tmp")
    made = False
    try:
        mode = _mode(target)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            made = True
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            if mode is not None:
                os.chmod(temporary, mode)
            os.fsync(file.fileno())
        os.replace(temporary, target)
        made = False
        _sync_folder(folder)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fsdecode(path)) from error
    finally:
        if made:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


def _mode(target):
    """The permissions of the file that is to be replaced; None where there is none."""
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(code, "not a regular file")
    return stat.S_IMODE(mode)


def _sync_folder(folder):
    """Make a rename last through a power failure, where the system can do that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system without it
            raise
    finally:
        os.close(handle)
