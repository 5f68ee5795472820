"""Forced training with inputs, encoders and weights for each series: losses in plain NumPy, and what is learned."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd
from rnndyn.tasks import dynamical_systems as ds
from rnndyn.training import Encoded, encoded, forced_loss, forcing_strength, generalized_teacher_forcing, per_series


def identity(size):
    readout = eqx.nn.Linear(size, size, use_bias=False, key=jax.random.key(1))
    return eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(size))


@pytest.fixture(scope="module")
def driven():
    return rd.RNN(rd.PiecewiseLinearCell(1, 2, num_hidden=5, key=jax.random.key(0)), identity(2))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 7, 2)).astype(np.float32)
    return ds.Stretches(values, rng.normal(size=(3, 6, 1)).astype(np.float32), np.array([1, 0, 1]))


def step(cell, x, u):
    """The shallow cell in plain NumPy."""
    hidden = np.maximum(cell.hidden_weight @ x + cell.hidden_bias, 0)
    return cell.diagonal * x + cell.weight_hh @ hidden + cell.bias + cell.weight_ih @ u


def forced_error(cell, stretch, inputs, alpha):
    cell = jax.tree.map(np.asarray, cell)
    x, errors = stretch[0], []
    for target, u in zip(stretch[1:], inputs):
        x = step(cell, x, u)
        errors.append(np.mean((x - target) ** 2))
        x = x + alpha * (target - x)
    return np.mean(errors)


def test_inputs_drive_forced_runs(driven, batch):
    loss = forced_loss(0.3)
    value, _ = loss(driven, batch, loss.first_carry())
    expected = [forced_error(driven.cell, s, u, 0.3) for s, u in zip(batch.values, batch.inputs)]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
    with pytest.raises(ValueError, match="the cell has 1 inputs and the batch 0"):
        loss(driven, batch.values, loss.first_carry())


def test_the_adaptive_strength_sees_the_inputs():
    """x' = 1.25 u x: the inputs decide how much it grows."""
    with jax.enable_x64(True):
        states, inputs = jnp.ones((40, 2)), jnp.full((40, 1), 2.0)
        np.testing.assert_allclose(
            forcing_strength(lambda x, u: 1.25 * u * x, states, inputs=inputs), 1 - 1 / 2.5, rtol=1e-12
        )
        with pytest.raises(ValueError, match="inputs: expected one for each of the 40"):
            forcing_strength(lambda x, u: u * x, states, inputs=inputs[1:])


