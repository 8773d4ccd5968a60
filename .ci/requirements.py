# SPDX-License-Identifier: MIT
"""Pin what continuous integration installs, by hash: requirements.py > requirements.txt

It asks pip what it would install for each Python, on Linux and x86-64, for the build and the extras
in EXTRAS; nothing is installed. PyTorch and what only `make parity` needs are not pinned by hash:
which of its builds is to be had depends on the index. pip >= 23.1.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = ("test", "demo")
PLATFORMS = [f"manylinux{tag}_x86_64" for tag in ("_2_28", "_2_27", "_2_24", "_2_17", "2014")]
HEADER = """\
# SPDX-License-Identifier: MIT
# What continuous integration builds and tests with, by hash: CPython 3.11 to 3.13 on Linux, x86-64.
# Written by .ci/requirements.py; `make test` does not need it."""


def wanted():
    """The requirements of the build and of the extras, as pyproject.toml has them."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    needs = set(project["build-system"]["requires"]) | set(project["project"]["dependencies"])
    return sorted(needs.union(*(project["project"]["optional-dependencies"][e] for e in EXTRAS)))


def resolved(python):
    """(name, version, hash) of what pip would install for this Python."""
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed",
             "--only-binary=:all:", "--python-version", python, *platforms, "--target", folder,
             "--report", report, *wanted()],
            check=True,
        )  # fmt: skip
        for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
            name = item["metadata"]["name"].lower().replace("_", "-")
            hashes = item["download_info"]["archive_info"]["hashes"]
            yield name, item["metadata"]["version"], hashes["sha256"]


def main():
    """Print the file."""
    found = defaultdict(dict)
    for python in PYTHONS:
        for name, version, digest in resolved(python):
            found[name, version].setdefault(digest, set()).add(python)
    print(HEADER)
    for (name, version), digests in sorted(found.items()):
        of = sorted(set().union(*digests.values()))
        mark = " or ".join(f'python_version == "{p}"' for p in of)
        print(f"{name}=={version}" + (f"; {mark}" if len(of) < len(PYTHONS) else ""), end="")
        print(*(f" \\\n    --hash=sha256:{digest}" for digest in sorted(digests)), sep="")


if __name__ == "__main__":
    main()
