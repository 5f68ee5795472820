import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

KEY = jax.random.key(0)


def test_the_flat_state_of_an_lstm_is_h_then_c():
    cell = rd.LSTMCell(2, 3, key=KEY)
    f = rd.as_map(cell, np.array([0.3, -0.2], np.float32))
    state = (jnp.arange(3.0), 10 + jnp.arange(3.0))
    x = f.flatten(state)
    np.testing.assert_array_equal(x, [0, 1, 2, 10, 11, 12])
    for leaf, back in zip(state, f.unflatten(x)):
        np.testing.assert_array_equal(leaf, back)
    h, c = cell(state, jnp.array([0.3, -0.2]))
    np.testing.assert_array_equal(f(x), jnp.concatenate([h, c]))
    assert f.state_size == 6


def test_trajectories_unflatten_along_their_leading_axis():
    f = rd.as_map(rd.LSTMCell(1, 3, key=KEY))
    h, c = f.unflatten(rd.trajectory(f, np.zeros(6, np.float32), 5))
    assert h.shape == c.shape == (5, 3)


@pytest.mark.parametrize("kind", ["GRUCell", "LSTMCell"])
def test_equinox_cells_give_the_same_map(kind):
    theirs = getattr(eqx.nn, kind)(3, 4, key=KEY)
    u = jnp.array([0.1, 0.2, -0.5])
    f = rd.as_map(theirs, u)
    x = jax.random.normal(KEY, (f.state_size,))
    state = f.unflatten(x)
    # The same sums in another order: a few units in the last place of float32.
    np.testing.assert_allclose(f(x), f.flatten(theirs(u, state)), atol=1e-6)


def test_a_plain_function_is_a_cell_when_its_state_is_known():
    f = rd.as_map(lambda s, u: (s[0] * 0.5, s[1] + u), jnp.ones(2), state_like=(jnp.zeros(2), jnp.zeros(2)))
    np.testing.assert_allclose(f(jnp.ones(4)), [0.5, 0.5, 2, 2])
    with pytest.raises(ValueError, match="state_like"):
        rd.as_map(lambda s, u: s)


def test_dict_states_keep_the_order_they_were_written_in(x64):
    state = {"v": jnp.array([1.0, 2.0]), "a": (jnp.array([3.0]), {"z": jnp.array([4.0]), "b": jnp.array([5.0])})}
    step = lambda s, u: {"a": (2 * s["a"][0], s["a"][1]), "v": s["v"] + u}
    f = rd.as_map(step, jnp.ones(2), state_like=state)
    np.testing.assert_array_equal(f.flatten(state), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(f(f.flatten(state)), [2, 3, 6, 4, 5])
    back = f.unflatten(jnp.arange(5.0))
    np.testing.assert_array_equal(back["v"], [0, 1])
    np.testing.assert_array_equal([back["a"][0], back["a"][1]["z"], back["a"][1]["b"]], [[2], [3], [4]])
    np.testing.assert_array_equal(rd.step_jacobian(step, state, jnp.ones(2)), np.diag([1, 1, 2, 1, 1]))

    class Named(eqx.Module):
        input_size: int = 1

        def __call__(self, state, input):
            return {"slow": 0.9 * state["slow"], "fast": 0.1 * state["fast"]}

        def initial_state(self):
            return {"slow": jnp.zeros(1), "fast": jnp.zeros(2)}

        def output(self, state):
            return state["fast"]

        def state_bounds(self, input):
            return None

    for cell in (Named(), rd.StackedCell([Named()])):
        f = rd.as_map(cell)
        np.testing.assert_allclose(f(jnp.ones(3)), [0.9, 0.1, 0.1])
        jacobian = rd.step_jacobian(cell, f.unflatten(jnp.ones(3)), jnp.ones(1))
        np.testing.assert_allclose(jacobian, np.diag([0.9, 0.1, 0.1]))


def test_the_time_of_a_step_is_in_units_of_the_time_constant():
    leaky = rd.LeakyCell(1, 2, dt=2.0, tau=8.0, key=KEY)
    assert rd.as_map(leaky).dt == 0.25
    assert rd.iterate(rd.as_map(leaky), 3).dt == 0.75
    own = rd.LeakyCell(1, 2, dt=2.0, tau=np.array([4.0, 20.0]), key=KEY)
    assert rd.as_map(own).dt == pytest.approx(0.1)
    slower = rd.AdaptationCell(2, 2, dt=2.0, tau=8.0, tau_adaptation=40.0, key=KEY)
    assert rd.as_map(rd.StackedCell([leaky, slower])).dt == pytest.approx(0.05)
    assert rd.as_map(rd.StackedCell([leaky, rd.GRUCell(2, 2, key=KEY)])).dt is None
    assert rd.as_map(rd.GRUCell(1, 2, key=KEY)).dt is None


def test_driven_map_and_held_map_agree():
    cell = rd.GRUCell(2, 3, key=KEY)
    u, x = jnp.array([0.5, -1.0]), jnp.array([0.1, 0.2, 0.3])
    np.testing.assert_array_equal(rd.as_driven_map(cell)(x, u), rd.as_map(cell, u)(x))
    np.testing.assert_array_equal(rd.as_map(cell)(x), rd.as_map(cell, jnp.zeros(2))(x))


def test_iterate_applies_the_map_n_times():
    f = rd.as_map(rd.VanillaCell(1, 3, key=KEY))
    x = jnp.array([0.3, 0.1, -0.2])
    np.testing.assert_allclose(rd.iterate(f, 3)(x), f(f(f(x))), rtol=1e-6)
    np.testing.assert_array_equal(rd.iterate(f, 3).region, f.region)
    with pytest.raises(ValueError, match="n: expected at least 1"):
        rd.iterate(f, 0)


def test_region_is_taken_from_the_cell_or_given():
    cell = rd.VanillaCell(1, 2, key=KEY)
    np.testing.assert_array_equal(rd.as_map(cell).region, [[-1, -1], [1, 1]])
    np.testing.assert_array_equal(rd.as_map(cell, region=(-2.0, 3.0)).region, [[-2, -2], [3, 3]])
    assert rd.as_map(rd.VanillaCell(1, 2, activation="relu", key=KEY)).region is None
    with pytest.raises(ValueError, match="region: expected lower <= upper"):
        rd.as_map(cell, region=(1.0, -1.0))


def test_bad_input():
    cell = rd.GRUCell(2, 3, key=KEY)
    with pytest.raises(ValueError, match=r"input: expected shape \(2,\)"):
        rd.as_map(cell, np.zeros(3))
    with pytest.raises(ValueError, match="x: expected 3 entries"):
        rd.as_map(cell).unflatten(np.zeros(4))
    with pytest.raises(ValueError, match="state: expected leaves"):
        rd.as_map(cell).flatten((np.zeros(3), np.zeros(3)))
    broken = eqx.tree_at(lambda c: c.weight_hh, cell, cell.weight_hh.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match="weight_hh"):
        rd.as_map(broken)
    with pytest.raises(ValueError, match=r"model\.cell"):
        rd.as_map(rd.RNN(cell, eqx.nn.Linear(3, 1, key=KEY)))