def test_windows_carry_inputs_and_the_numbers_of_series():
    values = np.arange(40.0)[:, None] + 1000 * np.arange(3)[:, None, None]
    windows = ds.SeriesWindows(values, 4, 64, inputs=2 * values, with_series=True)
    cut = windows(jax.random.key(0))
    assert cut.values.shape == (64, 5, 1)
    assert cut.inputs.shape == (64, 4, 1)
    np.testing.assert_array_equal(cut.inputs, 2 * cut.values[:, :-1])
    np.testing.assert_array_equal(cut.series, cut.values[:, 0, 0] // 1000)
    assert set(np.asarray(cut.series)) == {0, 1, 2}
    with pytest.raises(ValueError, match="inputs: expected a row for each sample"):
        ds.SeriesWindows(values, 4, 8, inputs=values[:, 1:])
    with pytest.raises(ValueError, match="inputs: 1 entries are NaN"):
        ds.SeriesWindows(values[0], 4, 8, inputs=np.where(values[0] == 7, np.nan, 0.0))


def test_an_encoder_says_where_runs_start_and_what_draws_them(batch):
    """A readout that is not linear, an encoder of two samples: against plain NumPy."""
    rng = np.random.default_rng(1)
    cell = rd.PiecewiseLinearCell(1, 3, num_hidden=5, key=jax.random.key(0))
    read, lift = (rng.normal(size=s).astype(np.float32) for s in ((2, 3), (3, 4)))
    network = Encoded(rd.RNN(cell, Tanh(read)), Tanh(lift), 2)
    loss = forced_loss(0.3, reconstruction=0.5)
    value, _ = loss(network, batch, loss.first_carry())
    cell, expected = jax.tree.map(np.asarray, cell), []
    for stretch, inputs in zip(batch.values, batch.inputs):
        encode = lambda t, y=stretch: np.tanh(lift @ np.concatenate([y[t], y[t - 1]]))
        x, errors = encode(1), []
        for t in range(2, 7):
            x = step(cell, x, inputs[t - 1])
            errors.append(np.mean((np.tanh(read @ x) - stretch[t]) ** 2))
            x = 0.7 * x + 0.3 * encode(t)
        back = [np.mean((np.tanh(read @ encode(t)) - stretch[t]) ** 2) for t in range(1, 7)]
        expected.append(np.mean(errors) + 0.5 * np.mean(back))
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(
        network.encode(batch.values[0, :2]), np.tanh(lift @ batch.values[0, 1::-1].ravel()), rtol=1e-5
    )
    with pytest.raises(ValueError, match="samples: expected 2"):
        network.encode(batch.values[0])
    with pytest.raises(ValueError, match="stretches need 3"):
        loss(network, batch._replace(values=batch.values[:, :2], inputs=batch.inputs[:, :1]), loss.first_carry())
    with pytest.raises(ValueError, match="teachers: expected a state for each target"):
        generalized_teacher_forcing(network.model, batch.values[0], 0.1, teachers=np.zeros((7, 2)))


class Tanh(eqx.Module):
    weight: np.ndarray

    def __call__(self, x):
        return jnp.tanh(jnp.asarray(self.weight) @ x)


def test_an_encoder_finds_the_state_of_a_rotation():
    """One coordinate of a rotation by an angle is seen: with two samples the state is known, with one it is not."""
    t = 0.3 * np.arange(400)
    windows = ds.SeriesWindows(np.cos(t)[:, None], 10, 16)
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[0.0, -s], [s, 0.0]], np.float32)
    diagonal, bias = np.array([c, c], np.float32), np.zeros(2, np.float32)
    cell = rd.PiecewiseLinearCell.from_weights(diagonal, turn, bias, num_rectified=0)
    first = eqx.tree_at(lambda r: r.weight, eqx.nn.Linear(2, 1, key=jax.random.key(1)), jnp.array([[1.0, 0.0]]))
    model = rd.RNN(cell, first)
    loss = forced_loss(0.0)
    errors = {}
    for lags in (1, 2):
        network = encoded(model, num_outputs=1, num_lags=lags, width=8, depth=0, key=jax.random.key(2))
        fitted = rd.fit(network, loss, windows, optax.adam(3e-2), num_steps=400, carry=loss.first_carry(),
                        key=jax.random.key(3), progress=False)  # fmt: skip
        errors[lags] = np.median(fitted.history.losses[-20:])
    # Unseen, the sine is worth half the variance of what comes half a turn later.
    assert errors[2] < 1e-3 < 0.05 < errors[1]
    with pytest.raises(ValueError, match="one vector"):
        encoded(rd.RNN(rd.LSTMCell(0, 2, key=jax.random.key(0)), model.readout), num_outputs=1, key=jax.random.key(0))


def test_weights_of_a_series_are_shared_ones_and_its_features(driven, batch):
    network = per_series(driven, 2, 2, key=jax.random.key(4))
    # All series start alike.
    np.testing.assert_array_equal(network.member(1).cell.weight_hh, driven.cell.weight_hh)
    rng = np.random.default_rng(2)
    directions = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), network.directions)
    network = eqx.tree_at(lambda n: n.directions, network, directions)
    own = np.asarray(driven.cell.bias) + np.asarray(network.features[1]) @ directions.cell.bias
    np.testing.assert_allclose(network.member(1).cell.bias, own, rtol=1e-5)
    loss = forced_loss(0.9, fixed_readout=True)
    identities = eqx.tree_at(lambda n: n.directions.readout.weight, network, np.zeros((2, 2, 2), np.float32))
    value, _ = loss(identities, batch, loss.first_carry())
    members = [identities.member(int(k)).cell for k in batch.series]
    expected = [forced_error(c, s, u, 0.9) for c, s, u in zip(members, batch.values, batch.inputs)]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-4)
    with pytest.raises(ValueError, match="with_series=True"):
        loss(network, batch._replace(series=None), loss.first_carry())
    with pytest.raises(ValueError, match="index: expected 0 to 1"):
        network.member(2)


