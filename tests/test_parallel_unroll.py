"""Cells on all steps at once: against iterating them, with gradients of the weights."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill, normal

import rnndyn as rd

T, IN, H = 20, 2, 3
CELLS = {"vanilla": rd.VanillaCell, "gru": rd.GRUCell, "lstm": rd.LSTMCell}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", CELLS)
def test_states_and_gradients_are_those_of_unroll(name):
    cell, inputs = fill(lambda key: CELLS[name](IN, H, key=key)), normal(T, IN)
    weights = normal(T, H, seed=3)

    @eqx.filter_jit
    def states_and_gradient(cell, inputs, run):
        def loss(cell_and_inputs):
            states = run(*cell_and_inputs)
            return sum(jnp.sum(weights * leaf) for leaf in jax.tree.leaves(states)), states

        return eqx.filter_grad(loss, has_aux=True)((cell, inputs))

    at_once, stepped = (states_and_gradient(cell, inputs, run) for run in (rd.unroll_parallel, rd.unroll))
    assert jax.tree.structure(at_once) == jax.tree.structure(stepped)
    for a, b in zip(jax.tree.leaves(at_once), jax.tree.leaves(stepped)):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)  # the tolerance, 6e-14, grown over the sequence


@pytest.mark.usefixtures("x64")
def test_a_chaotic_network_is_iterated_with_a_warning_or_refused():
    rng = np.random.default_rng(0)
    cell = rd.VanillaCell.from_weights(np.zeros((16, 1)), rng.normal(size=(16, 16)), np.zeros(16))  # gain 4
    inputs, state = np.zeros((96, 1)), rng.normal(size=16)
    with pytest.warns(UserWarning, match="parallel: iterated one step after the other"):
        states = rd.unroll_parallel(cell, inputs, state)
    # Every state is the image of the one before it. (Two programs that each iterate drift apart by chaos.)
    before = np.concatenate([[state], states[:-1]])
    np.testing.assert_allclose(states, np.tanh(before @ np.asarray(cell.weight_hh).T), rtol=1e-13, atol=1e-14)
    with pytest.raises(ValueError, match="if_chaotic='continue'"):
        rd.unroll_parallel(cell, inputs, state, if_chaotic="raise")


def test_bad_input():
    cell = fill(lambda key: rd.VanillaCell(IN, H, key=key))
    with pytest.raises(ValueError, match=r"inputs: expected one sequence of shape \(T, 2\)"):
        rd.unroll_parallel(cell, normal(T, IN + 1))
    with pytest.raises(ValueError, match=r"inputs: expected one sequence of shape \(T, 2\)"):
        rd.unroll_parallel(cell, np.zeros((0, IN)))
