"""Audits: whether what was to be forgotten is still there.

`audit` attacks one model. `divergence` (KLoM, the unlearning challenge's epsilon) and `lira` (U-LiRA) compare
populations of models, which `population` makes: they are pure functions of margins `[models, examples]`, taken in
evaluation mode on images that are not augmented. `relearning` trains a model on and watches what comes back.

An audit finds what it can find and no more: its figures are lower bounds on what is left, and one at its null level
says that this attack found nothing, not that there is nothing. Where the interval is wide, it could not have found
much. Only retraining and SISA forget by construction.
"""

from camu_jax.audits import divergence, estimates, lira, membership, population, relearning, signals, verdicts
from camu_jax.audits.attack import audit
from camu_jax.audits.estimates import Estimate, Evidence

__all__ = [
    "Estimate",
    "Evidence",
    "audit",
    "divergence",
    "estimates",
    "lira",
    "membership",
    "population",
    "relearning",
    "signals",
    "verdicts",
]
