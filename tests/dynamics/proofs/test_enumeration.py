"""Enumeration with proof: against closed forms, and the complete lists of 30 small networks."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Henon, Logistic

import rnndyn as rd
from rnndyn.dynamics.proofs._box_contraction import EMPTY, OPEN, SETTLED, contract_boxes

DATA = Path(__file__).parents[2] / "data" / "small_networks.npz"


def network(name):
    """One of the reference networks, as a map with zero input."""
    with np.load(DATA) as data:
        weights = {key.split("/")[1]: data[key] for key in data.files if key.startswith(name + "/")}
    kind, num_units = name[:-3], int(name[-3])
    key = jax.random.key(0)
    if kind == "tanh":
        cell, names = rd.VanillaCell(1, num_units, key=key), {"W": "weight_hh", "b": "bias"}
    elif kind == "gru":
        cell, names = rd.GRUCell(1, num_units, key=key), {"Wh": "weight_hh", "b": "bias", "bn": "bias_n"}
    else:
        cell, names = rd.LSTMCell(1, num_units, key=key), {"Wh": "weight_hh", "b": "bias"}
    for source, target in names.items():
        cell = eqx.tree_at(lambda c, target=target: getattr(c, target), cell, jnp.asarray(weights[source]))
    return rd.as_map(cell), weights


@pytest.mark.parametrize(
    ("kind", "num_units"),
    [
        ("tanh", 2),
        ("tanh", 3),
        ("gru", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("lstm", 2), ("gru", 3), ("lstm", 3))),
    ],
)
def test_small_networks_have_exactly_the_listed_fixed_points(kind, num_units, x64):
    for k in range(5):
        f, reference = network(f"{kind}{num_units}_{k}")
        found = rd.enumerate_fixed_points(f)
        assert found.proved, found.reason
        assert found.points.shape == reference["fixed_points"].shape
        # the reference's own polish: 1e-15 of residual at a condition number of up to 1e6
        np.testing.assert_allclose(found.points, reference["fixed_points"], rtol=0, atol=1e-9)
        np.testing.assert_array_equal(found.num_unstable, reference["n_unstable"])
        assert (found.existence_radius < 1e-7).all()
        assert (found.residuals < 1e-14).all()  # a few roundings of numbers of size one


@pytest.mark.parametrize(
    ("kind", "num_units"),
    [
        ("tanh", 3),
        ("gru", 2),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("tanh", 2), ("gru", 3), ("lstm", 2), ("lstm", 3))),
    ],
)
def test_search_from_uniform_candidates_finds_the_same_sets(x64, kind, num_units):
    for k in range(5):
        f, reference = network(f"{kind}{num_units}_{k}")
        candidates = np.random.default_rng(k).uniform(*f.region, (500, f.state_size))
        found = rd.find_fixed_points(f, candidates, progress=False)
        order = np.lexsort(found.points.T[::-1])
        np.testing.assert_allclose(found.points[order], reference["fixed_points"], rtol=0, atol=1e-9)
        assert found.index_sum == 1


CLOSED_FORMS = {
    "logistic, one on the boundary": (Logistic(3.7), 0.0, 1.0, [[0.0], [1 - 1 / 3.7]]),
    "Chebyshev T5": (
        lambda x: 16 * x**5 - 20 * x**3 + 5 * x,
        -1.0,
        1.0,
        [[np.cos(2 * np.pi * k / n)] for n, ks in ((4, (0, 1, 2)), (6, (1, 2))) for k in ks],
    ),
    "sines": (lambda x: x + 0.4 * jnp.sin(2 * np.pi * x), -0.9, 1.7, [[k / 2] for k in range(-1, 4)]),
    "none": (lambda x: x + 1, -5.0, 5.0, []),
    "none in this box": (lambda x: 0.5 * x, 0.5, 1.0, []),
    "absolute value": (lambda x: 2 * jnp.abs(x) - 1, -2.0, 2.0, [[-1 / 3], [1.0]]),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name):
    f, lower, upper, exact = CLOSED_FORMS[name]
    found = rd.enumerate_fixed_points(f, [lower], [upper])
    assert found.proved, found.reason
    exact = np.sort(np.array(exact).reshape(-1, 1), axis=0)
    assert found.points.shape == exact.shape
    # the closed form is evaluated in float64 too, and 2 pi is rounded
    assert (np.abs(found.points - exact).max(1, initial=0) <= found.existence_radius + 1e-14).all()
    assert (found.existence_radius < 1e-12).all()


def test_henon_map():
    a, b = 1.4, 0.3
    x = (-(1 - b) + np.array([-1, 1]) * np.sqrt((1 - b) ** 2 + 4 * a)) / (2 * a)
    found = rd.enumerate_fixed_points(Henon(a, b), -3.0 * np.ones(2), 3.0)
    assert found.proved
    np.testing.assert_allclose(found.points, np.stack([x, b * x], 1), atol=1e-14)
    np.testing.assert_array_equal(found.num_unstable, [1, 1])
    expected = [[-a * s - np.sqrt((a * s) ** 2 + b), -a * s + np.sqrt((a * s) ** 2 + b)] for s in x]
    expected = [sorted(pair, key=abs, reverse=True) for pair in expected]  # by falling modulus, as everywhere
    np.testing.assert_allclose(found.multipliers, expected, rtol=1e-12)
    assert not found.is_stable.any()
    assert "proved complete" in str(found)


class SlowCell(eqx.Module):
    """An LSTM of one unit, z = (h, c), without peepholes; gates i, f, o and the candidate by rows."""

    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, z):
        i, f, o = jax.nn.sigmoid(self.weight[:3] * z[0] + self.bias[:3])
        cell = f * z[1] + i * jnp.tanh(self.weight[3] * z[0] + self.bias[3])
        return jnp.stack([o * jnp.tanh(cell), cell])


# Forget gates at .9999, constant and not: cell states near 5e3 and near 2.
SLOW_CELLS = {
    "far": ([0.1, 0.0, 0.5, 0.2], [0.0, np.log(9999), 0.3, 1.2], 2e4),
    "near": ([-1.265, -0.623, 0.0413, -2.325], [-1.246, 7.0238, -0.7323, 0.4557], 2116.0),
}


@pytest.mark.parametrize("name", SLOW_CELLS)
def test_slow_cell_states_are_located_to_rounding(name):
    """The fixed point by bisection for h: c = i g / (1 - f) there."""
    weight, bias, reach = SLOW_CELLS[name]
    found = rd.enumerate_fixed_points(SlowCell(np.array(weight), np.array(bias)), [-1.0, -reach], [1.0, reach])
    assert found.proved

    def cell_state(h):
        i = 1 / (1 + np.exp(-weight[0] * h - bias[0]))
        return i * np.tanh(weight[3] * h + bias[3]) * (1 + np.exp(weight[1] * h + bias[1]))

    def excess(h):
        return np.tanh(cell_state(h)) / (1 + np.exp(-weight[2] * h - bias[2])) - h

    lo, hi = -1.0, 1.0
    assert excess(lo) > 0 > excess(hi)
    for _ in range(80):
        middle = 0.5 * (lo + hi)
        lo, hi = (middle, hi) if excess(middle) > 0 else (lo, middle)
    # One unit in the last place of the state; 1 - f of 1e-4 multiplies it by 1e4.
    size = max(1.0, abs(cell_state(lo)))
    np.testing.assert_allclose(found.points[:, 0], [lo], rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.points[:, 1], [cell_state(lo)], rtol=0, atol=1e-11 * size)
    assert (found.residuals < 1e-15 * size).all()
    assert (found.existence_radius < 1e-10 * size).all()


def test_fixed_points_shared_by_many_boxes_are_listed_once():
    """An odd map of the cube: its fixed point 0 and all points (±a, ±a, 0 or ±a)... lie on symmetric faces."""
    f = lambda x: jnp.tanh(2 * x)
    found = rd.enumerate_fixed_points(f, -np.ones(3), np.ones(3))
    assert found.proved
    assert len(found) == 27
    a = found.points.max()
    assert a == pytest.approx(np.tanh(2 * a), abs=1e-15)
    np.testing.assert_allclose(np.unique(np.round(found.points / a, 9)), [-1, 0, 1])
    # unstable directions: one for every coordinate at zero
    np.testing.assert_array_equal(found.num_unstable, (np.abs(found.points) < 0.5).sum(1))
    order = np.lexsort(found.points.T[::-1])
    np.testing.assert_array_equal(order, np.arange(27))


class Tanh(eqx.Module):
    weight: np.ndarray
    bias: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weight @ x + self.bias)


def test_six_units_agree_with_newton_from_everywhere():
    """Newton's method from 5000 starts finds the same points; and the indices add up to one (Brouwer)."""
    rng = np.random.default_rng(2)
    weight, bias = rng.normal(size=(6, 6)) * 3 / np.sqrt(6), rng.normal(size=6) * 0.1
    found = rd.enumerate_fixed_points(Tanh(weight, bias), -np.ones(6), np.ones(6))
    assert found.proved, found.reason
    index = np.sign(np.linalg.det(np.eye(6) - found.jacobians))
    assert index.sum() == 1
    x = rng.uniform(-1, 1, (5000, 6))
    for _ in range(50):
        y = np.tanh(x @ weight.T + bias)
        slopes = np.eye(6) - (1 - y**2)[..., None] * weight
        x = np.clip(x - np.linalg.solve(slopes, (x - y)[..., None])[..., 0], -1, 1)
    x = x[np.abs(x - np.tanh(x @ weight.T + bias)).max(1) < 1e-13]
    distance = np.abs(x[:, None] - found.points).max(2)
    assert (distance.min(1) < 1e-9).all()  # Newton's own accuracy at the worst conditioned point
    assert set(distance.argmin(1)) == set(range(len(found)))


