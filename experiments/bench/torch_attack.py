"""The paper's audit as PyTorch users write it: outputs, then XGBoost and scikit-learn, as the authors do."""

from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_score
from torch.nn import functional as F
from xgboost import XGBClassifier

Rows = tuple[torch.Tensor, torch.Tensor]
_LEARNED = 4000  # members, and test images, that the attacker learns from


def attack(ask: Callable[[torch.Tensor], torch.Tensor], forget: Rows, retain: Rows, test: Rows) -> dict[str, float]:
    """The figures of `camu_jax.audit`, without their intervals.

    Args:
      ask: stored images `[N, channels, H, W]` -> logits `[N, C]`.
      forget: images and labels of the forget set.
      retain: of the retain set; the members are a random part of it.
      test: of the test set, which has more than 4 000 images.
    """
    members = torch.randperm(len(retain[0]), device=retain[0].device)[:_LEARNED]
    of_test, of_forget, of_member = ask(test[0]), ask(forget[0]), ask(retain[0][members])
    seen, unseen = of_test[:_LEARNED], of_test[_LEARNED:]
    trees = XGBClassifier(n_estimators=100, n_jobs=torch.get_num_threads())
    trees.fit(np.concatenate([_sorted(of_member), _sorted(seen)]), np.repeat([1, 0], [len(members), _LEARNED]))
    in_forget, in_unseen = (trees.predict_proba(_sorted(z))[:, 1] for z in (of_forget, unseen))

    count = min(len(in_forget), len(in_unseen))
    truth = np.repeat([1, 0], count)
    generator = np.random.default_rng(0)
    some = np.concatenate([generator.permutation(p)[:count] for p in (in_forget, in_unseen)])
    false, true, _ = roc_curve(truth, some)
    hits = (in_forget > 0.5).sum() + (in_unseen <= 0.5).sum()
    result = {
        "M": hits / (len(in_forget) + len(in_unseen)),
        "balanced_accuracy": float(((some > 0.5) == truth).mean()),
        "auc": roc_auc_score(truth, some),
        "tpr_at_1_fpr": true[false <= 0.01].max(),
        "forget_as_member": (in_forget > 0.5).mean(),
    }
    for name, signal in {"loss": _loss, "entropy": _entropy, "modified_entropy": _modified_entropy}.items():
        a, b = (signal(z, y).cpu().numpy() for z, y in ((of_forget, forget[1]), (unseen, test[1][_LEARNED:])))
        everyone = np.repeat([1, 0], [len(a), len(b)])
        result[f"{name}_auc"] = roc_auc_score(everyone, -np.concatenate([a, b]))
        if name == "loss":
            losses = np.concatenate([generator.permutation(a)[:count], generator.permutation(b)[:count]])
            folds = StratifiedKFold(10, shuffle=True, random_state=0)
            found = cross_val_score(LogisticRegression(), losses[:, None], truth, cv=folds)
            result["loss_attack"] = found.mean()
    return {name: float(value) for name, value in result.items()}


def _sorted(logits: torch.Tensor) -> np.ndarray:
    return logits.softmax(-1).sort(-1).values.cpu().numpy()


def _loss(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def _entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    del y
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def _modified_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    p = logits.double().softmax(-1)
    own = F.one_hot(y, logits.shape[-1]).bool()
    tiny = torch.finfo(p.dtype).tiny
    terms = torch.where(own, (1 - p) * p.clamp(min=tiny).log(), p * (1 - p).clamp(min=tiny).log())
    return -terms.sum(-1)
