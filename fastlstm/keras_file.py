# SPDX-License-Identifier: MIT
"""The files of Keras 3, read with distrust: a zip of JSON and HDF5, or HDF5 alone.

    model.keras     zip of metadata.json, config.json, model.weights.h5
    *.weights.h5    layers/lstm/cell/vars/0, layers/lstm_1/cell/vars/0, ..., layers/dense/vars/0

Nothing is unpacked to the disk, no link is followed, no filter is run, no class is looked up;
sizes are checked against the size of the file before anything is allocated.
"""

import contextlib
import io
import json
import os
import stat
import time
import zipfile
import zlib
from math import prod

import numpy as np

from .tensorfile import Fault, parse_json, replace_file

__all__ = ["Weights", "read_archive", "require_h5py", "write_archive"]

_MAX_CONFIG = 16 << 20  # bytes of JSON; a layer takes about 2000
_MAX_EXPANSION = 16  # unpacked to packed; Keras does not compress, and weights hardly can be
_MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_HDF5 = b"\x89HDF\r\n\x1a\n"


def require_h5py():
    """The module h5py, or an ImportError that says how to get it."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "reading and writing Keras files needs h5py: pip install 'fastlstm[keras]'"
        ) from error
    return h5py


def read_archive(path):
    """The config of a ``.keras`` file and its weights' HDF5 file as bytes.

    Raises
    ------
    FormatError
        It is no such file, is damaged, or unpacks to too much.
    """
    fault = Fault(path)
    with _open(path, fault) as file:
        head = file.read(8)
        if head == _HDF5:
            raise fault(
                "an HDF5 file, not a .keras file: give the config of a *.weights.h5 file too "
                "(config=model.to_json()); save a model of Keras 2 as .keras first"
            )
        try:
            with zipfile.ZipFile(file) as archive:
                members = [_member(archive, name, fault) for name in _MEMBERS]
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError,
                ValueError, OverflowError, OSError) as error:  # fmt: skip
            if isinstance(error, type(fault(""))):
                raise
            raise fault(f"not a .keras file, or damaged: {error}") from error
    metadata, config = (
        parse_json(text, fault, name) for text, name in zip(members, _MEMBERS[:2], strict=False)
    )
    version = metadata.get("keras_version") if type(metadata) is dict else None
    if type(version) is not str or not version.startswith("3."):
        raise fault(f"its metadata has keras_version {version!r}, read are those of Keras 3")
    return config, members[2]


def _open(path, fault):
    """The file, open for reading; refuses what is no regular file."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise fault("not a regular file")
    return open(path, "rb")


def _member(archive, name, fault):
    """The bytes of one member of a zip file."""
    found = [info for info in archive.infolist() if info.filename == name]
    if len(found) != 1:
        raise fault(f"it has {len(found)} members {name}, expected one")
    (info,) = found
    most = _MAX_EXPANSION * info.compress_size + 1024
    if name.endswith(".json"):
        most = min(most, _MAX_CONFIG)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise fault(f"{name} is compressed in a way that Keras never uses")
    if info.file_size > most:
        raise fault(f"{name} unpacks to {info.file_size} bytes, allowed are {most}")
    with archive.open(info) as file:
        data = file.read(info.file_size + 1)
    if len(data) != info.file_size:
        raise fault(f"{name} is truncated")
    return data


class Weights:
    """The arrays of an HDF5 file as Keras 3 writes it: a context manager.

    Parameters
    ----------
    path : str, bytes or os.PathLike
        Named in errors, and read where there is no ``data``.
    data : bytes, optional
        The HDF5 file itself.

    Raises
    ------
    FormatError
        It is no HDF5 file, or is damaged.
    """

    def __init__(self, path, data=None):
        self._fault = Fault(path)
        self._h5py = require_h5py()
        if data is None:
            with _open(path, self._fault) as file:
                data = file.read()
        if data[:8] != _HDF5:
            raise self._fault("its weights are no HDF5 file")
        self._size = len(data)
        with self._faults("the weights"):
            self._file = self._h5py.File.in_memory(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(Exception):  # a damaged file may fail to close
            self._file.close()

    def arrays(self, group):
        """The arrays ``group/vars/0``, ``group/vars/1``, ... in their order.

        Raises
        ------
        FormatError
            A link, a filter, an external file, another dtype than float32 or float64, a size
            that the file cannot hold, or anything that is damaged.
        """
        found = []
        with self._faults(group):
            here = self._walk(f"{group}/vars")
            for k in range(0 if here is None else len(here)):
                found.append(self._array(here, str(k), f"{group}/vars/{k}"))
        return found

    def groups(self):
        """The names in ``layers``."""
        with self._faults("layers"):
            here = self._walk("layers")
            return [] if here is None else list(here)

    @contextlib.contextmanager
    def _faults(self, what):
        """Whatever h5py says of a damaged file becomes the one error."""
        try:
            yield
        except (MemoryError, type(self._fault(""))):
            raise
        except Exception as error:
            raise self._fault(f"{what} cannot be read: {error}") from error

    def _walk(self, path):
        """The group at ``path``, reached by hard links alone; None: there is none."""
        here = self._file
        for name in path.split("/"):
            if name not in here:
                return None
            here = self._child(here, name, path, self._h5py.Group)
        return here

    def _child(self, parent, name, path, kind):
        link = parent.get(name, getlink=True)
        if not isinstance(link, self._h5py.HardLink):
            raise self._fault(f"{path} is a link: links are never followed")
        child = parent[name]
        if not isinstance(child, kind):
            raise self._fault(f"{path} is no {kind.__name__.lower()}")
        return child

    def _array(self, group, name, path):
        if name not in group:
            raise self._fault(f"{path} is missing")
        data = self._child(group, name, path, self._h5py.Dataset)
        creation = data.id.get_create_plist()
        plain = (self._h5py.h5d.CONTIGUOUS, self._h5py.h5d.COMPACT)
        if creation.get_external_count() or creation.get_layout() not in plain:
            raise self._fault(f"{path} is stored in pieces or elsewhere, which Keras never does")
        if data.dtype.newbyteorder("=") not in (np.float32, np.float64):
            raise self._fault(f"{path} has dtype {data.dtype}, read are float32 and float64")
        if data.shape is None or prod(data.shape) * data.dtype.itemsize > self._size:
            raise self._fault(f"{path} has shape {data.shape}, more than the file can hold")
        return np.ascontiguousarray(data[()], data.dtype.newbyteorder("="))


def write_archive(path, config, arrays, version):
    """Write a ``.keras`` file in one step.

    Parameters
    ----------
    path : str, bytes or os.PathLike
    config : dict
        The model's, fit for JSON.
    arrays : dict of str to list of ndarray
        The arrays of each group, as `Weights.arrays` gives them.
    version : str
        Of Keras.
    """
    h5py = require_h5py()
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for group, values in arrays.items():
            held = file.create_group(f"{group}/vars")
            for k, value in enumerate(values):
                held.create_dataset(str(k), data=value)
        file.require_group("vars")
    metadata = {"keras_version": version, "date_saved": time.strftime("%Y-%m-%d@%H:%M:%S")}
    texts = [json.dumps(part, allow_nan=False).encode() for part in (metadata, config)]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, data in zip(_MEMBERS, [*texts, buffer.getbuffer()], strict=True):
            archive.writestr(name, data)
    replace_file(path, [packed.getbuffer()])
