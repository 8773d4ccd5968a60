# SPDX-License-Identifier: MIT
"""The memory that a training step takes, beside PyTorch's: each in a process of its own."""

import sys

import pytest
from processes import output

OURS = """
import numpy as np, fastlstm as fl
fl.set_num_threads(1)
lstm = fl.LSTM(I, H, seed=0)
def step(T):
    y, _, tape = lstm.forward(np.ones((T, B, I), np.float32))
    return lstm.backward(tape, np.ones_like(y))
"""
TORCH = """
import torch
torch.set_num_threads(1)
lstm = torch.nn.LSTM(I, H)
def step(T):
    x = torch.ones(T, B, I, requires_grad=True)
    y, _ = lstm(x)
    y.backward(torch.ones_like(y))
    return x.grad
"""
GROWTH = """
def high_water():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
step(1)  # what is loaded at the first call, and the weights that are packed
before = high_water()
kept = step(T)
print(high_water() - before)
"""


@pytest.mark.parity
@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
@pytest.mark.parametrize("sizes", [(50, 64, 256, 256), (100, 32, 64, 128), (400, 1, 64, 128)])
def test_memory_of_a_training_step_is_at_most_that_of_pytorch(sizes):
    pytest.importorskip("torch")
    T, B, I, H = sizes
    ours, torch = (
        int(output(f"T, B, I, H = {T}, {B}, {I}, {H}\n{code}\n{GROWTH}")) for code in (OURS, TORCH)
    )
    assert ours <= torch, f"{ours} and {torch} KiB"
    assert ours >= 4 * T * B * 4 * H // 1024  # it was measured: the gates alone
