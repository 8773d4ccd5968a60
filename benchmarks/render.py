# SPDX-License-Identifier: MIT
"""A run as text for the terminal, as README's table, and as a plot."""

import math
from pathlib import Path

from . import cases, rows
from .peers import ENGINES, OURS, PEERS

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
WHAT_TITLES = {
    "forward": "Forward",
    "training": "Forward + backward, all gradients",
    "step": "One step of a stream, state kept",
}


def quantity(value):
    """A number in 3 significant digits or as an integer, "-" for None."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def times(value):
    """A ratio, rounded down to two digits behind the point (0.999 is no 1.00), none from 10 on."""
    if value is None:
        return "-"
    if value >= 10:
        return f"{value:.0f}"
    return f"{math.floor(value * 100) / 100:.2f}"


def _shape(row):
    case = cases.by_name(row["case"])
    extra = f" {case.num_layers} layers" if case.num_layers > 1 else ""
    return f"{case.T},{case.B},{case.I},{case.H}{extra}{' bidirectional' * case.bidirectional}"


def _threads(n):
    return f"{n} thread{'s' * (n > 1)}"


def text_report(run):
    """Every block of the run as a table for the terminal, with geometric means and doubts."""
    lines = [_provenance(run), *(f"warning: {line}" for line in run["warnings"]), ""]
    for (what, dtype, threads), block in rows.blocks(run).items():
        engines = [n for n in ENGINES if any(rows.microseconds(row, n) for row in block)]
        header = [
            "T,B,I,H",
            *(ENGINES[n].label for n in engines),
            "x peer",
            "x NumPy",
            "GFLOP/s",
            "of peak",
            "GB/s of cache",
        ]
        table, notes = [header], []
        for row in block:
            peak, band = rows.peak_fraction(run, row), rows.bandwidth(run, row)
            table.append(
                [
                    _shape(row),
                    *(quantity(rows.microseconds(row, n)) for n in engines),
                    times(rows.ratio(row)),
                    times(rows.ratio(row, ("numpy",))),
                    quantity(rows.gflops(row)),
                    "-" if peak is None else f"{100 * peak:.0f}%",
                    "-" if band is None else f"{band[0]:.0f} L{band[1]} {100 * band[2]:.0f}%",
                ]
            )
            notes += [f"  {row['case']}: {text}" for text in _notes(row)]
        lines += [
            f"{WHAT_TITLES[what]}, {dtype}, {_threads(threads)}, us   {_probe(run, threads)}",
            *_aligned(table),
            *_means(block),
            *notes,
            "",
        ]
    return "\n".join(lines)


def _notes(row):
    """Doubts about the row, and engines that could or would not be timed."""
    skipped = [
        f"{name} not timed: {entry['skipped']}"
        for name, entry in row["engines"].items()
        if "skipped" in entry
    ]
    return rows.doubts(row) + skipped


def _means(block):
    bars = {case.name for case in cases.BAR_CASES}
    block = [row for row in block if row["case"] in bars]
    parts = []
    for title, peers in (
        ("best peer", PEERS),
        *((ENGINES[p].label, (p,)) for p in PEERS),
        ("NumPy loop", ("numpy",)),
    ):
        mean = rows.geometric_mean(filter(None, (rows.ratio(row, peers) for row in block)))
        if mean:
            parts.append(f"{times(mean)} x {title}")
    return [f"geometric mean of the single-layer rows: {', '.join(parts)}"] if parts else []


def _aligned(table):
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells]).rstrip()


def _probe(run, threads):
    probe = run["probes"].get(str(threads))
    if not probe:
        return ""
    caches = ", ".join(
        f"L{k} {probe[f'l{k}_gbytes']:.0f}" for k in (1, 2, 3) if f"l{k}_gbytes" in probe
    )
    return (
        f"[{probe['isa']}: peak {probe['float32_gflops']:.0f} float32, "
        f"{probe['float64_gflops']:.0f} float64 GFLOP/s; {caches} GB/s]"
    )


def _provenance(run):
    versions = ", ".join(
        f"{ENGINES[name].label} {run['versions'][name]}"
        for name in (OURS, *PEERS, "numpy")
        if name in run["versions"]
    )
    where = run["machine"]
    return f"{where['cpu']}, {where['cpus']} CPUs, {where['date'][:10]}; {versions}"


def readme_table(run):
    """The Markdown between README's markers: one table per kind of work, losing rows kept."""
    parts = [
        f"{_provenance(run)}. Median microseconds, the engines by turns with the same number "
        "of threads; the best peer is the fastest of PyTorch, ONNX Runtime and OpenVINO on "
        "that row (training: PyTorch). Below 1.00 the peer is faster."
    ]
    kinds = {}
    for (what, dtype, threads), block in rows.blocks(run).items():
        kinds.setdefault((what, dtype), {})[threads] = {row["case"]: row for row in block}
    for (what, dtype), by_threads in kinds.items():
        parts += ["", f"**{WHAT_TITLES[what]}, {dtype}**", "", *_readme_block(by_threads)]
    return "\n".join(parts)


