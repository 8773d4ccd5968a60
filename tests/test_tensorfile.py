# SPDX-License-Identifier: MIT
"""The safetensors format: round trips, the safetensors package both ways, damaged files."""

import errno
import json
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fastlstm.tensorfile import FormatError, load_tensors, save_tensors

DTYPES = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
FEW = settings(max_examples=60, deadline=None, database=None)
MORE = settings(max_examples=300, deadline=None, database=None)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A path for one file; tests of hypothesis write it over and over."""
    return tmp_path_factory.mktemp("files") / "a.safetensors"


def example_tensors(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "weight_ih_l0": rng.standard_normal((8, 3)).astype("f4"),
        "bias_l0": rng.standard_normal(8),
        "steps": np.array(7),
    }


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, a in want.items():
        assert got[name].dtype == a.dtype.newbyteorder("="), name
        assert got[name].shape == a.shape, name
        assert got[name].tobytes() == a.astype(a.dtype.newbyteorder("=")).tobytes(), name


def file_bytes(header, data=b"", length=None):
    """A file made by hand; ``header`` is an object for JSON, or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def info(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


# ---- round trips

arrays = hnp.arrays(
    st.sampled_from(DTYPES),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
)
names = st.text(max_size=9).filter(lambda name: name != "__metadata__")
texts = st.text(max_size=9)


@given(tensors=st.dictionaries(names, arrays, max_size=4), metadata=st.dictionaries(texts, texts))
@FEW
def test_round_trip(path, tensors, metadata):
    save_tensors(path, tensors, metadata)
    got, about = load_tensors(path)
    assert_same(got, tensors)
    assert about == metadata


@given(tensors=st.dictionaries(names, arrays, max_size=4), metadata=st.dictionaries(texts, texts))
@FEW
def test_safetensors_reads_what_we_write(path, tensors, metadata):
    save_tensors(path, tensors, metadata)
    assert_same(safetensors.numpy.load_file(path), tensors)
    with safetensors.safe_open(path, "numpy") as file:
        assert (file.metadata() or {}) == metadata


@given(tensors=st.dictionaries(names, arrays, max_size=4), metadata=st.dictionaries(texts, texts))
@FEW
def test_we_read_what_safetensors_writes(path, tensors, metadata):
    safetensors.numpy.save_file(tensors, path, metadata or None)  # it fails on ({}, {})
    got, about = load_tensors(path)
    assert_same(got, tensors)
    assert about == metadata


def test_any_memory_layout(path):
    a = np.arange(24.0).reshape(2, 3, 4)
    views = {
        "transposed": a.T,
        "reversed": a[:, ::-1],
        "broadcast": np.broadcast_to(a[0, 0], (5, 4)),
        "big_endian": a.astype(">f4"),
        "unaligned": np.frombuffer(bytes(1) + a.tobytes(), "f8", offset=1),
        "scalar": np.float32(2.5),
    }
    save_tensors(path, views)
    assert_same(load_tensors(path)[0], {name: np.asarray(v) for name, v in views.items()})


def test_data_are_aligned_in_the_file(path):
    """So that others can map the file into memory."""
    save_tensors(path, {"a": np.ones(3, "u1"), "b": np.ones(3, "f8"), "c": np.ones(3, "f4")})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    for entry, size in ((header["b"], 8), (header["c"], 4)):
        assert (8 + length + entry["data_offsets"][0]) % size == 0


def test_bfloat16_becomes_float32(path):
    want = np.array([1.0, -2.5, 3.140625, np.inf], "f4")
    upper = (want.view("u4") >> 16).astype("u2")
    header = {"a": info("BF16", (4,), (0, 8)), "b": info("BF16", (), (8, 10))}
    path.write_bytes(file_bytes(header, upper.tobytes() + upper[1].tobytes()))
    got, _ = load_tensors(path)
    assert_same(got, {"a": want, "b": want[1].reshape(())})


@pytest.mark.parametrize("kind", [str, os.fsencode, Path])
def test_kinds_of_path(tmp_path, kind):
    path = kind(str(tmp_path / "a.safetensors"))
    save_tensors(path, example_tensors())
    assert_same(load_tensors(path)[0], example_tensors())


@pytest.mark.parametrize(
    ("tensors", "metadata", "error", "text"),
    [
        ({"a": np.array(["x"])}, None, TypeError, "a has dtype <U1"),
        ({"a": np.array([None])}, None, TypeError, "a has dtype object"),
        ({"a": np.zeros(2, "c16")}, None, TypeError, "a has dtype complex128"),
        ({1: np.zeros(2)}, None, TypeError, "names must be str, got 1"),
        ({"__metadata__": np.zeros(2)}, None, ValueError, "cannot be named __metadata__"),
        ({"a": np.zeros(2)}, {"n": 3}, TypeError, "metadata must map str to str, got 'n': 3"),
        ({"a": np.zeros(2)}, {"n": "x" * (17 << 20)}, ValueError, "must fit 16777216 bytes"),
    ],
)
def test_refuses_to_write(tmp_path, tensors, metadata, error, text):
    with pytest.raises(error, match=text):
        save_tensors(tmp_path / "a", tensors, metadata)
    assert not list(tmp_path.iterdir())


# ---- damaged files

EIGHT = bytes(8)
DAMAGED = {
    "empty": (b"", "0 bytes are too few"),
    "length alone": (bytes(8), "8 bytes are too few"),
    "length beyond the file": (file_bytes({"a": info()}, EIGHT, 10**6), "1000000 bytes of header"),
    "length of 2**64 - 1": (b"\xff" * 40, "bytes of header, 40 in all"),
    "empty header": (file_bytes(b"", b"{" + EIGHT), "no valid JSON"),
    "no JSON": (file_bytes(b'{"a": ]', EIGHT), "no valid JSON"),
    "no UTF-8": (file_bytes(b'{"\xff": 1}', EIGHT), "no valid JSON"),
    "a JSON list": (file_bytes([1, 2], EIGHT), "the header is no JSON object"),
    "NaN": (file_bytes(b'{"a": NaN}', EIGHT), "NaN is no JSON"),
    "deep nesting": (file_bytes(b'{"a":' + b"[" * 10**5, EIGHT), "no valid JSON"),
    "endless integer": (file_bytes(b'{"a":' + b"9" * 10**5 + b"}", EIGHT), "no valid JSON"),
    "duplicate name": (
        file_bytes(b'{"a":%b,"a":%b}' % ((json.dumps(info()).encode(),) * 2), EIGHT),
        "key 'a' occurs twice",
    ),
    "duplicate field": (
        file_bytes(b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', EIGHT),
        "key 'shape' occurs twice",
    ),
    "half a surrogate": (file_bytes(b'{"\\ud800":{}}', EIGHT), "no Unicode"),
    "metadata is a list": (file_bytes({"__metadata__": []}), "must map strings to strings"),
    "metadata holds a number": (file_bytes({"__metadata__": {"a": 1}}), "must map strings"),
    "entry is a number": (file_bytes({"a": 3}, EIGHT), "'a' must have dtype, shape and"),
    "no dtype": (file_bytes({"a": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT), "dtype, shape"),
    "one field more": (file_bytes({"a": info() | {"x": 1}}, EIGHT), "nothing else"),
    "unknown dtype": (file_bytes({"a": info("F8_E4M3", (8,))}, EIGHT), "has dtype 'F8_E4M3'"),
    "dtype is a list": (file_bytes({"a": info(["F32"])}, EIGHT), "has dtype"),
    "dtype of another size": (file_bytes({"a": info("F64")}, EIGHT), "takes 16 bytes, but its"),
    "negative shape": (file_bytes({"a": info(shape=(-1, -2))}, EIGHT), "integers >= 0"),
    "shape of a float": (file_bytes({"a": info(shape=(2.0,))}, EIGHT), "integers >= 0"),
    "shape of a bool": (file_bytes({"a": info(shape=(2, True))}, EIGHT), "integers >= 0"),
    "shape is a number": (file_bytes({"a": info() | {"shape": 2}}, EIGHT), "integers >= 0"),
    "too many axes": (file_bytes({"a": info(shape=(1,) * 99 + (2,))}, EIGHT), "at most 32"),
    "shape overflows": (file_bytes({"a": info(shape=(2**62, 4))}, EIGHT), "which overflows"),
    "empty shape overflows": (file_bytes({"a": info(shape=(0, 2**62, 4))}), "which overflows"),
    "shape beyond 64 bits": (file_bytes({"a": info(shape=(2**64 + 2,))}, EIGHT), "integers >= 0"),
    "shape is larger": (file_bytes({"a": info(shape=(3,))}, EIGHT), "takes 12 bytes"),
    "negative offset": (file_bytes({"a": info(offsets=(-8, 0))}, EIGHT), "two data_offsets >= 0"),
    "offsets swapped": (file_bytes({"a": info(offsets=(8, 0))}, EIGHT), "data_offsets are [8, 0]"),
    "three offsets": (file_bytes({"a": info(offsets=(0, 4, 8))}, EIGHT), "two data_offsets"),
    "data end early": (file_bytes({"a": info()}, bytes(7)), "ends at byte 8 of the data, it has 7"),
    "out of bounds": (file_bytes({"a": info(offsets=(80, 88))}, EIGHT), "leaves a hole"),
    "hole": (
        file_bytes({"a": info(), "b": info(offsets=(16, 24))}, bytes(24)),
        "'b' leaves a hole before it: it begins at 16, expected 8",
    ),
    "hole at the start": (file_bytes({"a": info(offsets=(8, 16))}, bytes(16)), "leaves a hole"),
    "overlap": (
        file_bytes({"a": info(), "b": info(offsets=(4, 12))}, bytes(12)),
        "'b' overlaps what is before it: it begins at 4, expected 8",
    ),
    "same place twice": (file_bytes({"a": info(), "b": info()}, EIGHT), "overlaps"),
    "endless name": (file_bytes({"a" * 10**6: info()}), "aaa... ends at byte 8 of the data"),
    "trailing bytes": (file_bytes({"a": info()}, bytes(9)), "1 trailing bytes"),
    "trailing bytes, no arrays": (file_bytes({}, bytes(9)), "9 trailing bytes"),
}
# What the safetensors package lets through, or NumPy cannot hold.
OURS_ALONE = {"one field more", "duplicate name", "unknown dtype", "too many axes"}


@pytest.mark.parametrize("fault", DAMAGED)
def test_damaged_file(path, fault):
    content, text = DAMAGED[fault]
    path.write_bytes(content)
    with pytest.raises(FormatError) as caught:
        load_tensors(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert text in message
    assert len(message) < 400 + len(str(path))
    assert isinstance(caught.value, ValueError)
    if fault not in OURS_ALONE:  # that the files are damaged is not our opinion alone
        with pytest.raises(safetensors.SafetensorError):
            safetensors.safe_open(path, "numpy").keys()


def test_bool_that_is_neither(path):
    path.write_bytes(file_bytes({"a": info("BOOL", (3,), (0, 3))}, b"\0\1\2"))
    with pytest.raises(FormatError, match="'a' is BOOL"):
        load_tensors(path)


def test_every_truncation(path):
    save_tensors(path, example_tensors(), {"about": "truncation"})
    content = path.read_bytes()
    for n in range(len(content)):
        path.write_bytes(content[:n])
        with pytest.raises(FormatError):
            load_tensors(path)


def test_file_that_shrinks_while_it_is_read(path, monkeypatch):
    path.write_bytes(file_bytes({"a": info()}, EIGHT))
    real = os.fstat

    def longer(handle):
        return os.stat_result((*real(handle)[:6], path.stat().st_size + 8, *real(handle)[7:]))

    path.write_bytes(file_bytes({"a": info(shape=(4,), offsets=(0, 16))}, EIGHT))
    monkeypatch.setattr(os, "fstat", longer)
    with pytest.raises(FormatError, match="truncated inside 'a'"):
        load_tensors(path)


BASE = file_bytes({"__metadata__": {"k": "v"}, "a": info(), "b": info("I16", (2, 1), (8, 12))})


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(BASE) + 11), st.integers(0, 255)), min_size=1, max_size=3
    )
)
@example(edits=[(8, ord("["))])
@MORE
def test_changed_bytes(path, edits):
    """A changed file is refused, or read as the safetensors package reads it."""
    content = bytearray(BASE + bytes(12))
    for at, value in edits:
        content[at] = value
    check_against_safetensors(path, bytes(content))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 20) | st.floats() | st.sampled_from(["", "F32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "F64", "U8", "BOOL", "F99"]) | json_values,
        "shape": st.lists(st.integers(-1, 3), max_size=3) | json_values,
        "data_offsets": st.lists(st.sampled_from([0, 4, 8, 12, 16]), max_size=3) | json_values,
    },
)


