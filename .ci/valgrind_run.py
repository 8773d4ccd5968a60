# SPDX-License-Identifier: MIT
"""valgrind on a forward, a backward and a stream of awkward sizes: valgrind_run.py runs it, and
fails where a report has one of fastlstm's extensions among its nearest frames.

Python and NumPy alone give hundreds of reports, of reads that they mean to do and of random numbers
from the system; no list of suppressions fits more than one version of them.
"""

import os
import re
import subprocess
import sys

NEAR = 4  # frames of a report that are looked at
OURS = re.compile(r"fastlstm/_\w+\.\S*so|fl_\w+|_(?:avx2|f32|f64)\b")


def work():
    """What valgrind watches."""
    import numpy as np

    import fastlstm as fl

    for dtype in ("float32", "float64"):
        x = np.sin(np.arange(75, dtype=dtype)).reshape(5, 5, 3)
        for options in ({}, {"proj_size": 5}, {"bidirectional": True, "num_layers": 2}):
            for lengths in (None, [3, 0, 5, 5, 1]):
                lstm = fl.LSTM(3, 19, dtype=dtype, seed=0, **options)
                lstm.flat[...] = np.sin(np.arange(lstm.flat.size))
                y, state, tape = lstm.forward(x, lengths=lengths)
                dx, _, grads = lstm.backward(tape, y, state)
                for a in (y, *state, dx, grads.flat):
                    assert np.isfinite(a).all()
        stream = fl.LSTM(3, 19, num_layers=2, dtype=dtype, seed=0).stream(5)
        for x_t in x:
            stream.step(x_t)


def reports(text):
    """The reports in valgrind's output, each a list of lines."""
    lines = [re.sub(r"^==\d+== ?", "", line) for line in text.splitlines()
             if re.match(r"^==\d+==", line)]  # fmt: skip
    report = []
    for line in [*lines, ""]:
        if line.strip():
            report.append(line)
        elif report:
            yield report
            report = []


def main():
    """1 where a report is ours."""
    environment = os.environ | {"PYTHONMALLOC": "malloc", "FASTLSTM_NUM_THREADS": "2"}
    command = ["valgrind", "-q", "--num-callers=12", sys.executable, __file__, "inside"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stderr[-3000:])
        return 1
    every = list(reports(done.stderr))
    ours = [r for r in every if any(OURS.search(line) for line in r[1 : 1 + NEAR])]
    for report in ours:
        print(*report, "", sep="\n")
    print(f"{environment.get('FASTLSTM_ISA', '')}: {len(ours)} of {len(every)} reports are ours")
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(work() if sys.argv[1:] == ["inside"] else main())
