# SPDX-License-Identifier: MIT
"""Exit with 0 where requirements.txt holds the hashes of this Python and machine."""

import platform
import sys

pinned = (
    platform.system() == "Linux"
    and platform.machine() == "x86_64"
    and platform.python_implementation() == "CPython"
    and (3, 11) <= sys.version_info[:2] <= (3, 13)
)
if not pinned:
    print("no hashes are pinned for this Python and machine")
sys.exit(0 if pinned else 1)
