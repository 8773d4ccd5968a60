# SPDX-License-Identifier: MIT
"""What the fuzzers of the file formats share: seeds, a temporary file, what must not happen.

    python tests/fuzz/fuzz_keras.py -max_total_time=300

Needs atheris; libFuzzer's arguments apply. A FormatError is the right answer to anything; any
other exception, a program that is executed, another file that is opened, or memory beyond
-rss_limit_mb is a finding.
"""

import os
import sys
import tempfile

import atheris

FORBIDDEN = ("exec", "compile", "import", "os.system", "subprocess.Popen", "pickle.find_class")
_state = {"watching": False, "path": None}


def _watch(event, arguments):
    """An audit hook: reading a file executes nothing, and opens nothing but that file."""
    if not _state["watching"]:
        return
    opened = event == "open" and arguments[0] != _state["path"]
    if event in FORBIDDEN or opened:
        os.write(2, f"\nevent {event} {arguments!r} while a file was read\n".encode())
        os.abort()


def run(suffix, seeds, use, error, mutate=None):
    """Fuzz ``use(path)`` with files of ``suffix`` whose first contents are ``seeds``.

    ``mutate(data, most, seed) -> bytes`` is libFuzzer's custom mutator. ``use`` may be given
    files that it made of the data itself, by the attribute ``use.pack``.
    """
    folder = tempfile.mkdtemp(prefix="fastlstm-fuzz-")
    corpus = os.path.join(folder, "corpus")
    os.mkdir(corpus)
    for k, seed in enumerate(seeds):
        with open(os.path.join(corpus, str(k)), "wb") as file:
            file.write(seed)
    path = _state["path"] = os.path.join(folder, "file" + suffix)
    pack = getattr(use, "pack", bytes)

    def one_input(data):
        with open(path, "wb") as file:
            file.write(pack(data))
        _state["watching"] = True
        try:
            use(path)
        except error as fault:
            if not str(fault) or len(str(fault)) > 4000:
                raise AssertionError("the message is empty or endless") from fault
        finally:
            _state["watching"] = False

    for seed in seeds:  # they are valid: what is lazy is imported now
        with open(path, "wb") as file:
            file.write(pack(seed))
        use(path)
    sys.addaudithook(_watch)
    limits = ["-rss_limit_mb=1500", "-timeout=20", "-max_len=60000"]
    given = [sys.argv[0], *limits, *sys.argv[1:], corpus]
    atheris.Setup(given, one_input, custom_mutator=mutate)
    atheris.Fuzz()
