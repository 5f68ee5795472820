"""A cell as a map whose parameters are the weights that training moves, with the draws of each step."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from rnndyn.maps import as_driven_map
from rnndyn.networks.adapters import as_cell, for_sequence, is_random, takes_key
from rnndyn.networks.flat_state import FlatState


class TrainedMap(eqx.Module):
    """`(N,), row -> (N,)`, where a row is an input (I,), or the pair of it and the key of its step.

    The cell is kept as it was given: derivatives are those of the stored weights, also where the step uses others that
    are computed from them (`ConstrainedCell`), and their paths are those in the model.
    """

    cell: Any
    flat: FlatState
    state_like: PyTree
    sequence_key: PRNGKeyArray | None

    def __init__(self, cell: Any, state: PyTree, key: PRNGKeyArray | None):
        """**Arguments:**

        - `cell`: what `rnndyn.unroll` takes.
        - `state`: a state.
        - `key`: as in `rnndyn.unroll`.

        **Raises:** `ValueError` for a key that changes nothing, or weights with NaN or infinity.
        """
        self.cell = cell
        self.state_like = eqx.filter_eval_shape(lambda: state)
        self.flat = as_driven_map(cell, state_like=self.state_like).flat
        self.sequence_key = key
        if key is not None and not is_random(self._cell()):
            raise ValueError(f"key: {type(cell).__name__} has no noise; leave the key out.")

    def rows(self, inputs: Any) -> Any:
        """What the T steps read: the inputs, with the keys that `rnndyn.unroll` gives them."""
        if self.sequence_key is None or not takes_key(self._cell()):
            return inputs
        return inputs, jax.random.split(self.sequence_key, len(inputs))

    def output(self, x: Float[Array, " N"]) -> Any:
        """What a readout sees of a flat state."""
        return self._cell().output(self.flat.unflatten(x))

    def __call__(self, x: Float[Array, " N"], row: Any) -> Float[Array, " N"]:
        input, noise = (row[0], {"key": row[1]}) if isinstance(row, tuple) else (row, {})
        cell: Any = for_sequence(self._cell(), self.sequence_key)
        return self.flat.flatten(cell(self.flat.unflatten(x), input, **noise))

    def _cell(self) -> Any:
        return as_cell(self.cell, state_like=self.state_like)
