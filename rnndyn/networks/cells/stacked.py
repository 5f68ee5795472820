"""Several cells in a column, as one cell."""

import functools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from rnndyn.networks.adapters import as_cell, check_transition, draws_once, takes_key
from rnndyn.networks.cells._claims import known_bounds
from rnndyn.networks.cells.dropout import DropoutCell


class StackedCell(eqx.Module):
    """One step of a deep recurrent network: layer k + 1 reads what layer k puts out at the same step.

        s_1' = cell_1(s_1, u),    s_{k+1}' = cell_{k+1}(s_{k+1}, output_k(s_k'))

    The state is the tuple of the layers' states, and the whole column is one cell, and so one map for an analysis.
    """

    cells: tuple[Any, ...]

    def __init__(self, cells: Sequence[Any], *, dropout: float = 0.0, variational: bool = False):
        """**Arguments:**

        - `cells`: the layers, from the input to the output; anything that `unroll` takes and that has an initial state.
        - `dropout`: the probability of dropping an entry between two layers: every layer but the first becomes a
            `DropoutCell`. It acts where a key is given, and nowhere else.
        - `variational`: drop the same entries over a whole sequence.

        **Raises:** `ValueError` for no cells, a layer that cannot read the output of the layer before it, or a
            probability outside of [0, 1).
        """
        if len(cells) == 0:
            raise ValueError("cells: expected at least one cell, got none.")
        first, *others = cells
        if dropout != 0:
            others = [DropoutCell(cell, dropout, variational=variational) for cell in others]
        self.cells = (first, *others)
        for index, (below, above) in enumerate(zip(self._layers()[:-1], self._layers()[1:])):
            read = eqx.filter_eval_shape(lambda cell=below: cell.output(cell.initial_state()))
            try:
                check_transition(above, above.initial_state(), read)
            except ValueError as error:
                raise ValueError(
                    f"cells: layer {index + 1} cannot read the output of layer {index}, of shape {read.shape}: {error}"
                ) from error

    @property
    def input_size(self) -> int | None:
        """Entries of the input of the first layer."""
        return self._layers()[0].input_size

    @property
    def time_step(self) -> Any:
        """The time of one step in units of the layers' longest time constant; `None` unless every layer has one."""
        steps = [getattr(layer, "time_step", None) for layer in self._layers()]
        known = [step for step in steps if step is not None]
        return functools.reduce(jnp.minimum, known) if len(known) == len(steps) else None

    def sample(self, key: PRNGKeyArray) -> "StackedCell":
        """The stack for one sequence: what its layers draw once is drawn, from one key each."""
        keys = jax.random.split(key, len(self.cells))
        layers = [
            layer.sample(layer_key) if draws_once(layer) else cell
            for layer, cell, layer_key in zip(self._layers(), self.cells, keys, strict=True)
        ]
        return eqx.tree_at(lambda stack: stack.cells, self, tuple(layers))

    def _layers(self) -> list[Any]:
        return [as_cell(cell) for cell in self.cells]

    def __call__(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> tuple[Any, ...]:
        """The next state.

        **Arguments:**

        - `state`: the tuple of the layers' states.
        - `input`: the input of the first layer, shape (I,).
        - `key`: a `jax.random.key` for the layers that have noise or dropout, split into one for each.

        **Returns:** the tuple of states one step later.

        **Raises:** `ValueError` for another number of states, or what a layer refuses.
        """
        layers = self._layers()
        if not isinstance(state, tuple | list) or len(state) != len(layers):
            raise ValueError(
                f"state: expected a tuple of {len(layers)} states, one per layer, got a {type(state).__name__}"
                + (f" of {len(state)}." if isinstance(state, tuple | list) else ".")
            )
        keys = [None] * len(layers) if key is None else jax.random.split(key, len(layers))
        states = []
        for layer, layer_state, layer_key in zip(layers, state, keys, strict=True):
            noise = {"key": layer_key} if layer_key is not None and takes_key(layer) else {}
            states.append(layer(layer_state, input, **noise))
            input = layer.output(states[-1])
        return tuple(states)

    def initial_state(self) -> tuple[Any, ...]:
        """The initial states of the layers."""
        return tuple(layer.initial_state() for layer in self._layers())

    def output(self, state: Any) -> Any:
        """What a readout sees: the output of the last layer."""
        return self._layers()[-1].output(state[-1])

    def state_bounds(self, input: Any) -> tuple[Any, Any] | None:
        """The layers' own bounds, each for every input that the layer below can give it.

        `None` as soon as one layer has none. Outputs of rnndyn cells rise with the state, so the outputs of a layer's
        bounds are the bounds of its output.

        **Arguments:**

        - `input`: the held input (I,), or a pair of vectors between which the input stays.
        """
        lowers, uppers = [], []
        for layer in self._layers():
            bounds = known_bounds(layer, input)
            if bounds is None:
                return None
            lower, upper = bounds
            lowers.append(lower)
            uppers.append(upper)
            input = (layer.output(lower), layer.output(upper))
        return tuple(lowers), tuple(uppers)
