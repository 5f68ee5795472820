"""Many iterations of different length, side by side on one device without waiting for the slowest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def run_in_lanes(
    init: Callable[[Any], Any],
    step: Callable[[Any], Any],
    done: Callable[[Any], Any],
    items: Any,
    num_lanes: int,
) -> Any:
    """Run `while not done: step` from `init(item)` for every item, `num_lanes` of them at a time.

    A batched `while_loop` runs until its slowest member is done. Here a lane that is done stores its state and takes
    up the next item, so the work is the sum of the steps and not the number of items times the longest.

    **Arguments:**

    - `init`, `step`, `done`: for one item; `init(item) -> state`, `step(state) -> state`, `done(state) -> bool`.
    - `items`: a tree of arrays with a leading axis K.
    - `num_lanes`: how many to run at once.

    **Returns:** the final states, a tree with leading axis K, in the order of the items.
    """
    num_items = jax.tree.leaves(items)[0].shape[0]
    num_lanes = min(num_lanes, num_items)

    def take(index: Any) -> Any:
        return jax.tree.map(lambda a: a[index], items)

    def where(mask: Any, new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(mask.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)

    def advance(carry: Any) -> Any:
        states, item, next_item, results = carry
        finished = jax.vmap(done)(states)
        # Lanes whose items ran out hold an index past the end, and scatter nothing.
        slot = jnp.where(finished, item, num_items)
        results = jax.tree.map(lambda a, s: a.at[slot].set(s, mode="drop"), results, states)
        rank = jnp.cumsum(finished) - 1
        new_item = jnp.where(finished, jnp.minimum(next_item + rank, num_items), item)
        next_item = jnp.minimum(next_item + jnp.sum(finished), num_items)
        fresh = jax.vmap(init)(take(jnp.minimum(new_item, num_items - 1)))
        states = where(finished, fresh, states)
        stepped = jax.vmap(step)(states)
        # A fresh state may be done at once; it then keeps still until the next round stores it.
        states = where(jax.vmap(done)(states), states, stepped)
        return states, new_item, next_item, results

    first = jax.vmap(init)(take(jnp.arange(num_lanes)))
    shape = jax.eval_shape(jax.vmap(init), items)
    results = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shape)
    carry = (first, jnp.arange(num_lanes), jnp.asarray(num_lanes), results)
    *_, results = jax.lax.while_loop(lambda c: jnp.any(c[1] < num_items), advance, carry)
    return results