def test_a_degenerate_fixed_point_is_undecided_and_the_others_are_listed():
    """x + x^3 (x - 1/2)^2 (x - 1) ... has a triple fixed point at 0, a double one at 1/2 and a simple one at 1."""
    f = lambda x: x + x**3 * (x - 0.5) ** 2 * (x - 1)
    found = rd.enumerate_fixed_points(f, [-0.7], [1.3])
    assert not found.proved
    assert "degenerate" in found.reason
    np.testing.assert_allclose(found.points, [[1.0]], atol=1e-13)
    lo, hi = found.undecided_lower[:, 0], found.undecided_upper[:, 0]
    for x in (0.0, 0.5):
        assert ((lo <= x) & (x <= hi)).any()
    assert (hi - lo).max() < 1e-3
    assert "not proved" in str(found)


@pytest.mark.parametrize(
    ("f", "where"),
    [
        (lambda x: 1.0 * x, 0.3),  # a continuum
        (lambda x: jnp.where(x > 0.25, 0.0, 0.5) + 0 * x, 0.25),  # jumps over the diagonal
        (lambda x: jnp.floor(2 * x) / 2, 0.5),  # fixed points on its jumps
    ],
)
def test_continua_and_jumps_are_undecided_boxes_not_points(f, where):
    found = rd.enumerate_fixed_points(f, [-0.9], [0.9])
    assert not found.proved
    lo, hi = found.undecided_lower[:, 0], found.undecided_upper[:, 0]
    assert ((lo <= where) & (where <= hi)).any()


