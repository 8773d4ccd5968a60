# SPDX-License-Identifier: MIT
"""Which lines and branches of csrc/ no test reaches: coverage.py [TEST ...]

The drivers and the tests run in build/coverage, a copy built with counters; gcov's numbers of all
objects are added up, since a kernel is compiled for each instruction set and dtype. Ends with 1
when a line that is not listed in ALLOWED was never run, or fewer branches than BRANCHES percent.
"""

import gzip
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from copy_tree import copy_tree

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "coverage"
BRANCHES = 95
TESTS = ["lstm", "layer", "stream", "determinism", "variants", "kernels", "processes", "numbers"]
# file: {text of a line: why no test here can reach it}
ALLOWED = {
    "csrc/dispatch.c": {"return NULL;": "an instruction set that this processor lacks"},
}


def run(command, **named):
    """Run it in the copy; its failure ends everything."""
    subprocess.run(command, cwd=COPY, check=True, **named)


def counts():
    """({(file, line): count}, {(file, line, branch): count}) of all objects."""
    lines, branches = defaultdict(int), defaultdict(int)
    for data in COPY.glob("build/**/*.gcda"):
        run(["gcov", "-b", "--json-format", str(data)], stdout=subprocess.DEVNULL)
        for result in COPY.glob("*.gcov.json.gz"):
            with gzip.open(result) as text:
                report = json.load(text)
            for file in report["files"]:
                name = Path(file["file"]).name
                if not (COPY / "csrc" / name).exists() or name.startswith("test_"):
                    continue
                for line in file["lines"]:
                    key = f"csrc/{name}", line["line_number"]
                    lines[key] += line["count"]
                    for k, branch in enumerate(line["branches"]):
                        branches[(*key, k)] += branch["count"]
            result.unlink()
    return lines, branches


def main(tests):
    """Print what was not reached; 1 where it is too much."""
    copy_tree(ROOT, COPY)
    for old in COPY.glob("build/**/*.gcda"):
        old.unlink()
    environment = os.environ | {"FASTLSTM_COVERAGE": "1", "PYTHONPATH": str(COPY),
                                "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
    run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], env=environment)
    run(["make", "-s", "-C", "csrc", "EXTRA=--coverage -O0", "BUILD=../build/drivers"])
    names = tests or [f"tests/test_{name}.py" for name in TESTS]
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names], env=environment)
    lines, branches = counts()
    missed = []
    for (file, number), count in sorted(lines.items()):
        text = (COPY / file).read_text(encoding="utf-8").splitlines()[number - 1].strip()
        if count == 0 and text not in ALLOWED.get(file, {}):
            missed.append(f"{file}:{number}: {text}")
    taken = sum(count > 0 for count in branches.values())
    percent = 100 * taken / max(1, len(branches))
    print(*missed, sep="\n")
    for key, count in sorted(branches.items()):
        if count == 0 and lines[key[:2]]:
            print("branch", *key)
    reached = sum(count > 0 for count in lines.values())
    print(f"lines {reached} of {len(lines)}; branches {taken} of {len(branches)}, {percent:.1f} %")
    return 1 if missed or percent < BRANCHES else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
