# SPDX-License-Identifier: MIT
"""Check that this Python and this compiler can build fastlstm; else say in one line why not.

Run by the Makefile before anything else, so it must parse on any Python.
"""

import os
import shlex
import subprocess
import sys
import tempfile

OLDEST = (3, 11)


def problem():
    """What is missing, in one line, or None."""
    if sys.version_info < OLDEST:
        return (
            "Python >= %d.%d is needed, but %s is %d.%d (choose one: make PYTHON=python3.12 ...)"
            % (OLDEST + (sys.executable,) + tuple(sys.version_info[:2]))
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        return "%s has no venv module (Debian, Ubuntu: apt install python3-venv)" % sys.executable
    import sysconfig

    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    headers = sysconfig.get_path("include")
    if not os.path.exists(os.path.join(headers, "Python.h")):
        return "Python.h is not in %s (Debian, Ubuntu: apt install python3-dev)" % headers
    if sys.platform == "win32":
        return None
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.c")
        with open(source, "w") as file:
            file.write("#include <math.h>\n#include <pthread.h>\nint main(void) { return 0; }\n")
        command = shlex.split(compiler) + [source, "-o", os.path.join(folder, "probe")]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return (
                "no C compiler: %s was not found (Debian, Ubuntu: apt install build-essential; "
                "or choose one: make CC=clang ...)" % shlex.split(compiler)[0]
            )
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no message"])[0]
            return "the C compiler %s does not work: %s" % (compiler, said)
    return None


if __name__ == "__main__":
    found = problem()
    if found is not None:
        sys.exit("fastlstm: " + found)
