"""How foreign cells become cells."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from networks.random_cells import fill

import rnndyn as rd
from rnndyn.networks.adapters import Cell, as_cell, takes_key

IN, H = 2, 4
OWN = (rd.VanillaCell, rd.LeakyCell, rd.LowRankCell, rd.LSTMCell, rd.GRUCell, rd.ChaosFreeCell, rd.PiecewiseLinearCell)


def test_cells_come_back_as_they_are():
    for kind in OWN:
        cell = fill(lambda key, kind=kind: kind(IN, H, key=key))
        assert as_cell(cell) is cell
        assert takes_key(cell) == (kind is rd.LeakyCell)


def test_equinox_cells_share_their_weights_and_gain_bounds():
    peer = fill(lambda key: eqx.nn.LSTMCell(IN, H, key=key))
    cell = as_cell(peer)
    assert isinstance(cell, rd.LSTMCell)
    np.testing.assert_array_equal(cell.weight_hh, peer.weight_hh)
    assert cell.state_bounds(jnp.zeros(IN)) is not None
    gradient = eqx.filter_grad(lambda c: jnp.sum(as_cell(c)(cell.initial_state(), jnp.ones(IN))[0]))(peer)
    assert np.abs(gradient.weight_ih).max() > 0
    assert isinstance(as_cell(fill(lambda key: eqx.nn.GRUCell(IN, H, use_bias=False, key=key))), rd.GRUCell)


def test_a_function_with_a_state_like():
    f = lambda state, input: (state[0] + input, 0.5 * state[1])
    cell = as_cell(f, state_like=(np.ones(IN), np.ones(3)))
    assert isinstance(cell, Cell)
    assert as_cell(cell) is cell
    start = cell.initial_state()
    np.testing.assert_array_equal(np.concatenate(start), 0)
    after = cell((jnp.ones(IN), jnp.ones(3)), jnp.ones(IN))
    np.testing.assert_array_equal(np.concatenate(cell.output(after)), [2, 2, 0.5, 0.5, 0.5])
    assert cell.state_bounds(jnp.ones(IN)) is None


def test_a_cell_of_ones_own_needs_no_base_class():
    class Counter:
        input_size = 1

        def __call__(self, state, input):
            return state + input

        def initial_state(self):
            return jnp.zeros(1)

        def output(self, state):
            return 2 * state

        def state_bounds(self, input):
            return None

    model = rd.RNN(Counter(), lambda h: h)
    np.testing.assert_array_equal(model(np.ones((3, 1)))[:, 0], [2, 4, 6])


def test_what_is_no_cell():
    with pytest.raises(ValueError, match=r"cell: expected a cell or a function .*, got a int"):
        as_cell(3)
    peer = fill(lambda key: eqx.nn.GRUCell(IN, H, key=key))
    broken = eqx.tree_at(lambda c: c.bias, peer, peer.bias * jnp.inf)
    with pytest.raises(ValueError, match=r"bias.*holds NaN or infinity"):
        as_cell(broken)