def test_a_feature_orders_systems_by_their_parameter():
    """Rotations by five angles: one feature and one set of weights tell them apart, in the order of the angle."""
    angles = np.array([0.2, 0.3, 0.4, 0.5, 0.6])
    phases = angles[:, None] * np.arange(200)
    windows = ds.SeriesWindows(np.stack([np.cos(phases), np.sin(phases)], axis=2), 8, 16, with_series=True)
    cell = rd.PiecewiseLinearCell(0, 2, num_rectified=0, key=jax.random.key(0))
    network = per_series(rd.RNN(cell, identity(2)), 5, 1, key=jax.random.key(1))
    loss = forced_loss(0.1, fixed_readout=True)
    fitted = rd.fit(network, loss, windows, optax.adam(1e-2), num_steps=600, carry=loss.first_carry(),
                    key=jax.random.key(2), progress=False)  # fmt: skip
    learned = fitted.last_model
    found = []
    for k in range(5):
        turn = np.linalg.eigvals(np.asarray(rd.linearize(rd.as_map(learned.member(k).cell), jnp.zeros(2)).jacobian))
        found.append(np.abs(np.angle(turn)).max())
    np.testing.assert_allclose(found, angles, atol=0.02)
    order = np.argsort(np.asarray(learned.features[:, 0]))
    assert list(order) in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0])


def test_maps_of_one_family_are_learned_together():
    """Henon maps of five parameters a: a shallow network with one feature has each of them, and orders them by a."""
    parameters, x, rows = np.array([1.0, 1.1, 1.2, 1.3, 1.4]), np.array([[0.1, -0.2]]), []
    x = np.repeat(x, 5, axis=0)
    for _ in range(400):
        rows.append(x)
        x = np.stack([1 - parameters * x[:, 0] ** 2 + x[:, 1], 0.3 * x[:, 0]], axis=1)
    series = np.stack(rows, axis=1)
    pooled = rd.training.shallow_start(
        series, 24, num_directions=2, directions="curvature", dtype=np.float32, key=jax.random.key(0)
    )
    network = per_series(rd.RNN(pooled, identity(2)), 5, 1, key=jax.random.key(1))
    loss = forced_loss(0.9, fixed_readout=True)
    windows = ds.SeriesWindows(series, 4, 32, with_series=True)
    fitted = rd.fit(network, loss, windows, optax.adam(optax.cosine_decay_schedule(2e-2, 800)), num_steps=800,
                    carry=loss.first_carry(), key=jax.random.key(2), progress=False)  # fmt: skip
    learned = fitted.last_model
    now, after = series[:, :-1], series[:, 1:]
    errors, found = [], []
    for cells in ([pooled] * 5, [learned.member(k).cell for k in range(5)]):
        cells = [jax.tree.map(lambda leaf: np.asarray(leaf, float), cell) for cell in cells]
        steps = np.stack([[step(cell, x, np.zeros(0)) for x in rows] for cell, rows in zip(cells, now)])
        errors.append(np.sqrt(np.mean((steps - after) ** 2, axis=(1, 2))))
        # The parameter of the Henon map that is nearest to each.
        squares = now[..., 0] ** 2
        found.append(np.sum((1 + now[..., 1] - steps[..., 0]) * squares, axis=1) / np.sum(squares**2, axis=1))
    # One network for all is far from each end.
    assert np.abs(found[0] - parameters).max() > 0.06
    np.testing.assert_allclose(found[1], parameters, atol=0.03)
    assert errors[1].max() < 0.4 * errors[0].max()
    # One feature says which is which.
    assert abs(np.corrcoef(learned.features[:, 0], parameters)[0, 1]) > 0.98
