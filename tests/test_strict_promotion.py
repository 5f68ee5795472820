"""Whoever has JAX refuse to mix dtypes (`jax_numpy_dtype_promotion="strict"`) finds that nothing mixes inside."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

tr = rd.training
KEY = jax.random.key(0)
GAIN, LEAK = 2.0, 0.1


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


class Unit(eqx.Module):
    """x' = tanh(p diag(2, .1) x): a pitchfork at p = 1/2; with the sign turned, a 2-cycle."""

    sign: np.ndarray

    def __call__(self, x, p):
        return jnp.tanh(p * self.sign * np.array([GAIN, LEAK]) * x)


PLUS, MINUS = np.array(1.0), np.array(-1.0)
STARTS = np.random.default_rng(0).uniform(-1, 1, (4, 2))
# x = tanh(2 x), by iteration.
ROOT = 1.0
for _ in range(200):
    ROOT = np.tanh(GAIN * ROOT)


def test_searches():
    f = lambda x: Unit(PLUS)(x, 1.0)
    points = rd.find_fixed_points(f, STARTS, progress=False).points
    assert np.max(abs(points[:, 0])) == pytest.approx(ROOT, abs=1e-12)
    cycles = rd.find_cycles(lambda x: Unit(MINUS)(x, 1.0), STARTS, 2, progress=False)
    assert np.max(abs(cycles.points[..., 0])) == pytest.approx(ROOT, abs=1e-12)
    assert rd.classify_attractor(f, STARTS[0]).period == 1
    assert len(rd.enumerate_fixed_points(f, -np.ones(2), np.ones(2)).points) == 3


def test_continuation():
    branch = rd.continue_fixed_points(Unit(PLUS), np.zeros(2), 0.3, (0.2, 1.0))
    assert [e.kind for e in branch.bifurcations] == ["branch point"]
    assert branch.bifurcations[0].parameter == pytest.approx(0.5, abs=1e-9)
    cycle = np.array([[ROOT, 0.0], [-ROOT, 0.0]])
    assert rd.continue_cycles(Unit(MINUS), cycle, 1.0, (0.95, 1.05)).points.shape[1:] == (2, 2)


def test_growth():
    f, x0 = lambda x: Unit(PLUS)(x, 1.0), jnp.zeros(2)
    # After the transient the frame has turned into place; float32.
    spectrum = rd.lyapunov_spectrum(f, x0, 64, num_transient=32)
    np.testing.assert_allclose(spectrum.exponents, np.log([GAIN, LEAK]), rtol=1e-5)
    found = rd.adjoints(f, x0, None, lambda xs: jnp.sum(xs[-1]), num_steps=8)
    # From (1, 1) to (2^8, 10^-8) in 8 steps.
    assert found.growth_rate == pytest.approx(np.log(GAIN**8 / np.sqrt(2)) / 8, abs=1e-5)
    series = np.asarray(rd.trajectory(lambda x: 3.9 * x * (1 - x), jnp.full(1, 0.3), 500))[:, 0]
    assert rd.zero_one_test(series).statistic > 0.8
    assert rd.max_lyapunov_exponent(f, x0, 64, num_transient=32).exponent == pytest.approx(np.log(GAIN), rel=1e-5)


def test_training():
    model = rd.RNN(rd.GRUCell(2, 3, key=KEY), eqx.nn.Linear(3, 2, key=KEY))
    x = np.random.default_rng(1).normal(size=(2, 6, 2)).astype(np.float32)
    options = {"num_steps": 2, "key": KEY, "progress": False}
    batch, mse = tr.Batch(x, x), tr.mean_squared_error
    for loss, extra in ((tr.over_trials(mse), {}), (tr.over_steps(mse), {"precision": tr.MixedPrecision()})):
        losses = rd.fit(model, loss, [batch], optax.adam(1e-2), **options, **extra).history.losses
        assert losses[1] < losses[0]
    loss, windows = tr.truncated_bptt(mse), tr.Windows((x, x), 3)
    assert np.isfinite(
        rd.fit(model, loss, windows, optax.adam(1e-2), carry=tr.start_states(model, 2), **options).history.losses
    ).all()
    square = lambda y, t: jnp.mean((y - t) ** 2)
    step = rd.bptt(model.cell, model.readout, x[0], x[0], square, window=2)
    assert step.loss == pytest.approx(float(np.mean((np.asarray(model(x[0])) - x[0]) ** 2) * 6), rel=1e-5)
    assert tr.scheduled_sampling(model, x[0], 0.5, key=KEY).shape == (6, 2)
