"""Strengths of forcing in closed form, multiple shooting by hand, and the manifold attractor loss in plain NumPy."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd
from rnndyn.tasks import dynamical_systems as ds
from rnndyn.training import forced_loss, forcing_interval, forcing_strength, sparse_forcing

TURN = np.array([[0.0, -1.0], [1.0, 0.0]])


def test_strength_of_linear_maps():
    """A scaled rotation grows by its scale in every direction, and a shear only on average as its eigenvalues do."""
    with jax.enable_x64(True):
        states = jnp.zeros((40, 2))
        grows, decays = (lambda x: 1.25 * (TURN @ x)), (lambda x: 0.8 * (TURN @ x))
        np.testing.assert_allclose(forcing_strength(grows, states), 1 - 1 / 1.25, rtol=1e-12)
        np.testing.assert_allclose(forcing_strength(grows, states, growth="largest"), 1 - 1 / 1.25, rtol=1e-12)
        assert forcing_strength(decays, states) == 0
        shear = np.array([[1.1, 3.0], [0.0, 0.5]])
        largest = np.linalg.norm(shear, 2)
        product = np.linalg.norm(np.linalg.matrix_power(shear, 40), 2) ** (1 / 40)
        np.testing.assert_allclose(forcing_strength(lambda x: shear @ x, states), 1 - 1 / product, rtol=1e-10)
        np.testing.assert_allclose(
            forcing_strength(lambda x: shear @ x, states, growth="largest"), 1 - 1 / largest, rtol=1e-10
        )
        # A map that forgets everything needs no forcing, and no NaN tells so.
        assert forcing_strength(lambda x: 0 * x, states) == 0
    with pytest.raises(ValueError, match="growth"):
        forcing_strength(grows, states, growth="mean")
    with pytest.raises(ValueError, match="states"):
        forcing_strength(grows, states[0])


def test_interval_and_sparse_forcing():
    # Lorenz at steps of 0.05: ln 2 / 0.906 = 0.765 units of time.
    assert forcing_interval(0.906, 0.05) == 15
    assert forcing_interval(10.0) == 1
    np.testing.assert_array_equal(sparse_forcing(7, 3), [0, 0, 1, 0, 0, 1, 0])
    with pytest.raises(ValueError, match="exponent"):
        forcing_interval(0.0)
    with pytest.raises(ValueError, match="interval"):
        sparse_forcing(7, 0)


@pytest.fixture(scope="module")
def model():
    cell = rd.PiecewiseLinearCell(0, 2, num_hidden=5, key=jax.random.key(0))
    readout = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(1))
    return rd.RNN(cell, eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(2)))


def by_hand(model, stretch, alphas):
    """The error of forced runs, in plain NumPy, for a readout that is the state."""
    cell = jax.tree.map(np.asarray, model.cell)
    x, errors = stretch[0], []
    for target, alpha in zip(stretch[1:], alphas):
        hidden = np.maximum(cell.hidden_weight @ x + cell.hidden_bias, 0)
        x = cell.diagonal * x + cell.weight_hh @ hidden + cell.bias
        errors.append(np.mean((x - target) ** 2))
        x = x + alpha * (target - x)
    return np.mean(errors)


@pytest.mark.parametrize(
    ("alpha", "alphas"),
    [(0.3, [0.3] * 6), (np.asarray(sparse_forcing(6, 2)), [0, 1] * 3), (lambda step: 0.1 * (step + 1), [0.1] * 6)],
    ids=["number", "steps", "schedule"],
)
def test_the_loss_is_that_of_forced_runs(model, alpha, alphas):
    batch = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    loss = forced_loss(alpha)
    value, (_, step) = loss(model, batch, loss.first_carry())
    np.testing.assert_allclose(value, np.mean([by_hand(model, s, alphas) for s in batch]), rtol=1e-5)
    assert step == 1


def test_the_adaptive_strength_follows_the_jacobians(model):
    """A linear network that grows by 1.25: from 1 the strength falls towards 0.2 by the decay."""
    linear = eqx.tree_at(lambda m: (m.cell.diagonal, m.cell.weight_hh), model, (jnp.full(2, 1.25), jnp.zeros((2, 5))))
    loss = forced_loss("adaptive", decay=0.5)
    batch = np.random.default_rng(0).normal(size=(3, 7, 2)).astype(np.float32)
    value, carry = loss(linear, batch, loss.first_carry())
    np.testing.assert_allclose(carry[0], 0.6, rtol=1e-5)
    np.testing.assert_allclose(value, np.mean([by_hand(linear, s, [0.6] * 6) for s in batch]), rtol=1e-5)
    np.testing.assert_allclose(loss(linear, batch, carry)[1][0], 0.4, rtol=1e-5)
    for options in ({"alpha": "fitted"}, {"decay": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            forced_loss(**options)
    with pytest.raises(ValueError, match="batch"):
        loss(linear, batch[0], carry)
    lstm = rd.RNN(rd.LSTMCell(0, 2, key=jax.random.key(0)), linear.readout)
    with pytest.raises(ValueError, match="one vector"):
        loss(lstm, batch, carry)


def test_it_trains_in_fit_and_keeps_a_fixed_readout(model):
    t = 0.2 * np.arange(300)
    windows = ds.SeriesWindows(np.stack([np.sin(t), np.cos(t)], axis=1), 6, 8)
    loss = forced_loss(0.3, fixed_readout=True)
    fitted = rd.fit(model, loss, windows, optax.adam(1e-2), num_steps=150, carry=loss.first_carry(),
                    key=jax.random.key(2), progress=False)  # fmt: skip
    losses = fitted.history.losses
    assert losses[-10:].mean() < 0.1 * losses[:10].mean()
    np.testing.assert_array_equal(fitted.last_model.readout.weight, np.eye(2))


def test_shallow_start_is_the_regression_of_numpy():
    series = ds.sample_system(ds.Henon(), 400, key=jax.random.key(0)).standardize()
    with jax.enable_x64(True):
        cell = rd.training.shallow_start(series, 12, ridge=1e-4, dtype=np.float64, key=jax.random.key(1))
    assert cell.diagonal.dtype == np.float64
    x, y = series.values[0, :-1], series.values[0, 1:]
    features = np.maximum(x @ np.asarray(cell.hidden_weight).T + np.asarray(cell.hidden_bias), 0)
    np.testing.assert_allclose(np.linalg.norm(cell.hidden_weight, axis=1), 1, rtol=1e-6)
    for unit in range(2):
        # Least squares with rows for the penalty: of the outer weights alone.
        columns = np.column_stack([features, x[:, unit], np.ones(len(x))])
        penalty = np.sqrt(1e-4 * len(x)) * np.eye(12, 14)
        solution = np.linalg.lstsq(np.vstack([columns, penalty]), np.append(y[:, unit], np.zeros(12)), rcond=None)[0]
        np.testing.assert_allclose(cell.weight_hh[unit], solution[:12], atol=1e-8)
        np.testing.assert_allclose([cell.diagonal[unit], cell.bias[unit]], solution[12:], atol=1e-8)


def test_shared_directions_are_few_and_their_kinks_equally_spaced():
    """A parabola along one of its directions is met to the square of the spacing of the kinks."""
    x = np.random.default_rng(0).uniform(-1, 1, size=(4000, 1))
    series = np.stack([x[:, 0], 0.3 * x[:, 0] ** 2], axis=1)[None, :2000]
    cell = rd.training.shallow_start(series, 14, num_directions=4, ridge=1e-10, dtype=np.float64, key=jax.random.key(0))
    directions = np.asarray(cell.hidden_weight, float)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    shared, counts = np.unique(np.round(directions, 6), axis=0, return_counts=True)
    assert sorted(counts) == [3, 3, 4, 4]
    assert len(shared) == 4
    for row in shared:
        kinks = -np.asarray(cell.hidden_bias, float)[np.all(np.round(directions, 6) == row, axis=1)]
        along = series[0, :-1] @ row
        spacing = np.ptp(along) / len(kinks)
        np.testing.assert_allclose(np.diff(np.sort(kinks)), spacing, rtol=1e-4)
        assert along.min() - 1e-6 <= kinks.min() <= along.min() + spacing
    with pytest.raises(ValueError, match="num_directions: expected 1 to num_hidden = 14"):
        rd.training.shallow_start(series, 14, num_directions=15, key=jax.random.key(0))


def test_few_directions_are_more_exact_than_random_kinks():
    """A quadratic map of three variables, x' = a quadratic form of x: errors of one step, with as many ReLUs."""
    rng = np.random.default_rng(0)
    forms = 0.1 * rng.normal(size=(3, 3, 3))
    x, rows = rng.uniform(-1, 1, size=3), []
    for _ in range(3000):
        rows.append(x)
        # Kicked to stay everywhere in the cube; the kick is part of the next sample and no function of this one.
        x = np.einsum("i,kij,j->k", x, forms, x)
        rows.append(x)
        x = rng.uniform(-1, 1, size=3)
    series = np.array(rows).reshape(3000, 2, 3)
    errors = []
    for directions in (None, 8):
        cell = rd.training.shallow_start(series, 80, num_directions=directions, dtype=np.float64, key=jax.random.key(0))
        errors.append(one_step_error(cell, series))
    assert errors[1] < 0.5 * errors[0]