@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", "c", "__metadata__"]), entries | json_values, max_size=3
    ),
    size=st.sampled_from([0, 4, 8, 12, 16]),
)
@MORE
def test_strange_headers(path, header, size):
    """Any header of JSON is refused, or read as the safetensors package reads it."""
    check_against_safetensors(path, file_bytes(header, bytes(size)))


def check_against_safetensors(path, content):
    path.write_bytes(content)
    try:
        got, _ = load_tensors(path)
    except FormatError:
        return
    assert_same(got, safetensors.numpy.load_file(path))


@pytest.mark.parametrize(
    "content",
    [
        file_bytes({"a": info("F64", (2**40,), (0, 2**43))}, bytes(1000)),
        file_bytes({"a": info("F64", (2**31, 2**20), (0, 2**54))}, bytes(1000)),
        file_bytes(b"{}", bytes(1000), 2**40),
        file_bytes(b'{"a":' + b"[" * 10**6),
        file_bytes(b'{"a":[' + b"[]," * 10**5 + b"[]]}"),
        file_bytes(json.dumps({str(k): {} for k in range(30000)}).encode()),
    ],
    ids=["large array", "larger array", "header length", "nesting", "many lists", "many entries"],
)
def test_memory_is_bounded_by_the_file(path, content):
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            load_tensors(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000 + 40 * len(content)


def test_header_above_the_limit(path):
    """It is refused by its length, before it is read."""
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 2**32) + b"{")
        file.truncate(2**33)  # sparse: takes no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="the header has 4294967296 bytes"):
            load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()
        path.unlink()


