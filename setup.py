"""The extension; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# What one file needs beyond the rest: the instruction set of a kernel that is chosen at run time.
FILE_FLAGS: dict[str, list[str]] = {}


class BuildExtension(build_ext):
    """Compiles the files side by side, each with its own flags."""

    def initialize_options(self):
        super().initialize_options()
        self.cython_c_in_temp = True

    def build_extension(self, ext):
        compile_all, compile_one = self.compiler.compile, self.compiler._compile

        def compile_side_by_side(*args, **kwargs):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                jobs = []

                def submit(obj, src, ext, cc_args, extra, pp_opts):
                    flags = [*extra, *FILE_FLAGS.get(Path(src).name, [])]
                    jobs.append(pool.submit(compile_one, obj, src, ext, cc_args, flags, pp_opts))

                self.compiler._compile = submit
                objects = compile_all(*args, **kwargs)
            for job in jobs:
                job.result()
            return objects

        self.compiler.compile = compile_side_by_side
        super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildExtension},
    ext_modules=[
        Extension(
            "wgfast._core",
            sources=["wgfast/_core.pyx", *sorted(glob("wgfast/core/*.c"))],
            depends=["wgfast/_core.pxd", *sorted(glob("wgfast/core/*.h"))],
            # Not wgfast/core itself: its limits.h would stand before the system's.
            include_dirs=["wgfast"],
            define_macros=[("_GNU_SOURCE", None)],
            # The symbols of wgfast.h stay visible, so that other front ends can bind them.
            extra_compile_args=["-std=c11", "-O3", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
)
