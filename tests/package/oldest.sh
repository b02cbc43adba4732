#!/bin/sh
# Runs tests (all, or those named) in a fresh environment with the oldest version of every dependency that pyproject.toml
# allows. It is kept as .venv-oldest until pyproject.toml changes.
set -eu
cd "$(dirname "$0")/../.."
: "${PYTHON:=python3}"
env=.venv-oldest
if [ ! -e "$env/ready" ] || [ pyproject.toml -nt "$env/ready" ]; then
  rm -rf "$env"
  "$PYTHON" -m venv "$env"
  "$PYTHON" -m uv pip install --quiet --python "$env/bin/python" --resolution lowest-direct --requirements pyproject.toml \
    --extra experiments --extra dev --extra slurm
  "$env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
  touch "$env/ready"
fi
"$env/bin/python" -m pip list --format=freeze --disable-pip-version-check | grep -iE '^(jax|jaxlib|flax|optax|orbax-checkpoint|numpy|scipy|scikit-learn)='
exec "$env/bin/python" -m pytest "$@"