class Bomb:
    """Executes something when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_is_refused(tmp_path, protocol):
    bomb = Bomb()
    bomb.folder = str(tmp_path / "executed")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(bomb, protocol))
    with pytest.raises(FormatError, match=r"looks like a pickle.*Pickles are never read"):
        load_tensors(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "content", [pickle.dumps(None), pickle.dumps({"a": [1.0] * 9}), b"PK\x03\x04\0\0\x08\x08" * 9]
)
def test_pickle_is_recognised_without_its_suffix(path, content):
    path.write_bytes(content)
    with pytest.raises(FormatError, match="looks like a pickle"):
        load_tensors(path)


def test_header_length_that_looks_like_a_pickle(path):
    """640 bytes of header: the file begins with 80 02, as a pickle of protocol 2 does."""
    text = json.dumps({"a": info()}).encode().ljust(640)
    path.write_bytes(file_bytes(text, EIGHT))
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(load_tensors(path)[0]) == ["a"]


def test_no_file_no_directory_no_device(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none")
    with pytest.raises(OSError, match="directory") as caught:
        load_tensors(tmp_path)
    assert caught.value.errno == errno.EISDIR
    os.mkfifo(tmp_path / "fifo")  # opening one would wait for ever
    with pytest.raises(FormatError, match="not a regular file"):
        load_tensors(tmp_path / "fifo")
    with pytest.raises(TypeError):
        load_tensors(3)


def test_no_more_memory_than_the_arrays(path):
    """What is written is not copied, what is read is not read twice."""
    tensors = {"a": np.ones(500_000), "b": np.ones(500_000)}
    tracemalloc.start()
    try:
        save_tensors(path, tensors)
        assert tracemalloc.get_traced_memory()[1] < 500_000
        load_tensors(path)
        assert tracemalloc.get_traced_memory()[1] < 8_500_000
    finally:
        tracemalloc.stop()
