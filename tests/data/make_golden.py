# SPDX-License-Identifier: MIT
"""Write the golden vectors: what PyTorch computes for random weights, forward and backward.

Run ``python tests/data/make_golden.py`` with torch 2.13 installed. One file for each stack:
the inputs once (they are float32 numbers), PyTorch's results in float64 and in float32.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE.parents[1]))

import sibling_peers  # noqa: E402
from peers import run_torch  # noqa: E402
from stacks import STACKS, make_stack_problem  # noqa: E402


def main():
    """Write a .npz for each stack."""
    import torch

    for k, stack in enumerate(STACKS):
        problem = make_stack_problem(stack, "float32", seed=2026)
        inputs = dict(x=problem.x, dy=problem.dy, dh_n=problem.dstate[0], dc_n=problem.dstate[1])
        if problem.state:
            inputs |= dict(h0=problem.state[0], c0=problem.state[1])
        arrays = {f"input/{name}": a for name, a in inputs.items()}
        arrays |= {f"weight/{name}": a for name, a in problem.weights.items()}
        for dtype in ("float32", "float64"):
            results = run_torch(problem.astype(dtype))
            arrays |= {f"{dtype}/{name}": a for name, a in results.items()}
        arrays["stack"] = np.array(json.dumps(asdict(stack)))
        arrays["torch"] = np.array(torch.__version__)
        np.savez_compressed(HERE / f"torch_{k:02}_{stack}.npz", **arrays)
    for kind in sibling_peers.KINDS:
        for stack in ("all", "batch-first"):
            write_sibling(kind, stack)


def write_sibling(kind, stack):
    """Write a .npz for a stack of GRU or RNN layers."""
    name, arguments, inputs, weights = sibling_peers.draw_stack(kind, stack, "float32", seed=2026)
    lengths = inputs.pop("lengths")
    arrays = {f"input/{n}": a for n, a in inputs.items()}
    arrays |= {f"weight/{n}": a for n, a in weights.items()}
    for dtype in ("float32", "float64"):
        cast = [{n: a.astype(dtype) for n, a in part.items()} for part in (inputs, weights)]
        cast[0]["lengths"] = lengths
        results = sibling_peers.run_torch(name, arguments, *cast)
        arrays |= {f"{dtype}/{n}": a for n, a in results.items()}
    arrays["layer"] = np.array(json.dumps([name, arguments, lengths]))
    np.savez_compressed(HERE / f"sibling_{kind}_{stack}.npz", **arrays)


if __name__ == "__main__":
    main()
