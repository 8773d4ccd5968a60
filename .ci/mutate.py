# SPDX-License-Identifier: MIT
"""Apply small faults to a copy, one at a time, and see that the tests find each: mutate.py [...]

The copy is build/mutants, built for AVX2 with -O1, since a mutant is compiled once and run once.
Faults and the tests that must find them stand in mutants/. Each must fit the text as it is, also
those that are not tried: `--sample 0` looks for that alone.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

from copy_tree import copy_tree
from mutants import MUTANTS

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "mutants"


def misfits():
    """What of the faults is not in the tree, a line for each: their text, their tests."""
    for name, (file, old, new, tests) in MUTANTS.items():
        if not (ROOT / file).exists() or old not in (ROOT / file).read_text(encoding="utf-8"):
            yield f"{name}: its text is not in {file}"
        if old == new:
            yield f"{name}: it changes nothing"
        for test in tests.split():
            if not (ROOT / test).exists():
                yield f"{name}: there is no {test}"


def prepare():
    """The copy, in a form that compiles fast."""
    copy_tree(ROOT, COPY)
    changes = {
        "csrc/Makefile": (("-O3", "-O1"), ("ISAS_x86_64 := avx512 avx2", "ISAS_x86_64 := avx2")),
        "setup.py": (('"-O3"', '"-O1"'),),
        "csrc/dispatch.c": (
            ("{&fl_kernels_avx512, runs_avx512}, ", ""),
            ('"avx512", "avx2",', '"avx2",'),
            ("static int runs_avx512", "static inline int runs_avx512"),
        ),
    }
    for name, subs in changes.items():
        path = COPY / name
        text = path.read_text(encoding="utf-8")
        for old, new in subs:
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def build():
    """The compiler's complaint, or None."""
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=COPY,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if done.returncode == 0 else (done.stderr or done.stdout)[-1500:]


def found_by(tests):
    """The test that fails, or None; drivers of csrc/ (names in .c) before the others.

    Raises RuntimeError where the tests could not run.
    """
    names = [name for name in tests.split() if not name.endswith(".c")]
    for driver in (Path(name).stem for name in tests.split() if name.endswith(".c")):
        command = ["make", "-C", "csrc", f"DRIVERS={driver}", "BUILD=../build/drivers", "EXTRA=-O1"]
        try:
            done = subprocess.run(command, cwd=COPY, capture_output=True, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            return f"{driver}.c hangs"
        if done.returncode:
            return f"{driver}.c"
    if not names:
        return None
    environment = os.environ | {"PYTHONPATH": str(COPY), "OPENBLAS_NUM_THREADS": "1",
                                "FASTLSTM_NUM_THREADS": "2"}  # fmt: skip
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *names]
    try:
        done = subprocess.run(
            command, cwd=COPY, env=environment, capture_output=True, text=True, timeout=400,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "the tests hang"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"the process dies, signal {-done.returncode}"
    failed = re.findall(r"^FAILED (\S+)", done.stdout, re.M)
    if done.returncode != 1 or not failed:  # of a fault nobody would learn so which test finds it
        said = (done.stdout + done.stderr)[-500:]
        raise RuntimeError(f"pytest returns {done.returncode}: {said}")
    return failed[0]


def try_one(name):
    """(verdict, detail) of one fault: killed, survived or wrong."""
    file, old, new, tests = MUTANTS[name]
    path = COPY / file
    text = path.read_text(encoding="utf-8")
    if old not in text:
        return "wrong", f"its text is not in {file}"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    try:
        if path.suffix != ".py" and (complaint := build()) is not None:
            return "wrong", f"it does not compile: {complaint}"
        killer = found_by(tests)
    except RuntimeError as error:
        return "wrong", str(error)
    finally:
        path.write_text(text, encoding="utf-8")
    return ("survived", "") if killer is None else ("killed", killer)


def main():
    """Exit with 1 where a fault survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="faults whose name holds this text")
    parser.add_argument("--sample", type=int, help="so many, drawn at random")
    parser.add_argument("--seed", default=time.strftime("%Y-%m-%d"), help="of the sample")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no fault after them")
    arguments = parser.parse_args()
    names = [name for name in MUTANTS if arguments.only in name]
    if arguments.sample is not None:
        names = random.Random(arguments.seed).sample(names, min(arguments.sample, len(names)))
    if wrong := list(misfits()):
        sys.exit("\n".join(wrong))
    print(f"all {len(MUTANTS)} faults fit; {len(names)} are tried")
    if not names:
        return
    start = time.monotonic()
    prepare()
    if (complaint := build()) is not None:
        sys.exit(f"the copy does not build: {complaint}")
    print(f"built in {time.monotonic() - start:.0f} s", flush=True)
    verdicts = {}
    for name in names:
        if time.monotonic() - start > 60 * arguments.minutes:
            print(f"time is over: {len(names) - len(verdicts)} of {len(names)} were not tried")
            break
        began = time.monotonic()
        verdicts[name], detail = try_one(name)
        took = time.monotonic() - began
        print(f"{verdicts[name]:9} {name}: {detail} ({took:.0f} s)", flush=True)
    bad = [name for name, verdict in verdicts.items() if verdict != "killed"]
    print(f"{len(verdicts) - len(bad)} of {len(verdicts)} faults were found")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
