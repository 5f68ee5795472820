"""Training on series with gaps: losses in plain NumPy with the missing terms left out, their derivatives, no NaN."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd
from rnndyn.tasks import dynamical_systems as ds
from rnndyn.training import Encoded, forced_loss, generalized_teacher_forcing, multiple_shooting, multiple_shooting_loss

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(3, 7, 2))
SEEN = RNG.random((3, 7, 2)) < 0.6
SEEN[:, 0] = True
GAPS = ds.Stretches(np.where(SEEN, VALUES, np.nan), observed=SEEN)
READOUT = RNG.normal(size=(2, 3))


@pytest.fixture(scope="module")
def model():
    """Three units, of which two combinations are read out, in float64."""
    with jax.enable_x64(True):
        cell = rd.PiecewiseLinearCell(0, 3, num_hidden=5, key=jax.random.key(0), dtype=np.float64)
        readout = eqx.nn.Linear(3, 2, use_bias=False, key=jax.random.key(1))
        return rd.RNN(cell, eqx.tree_at(lambda linear: linear.weight, readout, jnp.asarray(READOUT)))


def step(cell, x):
    return cell.diagonal * x + cell.weight_hh @ np.maximum(cell.hidden_weight @ x + cell.hidden_bias, 0) + cell.bias


def by_hand(model, values, seen, alpha):
    """Squared errors of measured entries of forced runs, drawn towards what was measured."""
    cell, inverse = jax.tree.map(np.asarray, model.cell), np.linalg.pinv(READOUT)
    squares = []
    for series, known in zip(values, seen):
        x = inverse @ np.where(known[0], series[0], 0)
        for target, there in zip(series[1:], known[1:]):
            x = step(cell, x)
            error = np.array([t - y if m else 0.0 for t, y, m in zip(target, READOUT @ x, there)])
            squares += [e**2 for e, m in zip(error, there) if m]
            x = x + alpha * inverse @ error
    return np.mean(squares)


@eqx.filter_jit
def evaluate(loss, network, batch):
    """The loss, the strength after it, and the gradient of the loss."""
    of = lambda network: loss(network, batch, loss.first_carry())
    (value, (strength, _)), gradient = eqx.filter_value_and_grad(of, has_aux=True)(network)
    return value, strength, gradient


def test_the_loss_and_its_gradient_leave_out_what_is_missing(x64, model):
    value, _, gradient = evaluate(forced_loss(0.3), model, GAPS)
    assert float(value) == pytest.approx(by_hand(model, VALUES, SEEN, 0.3), rel=1e-12)
    for where, entry in (
        (lambda m: m.cell.weight_hh, (1, 2)),
        (lambda m: m.cell.hidden_weight, (4, 0)),
        (lambda m: m.cell.bias, (2,)),
    ):
        h, weight = 1e-6, np.asarray(where(model))
        ends = []
        for sign in (1, -1):
            moved = weight.copy()
            moved[entry] += sign * h
            ends.append(by_hand(eqx.tree_at(where, model, moved), VALUES, SEEN, 0.3))
        # Central differences: errors of h^2 and of rounding over h, both about 1e-10.
        assert np.asarray(where(gradient))[entry] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-8)


@pytest.mark.parametrize("alpha", [pytest.param(0.3, marks=pytest.mark.slow), "adaptive"])
def test_what_missing_entries_hold_has_no_influence(x64, model, alpha):
    found = [
        evaluate(forced_loss(alpha), model, GAPS._replace(values=np.where(SEEN, VALUES, filler)))
        for filler in (np.nan, 1e30)
    ]
    assert eqx.tree_equal(*found)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found[0]))


@pytest.mark.parametrize("alpha", [0.3, pytest.param("adaptive", marks=pytest.mark.slow)])
def test_with_all_measured_numbers_are_those_of_whole_series(x64, model, alpha):
    loss = forced_loss(alpha)
    whole = evaluate(loss, model, ds.Stretches(VALUES))
    masked = evaluate(loss, model, ds.Stretches(VALUES, observed=np.ones_like(SEEN)))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(masked)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_adaptive_strengths_see_the_networks_own_states_in_gaps(x64):
    """x' = 2.5 x^2 grows by 5 x: along ones where these are seen; along 1, 2.5 where only the first is."""

    class Square(eqx.Module):
        input_size: int = 0

        def initial_state(self):
            return jnp.zeros(1)

        def output(self, x):
            return x

        def state_bounds(self, u):
            return None

        def __call__(self, x, u):
            return 2.5 * x**2

    readout = eqx.nn.Linear(1, 1, use_bias=False, key=jax.random.key(1))
    network = rd.RNN(Square(), eqx.tree_at(lambda linear: linear.weight, readout, jnp.ones((1, 1))))
    loss = forced_loss("adaptive", decay=0.0)
    ones, first = np.ones((1, 3, 1)), np.arange(3)[None, :, None] == 0
    _, whole, _ = evaluate(loss, network, ones)
    # The derivative is 5 x: 5, 5 along the data; 5, 5 * 2.5 along the network's own run.
    assert float(whole) == pytest.approx(1 - 1 / 5)
    _, gaps, _ = evaluate(loss, network, ds.Stretches(ones, observed=first))
    assert float(gaps) == pytest.approx(1 - 1 / np.sqrt(5 * 12.5))