def _readme_block(by_threads):
    header = ["T,B,I,H"]
    for threads in by_threads:
        header += [f"fastlstm, {_threads(threads)}", "best peer", "times faster", "than NumPy"]
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" + "---:|" * (len(header) - 1)
    names = dict.fromkeys(name for block in by_threads.values() for name in block)
    for name in names:
        cells = []
        for block in by_threads.values():
            row = block.get(name)
            best = row and rows.best_peer(row)
            cells += [
                quantity(row and rows.microseconds(row)),
                f"{quantity(best[1])} {ENGINES[best[0]].label}" if best else "-",
                times(row and rows.ratio(row)),
                times(row and rows.ratio(row, ("numpy",))),
            ]
        shape = _shape(row or next(b[name] for b in by_threads.values() if name in b))
        yield f"| {shape} | " + " | ".join(cells) + " |"
    bars = {case.name for case in cases.BAR_CASES}
    cells = []
    for block in by_threads.values():
        chosen = [row for name, row in block.items() if name in bars]
        for peers in (PEERS, ("numpy",)):
            mean = rows.geometric_mean(filter(None, (rows.ratio(row, peers) for row in chosen)))
            cells += ["", "", times(mean)] if peers is PEERS else [times(mean)]
    yield "| geometric mean, single layer | " + " | ".join(cells) + " |"


def update_readme(path, run):
    """Put `readme_table(run)` between the markers of the file at `path`.

    Raises
    ------
    ValueError
        The file does not hold both markers, once each and in order.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{path.name} must hold the line {BEGIN} and after it the line {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{readme_table(run)}\n{END}{after}", encoding="utf-8")


def plot(run, path):
    """Draw the ratio to the best peer for every shape, log scale, one panel per kind of work."""
    from matplotlib.figure import Figure

    kinds = {}
    for (what, dtype, threads), block in rows.blocks(run).items():
        points = [(_shape(row), rows.ratio(row)) for row in block if rows.ratio(row)]
        if points:
            kinds.setdefault((what, dtype), {})[threads] = points
    if not kinds:
        raise ValueError("there is nothing to plot: no row has both fastlstm and a peer")
    columns = min(2, len(kinds))
    lines_of_panels = -(-len(kinds) // columns)
    figure = Figure(figsize=(6 * columns, 4.2 * lines_of_panels), layout="constrained")
    panels = figure.subplots(lines_of_panels, columns, sharey=True, squeeze=False).ravel()
    for panel in panels[len(kinds) :]:
        panel.set_axis_off()
    for panel, ((what, dtype), lines) in zip(panels, kinds.items(), strict=False):
        shapes = list(dict.fromkeys(shape for points in lines.values() for shape, _ in points))
        for (threads, points), marker in zip(lines.items(), "osD^v<>*", strict=False):
            panel.plot(
                [shapes.index(shape) for shape, _ in points],
                [r for _, r in points],
                marker,
                label=_threads(threads),
                markersize=6,
                alpha=0.85,
            )
        panel.axhline(1, color="black", linewidth=1)
        panel.set_yscale("log")
        panel.set_xticks(range(len(shapes)), shapes, rotation=90, fontsize=8)
        panel.set_xlim(-0.7, len(shapes) - 0.3)
        panel.set_title(f"{WHAT_TITLES[what].split(',')[0]}, {dtype}", fontsize=10)
        panel.grid(axis="y", which="both", alpha=0.25)
    ticks = [0.5, 0.7, 1, 1.5, 2, 3, 5, 10, 20, 50]
    low, high = panels[0].get_ylim()
    shown = [tick for tick in ticks if low <= tick <= high] or [1]
    panels[0].set_yticks(shown, [f"{tick:g}x" for tick in shown])
    panels[0].minorticks_off()
    panels[0].legend(fontsize=8)
    figure.supylabel("times faster than the best peer", fontsize=10)
    figure.suptitle(
        f"{run['machine']['cpu']}, {run['machine']['date'][:10]}; columns: T,B,I,H", fontsize=10
    )
    figure.savefig(path, dpi=110)
