# SPDX-License-Identifier: MIT
"""The sdist and the wheel made from it, used outside the tree; what is built again, and when."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"FASTLSTM_QUICK": "1"}  # what is built is looked at, and computes a little

pytestmark = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or sys.platform == "win32",
    reason="needs the source tree, and a compiler called by the names of Unix",
)


def run(*command, cwd, **environment):
    """Standard output of Python with these arguments, which must succeed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def objects(tree):
    """Path -> time of last change, of every object, archive and module that was compiled."""
    compiled = (path for suffix in ("o", "a", "so") for path in tree.rglob(f"*.{suffix}"))
    return {str(path.relative_to(tree)): path.stat().st_mtime_ns for path in compiled}


@pytest.fixture(scope="module")
def sdist_tree(tmp_path_factory):
    """An sdist of the working tree, unpacked."""
    pytest.importorskip("Cython")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("sdist")
    left_out = shutil.ignore_patterns(
        ".*_cache", ".venv", ".git", "build", "dist", "*.so", "*.egg-info"
    )
    shutil.copytree(ROOT, folder / "copy", ignore=left_out)
    run("setup.py", "-q", "sdist", "--dist-dir", str(folder), cwd=folder / "copy")
    (archive,) = folder.glob("*.tar.gz")
    checked = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since 3.11.4
    with tarfile.open(archive) as tar:
        tar.extractall(folder, **checked)
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist_tree, tmp_path_factory):
    """A wheel built from nothing but the sdist."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = ("-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet")
    run(*pip, "--wheel-dir", str(folder), ".", cwd=sdist_tree, **QUICK)
    (path,) = folder.glob("*.whl")
    return path


def test_sdist_holds_everything_that_git_does(sdist_tree):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs git and a clone")
    listed = subprocess.run(
        ["git", "ls-files", "fastlstm", "csrc", "tests"], cwd=ROOT, capture_output=True, text=True
    )
    names = [name for name in listed.stdout.splitlines() if (ROOT / name).exists()]
    assert "fastlstm/_engine.pyx" in names
    assert [name for name in names if not (sdist_tree / name).exists()] == []


@pytest.mark.slow
def test_wheel_holds_the_package_and_no_source_of_its_extensions(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = {name for name in names if name.startswith("fastlstm/")}
    expected = {f"fastlstm/{path.name}" for path in (ROOT / "fastlstm").glob("*.py")}
    compiled = {pyx.stem for pyx in (ROOT / "fastlstm").glob("*.pyx")}
    assert expected <= modules
    assert {Path(name).name.split(".")[0] for name in modules if name.endswith(".so")} == compiled
    assert [name for name in modules if name.endswith((".pyx", ".c", ".o", ".a"))] == []
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert all(name.startswith("fastlstm") for name in names)  # neither tests nor benchmarks


@pytest.mark.slow
def test_wheel_computes_outside_the_source_tree(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    program = """
import numpy as np, fastlstm as fl
from importlib.metadata import version
assert version("fastlstm") == fl.__version__
x, w_ih, w_hh = (np.random.default_rng(0).normal(size=s) for s in [(5, 3, 4), (28, 4), (28, 7)])
y, (h, c), tape = fl.lstm_forward(x, w_ih, w_hh)
expected = fl.reference.lstm_forward(x, w_ih, w_hh)[0]
assert np.abs(y - expected).max() < 1e-13
print(fl.__file__)
"""
    site = str(tmp_path / "site")
    where = run("-c", program, cwd=tmp_path, PYTHONPATH=site, PYTHONSAFEPATH="1")
    assert where.startswith(site)


@pytest.mark.slow
def test_build_makes_again_what_a_change_makes_stale_and_nothing_else(sdist_tree, wheel):
    def build(flag=""):
        run("setup.py", "-q", "build_ext", "--inplace", cwd=sdist_tree, CFLAGS=flag, **QUICK)
        return objects(sdist_tree)

    def changed(before, after):
        assert before.keys() == after.keys()
        return {Path(name).name.split(".")[0] for name in after if after[name] != before[name]}

    first = build()
    second = build()
    assert changed(first, second) == set()

    (sdist_tree / "csrc" / "activations.inc.h").touch()
    third = build()
    kernels = {path.stem for path in (sdist_tree / "csrc").glob("isa_*.c")}
    assert changed(second, third) & kernels
    assert {"libfastlstm_portable", "_engine"} <= changed(second, third)
    assert "_blas" not in changed(second, third)
    engine = [name for name in third if name.endswith("_engine.o")]
    assert [third[name] for name in engine] == [second[name] for name in engine]

    fourth = build("-DFASTLSTM_ANOTHER_FLAG")
    assert {"_blas", "_engine", "libfastlstm_portable"} <= changed(third, fourth)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CC": "no-such-compiler"}, "no C compiler: no-such-compiler was not found"),
        ({"CC": "false"}, "the C compiler false does not work"),
    ],
)
def test_preflight_says_in_one_line_what_is_missing(variables, said):
    done = subprocess.run(
        [sys.executable, ".ci/preflight.py"],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"fastlstm: {said}")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
