# SPDX-License-Identifier: MIT
"""What follows from a row of timings: who is the best peer, ratios, GFLOP/s, bandwidth."""

import math

from . import cases
from .peers import OURS, PEERS

NOISY_SPREAD, NOISY_CPUS, NOISY_IDLE = 0.2, 0.1, 0.05


def microseconds(row, engine=OURS):
    """The engine's median, or None where it was not timed."""
    return row["engines"].get(engine, {}).get("us")


def best_peer(row, peers=PEERS):
    """(name, us) of the fastest of `peers`, or None."""
    timed = [(microseconds(row, name), name) for name in peers if microseconds(row, name)]
    return min(timed)[::-1] if timed else None


def ratio(row, peers=PEERS):
    """How many times faster ours is than the best of `peers`; None where one of both is missing."""
    best, ours = best_peer(row, peers), microseconds(row)
    return best[1] / ours if best and ours else None


def geometric_mean(values):
    """The geometric mean of positive `values`; None of none."""
    values = list(values)
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else None


def gflops(row):
    """Ours in GFLOP/s: the products' operations alone, activations not counted."""
    ours = microseconds(row)
    return row["flops"] / ours / 1e3 if ours else None


def probe_of(run, row):
    """What the machine could do on as many threads: by turns with the row, or in files of before
    2026-12 when the run began; or None."""
    return row.get("probe") or run["probes"].get(str(row["threads"]))


def peak_fraction(run, row):
    """GFLOP/s over the FMA peak of as many threads, measured by turns with the row; or None."""
    probe, speed = probe_of(run, row), gflops(row)
    return speed / probe[f"{row['dtype']}_gflops"] if probe and speed else None


def bandwidth(run, row):
    """How near a B=1 row is to the bandwidth of the cache that holds its weights.

    Returns
    -------
    (gbytes, level, fraction) or None
        Bytes of weights read a second; 1 to 3, the level where each thread's share of the
        recurrent weights fits; the fraction of that level's measured bandwidth.
    """
    case, probe = cases.by_name(row["case"]), probe_of(run, row)
    ours = microseconds(row)
    if case.B > 1 or not ours or not probe:
        return None
    total = case.weight_bytes(row["dtype"])
    if row["what"] == "training":
        return None
    per_step = total / case.T / row["threads"]
    level = 3
    for smaller in (2, 1):
        if per_step <= 0.8 * run["machine"]["caches"][f"l{smaller}"]:
            level = smaller
    measured = probe.get(f"l{level}_gbytes")
    return (total / ours / 1e3, level, total / ours / 1e3 / measured) if measured else None


def doubts(row):
    """Why the row may be wrong: a list of short texts, empty for a quiet measurement."""
    found = []
    for name, entry in row["engines"].items():
        rounds = sorted(entry.get("rounds", ()))
        if len(rounds) >= 3:
            quarter = len(rounds) // 4
            inner = rounds[quarter : len(rounds) - quarter]
            if inner[-1] / inner[0] > 1 + NOISY_SPREAD:
                found.append(f"{name} varies by {inner[-1] / inner[0]:.2f}x between rounds")
        if entry.get("idle_cpu", 0) > NOISY_IDLE:
            found.append(f"{name} burns {entry['idle_cpu']:.2f} CPU while blocked")
    if row.get("foreign_cpu", 0) > NOISY_CPUS:
        found.append(f"other processes keep {row['foreign_cpu']:.2f} CPUs busy")
    return found


def key(row):
    """What makes two rows of different runs comparable."""
    return row["what"], row["dtype"], row["threads"], row["case"]


def compare(old, new, allowed=1.10):
    """Ours then and now, row by row.

    Returns
    -------
    list of (key, old_us, new_us, loss)
        For the rows that both runs hold; `loss` is whether now takes more than `allowed` times as
        long.
    """
    before = {key(row): microseconds(row) for row in old["rows"]}
    pairs = []
    for row in new["rows"]:
        then, now = before.get(key(row)), microseconds(row)
        if then and now:
            pairs.append((key(row), then, now, now / then > allowed))
    return pairs


def blocks(run):
    """The rows grouped by (what, dtype, threads), in the order they were timed."""
    grouped = {}
    for row in run["rows"]:
        grouped.setdefault((row["what"], row["dtype"], row["threads"]), []).append(row)
    return grouped
