# SPDX-License-Identifier: MIT
"""Build the extension modules; everything else about the package is in pyproject.toml.

csrc/ is built into one static library per instruction set, because flags belong to a library and
not to a source file; every extension except ``_blas`` links to all of them.

Environment variables:

FASTLSTM_DEBUG_CYTHON=1
    check bounds in Cython and keep the symbols.
FASTLSTM_SANITIZE=address,undefined
    build C and Cython with these sanitizers (gcc and clang).
FASTLSTM_COVERAGE=1
    count which lines of csrc/ run (gcc).
FASTLSTM_QUICK=1
    compile in a fifth of the time what runs slowly: to look at the build itself.
"""

import os
import re
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import numpy as np
from setuptools import Extension, setup
from setuptools.command.build_clib import build_clib
from setuptools.command.build_ext import build_ext

os.chdir(Path(__file__).resolve().parent)

DEBUG = os.environ.get("FASTLSTM_DEBUG_CYTHON", "0") not in ("", "0")
SANITIZE = os.environ.get("FASTLSTM_SANITIZE", "")
COVERAGE = os.environ.get("FASTLSTM_COVERAGE", "0") not in ("", "0")
QUICK = os.environ.get("FASTLSTM_QUICK", "0") not in ("", "0")
MSVC = sys.platform == "win32"
JOBS = os.cpu_count() or 1

NO_CSRC = {"_blas"}  # extensions that do not link to csrc/
DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": False,
    "cdivision": True,
    "boundscheck": DEBUG,
    "wraparound": False,
    "initializedcheck": DEBUG,
}


def read_flags():
    """the flags in csrc/Makefile, as a dict name -> list of words."""
    text = Path("csrc/Makefile").read_text(encoding="utf-8")
    return {name: words.split() for name, words in re.findall(r"^(\w+) :=(.*)$", text, re.M)}


def target_machine():
    """The processor compiled for, which is not always the one compiled on: x86_64, aarch64, ..."""
    machine = re.split(r"[-.]", sysconfig.get_platform())[-1]
    machine = os.environ.get("ARCHFLAGS", "").split()[-1:] or [machine]
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine[0], machine[0])


FLAGS = read_flags()
# Only what is there: a source tree without csrc/ kernels still builds its Cython parts.
ISAS = [i for i in FLAGS.get(f"ISAS_{target_machine()}", []) if Path(f"csrc/isa_{i}.c").exists()]

if MSVC:  # written from the manual, never run
    CSRC_FLAGS = ["/O2", "/std:c11", "/fp:precise", "/W3"]
    ISA_FLAGS = {"avx512": ["/arch:AVX512"], "avx2": ["/arch:AVX2"], "neon": []}
    EXT_FLAGS, LINK_FLAGS, SYSTEM_LIBRARIES = ["/O2"], [], []
else:
    LINK_FLAGS, SYSTEM_LIBRARIES = ["-pthread"], ["m"]
    if SANITIZE:
        kind = [f"-fsanitize={SANITIZE}", "-fno-omit-frame-pointer", "-g", "-O0"]
        LINK_FLAGS.append(f"-fsanitize={SANITIZE}")
    elif COVERAGE:
        kind = ["--coverage", "-O0", "-DFL_INLINE=static"]
        LINK_FLAGS.append("--coverage")
    elif QUICK:
        kind = ["-g0", "-O0", "-DFL_INLINE=static"]
    elif DEBUG:
        kind = ["-g"]
    else:
        kind = ["-g0"]
        LINK_FLAGS += ["-Wl,-s"] if sys.platform.startswith("linux") else []
    CSRC_FLAGS = FLAGS["CSRC_FLAGS"] + kind
    ISA_FLAGS = {isa: FLAGS[f"ISA_FLAGS_{isa}"] for isa in ISAS}
    EXT_FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off"]
    EXT_FLAGS += ["-fvisibility=hidden", "-Wno-unused-function"]
    EXT_FLAGS += ["-O1"] if COVERAGE else kind  # it counts in csrc/ alone


def csrc_libraries():
    """``libraries=`` of setup: the portable files, then one library per instruction set."""
    isa_files = set(Path("csrc").glob("isa_*.c"))
    portable = set(Path("csrc").glob("*.c")) - isa_files - set(Path("csrc").glob("test_*.c"))
    if not portable:
        return []

    def library(sources, flags):
        sources = sorted(map(str, sources))
        return {"sources": sources, "include_dirs": ["csrc"], "cflags": flags}

    libraries = [("fastlstm_portable", library(portable, CSRC_FLAGS))]
    for isa in ISAS:
        flags = CSRC_FLAGS + ISA_FLAGS[isa]
        libraries.append((f"fastlstm_{isa}", library([f"csrc/isa_{isa}.c"], flags)))
    return libraries


LIBRARIES = csrc_libraries()


