# SPDX-License-Identifier: MIT
"""The tests that faults of more than one module name."""

LSTM = "tests/test_lstm.py"
LAYER = "tests/test_layer.py tests/test_layer_value.py tests/test_packed.py"
SAME_BITS = "tests/test_determinism.py"
SEGMENTS = "tests/test_segments.py"
