# SPDX-License-Identifier: MIT
"""``python -m fastlstm``: the same as the console script ``fastlstm``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
