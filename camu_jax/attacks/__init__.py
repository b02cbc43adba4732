"""Attacks and audits: whether what was to be forgotten is still there.

All are pure functions of what models say: logits of one model (`membership`), or a cache of margins of many
`[models, examples]` (`lira`, `divergence`), taken in evaluation mode on images that are not augmented. An audit finds
what it can find and no more: its figures are lower bounds on what is left.
"""

from camu_jax.attacks import divergence, lira, membership, rates, relearning, signals
from camu_jax.attacks.rates import Estimate

__all__ = ["Estimate", "divergence", "lira", "membership", "rates", "relearning", "signals"]
