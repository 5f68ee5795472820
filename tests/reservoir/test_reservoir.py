"""Echo state networks against plain NumPy, and a signal that a linear network continues exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.tasks import dynamical_systems as ds

SIGNAL = np.stack([np.sin(0.3 * np.arange(400)), np.cos(0.17 * np.arange(400)) + 2], axis=1)


@pytest.fixture(scope="module")
def untrained():
    return rd.reservoir(2, 30, spectral_radius=0.7, leak=0.6, input_scaling=0.4, key=jax.random.key(0))


@pytest.fixture(scope="module")
def trained(untrained):
    return untrained.fit(ds.as_series(SIGNAL, dt=0.5), ridge=1e-8, num_washout=50)


def test_weights_are_as_asked(untrained):
    weight = np.asarray(untrained.cell.weight_hh)
    np.testing.assert_allclose(np.abs(np.linalg.eigvals(weight)).max(), 0.7, rtol=1e-10)
    # Binomial: 900 places, 6 in 30 taken, five standard errors.
    assert abs((weight != 0).sum() - 180) < 5 * np.sqrt(900 * 0.2 * 0.8)
    assert np.abs(untrained.cell.weight_ih).max() <= 0.4
    assert weight.dtype == np.float64


def test_readout_and_closed_loop_are_those_of_numpy(untrained, trained):
    cell = untrained.cell
    mean, deviation = SIGNAL.mean(axis=0), SIGNAL.std(axis=0)
    scaled = (SIGNAL - mean) / deviation
    step = lambda r, u: 0.4 * r + 0.6 * np.tanh(cell.weight_hh @ r + cell.weight_ih @ u + cell.bias)
    phi = lambda r: np.where(np.arange(30) % 2 == 1, r**2, r)
    state, rows = np.zeros(30), []
    for u in scaled[:-1]:
        state = step(state, u)
        rows.append(phi(state))
    # Ridge regression as a least-squares problem with extra rows, bias unpenalised by centring.
    rows, targets = np.array(rows[50:]), scaled[51:]
    centred, wanted = rows - rows.mean(axis=0), targets - targets.mean(axis=0)
    extra = np.sqrt(1e-8 * len(rows)) * np.eye(30)
    weight = np.linalg.lstsq(np.vstack([centred, extra]), np.vstack([wanted, np.zeros((30, 2))]), rcond=None)[0].T
    bias = targets.mean(axis=0) - weight @ rows.mean(axis=0)
    # Normal equations lose half of the digits.
    np.testing.assert_allclose(trained.cell.weight_out, weight, atol=1e-5)
    error = np.sqrt(np.mean((rows @ weight.T + bias - targets) ** 2, axis=0))
    np.testing.assert_allclose(trained.training_error, error, rtol=1e-3)

    state = np.zeros(30)
    for u in scaled[:120]:
        state = step(state, u)
    np.testing.assert_allclose(trained.synchronize(SIGNAL[None, :120])[0], state, atol=1e-12)
    weight, bias = np.asarray(trained.cell.weight_out), np.asarray(trained.cell.bias_out)
    expected = []
    for _ in range(30):
        expected.append(weight @ phi(state) + bias)
        state = step(state, expected[-1])
    np.testing.assert_allclose(
        trained.predict(SIGNAL[None, :120], 30)[0], np.array(expected) * deviation + mean, atol=1e-9
    )
    # What it learned is the signal: a tenth of a standard deviation over five steps.
    np.testing.assert_allclose(expected[:5], scaled[120:125], atol=0.1)


def test_the_closed_loop_is_a_map_of_the_library(trained):
    f = trained.map
    lower, upper = f.region
    np.testing.assert_array_equal(lower, -np.ones(30))
    np.testing.assert_array_equal(upper, np.ones(30))
    with jax.enable_x64(True):
        corners = jnp.sign(jax.random.normal(jax.random.key(0), (50, 30), "float64"))
        assert (np.abs(jax.vmap(f)(corners)) <= 1).all()
        states = rd.trajectory(f, trained.synchronize(SIGNAL[None, :120])[0], 3)
    np.testing.assert_allclose(trained.output(states)[:2], trained.predict(SIGNAL[None, :120], 3)[0, 1:], atol=1e-10)
    # Two tones: two pairs of multipliers of modulus about 1 hold them, and the rest is forgotten.
    assert trained.dt == 0.5


def test_the_grid_is_what_single_networks_do():
    series = ds.as_series(SIGNAL)
    train, test = series.cut(250)
    options = {"num_connections": 6, "num_washout": 40, "key": jax.random.key(5)}
    grid = rd.reservoir_grid(
        train, test, 20, spectral_radius=[0.3, 0.9], input_scaling=[0.2], ridge=[1e-8, 1e-1], num_starts=3, num_free=50,
        batch_size=1, **options,
    )  # fmt: skip
    assert len(grid) == 4
    assert list(grid.ridge) == [1e-8, 1e-1, 1e-8, 1e-1]
    for row in range(4):
        network = rd.reservoir(2, 20, spectral_radius=float(grid.spectral_radius[row]), input_scaling=0.2,
                               num_connections=6, key=jax.random.key(5))  # fmt: skip
        fitted = network.fit(train, ridge=float(grid.ridge[row]), num_washout=40)
        places = np.linspace(0, 150 - 90, 3).astype(int)
        pieces = np.stack([test.values[0, p : p + 90] for p in places])
        error = (fitted.predict(pieces[:, :40], 50) - pieces[:, 40:]) / train.standardize().scale.deviation
        lost = np.sqrt((error**2).mean(axis=2)) > 0.4
        np.testing.assert_array_equal(grid.steps[row], np.where(lost.any(axis=1), lost.argmax(axis=1), 50))
    assert grid.best["ridge"] == 1e-8
    again = grid.best_reservoir(2, key=jax.random.key(5))
    np.testing.assert_allclose(
        np.abs(np.linalg.eigvals(again.cell.weight_hh)).max(), grid.best["spectral_radius"], rtol=1e-9
    )


def test_bad_input_is_named(untrained, trained):
    key = jax.random.key(0)
    for options, words in [
        ({"leak": 0.0}, "leak"),
        ({"spectral_radius": -1.0}, "spectral_radius"),
        ({"num_connections": 0}, "num_connections"),
        ({"num_units": 0}, "num_units"),
    ]:
        with pytest.raises(ValueError, match=words):
            rd.reservoir(2, **{"num_units": 10} | options, key=key)
    with pytest.raises(ValueError, match="ridge"):
        untrained.fit(SIGNAL, ridge=0.0)
    with pytest.raises(ValueError, match="expected 2 variables"):
        untrained.fit(SIGNAL[:, :1])
    with pytest.raises(ValueError, match="washout"):
        untrained.fit(SIGNAL[:60], num_washout=100)
    with pytest.raises(ValueError, match="NaN"):
        untrained.fit(np.where(np.arange(400)[:, None] == 7, np.nan, SIGNAL))
    with pytest.raises(ValueError, match="values"):
        trained.synchronize(SIGNAL)
    with pytest.raises(ValueError, match="validation"):
        rd.reservoir_grid(SIGNAL, SIGNAL[:200], 10, key=key)