def one_step_error(cell, series):
    """Root mean square error of one step of a shallow cell, in plain NumPy."""
    x, y = series[:, :-1].reshape(-1, series.shape[2]), series[:, 1:].reshape(-1, series.shape[2])
    hidden = np.maximum(x @ np.asarray(cell.hidden_weight).T + np.asarray(cell.hidden_bias), 0)
    step = np.asarray(cell.diagonal) * x + hidden @ np.asarray(cell.weight_hh).T + np.asarray(cell.bias)
    return np.sqrt(np.mean((step - y) ** 2))


def test_curved_directions_are_those_of_the_quadratic_forms():
    """x' = D x + c (d x)^2 with one direction d for each of two variables of six, and no curvature in the others."""
    rng = np.random.default_rng(0)
    curved = np.linalg.qr(rng.standard_normal((6, 2)))[0].T
    x = rng.uniform(-1, 1, size=(1500, 6))
    after = 0.5 * x
    after[:, 1] += 2 * (x @ curved[0]) ** 2
    after[:, 4] += (x @ curved[1]) ** 2
    series = np.stack([x, after], axis=1)
    options = {"dtype": np.float64, "key": jax.random.key(0)}
    cell = rd.training.shallow_start(series, 60, num_directions=2, directions="curvature", **options)
    # The more curved one first, thirty kinks along each.
    rows = np.asarray(cell.hidden_weight)
    np.testing.assert_allclose(np.abs(rows @ curved.T), np.repeat(np.eye(2), 30, axis=0), atol=1e-6)
    # A parabola between kinks h apart is missed by h^2 / 8 of its curvature at most.
    spacing = [np.ptp(x @ row) / 30 for row in curved]
    assert one_step_error(cell, series) < max(4 * spacing[0] ** 2, 2 * spacing[1] ** 2) / 8
    # Where more are asked for than there are, the others are spread.
    more = rd.training.shallow_start(series, 20, num_directions=10, directions="curvature", **options)
    assert len(np.unique(np.round(np.asarray(more.hidden_weight), 6), axis=0)) == 10
    for settings, words in (({"directions": "random"}, 'expected "spread"'), ({"directions": "curvature"}, "how many")):
        with pytest.raises(ValueError, match=words):
            rd.training.shallow_start(series, 20, **settings, key=jax.random.key(0))


