# SPDX-License-Identifier: MIT
"""Copy what a build and its tests need into a folder, only what differs there: copy_tree.py FOLDER

Files that are gone here go there too, but for what was built.
"""

import shutil
import sys
from pathlib import Path

FOLDERS = ("csrc", "fastlstm", "tests", ".ci", "benchmarks", "docs", "examples")
FILES = ("setup.py", "pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE")
FILES += ("MANIFEST.in", "Makefile", "SECURITY.md", ".clang-format")
BUILT = {".so", ".pyc", ".pyd", ".log"}


def sources(root):
    """The files under the folders and the single ones, as paths relative to root."""
    for folder in FOLDERS:
        for path in (root / folder).rglob("*"):
            if path.is_file() and path.suffix not in BUILT and "__pycache__" not in path.parts:
                yield path.relative_to(root)
    yield from (Path(name) for name in FILES if (root / name).exists())


def copy_tree(source, target):
    """Make target a copy of source, keeping what was built there."""
    wanted = set(sources(source))
    for path in wanted:
        new, old = source / path, target / path
        if not old.exists() or old.read_bytes() != new.read_bytes():
            old.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new, old)  # with a new time: older than an object would be stale
            shutil.copymode(new, old)
    for path in set(sources(target)) - wanted:
        (target / path).unlink()


if __name__ == "__main__":
    copy_tree(Path(__file__).resolve().parent.parent, Path(sys.argv[1]))
