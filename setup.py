"""The one part that is compiled, where it can be: oneDNN's convolutions for the CPU. All else is in pyproject.toml."""

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

# What pip has put into this environment; a build in isolation cannot import it.
environment, packages = Path(sys.prefix), Path(sysconfig.get_path("platlib"))
onednn = Extension(
    "camu_jax.models._onednn",
    ["camu_jax/models/onednn.cc"],
    include_dirs=[str(environment / "include"), str(packages / "jaxlib" / "include")],
    library_dirs=[str(environment / "lib")],
    runtime_library_dirs=[str(environment / "lib")],
    libraries=["dnnl"],
    extra_compile_args=["-std=c++20", "-O3", "-fopenmp", "-fvisibility=hidden"],
    extra_link_args=["-fopenmp"],
    language="c++",
    optional=True,  # without it the convolutions are XLA's
)
setup(ext_modules=[onednn])
