"""One step at a time, with the state kept: inference on a stream without end."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnndyn._programs import compiled
from rnndyn.networks.call import model_for_sequence, promote_state, wants_key


class Stream:
    """A model that reads one input at a time and keeps its state.

        s_{t+1} = cell(s_t, u_t),   y_t = readout(output(s_{t+1}))

    Time and memory per step do not depend on how much has been read; the outputs are those of the model on the whole
    sequence. The step is compiled once for all streams of models of one structure.

    ```python
    stream = rd.Stream(model)
    for input in sensor:
        output = stream(input)
    ```
    """

    state: PyTree[Array]
    """The state now. It can be kept and assigned again, to go on from there."""

    def __init__(self, model: Any, state: PyTree[Array] | None = None, *, key: PRNGKeyArray | None = None):
        """**Arguments:**

        - `model`: an `RNN`, `StackedRNN` or `TokenRNN`: whatever has `start()` and `step(state, input)`. A
            `BidirectionalRNN` has not: it reads the end first.
        - `state`: the state to start from; `model.start()` when not given.
        - `key`: for a model with noise or dropout, a `jax.random.key`: step t draws from `jax.random.fold_in(key, t)`,
            what is drawn once for the sequence as in `rnndyn.unroll`. Without a key nothing is random.

        **Raises:** `ValueError` for a model without these, or a `key` for a model that draws nothing.
        """
        if not (hasattr(model, "start") and hasattr(model, "step")):
            raise ValueError(f"model: expected one with start() and step(state, input), got a {type(model).__name__}.")
        if key is not None:
            if not wants_key(model):
                raise ValueError(f"key: this {type(model).__name__} has no noise; leave the key out.")
            model = model_for_sequence(model, key)
        self.model = model
        self.state = model.start() if state is None else state
        self._key, self._count = key, 0

    def __call__(self, input: Any) -> Array:
        """Read one input (I,), or one token; gives the output (O,).

        **Raises:** `ValueError` for an input of another shape, or a token out of range.
        """
        if hasattr(self.model, "check_tokens"):
            self.model.check_tokens(input)
        input = input if isinstance(input, jax.Array) else np.asarray(input)
        # An array, so that the number of the step is no constant of the compilation.
        count = None if self._key is None else np.uint32(self._count)
        self.state, output = _step(self.model, self.state, input, self._key, count)
        self._count += 1
        return output

    @property
    def num_bytes(self) -> int:
        """Bytes of the state: all that is kept of the past."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.state))


@compiled
def _step(model: Any, state: Any, input: Any, key: PRNGKeyArray | None, count: Any) -> tuple[Any, Array]:
    noise = {} if key is None else {"key": jax.random.fold_in(key, count)}
    # In the dtype of the whole sequence: its state is promoted before its first step.
    state = promote_state(lambda state: model.step(state, input, **noise)[0], state)
    return model.step(state, input, **noise)