class Tanh(eqx.Module):
    weight: np.ndarray

    def __call__(self, x):
        return jnp.tanh(jnp.asarray(self.weight) @ x)


def test_an_encoder_is_asked_where_it_can_read_all(x64, model):
    lift = RNG.normal(size=(3, 4))
    network = Encoded(rd.RNN(model.cell, Tanh(READOUT)), Tanh(lift), 2)
    seen = SEEN.copy()
    seen[:, :2] = True
    seen[0, 3:6] = True
    batch = ds.Stretches(np.where(seen, VALUES, np.nan), observed=seen)
    loss = forced_loss(0.3, reconstruction=0.5)
    cell, ahead, back = jax.tree.map(np.asarray, model.cell), [], []
    for series, known in zip(VALUES, seen):
        state = lambda t, y=series: np.tanh(lift @ np.concatenate([y[t], y[t - 1]]))
        reads = [t for t in range(1, 7) if known[t - 1 : t + 1].all()]
        back += [(np.tanh(READOUT @ state(t)) - series[t]) ** 2 for t in reads]
        x = state(1)
        for t in range(2, 7):
            x = step(cell, x)
            ahead += [e**2 for e, m in zip(np.tanh(READOUT @ x) - series[t], known[t]) if m]
            x = 0.7 * x + 0.3 * state(t) if t in reads else x
    value, _, gradient = evaluate(loss, network, batch)
    assert float(value) == pytest.approx(np.mean(ahead) + 0.5 * np.mean(back), rel=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    adaptive = forced_loss("adaptive", decay=0.0)
    _, strength, _ = evaluate(adaptive, network, batch)
    growth = []
    for series, known in zip(VALUES, seen):
        x, product = np.tanh(lift @ np.concatenate([series[1], series[0]])), np.eye(3)
        for t in range(1, 6):
            if t > 1:
                reads = known[t - 1 : t + 1].all()
                x = np.tanh(lift @ np.concatenate([series[t], series[t - 1]])) if reads else step(cell, x)
            slopes = cell.hidden_weight @ x + cell.hidden_bias > 0
            product = (np.diag(cell.diagonal) + cell.weight_hh * slopes @ cell.hidden_weight) @ product
        growth.append(np.linalg.norm(product, 2) ** (1 / 5))
    assert float(strength) == pytest.approx(max(0, 1 - 1 / max(growth)), abs=1e-12)


def test_multiple_shooting_over_gaps(x64, model):
    series = ds.as_series(np.where(SEEN[1], VALUES[1], np.nan), missing=True)
    targets = series.stretch()
    shooting = multiple_shooting(model, targets, 2)
    inverse, steps = np.linalg.pinv(READOUT), np.arange(7)
    lines = np.stack([np.interp(steps, steps[m], y[m]) for y, m in zip(VALUES[1].T, SEEN[1].T)], axis=1)
    np.testing.assert_allclose(shooting.starts, lines[:6:2] @ inverse.T, atol=1e-12)
    cell, squares, ends = jax.tree.map(np.asarray, model.cell), [], []
    for piece, x in enumerate(np.asarray(shooting.starts)):
        for t in (1, 2):
            x = step(cell, x)
            error = READOUT @ x - VALUES[1, 2 * piece + t]
            squares += [e**2 for e, m in zip(error, SEEN[1, 2 * piece + t]) if m]
        ends.append(x)
    gaps = np.mean((np.array(ends[:-1]) - np.asarray(shooting.starts[1:])) ** 2)
    loss = eqx.filter_jit(eqx.filter_value_and_grad(multiple_shooting_loss(2.5)))
    value, gradient = loss(shooting, ds.Stretches(series.values[0], observed=SEEN[1]))
    assert float(value) == pytest.approx(np.mean(squares) + 2.5 * gaps, rel=1e-12)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    masked, whole = loss(shooting, ds.Stretches(VALUES[1], observed=np.ones((7, 2), bool))), loss(shooting, VALUES[1])
    for a, b in zip(jax.tree.leaves(masked), jax.tree.leaves(whole)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_unmarked_nan_is_an_error_that_names_it(x64, model):
    values = np.asarray(GAPS.values)
    loss = forced_loss(0.3)
    for call in (
        lambda: loss(model, values, loss.first_carry()),
        lambda: loss(model, ds.Stretches(values, observed=np.ones_like(SEEN)), loss.first_carry()),
        lambda: multiple_shooting(model, values[0], 2),
    ):
        with pytest.raises(ValueError, match=r"(batch|targets): \d+ entries are NaN or infinity"):
            call()
    with pytest.raises(ValueError, match="batch: expected stretches of shape"):
        loss(model, GAPS._replace(values=VALUES[0]), loss.first_carry())
    with pytest.raises(ValueError, match="observed needs a boolean for each entry"):
        loss(model, ds.Stretches(values, observed=SEEN[:, :, 0]), loss.first_carry())
    with pytest.raises(ValueError, match="observed: expected a boolean for each target"):
        generalized_teacher_forcing(model, values[0], 0.3, observed=SEEN[0, :, 0])
    with pytest.raises(ValueError, match="observed: with teachers"):
        generalized_teacher_forcing(model, values[0], 0.3, observed=SEEN[0], teachers=np.zeros((7, 3)))


def test_a_series_says_what_is_missing():
    values = RNG.normal(size=(2, 50, 3))
    values[RNG.random(values.shape) < 0.2] = np.nan
    with pytest.raises(ValueError, match="or pass missing=True to train on what was measured"):
        ds.as_series(values)
    series = ds.as_series(values, missing=True)
    assert series.num_missing == np.isnan(values).sum()
    assert f"{np.isnan(values).mean():.1%} missing" in str(series)
    scaled = series.standardize()
    flat = values.reshape(-1, 3)
    np.testing.assert_allclose(scaled.scale.mean, np.nanmean(flat, axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaled.scale.deviation, np.nanstd(flat, axis=0), rtol=1e-12)
    np.testing.assert_array_equal(np.isnan(scaled.embed(2).values[:, :, :3]), np.isnan(values[:, 1:]))
    assert (
        ds.as_series(values, missing=True).observe(lambda x: x[..., :1]).num_missing == np.isnan(values[..., 0]).sum()
    )
    with pytest.raises(ValueError, match="1 entries are infinity"):
        ds.as_series(np.where(np.arange(50)[:, None] == 3, np.inf, np.arange(50.0)[:, None]), missing=True)
    with pytest.raises(ValueError, match="x1 never changes"):
        ds.as_series(np.stack([np.arange(50.0), np.full(50, np.nan)], axis=1), missing=True)
    esn = rd.reservoir(3, 10, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"series: \d+ of 300 entries are missing"):
        esn.fit(series, num_washout=2)


def test_windows_start_from_whole_samples():
    values = np.arange(200.0).reshape(1, 100, 2)
    values[RNG.random(values.shape) < 0.3] = np.nan
    series = ds.as_series(values, missing=True)
    cut = ds.SeriesWindows(series, 4, 500, num_known=2)(jax.random.key(0))
    assert cut.observed[:, :2].all()
    assert cut.observed[:, 2:].any(axis=(1, 2)).all()
    assert np.isfinite(cut.values).all()
    first = np.asarray(cut.values[:, 0, 0] / 2).astype(int)
    for place, stretch, seen in zip(first, cut.values, cut.observed):
        np.testing.assert_array_equal(np.where(seen, stretch, np.nan), values[0, place : place + 5])
    whole = ~np.isnan(values[0]).any(axis=1)
    possible = [p for p in range(96) if whole[p : p + 2].all() and not np.isnan(values[0, p + 2 : p + 5]).all()]
    assert set(first) == set(possible)
    alternating = np.where(np.arange(20)[:, None] % 2 == np.arange(2), np.nan, np.arange(20.0)[:, None])
    with pytest.raises(ValueError, match="no stretch of 4 steps starts with 1 whole samples"):
        ds.SeriesWindows(ds.as_series(alternating, missing=True), 4, 8)
    with pytest.raises(ValueError, match="num_known: expected at most the 4 steps"):
        ds.SeriesWindows(series, 4, 8, num_known=5)


def test_a_file_with_gaps(tmp_path):
    path = tmp_path / "gaps.csv"
    path.write_text("t,x,y\n0,1,2\n1,,3\n2,4,NA\n3,5,6\n")
    with pytest.raises(ValueError, match=r"line 3 .* a missing value, or no number\. Missing ones: missing=True"):
        ds.read_series(path, time_column="t")
    series = ds.read_series(path, time_column="t", missing=True)
    np.testing.assert_array_equal(series.values[0], [[1, 2], [np.nan, 3], [4, np.nan], [5, 6]])
    path.write_text("1\n2\n\n4\n\n")
    with pytest.raises(ValueError, match=r"line 3 .* has ''"):
        ds.read_series(path)
    np.testing.assert_array_equal(ds.read_series(path, missing=True).values[0, :, 0], [1, 2, np.nan, 4])
    path.write_text("1,2\n,\n3,5\n")
    np.testing.assert_array_equal(ds.read_series(path, missing=True).values[0], [[1, 2], [np.nan, np.nan], [3, 5]])


def test_what_was_measured_is_learned():
    """A damped rotation with a third of the entries missing: the regression of NumPy, and training without NaN."""
    turn = 0.98 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    states = [np.array([1.0, 0.0])]
    for _ in range(120):
        states.append(turn @ states[-1])
    values = np.where(RNG.random((121, 2)) < 1 / 3, np.nan, np.array(states))
    series = ds.as_series(values, missing=True)
    cell = rd.training.shallow_start(series, 6, num_directions=3, ridge=1e-10, key=jax.random.key(0))
    whole = ~np.isnan(values).any(axis=1)
    before, after = (values[k : k + 120][whole[:-1] & whole[1:]] for k in (0, 1))
    hidden = lambda x: np.maximum(x @ np.asarray(cell.hidden_weight).T + np.asarray(cell.hidden_bias), 0)
    for unit in (0, 1):
        features = lambda x, unit=unit: np.concatenate([hidden(x), x[:, [unit]], np.ones((len(x), 1))], axis=1)
        solution = np.linalg.lstsq(features(before), after[:, unit], rcond=None)[0]
        found = np.array([*cell.weight_hh[unit], cell.diagonal[unit], cell.bias[unit]])
        # Weights in float32, and a ridge of 1e-10 that least squares has not.
        np.testing.assert_allclose(features(before) @ found, features(before) @ solution, atol=1e-4)
    readout = eqx.nn.Linear(2, 2, use_bias=False, key=jax.random.key(1))
    network = rd.RNN(cell, eqx.tree_at(lambda linear: linear.weight, readout, jnp.eye(2)))
    moved = eqx.tree_at(lambda m: m.cell.bias, network, network.cell.bias + 0.1)
    loss = forced_loss(0.2, fixed_readout=True)
    windows = ds.SeriesWindows(series, 5, 16)
    options = {"num_steps": 100, "carry": loss.first_carry(), "key": jax.random.key(2), "progress": False}
    losses = np.asarray(rd.fit(moved, loss, windows, optax.adam(3e-3), **options).history.losses)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.05 * losses[0]