def extensions():
    """One extension per fastlstm/*.pyx."""
    # The portable library stands at both ends: it refers to the kernels, and they refer to it.
    csrc = [name for name, _ in LIBRARIES + LIBRARIES[:1]]
    return [
        Extension(
            f"fastlstm.{pyx.stem}",
            [str(pyx)],
            include_dirs=["csrc", np.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            libraries=([] if pyx.stem in NO_CSRC else csrc) + SYSTEM_LIBRARIES,
            extra_compile_args=EXT_FLAGS,
            extra_link_args=LINK_FLAGS,
        )
        for pyx in sorted(Path("fastlstm").glob("*.pyx"))
    ]


def build_dir():
    """Where objects go, whichever command builds: so that pip and ``build_ext`` share them."""
    return Path("build", f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}")


def flags_stamp():
    """A file that changes when the flags do: objects are older than it and are built again."""
    names = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "ARCHFLAGS")
    environment = [os.environ.get(name) for name in names]
    flags = (LIBRARIES, ISA_FLAGS, EXT_FLAGS, LINK_FLAGS, DIRECTIVES)
    text = repr((flags, environment, metadata.version("Cython")))
    stamp = build_dir() / "flags"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != text:
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(text, encoding="utf-8")
    return str(stamp)


def is_stale(target, sources):
    """Whether target is missing or older than one of the sources."""
    if not os.path.exists(target):
        return True
    made = os.path.getmtime(target)
    return any(os.path.getmtime(source) > made for source in sources)


class BuildCsrc(build_clib):
    """build_clib, in parallel, which builds only what a changed source or header makes stale."""

    def finalize_options(self):
        super().finalize_options()
        self.build_clib = self.build_temp = str(build_dir())

    def build_libraries(self, libraries):
        headers = [str(header) for header in Path("csrc").glob("*.h")] + [flags_stamp()]

        def compile_one(job):
            source, info = job
            (target,) = self.compiler.object_filenames([source], output_dir=self.build_temp)
            if is_stale(target, [source, *headers]):
                self.compiler.compile(
                    [source],
                    output_dir=self.build_temp,
                    include_dirs=info["include_dirs"],
                    extra_postargs=info["cflags"],
                )

        jobs = [(source, info) for _, info in libraries for source in info["sources"]]
        with ThreadPoolExecutor(JOBS) as pool:
            list(pool.map(compile_one, jobs))
        for name, info in libraries:
            objects = self.compiler.object_filenames(info["sources"], output_dir=self.build_temp)
            archive = self.compiler.library_filename(name, output_dir=self.build_clib)
            if is_stale(archive, objects):
                Path(archive).unlink(missing_ok=True)  # ar would keep members whose source is gone
                self.compiler.create_static_lib(objects, name, output_dir=self.build_clib)


class BuildExtensions(build_ext):
    """build_ext, after csrc/; objects of extensions are also built only when stale."""

    def finalize_options(self):
        super().finalize_options()
        self.build_temp = str(build_dir())
        self.parallel = self.parallel or JOBS

    def run(self):
        self.run_command("build_clib")
        if self.extensions:
            self.translate()
        super().run()

    def translate(self):
        """Cython to C, into the build directory."""
        from Cython.Build import cythonize

        stamp = flags_stamp()
        c_dir = Path("build", "cython")
        outdated = [
            pyx
            for pyx in Path("fastlstm").glob("*.pyx")
            if is_stale(c_dir / pyx.with_suffix(".c"), [stamp])
        ]
        modules = cythonize(
            self.extensions,
            build_dir=str(c_dir),
            include_path=["."],
            compiler_directives=DIRECTIVES,
            force=bool(outdated) or None,
            quiet=not self.verbose,
        )
        c_sources = {module.name: module.sources for module in modules}
        for extension in self.extensions:
            extension.sources = c_sources[extension.name]

    def build_extensions(self):
        clib = self.get_finalized_command("build_clib")
        archives = [
            self.compiler.library_filename(name, output_dir=clib.build_clib)
            for name, _ in LIBRARIES
        ]
        for extension in self.extensions:
            extension.library_dirs.append(clib.build_clib)
            extension.depends = [flags_stamp()]
            if extension.name.split(".")[-1] not in NO_CSRC:
                extension.depends += archives
        self.compile_all = self.compiler.compile
        self.compiler.compile = self.compile_stale
        self.compiler.force = True  # it would not link again for a library that changed
        super().build_extensions()

    def compile_stale(self, sources, output_dir=None, **options):
        """compiler.compile for what is older than its source, the contract or the flags."""
        depends = [str(h) for h in Path("csrc").glob("*.h") if ".inc" not in h.name]
        depends.append(flags_stamp())
        objects = self.compiler.object_filenames(sources, output_dir=output_dir)
        for source, target in zip(sources, objects, strict=True):
            if is_stale(target, [source, *depends]):
                self.compile_all([source], output_dir=output_dir, **options)
        return objects


setup(
    ext_modules=extensions(),
    libraries=LIBRARIES,
    cmdclass={"build_clib": BuildCsrc, "build_ext": BuildExtensions},
)
