"""Compare five methods, with intervals: `python examples/compare.py [FOLDER]`, three minutes on two cores.

Each forgets a tenth of scikit-learn's digits, with three seeds. The figure shows accuracies (mean and range over the
seeds) and the loss attack (first seed, with its 95% interval). The grey lines are Retrain, which the others should be
like.
"""

import sys
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np

import camu_jax as cj
from camu_jax import data, models

METHODS = {
    "Retrain": cj.Retrain(),
    "CaMU": cj.Camu(),
    "NegGrad": cj.NegGrad(),
    "SCRUB": cj.Scrub(),
    "T-S": cj.BadTeacher(),
}
METRICS = {"F_tr": "accuracy on the forgotten (%)", "T_s": "accuracy on the test set (%)"}


def main(folder: Path, seeds: int = 3, epochs: int = 10) -> None:
    """Trains one model a seed, unlearns with every method, and draws."""
    train, test = data.load("tiny")
    model = models.cnn(10)
    accuracies: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    attacks: dict[str, cj.Estimate] = {}
    for seed in range(seeds):
        original_key, rows_key, key, audit_key = jax.random.split(jax.random.key(seed), 4)
        variables = cj.train(original_key, model, train, cj.TrainSettings(epochs=epochs))
        rows = jax.random.permutation(rows_key, len(train))[: len(train) // 10]
        problem = cj.Problem.from_rows(model, variables, train, forget=np.asarray(rows))
        for name, settings in METHODS.items():
            predictor = cj.unlearn(key, problem, settings)
            accuracies[name].append(cj.accuracies(predictor, problem.forget, problem.retain, test))
            if seed == 0:
                attacks[name] = cj.audit(audit_key, predictor, problem, test).figures["loss_auc"]

    figure, panels = plt.subplots(1, 3, figsize=(9, 2.6), sharey=True, layout="constrained")
    places = -np.arange(len(METHODS))
    for axes, (metric, label) in zip(panels, METRICS.items(), strict=False):
        values = np.array([[found[metric] for found in accuracies[name]] for name in METHODS])
        mean, low, high = values.mean(1), values.min(1), values.max(1)
        axes.axvline(mean[0], color="grey", linewidth=0.8)
        axes.errorbar(mean, places, xerr=[mean - low, high - mean], fmt="o", capsize=3)
        axes.set_xlabel(label)
        print(metric, {name: f"{m:.2f} ({a:.2f} to {b:.2f})" for name, m, a, b in zip(METHODS, mean, low, high)})
    value, low, high = (
        np.array([getattr(attacks[name], part) for name in METHODS]) for part in ("value", "low", "high")
    )
    panels[2].axvline(value[0], color="grey", linewidth=0.8)
    panels[2].errorbar(value, places, xerr=[value - low, high - value], fmt="o", capsize=3)
    panels[2].set_xlabel("loss attack, area under the curve")
    panels[0].set(yticks=places, yticklabels=list(METHODS))
    figure.savefig(folder / "compare.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
