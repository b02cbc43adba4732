"""What is refused, in which words, and where the contents of arrays are looked at."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from camu_jax import Examples, _validate
from tests.helpers import examples

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "good", "bad", "allowed"),
    [
        (_validate.at_least, (1, 1.5, 10**9), (0, -1, 0.999, NAN, INFINITY), "a finite number >= 1"),
        (_validate.above, (1.001, 2), (1, 0, NAN, INFINITY), "a finite number > 1"),
        (lambda low, **values: _validate.between(low, 3, **values), (1, 2.5, 3), (0, 3.001, NAN, INFINITY), "1 to 3"),
    ],
    ids=["at_least", "above", "between"],
)
def test_numbers(check, good, bad, allowed):
    for value in good:
        check(1, rate=value)
    for value in bad:
        with pytest.raises(ValueError, match=f"^rate is {value}; allowed: {allowed}$"):
            check(1, epochs=1.5, rate=value)  # the wrong one of two is named


def test_words():
    _validate.one_of(("sum", "mean"), how="sum", other="mean")
    with pytest.raises(ValueError, match="^other is 'max'; allowed: sum, mean$"):
        _validate.one_of(("sum", "mean"), how="sum", other="max")


GOOD = examples(0, 4)
WRONG = {
    "label": (Examples(GOOD.x, GOOD.y.at[1].set(3), 3), "part.y holds the label 3; allowed: 0 to 2"),
    "negative": (Examples(GOOD.x, GOOD.y.at[1].set(-1), 3), "part.y holds the label -1; allowed: 0 to 2"),
    "pixel": (Examples(GOOD.x.at[2].set(jnp.nan), GOOD.y, 3), "part.x holds NaN or infinity .first in example 2"),
    "half": (Examples(GOOD.x.at[3].set(-jnp.inf).astype(jnp.bfloat16), GOOD.y, 3), "part.x holds NaN .*example 3"),
}


def anywhere(part):
    """Checks examples that are closed over: as they are, and within `jit`, `vmap`, `scan` and `grad`."""

    def checked(x):
        part.validate("part")
        return x

    yield lambda: checked(1.0)
    yield lambda: jax.jit(checked)(1.0)
    yield lambda: jax.vmap(checked)(jnp.ones(2))
    yield lambda: jax.lax.scan(lambda carry, x: (carry, checked(x)), None, jnp.ones(2))
    yield lambda: jax.jit(jax.grad(checked))(1.0)


@pytest.mark.parametrize("arrays", [jnp.asarray, np.asarray], ids=["jax", "numpy"])
@pytest.mark.parametrize("case", WRONG)
def test_contents_are_looked_at_wherever_they_are_concrete(case, arrays):
    for check in anywhere(jax.tree.map(arrays, GOOD)):
        check()
    wrong, message = WRONG[case]
    for check in anywhere(jax.tree.map(arrays, wrong)):
        with pytest.raises(ValueError, match=message):
            check()


@pytest.mark.parametrize("case", WRONG)
def test_contents_that_are_traced_are_left_alone_but_shapes_are_not(case):
    def labels(part):
        part.validate("part")
        return part.y

    wrong, _ = WRONG[case]
    np.testing.assert_array_equal(jax.jit(labels)(wrong), wrong.y)
    with pytest.raises(ValueError, match="part.x holds 4 examples and part.y 3 labels"):
        jax.jit(labels)(Examples(wrong.x, wrong.y[:3], 3))


def test_stored_images_and_labels_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((3, 2, 2, 1), np.uint8))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    Examples(mapped, np.arange(3, dtype=np.uint8), 3).validate("part")
    with pytest.raises(TypeError, match="part.num_classes is True; allowed: a Python int"):
        Examples(mapped, np.zeros(3, int), True).validate("part")
