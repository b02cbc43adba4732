"""Data parallelism over the devices of the active mesh, `jax.set_mesh`; without a mesh everything here does nothing.

    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        variables = camu_jax.train(...)

Every device holds the parameters and the data set, and works on its part of each minibatch; XLA adds the sums between
devices. The batch size is that of all devices together, and BatchNorm's statistics are those of the whole minibatch, so
that the result is that of one device but for the order of sums.
"""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def split(tree: Tree) -> Tree:
    """Splits each array `[B, ...]` over the mesh's devices; within `jax.jit`. A B that does not divide stays whole."""
    return _constrain(tree, whole=False)


def replicate(tree: Tree) -> Tree:
    """Puts each array on every device of the mesh, whole; within `jax.jit`."""
    return _constrain(tree, whole=True)


def in_turn(tree: Tree) -> Tree:
    """Waits for a program of several CPU devices before the next one begins; elsewhere it returns at once.

    XLA's CPU devices do not keep two programs apart: of those that overlap, one may take the threads or the sums that
    the other waits for. Accelerators queue programs themselves.
    """
    several = jax.sharding.get_abstract_mesh().size > 1
    return jax.block_until_ready(tree) if several and jax.default_backend() == "cpu" else tree


def _constrain(tree: Tree, *, whole: bool) -> Tree:
    mesh = jax.sharding.get_abstract_mesh()
    axes = mesh.auto_axes
    if not axes:
        return tree
    spec = jax.P() if whole else jax.P(axes)
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, spec), tree)
