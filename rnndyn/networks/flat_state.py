"""A state of any structure as one vector, and back."""

import math
from collections import OrderedDict
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from rnndyn._arrays import as_array
from rnndyn.networks.adapters import FunctionCell


class FlatState(eqx.Module):
    """The way from a state, arrays in any tree, to a vector (N,) and back.

    The order is that of the tree's leaves, tuples and lists from first to last, and dicts in the order in which their
    entries were written: `{"v": ..., "a": ...}` becomes [v, a].
    """

    structure: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    """Of the leaves, in JAX's order (which sorts the keys of dicts)."""
    order: tuple[int, ...] = eqx.field(static=True)
    """Place k of the vector holds leaf `order[k]`."""

    @property
    def size(self) -> int:
        """N."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flatten(self, state: PyTree) -> Float[Array, " N"]:
        """The vector of a state."""
        leaves, structure = jax.tree.flatten(state)
        if structure != self.structure or tuple(jnp.shape(leaf) for leaf in leaves) != self.shapes:
            raise ValueError(
                f"state: expected leaves of shapes {self.shapes} in {self.structure}, "
                f"got {tuple(jnp.shape(leaf) for leaf in leaves)} in {structure}."
            )
        return jnp.concatenate([jnp.ravel(leaves[index]) for index in self.order])

    def unflatten(self, x: ArrayLike) -> PyTree:
        """The state of a vector (N,); leading axes are kept, so (T, N) gives leaves (T, ...)."""
        x = as_array(x)
        if x.shape[-1:] != (self.size,):
            raise ValueError(f"x: expected {self.size} entries in the last axis, got shape {x.shape}.")
        leaves: list[Any] = [None] * len(self.shapes)
        start = 0
        for index in self.order:
            stop = start + math.prod(self.shapes[index])
            leaves[index] = x[..., start:stop].reshape(*x.shape[:-1], *self.shapes[index])
            start = stop
        return jax.tree.unflatten(self.structure, leaves)


def flat_state(cell: Any, state_like: PyTree | None = None) -> FlatState:
    """The flat state of a cell: with dicts in the order in which its `initial_state` writes them.

    A function has no initial state; there it is the order of `state_like`. JAX sorts the keys of a dict that passes
    through it, so of a cell the order is asked at the source.
    """
    if type(cell) is FunctionCell:
        return _flat(state_like, written_order(state_like))
    orders = []

    def start() -> PyTree:
        state = cell.initial_state()
        orders.append(written_order(state))
        return state

    own = eqx.filter_eval_shape(start)
    if state_like is None or jax.tree.structure(state_like) == jax.tree.structure(own):
        return _flat(own if state_like is None else state_like, orders[0])
    return _flat(state_like, written_order(state_like))


def _flat(state_like: PyTree, order: tuple[int, ...]) -> FlatState:
    leaves, structure = jax.tree.flatten(state_like)
    return FlatState(structure, tuple(tuple(np.shape(leaf)) for leaf in leaves), order)


def written_order(tree: PyTree) -> tuple[int, ...]:
    """Which leaves of `tree`, counted in JAX's order, come one after the other when dicts keep their written order."""
    return tuple(_order(tree, 0)[0])


def _order(tree: PyTree, start: int) -> tuple[list[int], int]:
    """The leaves of a part of a tree whose first leaf has number `start`, and the number after the last."""
    children = jax.tree.leaves(tree, is_leaf=lambda node: node is not tree and node is not None)
    if len(children) == 1 and children[0] is tree:
        return [start], start + 1
    orders = []
    for child in children:
        order, start = _order(child, start)
        orders.append(order)
    # JAX lists the entries of a dict by sorted key; of an ordered dict in its own order.
    if isinstance(tree, dict) and not isinstance(tree, OrderedDict):
        present = [key for key in sorted(tree) if tree[key] is not None]
        by_key = dict(zip(present, orders, strict=True))
        orders = [by_key[key] for key in tree if key in by_key]
    return [index for order in orders for index in order], start
