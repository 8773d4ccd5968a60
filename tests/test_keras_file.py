# SPDX-License-Identifier: MIT
"""Damaged and hostile files of Keras: one exception, little memory, nothing executed."""

import io
import json
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

h5py = pytest.importorskip("h5py")

from test_keras import config, layer, model  # noqa: E402

import fastlstm as fl  # noqa: E402
import fastlstm.keras  # noqa: E402

FormatError = fl.keras.FormatError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.keras"


def write_zip(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)


def members(path):
    fl.keras.save(model(), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def peak_of_refusal(path, text):
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=text):
            fl.keras.load(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "3", '{"a":1,"a":1}', '{"x": NaN}', "[" * 10**5, '{"layers": 3}', "{}"],
)
def test_a_config_that_is_none(path, text):
    write_zip(path, members(path) | {"config.json": text.encode()})
    with pytest.raises(FormatError, match="config"):
        fl.keras.load(path)


def test_every_truncation_is_one_error(path):
    members(path)
    whole = path.read_bytes()
    for size in [*range(64), *range(64, len(whole), len(whole) // 60)]:
        path.write_bytes(whole[:size])
        with pytest.raises(FormatError):
            fl.keras.load(path)


def test_every_flipped_bit_gives_a_model_or_one_error(path):
    members(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for position in rng.integers(len(whole), size=300):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            fl.keras.load(path)
        except FormatError:
            continue


def test_garbage_and_other_files(path, tmp_path):
    for data in (b"", b"\0" * 100, b"PK\x03\x04" + b"x" * 50, b"\x80\x04pickle"):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=r"not a \.keras file, or damaged"):
            fl.keras.load(path)
    fl.save(tmp_path / "ours.safetensors", model())
    with pytest.raises(FormatError, match=r"not a \.keras file"):
        fl.keras.load(tmp_path / "ours.safetensors")
    with pytest.raises(FileNotFoundError):
        fl.keras.load(tmp_path / "absent.keras")
    with pytest.raises(IsADirectoryError):
        fl.keras.load(tmp_path)


def test_hdf5_of_keras_2_and_weights_alone(path):
    path.write_bytes(members(path)["model.weights.h5"])
    with pytest.raises(FormatError, match=r"an HDF5 file.*give the config of a \*.weights.h5"):
        fl.keras.load(path)
    dense = fl.Dense(3, 2, seed=0)
    fl.keras.save(dense, path)
    with zipfile.ZipFile(path) as archive:
        text, weights = archive.read("config.json"), archive.read("model.weights.h5")
    path.write_bytes(weights)
    for given in (text, text.decode(), json.loads(text)):
        assert np.array_equal(fl.keras.load(path, config=given).flat, dense.flat)
    with pytest.raises(FormatError, match="takes 3 features, its input has 4"):
        fl.keras.load(path, config=text.replace(b"[null, 3]", b"[null, 4]"))


def test_versions_and_missing_members(path):
    parts = members(path)
    for text in (b'{"keras_version": "2.15.0"}', b"{}", b"[]", b'{"keras_version": 3}'):
        write_zip(path, parts | {"metadata.json": text})
        with pytest.raises(FormatError, match="read are those of Keras 3"):
            fl.keras.load(path)
    for name in parts:
        write_zip(path, {k: v for k, v in parts.items() if k != name})
        with pytest.raises(FormatError, match=f"it has 0 members {name}, expected one"):
            fl.keras.load(path)
    renamed = {"../" + k: v for k, v in parts.items()} | {"/etc/" + k: v for k, v in parts.items()}
    write_zip(path, renamed)
    with pytest.raises(FormatError, match="it has 0 members"):
        fl.keras.load(path)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("name", ["config.json", "model.weights.h5"])
def test_zip_bomb(path, name):
    write_zip(path, members(path) | {name: b"\0" * (64 << 20)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 200_000
    assert peak_of_refusal(path, f"{name} unpacks to 67108864 bytes, allowed are") < 2_000_000


def test_zip_bomb_that_lies_about_its_size(path):
    """The directory says 100 bytes, the stream unpacks to 64 MiB."""
    write_zip(path, members(path) | {"config.json": b"{" + b" " * (64 << 20)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = data.index(signature, data.index(b"config.json") - 60 if offset == 22 else 0)
        while b"config.json" not in data[at : at + 64]:
            at = data.index(signature, at + 4)
        data[at + offset : at + offset + 4] = struct.pack("<I", 100)
    path.write_bytes(data)
    assert peak_of_refusal(path, "not a .keras file, or damaged|config") < 2_000_000


def test_a_long_config(path):
    parts = members(path)
    write_zip(path, parts | {"config.json": b"[" + b"0," * (9 << 20) + b"0]"})
    assert peak_of_refusal(path, "config.json unpacks to") < 2_000_000


def hdf5(path, write):
    """Put another HDF5 file into a model that is a Dense of three to two."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    part = {"metadata.json": b'{"keras_version": "3.5.0"}', "model.weights.h5": buffer.getvalue()}
    dense = layer("Dense", units=2, use_bias=False)
    write_zip(path, part | {"config.json": json.dumps(config(dense)).encode()})


KERNEL = np.arange(6, dtype="f4").reshape(3, 2)


def external_link(file):
    file["layers/dense/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft_link(file):
    file["elsewhere"] = KERNEL
    file["layers/dense/vars/0"] = h5py.SoftLink("/elsewhere")


def linked_group(file):
    file["elsewhere/vars/0"] = KERNEL
    file.create_group("layers")["dense"] = h5py.SoftLink("/elsewhere")


def external_storage(file):
    where = [("/etc/passwd", 0, 24)]
    file.create_dataset("layers/dense/vars/0", (3, 2), "f4", external=where)


def virtual(file):
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 2))
    file.create_group("layers/dense/vars").create_virtual_dataset("0", layout)


def chunked(file):
    file.create_dataset("layers/dense/vars/0", data=KERNEL, chunks=(1, 2), compression="gzip")


def huge(file):
    file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 20), "f4")


HOSTILE = [
    (external_link, "layers/dense/vars/0 is a link: links are never followed"),
    (soft_link, "is a link"),
    (linked_group, "layers/dense/vars is a link"),
    (external_storage, "is stored in pieces or elsewhere"),
    (virtual, "is stored in pieces or elsewhere"),
    (chunked, "is stored in pieces or elsewhere"),
    (huge, "more than the file can hold"),
    (lambda file: file.create_group("layers/dense/vars/0"), "layers/dense/vars/0 is no dataset"),
    (lambda file: file.create_dataset("layers", data=KERNEL), "layers/dense/vars is no group"),
    (lambda file: file.__setitem__("layers/dense/vars/1", KERNEL), "vars/0 is missing"),
    (lambda file: file.__setitem__("layers/dense/vars/0", h5py.Empty("f4")), "has shape None"),
    (lambda file: file.__setitem__("layers/dense/vars/0", np.arange(6)), "has dtype int64"),
]


@pytest.mark.parametrize(("write", "text"), HOSTILE, ids=lambda v: getattr(v, "__name__", ""))
def test_hostile_hdf5(path, write, text):
    hdf5(path, write)
    assert peak_of_refusal(path, text) < 1_000_000


def test_big_endian_weights_are_read(path):
    hdf5(path, lambda file: file.__setitem__("layers/dense/vars/0", KERNEL.astype(">f4")))
    model = fl.keras.load(path)
    np.testing.assert_array_equal(model.predict(np.eye(3, dtype="f4")), KERNEL)


def test_weights_that_are_no_hdf5(path):
    parts = members(path)
    for data in (b"", b"x" * 100, zlib.compress(b"x"), parts["model.weights.h5"][:9]):
        write_zip(path, parts | {"model.weights.h5": data})
        with pytest.raises(FormatError, match=r"its weights are no HDF5 file|cannot be read"):
            fl.keras.load(path)
