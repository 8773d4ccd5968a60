# SPDX-License-Identifier: MIT
"""Code in a fresh process, for what a process is given or keeps."""

import os
import subprocess
import sys


def run(code, **environment):
    """The finished process that ran ``code``."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("FASTLSTM_")}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, text=True,
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip


def output(code, **environment):
    """What ``code`` prints; it must succeed."""
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout.strip()
