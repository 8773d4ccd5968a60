# SPDX-License-Identifier: MIT
"""The faults that mutate.py applies, one at a time; every one must be found by a test.

name: (file, text, what it becomes, tests). The text stands in the file; its first occurrence is
replaced. The reference has its own list, in tests/test_oracle_bites.py.
"""

from . import engine, kernels, layers

MUTANTS = kernels.MUTANTS | engine.MUTANTS | layers.MUTANTS
