#!/bin/sh
# Builds dist/: the sdist, the wheel for x86-64 Linux (where this is one), and the pure one for everywhere else; then
# installs each into an empty environment without a compiler, and runs smoke.py there.
set -eu
cd "$(dirname "$0")/../.."
: "${PYTHON:=python3}"
root=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -rf dist

quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2; exit 1; }; }  # what a tool says is shown where it fails
build() {  # sdist or wheel, into a folder; for wheels which kind
  rm -rf build
  CAMU_JAX_BUILD=${3-} quietly "$PYTHON" -m build "--$1" --outdir "$2" .
  rm -rf build
}
build sdist dist
build wheel dist pure
if [ "$(uname -sm)" = "Linux x86_64" ]; then
  build wheel "$work" native
  # The name says which Linux it runs on. What is left out comes with the system or with the package onednn-cpu-gomp.
  PATH="$(dirname "$PYTHON"):$PATH" quietly "$PYTHON" -m auditwheel repair --wheel-dir dist \
    --exclude libdnnl.so.3 --exclude libgomp.so.1 "$work"/*.whl
fi
for file in dist/*; do echo "built: $file"; done

mkdir "$work/tools"  # all of the system's commands but compilers
for tool in /bin/* /usr/bin/*; do
  case ${tool##*/} in
    *gcc* | *g++* | *c++* | *clang* | cc | c[89]9) ;;
    *) ln -sf "$tool" "$work/tools" ;;
  esac
done

try() {  # a file of dist, and what smoke.py is told
  printf '\n%s, in an empty environment without a compiler:\n' "$1"
  "$PYTHON" -m venv "$work/env"
  (
    cd "$work"
    export PATH="$work/env/bin:$work/tools"
    for compiler in cc c++ gcc g++ clang; do if command -v $compiler; then exit 1; fi; done
    quietly python -m pip install --disable-pip-version-check "$root/dist/$1"
    python "$root/tests/package/smoke.py" "$2"
    if [ "$2" = native ]; then  # the commands as well
      quietly python -m pip install --disable-pip-version-check "$root/dist/$1[experiments]"
      camu-jax run --dataset=tiny --limit=300 --seeds 0 --original.epochs=2 --retrain.epochs=2 --audit paper
      camu-jax report
    fi
  )
  rm -rf "$work/env"
}
for file in dist/*; do
  case $file in
    *-abi3-*.whl) try "${file#dist/}" native ;;
    *) try "${file#dist/}" "" ;;
  esac
done
printf '\neach file of dist/ installs and works\n'
