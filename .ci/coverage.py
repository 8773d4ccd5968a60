# SPDX-License-Identifier: MIT
"""Which lines and branches of csrc/ no test reaches: coverage.py [TEST ...]

The drivers and the tests run in build/coverage, a copy built with counters, without optimisation
and without inlining: what is counted are the branches of the text, not those of a compiler. A
kernel is compiled for each instruction set and dtype; a line, and a branch where the code has the
same form, is reached when one of them reaches it. The copies that a macro makes of its body (a
tile for each number of rows and vectors) are counted one by one. Where the processor lacks AVX-512
the drivers run its kernels by AVX2 (csrc/test_avx512.h).

Ends with 1 when a line that is not in UNRUN was never run, when fewer than BRANCHES percent of all
branches were taken, or when UNTAKEN does not list one of the others, or lists a line that is gone.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

from copy_tree import copy_tree

ROOT = Path(__file__).resolve().parent.parent
COPY = ROOT / "build" / "coverage"
BRANCHES = 95
TESTS = ["kernels", "determinism", "segments", "processes"]
# file: {text of a line: why no test here can reach it}
UNRUN = {
    "csrc/dispatch.c": {
        'return "none";': "a processor without AVX2, where no kernel runs that could be counted",
    },
}
LACKS = "a processor that lacks what this one has"
ALONE = "a tile of so few rows is the only one, and its sum over k is never cut into blocks"
# file: {text of a line: (at most so many of its branches, why they cannot be taken)}
UNTAKEN = {
    "csrc/dispatch.c": {
        'return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&':
            (4, LACKS),
        '__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&': (5, LACKS),
        'return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");': (2, LACKS),
        "return candidates[k].runs() ? candidates[k].kernels : NULL;": (1, LACKS),
        "for (size_t k = 0; candidates[k].kernels; k++)": (1, LACKS),
        "if (candidates[k].runs()) return candidates[k].kernels->isa;": (1, LACKS),
    },
    "csrc/step.inc.h": {
        "FL_TWO_ROWS(BODY, b_end - b, TILE_VECTORS)": (3, ALONE),
        "FL_TILE(BODY, b_end - b, vectors)": (36, ALONE),
    },
    "csrc/pool.c": {
        "m->kept_off || !pthread_getaffinity_np(m->thread, sizeof m->allowed, &m->allowed);": (
            1,
            "a system with more processors than a cpu_set_t has",
        ),
        "if (!known || CPU_COUNT(&others) == 0) continue;": (1, "the same"),
        "CPU_CLR(cpu, &others);": (1, "a processor that a cpu_set_t does not have"),
        "while (registered && team.members < n - 1) {": (1, "pthread_atfork finds no memory"),
        "if (atomic_load_explicit(&team.passage, memory_order_acquire) != passage) return 0;": (
            1,
            "how long a thread waits is chance",
        ),
        "if (fl_now_ns() - start < CONGESTED_NS + slack_ns) return 0;": (1, "the same"),
    },
}  # fmt: skip


def run(command, **named):
    """Run it in the copy; its failure ends everything."""
    subprocess.run(command, cwd=COPY, check=True, **named)


def counts():
    """({(file, line): count}, {(file, line, form, branch): count}) of all objects.

    A form: the function without its dtype and instruction set, and how many branches it has there.
    """
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
                    function = re.sub(r"_f(32|64)_\w+$", "", line.get("function_name", ""))
                    form = function, len(line["branches"])
                    for k, branch in enumerate(line["branches"]):
                        branches[(*key, form, k)] += branch["count"]
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
    by_avx2 = [] if "avx512f" in Path("/proc/cpuinfo").read_text("utf-8") else ["BY_AVX2=1"]
    run(["make", "-s", "-C", "csrc", "EXTRA=--coverage -O0 -DFL_INLINE=static",
         "BUILD=../build/drivers", *by_avx2])  # fmt: skip
    names = tests or [f"tests/test_{name}.py" for name in TESTS]
    run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *names], env=environment)
    return report(*counts())


def report(lines, branches):
    """Print what was not reached; 1 where it is too much."""
    texts = {file: (COPY / file).read_text(encoding="utf-8").splitlines() for file, _ in lines}

    def text(file, number):
        return texts[file][number - 1].strip()

    missed = [key for key, count in sorted(lines.items())
              if count == 0 and text(*key) not in UNRUN.get(key[0], {})]  # fmt: skip
    for key in missed:
        print(f"{key[0]}:{key[1]} never ran: {text(*key)}")
    untaken = Counter(key[:2] for key, count in branches.items() if not count and lines[key[:2]])
    strange = 0
    for key, n in sorted(untaken.items()):
        allowed, why = UNTAKEN.get(key[0], {}).get(text(*key), (0, ""))
        strange += n > allowed
        print(f"{key[0]}:{key[1]}: {n} branches not taken, {allowed} listed: {text(*key)}", why)
    there = {(file, text(file, number)) for file, number in lines}
    gone = [(file, line) for listed in (UNRUN, UNTAKEN) for file in listed for line in listed[file]
            if (file, line) not in there]  # fmt: skip
    for file, line in gone:
        print(f"{file} is listed with a line that it does not have: {line}")
    reached = sum(count > 0 for count in lines.values())
    taken = sum(count > 0 for count in branches.values())
    percent = 100 * taken / max(1, len(branches))
    print(f"lines: {reached} of {len(lines)}; "
          f"branches: {taken} of {len(branches)}, {percent:.1f} %")  # fmt: skip
    return 1 if missed or strange or gone or percent < BRANCHES else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
