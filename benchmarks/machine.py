# SPDX-License-Identifier: MIT
"""What the timings were taken on: CPU, load, versions, and what the machine can do at best."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_DEFAULT_CACHES = {1: 32 << 10, 2: 1 << 20, 3: 16 << 20}
_RECORDED = re.compile(r"^(FASTLSTM|OMP|GOMP|KMP|OPENBLAS|MKL|DNNL|ORT|OV)_[A-Z0-9_]+$")


def usable_cpus():
    """How many CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_name():
    """The processor's own name, such as "AMD EPYC 9B14", with its family where that is vague."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", text, re.MULTILINE))
    name = fields.get("model name", platform.machine())
    name = re.sub(r"\((R|TM|tm)\)|CPU|@.*|\d+-Core Processor", "", name)
    if not re.search(r"\d", name) and "cpu family" in fields:  # virtual machines hide the number
        name += f" family {fields['cpu family']} model {fields['model']}"
    return " ".join(name.split())


def cache_bytes():
    """Bytes of one CPU's data caches by level, {1: ..., 2: ..., 3: ...}; typical if unknown."""
    sizes = dict(_DEFAULT_CACHES)
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            level, kind, size = (
                (folder / name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction" and size.endswith("K"):
            sizes[int(level)] = int(size[:-1]) << 10
    return sizes


class Probe:
    """`probe.c`, compiled into `folder`: what this machine can do at best."""

    def __init__(self, folder):
        self._program = None  # where there is no C compiler that takes it
        compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            return
        program = Path(folder) / "probe"
        build = [*compiler.split(), "-O2", "-ffp-contract=fast", "-pthread", str(_HERE / "probe.c")]
        try:
            subprocess.run([*build, "-o", str(program)], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as problem:
            print(f"no probe of the machine: {problem}", file=sys.stderr)
        else:
            self._program = program

    def measure(self, threads, slots=40):
        """FMA peak and read bandwidths with `threads` threads at once, the best of `slots` slots.

        Returns
        -------
        dict or None
            `isa`, `float32_gflops`, `float64_gflops`, `l1_gbytes`, `l2_gbytes`, `l3_gbytes`, all
            threads together; None without a program.
        """
        if self._program is None:
            return None
        sizes = cache_bytes()
        reads = sizes[1] // 2, sizes[2] // 2, max(4 * sizes[2], sizes[3] // 4 // threads)
        command = [str(self._program), *map(str, (threads, slots, *reads))]
        return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def cpu_seconds():
    """CPU seconds that all processes together have used since boot, or None where unknown."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, steal = (int(field) for field in fields[:8])
    ticks = user + nice + system + irq + softirq + steal  # stolen time is somebody else's too
    return ticks / os.sysconf("SC_CLK_TCK")


def load_warning():
    """One line that says the machine is busy with something else, or None."""
    if not hasattr(os, "getloadavg"):
        return None
    load = os.getloadavg()[0]
    if load < 0.3:
        return None
    return f"the load average is {load:.2f} before the start: other processes disturb the timings"


def description():
    """Everything about the machine and the moment that a reader of the figures has to know."""
    return {
        "cpu": cpu_name(),
        "cpus": usable_cpus(),
        "caches": {f"l{level}": size for level, size in cache_bytes().items()},
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "environment": {k: v for k, v in sorted(os.environ.items()) if _RECORDED.match(k)},
    }
