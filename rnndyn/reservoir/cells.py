"""The cells of an echo state network: the reservoir, driven, and the loop closed over its readout."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rnndyn.networks.cells.bounds import input_bounds
from rnndyn.networks.cells.checks import check_hidden, check_input


class ReservoirCell(eqx.Module):
    r"""One step of the reservoir, driven by a signal u.

    $$r' = (1 - a)\, r + a \tanh(W r + W_{in} u + b)$$
    """

    weight_hh: Float[Array | np.ndarray, "H H"]
    weight_ih: Float[Array | np.ndarray, "H I"]
    bias: Float[Array | np.ndarray, " H"]
    leak: Float[Array | np.ndarray, ""]
    """a, in (0, 1]."""

    @property
    def input_size(self) -> int:
        """I."""
        return self.weight_ih.shape[1]

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.weight_ih.shape[0]

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        check_hidden(state, self.hidden_size)
        check_input(input, self.input_size)
        drive = self.weight_hh @ state + self.weight_ih @ input + self.bias
        return (1 - self.leak) * state + self.leak * jnp.tanh(drive)

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state."""
        return jnp.zeros(self.hidden_size, jnp.result_type(self.weight_hh))

    def output(self, state: Any) -> Any:
        """What a readout sees: the state."""
        return state

    def state_bounds(self, input: Any) -> tuple[Array, Array]:
        """Between -1 and 1: a step is a mean of the state and of a tanh."""
        input_bounds(input, self.input_size)
        one = jnp.ones(self.hidden_size, jnp.result_type(self.weight_hh))
        return -one, one


class ClosedLoopCell(eqx.Module):
    r"""The reservoir driven by its own readout: an autonomous network, whose output is the signal that it continues.

    $$r' = (1 - a)\, r + a \tanh\bigl(W r + W_{in}\, y(r) + b\bigr), \qquad y(r) = W_{out}\, \phi(r) + c$$

    with $\phi(r) = r$, or the squares in place of every second unit.
    """

    reservoir: ReservoirCell
    weight_out: Float[Array | np.ndarray, "I H"]
    bias_out: Float[Array | np.ndarray, " I"]
    squares: bool = eqx.field(static=True)
    input_size: int = eqx.field(default=0, static=True)

    @property
    def hidden_size(self) -> int:
        """H."""
        return self.reservoir.hidden_size

    def __call__(self, state: Any, input: Any) -> Float[Array, " H"]:
        check_input(input, self.input_size)
        return self.reservoir(state, self.output(state))

    def initial_state(self) -> Float[Array, " H"]:
        """The zero state; the state that a signal leaves behind is `TrainedReservoir.synchronize`."""
        return self.reservoir.initial_state()

    def output(self, state: Any) -> Float[Array, " I"]:
        """The signal y (I,), standardised."""
        return jnp.matmul(self.weight_out, features(state, self.squares)) + self.bias_out

    def state_bounds(self, input: Any) -> tuple[Array, Array]:
        """Between -1 and 1: a step is a mean of the state and of a tanh, whatever drives it."""
        input_bounds(input, self.input_size)
        one = jnp.ones(self.hidden_size, jnp.result_type(self.weight_out))
        return -one, one


def features(states: Float[Array | np.ndarray, "*T H"], squares: bool) -> Float[Array | np.ndarray, "*T H"]:
    """What the readout is linear in: the states, or the squares in place of every second unit."""
    if not squares:
        return states
    return jnp.where(jnp.arange(states.shape[-1]) % 2 == 1, states**2, states)