def test_a_line_of_fixed_points_stops_early():
    found = rd.enumerate_fixed_points(lambda x: jnp.stack([x[0], 0.5 * x[1]]), -np.ones(2), np.ones(2))
    assert not found.proved
    assert len(found) == 0
    assert found.num_boxes < 100_000
    assert (found.undecided_lower[:, 1] <= 0).any()


def test_undefined_regions_stay_undecided():
    found = rd.enumerate_fixed_points(lambda x: jnp.sqrt(x) * 1.5, [-1.0], [4.0])
    assert not found.proved
    np.testing.assert_allclose(found.points, [[2.25]], atol=1e-13)
    assert (found.undecided_upper < 1e-3).all()  # nothing but the negative half and the root's own zero


def test_the_budget_is_kept_and_named():
    f = lambda x: jnp.tanh(2 * x)
    found = rd.enumerate_fixed_points(f, -np.ones(3), np.ones(3), max_boxes=3)
    assert not found.proved
    assert found.num_boxes <= 3 + 1024  # one batch at a time
    assert "max_boxes" in found.reason
    everything = rd.enumerate_fixed_points(f, -np.ones(3), np.ones(3))
    for x in everything.points:
        listed = (np.abs(found.points - x).max(1, initial=0) < 1e-9).any() if len(found) else False
        boxed = ((found.undecided_lower <= x) & (x <= found.undecided_upper)).all(1).any()
        assert listed or boxed


@pytest.mark.parametrize(
    ("lower", "upper", "message"),
    [
        ([1.0], [-1.0], "lower < upper"),
        ([0.0, 0.0], [1.0, 0.0], "component 1"),
        ([-np.inf], [1.0], "finite"),
        ([np.nan], [1.0], "finite"),
        (-1.0, 1.0, "shape"),
        ([0.0, 0.0], [1.0, 1.0, 1.0], "match"),
        (None, [1.0], "region"),
    ],
)
def test_bad_boxes_are_named(lower, upper, message):
    with pytest.raises(ValueError, match=message):
        rd.enumerate_fixed_points(jnp.tanh, lower, upper)


def test_bad_maps_and_options_are_named():
    with pytest.raises(ValueError, match="shape"):
        rd.enumerate_fixed_points(lambda x: x[:1], [0.0, 0.0], [1.0, 1.0])
    with pytest.raises(ValueError, match="max_boxes"):
        rd.enumerate_fixed_points(jnp.tanh, [-1.0], [1.0], max_boxes=0)
    with pytest.raises(ValueError, match="tol"):
        rd.enumerate_fixed_points(jnp.tanh, [-1.0], [1.0], tol=2.0)
    with pytest.raises(NotImplementedError, match="sort"):
        rd.enumerate_fixed_points(jnp.sort, [-1.0], [1.0])


def test_interpreted_and_compiled_contractions_agree(x64):
    """Long searches compile what short ones leave to NumPy: equal to the rounding of one fused operation."""
    rng = np.random.default_rng(4)
    f = Tanh(rng.normal(size=(3, 3)) * 0.7, np.zeros(3))  # with a fixed point at zero
    center = rng.uniform(-1, 1, (64, 3)) * np.repeat([0.0, 0.01, 1.0, 1.0], 16)[:, None]
    width = 10.0 ** rng.uniform(-6, 0, (64, 3))
    lower, upper = center - width, center + width
    one, other = (contract_boxes(f, lower, upper, np.full(3, 2.0), is_long=is_long) for is_long in (False, True))
    np.testing.assert_array_equal(one.status, other.status)
    assert set(one.status) == {EMPTY, SETTLED, OPEN}
    np.testing.assert_array_equal(one.axis, other.axis)
    for a, b in ((one.box.lo, other.box.lo), (one.box.hi, other.box.hi)):
        np.testing.assert_allclose(a[one.status != EMPTY], b[one.status != EMPTY], rtol=1e-13, atol=1e-15)
