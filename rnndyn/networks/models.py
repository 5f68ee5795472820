"""Networks: a cell run over a sequence, and a readout of its states."""

import abc
from collections.abc import Callable, Sequence
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, PyTree

from rnndyn._validation import check_at_least
from rnndyn.networks.adapters import as_cell, for_sequence, is_random, step_keys, takes_key
from rnndyn.networks.cells.stacked import StackedCell
from rnndyn.networks.readouts import (
    at_entries,
    check_readout,
    read_all,
    readout_key,
    readout_keys,
    run_on_outputs,
)
from rnndyn.networks.unroll import unroll


class AbstractRNN(eqx.Module):
    """What the networks that run forwards in time share: the ways to use them.

        s_{t+1} = cell(s_t, u_t),   y_t = readout(output(s_{t+1}))

    - many to many: `model(inputs)`, one output a step;
    - many to one: `model.last(inputs)`, the output after the last entry;
    - one to many: `model.generate(input, num_steps)`, with the outputs fed back if wanted.

    Each takes one sequence: `jax.vmap` for a batch. Streaming, when inputs come one at a time, is `step` (compiled and
    with its state kept: `rnndyn.Stream`):

    ```python
    state = model.start()
    for input in inputs:
        state, output = model.step(state, input)
    ```
    """

    cell: eqx.AbstractVar[Any]
    readout: eqx.AbstractVar[Callable[[Any], Array]]
    learned_state: eqx.AbstractVar[PyTree[Array] | None]

    @abc.abstractmethod
    def start(self) -> PyTree[Array]:
        """The state from which a sequence starts when none is given: the learned one, or the cell's own."""

    def states(
        self,
        inputs: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> PyTree[Array]:
        """Every state of the cell: `unroll` from `start()`, or from `state`. Leaves have shape (T, ...)."""
        state = self.learned_state if state is None else state
        key = key if is_random(as_cell(self.cell)) else None
        return unroll(self.cell, inputs, state, mask, remat_every=remat_every, key=key)

    def __call__(
        self,
        inputs: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Many to many: the output at every step.

        **Arguments:**

        - `inputs`: shape (T, I).
        - `state`: the state to start from; `start()` when not given.
        - `mask`: booleans (T,), true where the sequence has an entry. Where it has none the last output is repeated
            (before the first entry, the first one), and neither the padding nor its gradient has any influence.
        - `remat_every`: as in `rnndyn.unroll`.
        - `key`: a `jax.random.key` for training, for whatever in the cell or the readout draws noise or dropout;
            without one the model is deterministic, as it is evaluated.

        **Returns:** outputs (T, O).

        **Raises:** `ValueError` as `rnndyn.unroll`.
        """
        states = at_entries(self.states(inputs, state, mask, remat_every=remat_every, key=key), mask)
        return read_all(self.read, self.readout, states, key=key)

    def last(
        self,
        inputs: Any,
        state: Any = None,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Many to one: the output (O,) after the last valid entry. Arguments as in a call."""
        states = self.states(inputs, state, mask, remat_every=remat_every, key=key)
        return self.read(jax.tree.map(lambda s: s[-1], states), key=readout_key(self.readout, key))

    def step(self, state: Any, input: Any, *, key: PRNGKeyArray | None = None) -> tuple[PyTree[Array], Array]:
        """One step: the state that has read `input` (I,), and the output (O,) there.

        With a `key`, what the cell and the readout draw at a step is drawn: step t of a call with a key is the step
        with `jax.random.split(key, T)[t]`, but for the readout. What is drawn once for a sequence is not drawn here.
        """
        cell: Any = as_cell(self.cell, state_like=state)
        state = cell(state, input, key=key) if key is not None and takes_key(cell) else cell(state, input)
        return state, self.read(state, key=readout_key(self.readout, key))

    def read(self, state: Any, *, key: PRNGKeyArray | None = None) -> Array:
        """The output (O,) of a state; with a `key` for a readout that takes one."""
        output, readout = as_cell(self.cell).output(state), cast(Callable[..., Array], self.readout)
        return readout(output) if key is None else readout(output, key=key)

    def generate(
        self,
        input: Any,
        num_steps: int,
        state: Any = None,
        *,
        feed_back: Callable[[Array], Array] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """One to many: `num_steps` outputs from one input.

        **Arguments:**

        - `input`: shape (I,). Without `feed_back` it is held; with it, it is the first input.
        - `num_steps`: the number T of outputs.
        - `state`: the state to start from; `start()` when not given. To go on after a prompt, pass the last of
            `states(prompt)`.
        - `feed_back`: a function from an output (O,) to the next input (I,), `lambda output: output` for
            autoregression.
        - `key`: as in a call.

        **Returns:** outputs (T, O).

        **Raises:** `ValueError` for fewer than one step, or a `feed_back` that does not give an input.
        """
        check_at_least("num_steps", num_steps, 1)
        state = self.start() if state is None else state
        cell = as_cell(self.cell, state_like=state)
        cell_key = key if is_random(cell) else None
        if feed_back is None:
            states = unroll(cell, input, state, num_steps=num_steps, key=cell_key)
            return read_all(self.read, self.readout, states, key=key)
        keys = step_keys(cell, cell_key, num_steps), readout_keys(self.readout, key, num_steps)
        return run_on_outputs(for_sequence(cell, cell_key), self.read, feed_back, state, input, num_steps, keys)


class RNN(AbstractRNN):
    """A cell and a readout. See `AbstractRNN` for the three ways to use it.

        s_{t+1} = cell(s_t, u_t),   y_t = readout(output(s_{t+1}))

    `model(inputs)` takes one sequence, (T, I) or whatever the cell reads, to outputs (T, O); `model.cell` is what
    `rnndyn.as_map` and all analyses take. The initial state is the cell's own, or learned with the weights.
    """

    cell: Any
    readout: Callable[[Any], Array]
    learned_state: PyTree[Array] | None

    def __init__(self, cell: Any, readout: Callable[[Any], Array], *, learn_initial_state: bool = False):
        """**Arguments:**

        - `cell`: anything that `rnndyn.unroll` takes and that has an initial state.
        - `readout`: `equinox.nn.Linear(H, O, key=...)`, or any function from the output of a state to (O,).
        - `learn_initial_state`: train the initial state with the weights; it starts at the cell's own.

        **Raises:** `ValueError` when the readout cannot read the cell's output.
        """
        check_readout(readout, as_cell(cell))
        self.cell = cell
        self.readout = readout
        self.learned_state = as_cell(cell).initial_state() if learn_initial_state else None

    def start(self) -> PyTree[Array]:
        return as_cell(self.cell).initial_state() if self.learned_state is None else self.learned_state


class StackedRNN(AbstractRNN):
    """Layers of cells, each reading the one below, and a readout of the last. See `AbstractRNN` for its use.

        s^k_{t+1} = cell_k(s^k_t, output(s^{k-1}_{t+1})),   y_t = readout(output(s^K_{t+1}))

    `cell` is one `StackedCell`, so analyses take the whole network as they take one cell: its state holds those of all
    layers, from the input to the output, and one step updates all of them.
    """

    cell: StackedCell
    readout: Callable[[Any], Array]
    learned_state: PyTree[Array] | None

    def __init__(
        self,
        cells: Sequence[Any],
        readout: Callable[[Any], Array],
        *,
        dropout: float = 0.0,
        variational: bool = False,
        learn_initial_state: bool = False,
    ):
        """**Arguments:**

        - `cells`: the layers, from the input to the output; layer k + 1 has the output of layer k as its input.
        - `dropout`, `variational`: between the layers, as in `StackedCell`; it acts where the model gets a key.
        - `readout`: as in `RNN`, of the last layer.
        - `learn_initial_state`: train the layers' initial states with the weights.

        **Raises:** `ValueError` for no cells, or a layer or readout that does not fit the one below.
        """
        cell = StackedCell(cells, dropout=dropout, variational=variational)
        check_readout(readout, cell)
        self.cell = cell
        self.readout = readout
        self.learned_state = cell.initial_state() if learn_initial_state else None

    def start(self) -> PyTree[Array]:
        return self.cell.initial_state() if self.learned_state is None else self.learned_state


class BidirectionalRNN(eqx.Module):
    """Two cells, one that reads forwards and one that reads backwards, and a readout of both.

        y_t = readout([output of the forward state that has read u_0 ... u_t, of the backward one, u_{T-1} ... u_t])

    Reference: Schuster and Paliwal, 1997, "Bidirectional recurrent neural networks".
    """

    forward: Any
    backward: Any
    readout: Callable[[Any], Array]
    learned_states: tuple[PyTree[Array], PyTree[Array]] | None

    def __init__(
        self,
        forward: Any,
        backward: Any,
        readout: Callable[[Any], Array],
        *,
        learn_initial_state: bool = False,
    ):
        """**Arguments:**

        - `forward`, `backward`: cells, as in `RNN`.
        - `readout`: a function from the two outputs, one after the other in one vector, to (O,).
        - `learn_initial_state`: train both initial states with the weights.

        **Raises:** `ValueError` when the readout cannot read the two outputs.
        """
        cells = as_cell(forward), as_cell(backward)
        check_readout(readout, *cells)
        self.forward = forward
        self.backward = backward
        self.readout = readout
        self.learned_states = (cells[0].initial_state(), cells[1].initial_state()) if learn_initial_state else None

    def states(
        self,
        inputs: Any,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree[Array], PyTree[Array]]:
        """Every state of the forward and of the backward cell, row t the one that has read u_t. Leaves (T, ...)."""
        start, start_backward = (None, None) if self.learned_states is None else self.learned_states
        key, key_backward = (None, None) if key is None else jax.random.split(key)
        key = key if is_random(as_cell(self.forward)) else None
        key_backward = key_backward if is_random(as_cell(self.backward)) else None
        return (
            unroll(self.forward, inputs, start, mask, remat_every=remat_every, key=key),
            unroll(self.backward, inputs, start_backward, mask, True, remat_every=remat_every, key=key_backward),
        )

    def __call__(
        self,
        inputs: Any,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Many to many: the output at every step, which sees the whole sequence.

        **Arguments:**

        - `inputs`: shape (T, I).
        - `mask`: booleans (T,), true where the sequence has an entry; the backward cell starts at the last of them.
            Padding is treated as in `RNN`.
        - `remat_every`, `key`: as in `RNN`; the key is split into one for each cell.

        **Returns:** outputs (T, O).

        **Raises:** `ValueError` as `rnndyn.unroll`.
        """
        states = at_entries(self.states(inputs, mask, remat_every=remat_every, key=key), mask)
        return read_all(self._read, self.readout, states, key=key)

    def last(
        self,
        inputs: Any,
        mask: Any = None,
        *,
        remat_every: int | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Many to one: the readout (O,) of the two final states, each of which has read the whole sequence."""
        forward, backward = self.states(inputs, mask, remat_every=remat_every, key=key)
        ends = jax.tree.map(lambda s: s[-1], forward), jax.tree.map(lambda s: s[0], backward)
        return self._read(ends, key=readout_key(self.readout, key))

    def _read(self, states: tuple[Any, Any], *, key: PRNGKeyArray | None = None) -> Array:
        forward, backward = states
        outputs = as_cell(self.forward).output(forward), as_cell(self.backward).output(backward)
        noise = {} if key is None else {"key": key}
        return self.readout(jnp.concatenate(outputs), **noise)
