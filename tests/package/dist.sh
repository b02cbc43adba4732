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

build() { rm -rf build; "$PYTHON" -m build --quiet --outdir "$2" "$1" .; rm -rf build; }
build --sdist dist
CAMU_JAX_BUILD=pure build --wheel dist
if [ "$(uname -sm)" = "Linux x86_64" ]; then
  CAMU_JAX_BUILD=native build --wheel "$work"
  # The name says which Linux it runs on. What is left out comes with the system or with the package onednn-cpu-gomp.
  PATH="$(dirname "$PYTHON"):$PATH" "$PYTHON" -m auditwheel repair --wheel-dir dist \
    --exclude libdnnl.so.3 --exclude libgomp.so.1 "$work"/*.whl
fi

mkdir "$work/tools"  # all of the system's commands but compilers
for tool in /bin/* /usr/bin/*; do
  case ${tool##*/} in
    *gcc* | *g++* | *c++* | *clang* | cc | c[89]9) ;;
    *) ln -sf "$tool" "$work/tools" ;;
  esac
done

try() {  # a file of dist, what smoke.py is told, and extras
  "$PYTHON" -m venv "$work/env"
  (
    cd "$work"
    export PATH="$work/env/bin:$work/tools"
    ! command -v g++ cc
    python -m pip install --quiet --disable-pip-version-check "$root/dist/$1$3"
    python "$root/tests/package/smoke.py" "$2"
    if [ -n "$3" ]; then
      camu-jax run --dataset=tiny --limit=300 --seeds 0 --original.epochs=2 --retrain.epochs=2 --audit paper
      camu-jax report
      camu-jax nonsense || [ $? = 2 ]
    fi
  )
  rm -rf "$work/env"
  echo "$1: installs and works"
}
for file in dist/*; do
  case $file in
    *-none-any.whl) try "${file#dist/}" "" "" ;;
    *.whl) try "${file#dist/}" native "[experiments]" ;;
    *) try "${file#dist/}" "" "" ;;
  esac
done