def test_curved_directions_are_more_exact_on_a_ring_of_sites():
    """Lorenz 96 with twelve sites, by Runge-Kutta in plain NumPy: errors of one step, with as many ReLUs."""
    field = lambda x: (np.roll(x, -1, 1) - np.roll(x, 2, 1)) * np.roll(x, 1, 1) - x + 8
    h, x, states = 0.05, 8 + np.random.default_rng(1).standard_normal((8, 12)), []
    for _ in range(800):
        k1 = field(x)
        k2 = field(x + h / 2 * k1)
        k3 = field(x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + h * k3))
        states.append(x)
    series = np.stack(states[100:], axis=1)
    series = (series - series.mean((0, 1))) / series.std((0, 1))
    make = lambda **options: rd.training.shallow_start(
        series[:, :500], 240, ridge=1e-6, dtype=np.float64, key=jax.random.key(0), **options
    )
    errors = [
        one_step_error(make(**options), series[:, 500:])
        for options in ({}, {"num_directions": 24}, {"num_directions": 24, "directions": "curvature"})
    ]
    assert errors[2] < 0.6 * min(errors[:2])


def test_multiple_shooting(model):
    targets = np.random.default_rng(3).normal(size=(12, 2)).astype(np.float32)
    shooting = rd.training.multiple_shooting(model, targets, 3)
    np.testing.assert_allclose(shooting.starts, targets[:9:3], atol=1e-6)
    shooting = eqx.tree_at(lambda s: s.starts, shooting, shooting.starts + 0.1)
    cell = jax.tree.map(np.asarray, model.cell)
    errors, ends = [], []
    for piece, start in enumerate(np.asarray(shooting.starts)):
        x = start
        for t in range(3):
            x = (
                cell.diagonal * x
                + cell.weight_hh @ np.maximum(cell.hidden_weight @ x + cell.hidden_bias, 0)
                + cell.bias
            )
            errors.append(np.mean((x - targets[3 * piece + t + 1]) ** 2))
        ends.append(x)
    gaps = np.mean((np.array(ends[:-1]) - np.asarray(shooting.starts[1:])) ** 2)
    value = rd.training.multiple_shooting_loss(2.5)(shooting, targets)
    np.testing.assert_allclose(value, np.mean(errors) + 2.5 * gaps, rtol=1e-5)
    with pytest.raises(ValueError, match="targets"):
        rd.training.multiple_shooting(model, targets, 6)
    with pytest.raises(ValueError, match="penalty"):
        rd.training.multiple_shooting_loss(-1.0)


