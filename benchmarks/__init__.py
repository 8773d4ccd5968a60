# SPDX-License-Identifier: MIT
"""Benchmarks of fastlstm against its peers: `python -m benchmarks.report --help`."""
