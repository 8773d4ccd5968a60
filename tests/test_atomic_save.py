# SPDX-License-Identifier: MIT
"""Saving is one step: full disks, limits, interrupts, permissions, links, and kill -9."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from fastlstm.tensorfile import load_tensors, save_tensors

OLD, NEW = {"a": np.zeros(100_000)}, {"a": np.ones(100_000)}


def holds(path, tensors):
    got, _ = load_tensors(path)
    return got.keys() == tensors.keys() and all(np.array_equal(got[k], tensors[k]) for k in got)


def assert_untouched(path):
    assert holds(path, OLD)
    assert list(path.parent.iterdir()) == [path]  # no temporary file is left


def test_order_of_the_steps(tmp_path, monkeypatch):
    """Data to the disk, then the name, then the name to the disk; the old file until then."""
    path = tmp_path / "a"
    save_tensors(path, OLD)
    steps, sync, replace = [], os.fsync, os.replace

    def log_sync(handle):
        folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        steps.append("sync folder" if folder else f"sync {os.fstat(handle).st_size > 800_000}")
        sync(handle)

    def log_replace(source, target):
        assert os.path.dirname(source) == str(tmp_path)
        assert holds(path, OLD)
        steps.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", log_sync)
    monkeypatch.setattr(os, "replace", log_replace)
    save_tensors(path, NEW)
    assert steps == ["sync True", "replace", "sync folder"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_permissions_of_the_old_file_are_kept(tmp_path, mode):
    path = tmp_path / "a"
    save_tensors(path, OLD)
    path.chmod(mode)
    save_tensors(path, NEW)
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert holds(path, NEW)


def test_permissions_of_a_new_file_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        save_tensors(tmp_path / "a", OLD)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_symbolic_link_stays_one(tmp_path):
    (tmp_path / "folder").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "folder" / "a")
    save_tensors(link, NEW)
    assert link.is_symlink()
    assert holds(tmp_path / "folder" / "a", NEW)


def test_devices_and_folders_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            save_tensors(path, OLD)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    with pytest.raises(FileNotFoundError) as caught:
        save_tensors(tmp_path / "none" / "a", OLD)
    assert caught.value.filename == str(tmp_path / "none" / "a")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_full_disk(tmp_path, monkeypatch):
    path = tmp_path / "a"
    save_tensors(path, OLD)
    real = os.open

    def full(name, flags, *mode):
        handle = real(name, flags, *mode)
        if flags & os.O_EXCL:  # the temporary file exists, but no byte goes into it
            os.close(handle)
            handle = real("/dev/full", os.O_WRONLY)
        return handle

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(OSError, match="No space left") as caught:
        save_tensors(path, NEW)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert_untouched(path)


LIMITED = """
import resource, sys
import numpy as np
from fastlstm.tensorfile import save_tensors
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    save_tensors(sys.argv[1], {"a": np.ones(100_000)})
except OSError as error:
    print(error.errno, error.filename)
"""


def test_limit_on_the_size_of_files(tmp_path):
    path = tmp_path / "a"
    save_tensors(path, OLD)
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, path], capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == [str(errno.EFBIG), str(path)]
    assert_untouched(path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_interrupted(tmp_path, monkeypatch, step, error):
    path = tmp_path / "a"
    save_tensors(path, OLD)

    def fail(*_):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        save_tensors(path, NEW)
    assert_untouched(path)


def test_file_systems_without_sync_of_folders(tmp_path, monkeypatch):
    def sync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(os, "fsync", sync)
    fault = errno.EINVAL
    save_tensors(tmp_path / "a", NEW)
    fault = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        save_tensors(tmp_path / "a", NEW)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a tmpfs")
def test_disk_that_is_really_full(tmp_path):
    """A file system of 1.2 MB holds the old file, not the old and the new one."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1200k", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a tmpfs")
    try:
        path = tmp_path / "a"
        save_tensors(path, OLD)
        for _ in range(3):
            with pytest.raises(OSError, match="No space left") as caught:
                save_tensors(path, NEW)
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
            assert_untouched(path)
        save_tensors(tmp_path / "b", {"a": np.ones(10)})
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


SAVE_FOR_EVER = """
import os, sys
import numpy as np
from fastlstm.tensorfile import save_tensors
tensors = [{f"t{k}": np.full(50_000, value) for k in range(10)} for value in (0.0, 1.0)]
save_tensors(sys.argv[1], tensors[0])
for _ in iter(sys.stdin.readline, ""):  # for each line a child, which saves until it is killed
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        while True:
            for t in tensors:
                save_tensors(sys.argv[1], t)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_killed_while_saving(tmp_path, times):
    """kill -9 at random moments: the file is always whole, the old or the new one."""
    path = tmp_path / "a"
    rng = np.random.default_rng(0)
    parent = subprocess.Popen(
        [sys.executable, "-c", SAVE_FOR_EVER, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    inside = 0
    try:
        for _ in range(times):
            print(file=parent.stdin, flush=True)
            child = int(parent.stdout.readline())
            time.sleep(rng.uniform(0.001, 0.03))
            os.kill(child, signal.SIGKILL)
            assert parent.stdout.readline() == "gone\n"
            tensors, _ = load_tensors(path)
            assert len(tensors) == 10
            values = {float(v) for t in tensors.values() for v in np.unique(t)}
            assert values in ({0.0}, {1.0})
            for leftover in tmp_path.glob(".fastlstm-*.tmp"):
                inside += 1
                leftover.unlink(missing_ok=True)
    finally:
        os.killpg(parent.pid, signal.SIGKILL)  # it and its last child
        parent.wait()
        parent.stdin.close()
        parent.stdout.close()
    assert inside > 0  # some kills did hit the middle of a save
