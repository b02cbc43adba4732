"""What pyproject.toml cannot say: the one part that is compiled, and where the runner goes. All else is there."""

import os
from importlib import metadata, util
from pathlib import Path

from setuptools import Extension, find_packages, setup

# native: oneDNN's convolutions, or no build; pure: without them; else what this machine can.
KIND = os.environ.get("CAMU_JAX_BUILD", "")


def folder(distribution: str, file: str) -> str | None:
    """The folder in which pip has put a file of a package that the build needs."""
    try:
        found = [path for path in metadata.files(distribution) or () if path.name == file]
    except metadata.PackageNotFoundError:
        return None
    return str(Path(found[0].locate()).resolve().parent) if found else None


jaxlib = util.find_spec("jaxlib")
needed = [folder("onednn-devel-cpu-gomp", "dnnl.hpp"), folder("onednn-cpu-gomp", "libdnnl.so")]
if jaxlib and jaxlib.origin:
    needed.append(str(Path(jaxlib.origin).parent / "include"))
ready = len(needed) == 3 and all(needed)
if KIND == "native" and not ready:
    raise SystemExit("error: a native build needs x86-64 Linux and what [build-system] of pyproject.toml names for it")
onednn = Extension(
    "camu_jax.models._onednn",
    ["camu_jax/models/onednn.cc"],
    include_dirs=[needed[0], needed[-1]] if ready else [],
    library_dirs=[needed[1]] if ready else [],
    libraries=["dnnl"],  # found at run time by `camu_jax.models.convolution`, wherever pip has put it
    define_macros=[("Py_LIMITED_API", "0x030B0000")],
    extra_compile_args=["-std=c++20", "-O3", "-fopenmp", "-fvisibility=hidden"],
    extra_link_args=["-fopenmp"],
    language="c++",
    py_limited_api=True,
    optional=KIND != "native",  # without it the convolutions are XLA's
)
compiled = ready and KIND != "pure"

# `experiments` would be a bad name in site-packages: there the folder lies in another one, which no module shares, and
# its scripts put that on their path, as in a checkout they do the project's.
runner = {f"camu_jax_runner.{name}": name.replace(".", "/") for name in find_packages(include=["experiments*"])}
inside = {name: path for name, path in runner.items() if "experiments/bench" not in path}
setup(
    ext_modules=[onednn] if compiled else [],
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if compiled else {},
    packages=[*find_packages(include=["camu_jax*"]), *inside],
    package_dir={"camu_jax_runner.experiments": "experiments"},
    include_package_data=False,  # MANIFEST.in is the sdist's: wheels leave measurements and published results out
    package_data={"": ["py.typed", "*.csv", "*.toml", "templates/*"]},
)