def test_manifold_attractor_loss():
    cell = rd.PiecewiseLinearCell(1, 4, num_rectified=2, key=jax.random.key(0))
    a, w, h = (np.asarray(v) for v in (cell.diagonal, cell.weight_hh, cell.bias))
    expected = 2 * ((a[:3] - 1) ** 2).sum() + 3 * (w[:3] ** 2).sum() + 5 * (h[:3] ** 2).sum()
    value = rd.training.manifold_attractor_loss(cell, 3, diagonal=2, weight=3, bias=5)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # Where it is zero, the regularised units keep what they hold.
    held = rd.PiecewiseLinearCell.from_weights(
        np.array([1.0, 0.5]), np.array([[0.0, 0.0], [0.3, 0.1]]), np.array([0.0, 0.2])
    )
    assert rd.training.manifold_attractor_loss(held, 1) == 0
    assert held(jnp.array([0.7, -0.4]), jnp.zeros(0))[0] == np.float32(0.7)
    with pytest.raises(ValueError, match="num_regularized"):
        rd.training.manifold_attractor_loss(cell, 5)
    with pytest.raises(ValueError, match="cell"):
        rd.training.manifold_attractor_loss(rd.PiecewiseLinearCell(0, 2, num_hidden=3, key=jax.random.key(0)), 1)
