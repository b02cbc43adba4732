"""Every random key of the experiments, by name; nothing else in this folder folds or splits a seed.

    the seed of a job         split, method/<method>, measure, relearn, audit/<audit>,
                              population/<audit>/<method>/<number>
    the seed of a deletion    deletion
    the seed of the original  original, original/<audit>/<number>, lira/halves, audit/lira, validation,
                              population/lira/<method>/<half>/<number>

A key is what `named` makes of a seed and a name: different names give different keys, and so no two draws share one.
"""

import zlib

import jax


def named(seed: int, name: str) -> jax.Array:
    """The key of a name under a seed."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))


def split(seed: int) -> jax.Array:
    """Which examples a `dataP` task forgets."""
    return named(seed, "split")


def method(seed: int, name: str) -> jax.Array:
    """What an unlearning method draws. An ablation has its method's key, so that both see the same draws."""
    return named(seed, f"method/{_base(name)}")


def measure(seed: int) -> jax.Array:
    """The augmentations under which R_tr and F_tr are measured."""
    return named(seed, "measure")


def relearn(seed: int) -> jax.Array:
    """The order of relearning (section 4.4)."""
    return named(seed, "relearn")


def audit(seed: int, name: str) -> jax.Array:
    """What an audit draws."""
    return named(seed, f"audit/{name}")


def population(seed: int, audit_name: str, method_name: str, number: int | str) -> jax.Array:
    """What the method draws for one model of an audit's population."""
    return named(seed, f"population/{audit_name}/{_base(method_name)}/{number}")


def deletion(seed: int) -> jax.Array:
    """All that a deletion draws; `camu_jax.deletion` splits it."""
    return named(seed, "deletion")


def original(seed: int, audit_name: str | None = None, number: int = 0) -> jax.Array:
    """The training of the original model, or of one of an audit's own original models."""
    return named(seed, "original" if audit_name is None else f"original/{audit_name}/{number}")


def halves(seed: int) -> jax.Array:
    """U-LiRA's random halves of the training set; they do not depend on a job, whose shadow models share them."""
    return named(seed, "lira/halves")


def validation(seed: int) -> jax.Array:
    """Which training examples are held out for choosing settings; the same ones for all jobs."""
    return named(seed, "validation")


def _base(method_name: str) -> str:
    return method_name.partition(":")[0]


def trial() -> jax.Array:
    """Of what is tried or only looked at, such as the shapes of a model: no result comes of it."""
    return jax.random.key(0)
