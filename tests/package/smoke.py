"""Shows that an installed package works: `python smoke.py [native]`, in an environment with nothing but the package.

Trains a small model on scikit-learn's digits, forgets three of them with every method, audits, saves and loads. With
`native` the convolutions must be oneDNN's.
"""

import sys
import tempfile
from importlib import metadata
from pathlib import Path

import jax

import camu_jax as cj
from camu_jax import data, models

SHORT = {"retrain": {"epochs": 1}, "sisa": {"epochs": 1, "shards": 2}, "bad_teacher": {"epochs": 1}}


def main(kind: str) -> None:
    """Runs all of it, and says what it saw."""
    why = models.missing()
    assert why is None or kind != "native", why
    train, test = data.load("tiny")
    model = models.cnn(10)
    key = jax.random.key(0)
    variables = cj.train(key, model, train, cj.TrainSettings(epochs=3))
    problem = cj.Problem.from_rows(model, variables, train, forget=[3, 17, 42])
    for settings, method in cj.methods.METHODS.items():
        unlearned = cj.unlearn(key, problem, settings(**SHORT.get(method.name, {})))
        accuracy = cj.accuracies(unlearned, problem.forget, problem.retain, test)["T_s"]
        print(f"{method.name:12} T_s {accuracy:.2f}")
        assert accuracy > 20, f"{method.name} has destroyed the model"
    print(cj.audit(key, unlearned, problem, test))
    with tempfile.TemporaryDirectory() as folder:
        cj.save(Path(folder) / "unlearned", unlearned)
        loaded = cj.load(Path(folder) / "unlearned", model)
    assert all(map(lambda a, b: bool((a == b).all()), *map(jax.tree.leaves, (unlearned.variables, loaded.variables))))
    convolutions = "oneDNN's convolutions" if why is None else "XLA's convolutions"
    print(f"camu_jax {metadata.version('camu_jax')}, {Path(cj.__file__).parent}: works, with {convolutions}")


if __name__ == "__main__":
    main(*sys.argv[1:] or [""])
