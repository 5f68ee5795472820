"""Fixed points on the kinks of rectifier networks, where the derivative of one side is no verdict."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.results import is_verdict

DATA = Path(__file__).parent.parent / "data"


class Leaky(eqx.Module):
    """x -> (1 - a) x + a W relu(x) + b."""

    weights: np.ndarray
    bias: np.ndarray
    alpha: float = eqx.field(static=True)

    def __call__(self, x):
        return (1 - self.alpha) * x + self.alpha * (self.weights @ jax.nn.relu(x)) + self.bias


def test_rest_of_a_rectifier_network_is_not_stable_where_one_side_grows():
    """W = 1.5, dt / tau = .2: 1.1 x for x > 0, .8 x for x < 0. In both forms of the state, all analyses agree."""
    for form in ("rate", "current"):
        cell = rd.LeakyCell.from_weights(
            np.zeros((1, 1)), np.full((1, 1), 1.5), np.zeros(1), dt=0.2, tau=1.0, activation="relu", state_variable=form
        )
        f = rd.as_map(cell, np.zeros(1))
        points = rd.find_fixed_points(f, np.linspace(-1, 1, 5)[:, None], progress=False)
        assert points.is_stable.tolist() == [False]
        assert points.spectral_radii == pytest.approx(1.1, abs=1e-12)
        assert points.num_unstable.tolist() == [1]
        at_rest = rd.linearize(f, np.zeros(1))
        assert not at_rest.is_stable
        assert at_rest.kink is not None
        assert sorted(at_rest.kink.jacobians[:, 0, 0]) == pytest.approx([0.8, 1.1], abs=1e-12)
        assert at_rest.kink.is_exact
    verdict = rd.classify_attractor(f, np.zeros(1), max_map_steps=2**13)
    assert verdict.kind == "undecided"
    assert "unstable (|mu| = 1.1)" in verdict.reason


def reference(name):
    return np.load(DATA / f"{name}.npz")


def test_pycog_network_decays_at_the_rate_of_its_reachable_cone():
    """Growth .986290 a step by plain NumPy iteration of the map from many states; one side alone says .9009."""
    data = reference("pycog_relu100")
    recurrent = data["Wrec"].astype(float)
    f = Leaky(recurrent, np.zeros(100), 0.2)
    found = rd.linearize_one_sided(f, np.zeros(100))
    assert found is not None
    assert found.growth == pytest.approx(0.986290, abs=1e-6)
    assert found.is_stable
    # The network is homogeneous, so its own orbit shows the rate: an independent program.
    x = np.random.default_rng(1).uniform(size=100)
    for _ in range(3000):
        before = np.linalg.norm(x)
        x = 0.8 * x + 0.2 * recurrent @ np.maximum(x, 0)
        rate = np.linalg.norm(x) / before
        x = x / np.linalg.norm(x)
    assert found.growth == pytest.approx(rate, abs=1e-9)


@pytest.mark.slow
def test_all_verdicts_on_the_pycog_network_agree():
    f = Leaky(reference("pycog_relu100")["Wrec"].astype(float), np.zeros(100), 0.2)
    starts = np.random.default_rng(0).standard_normal((4, 100))
    points = rd.find_fixed_points(f, starts, max_rounds=1, progress=False)
    assert points.is_stable.tolist() == [True]
    assert points.spectral_radii == pytest.approx(0.986290, abs=1e-6)
    verdict = rd.classify_attractor(f, np.abs(starts[0]))
    assert verdict.kind == "fixed point"
    assert verdict.exponents == pytest.approx(np.log(0.986290), abs=1e-6)


def test_psychrnn_network_has_no_point_on_a_kink():
    data = reference("psychrnn_pd_relu50")
    recurrent = (data["W_rec"] * data["rec_connectivity"]).astype(float)
    f = Leaky(recurrent, 0.1 * data["b_rec"].astype(float), 0.1)
    points = rd.find_fixed_points(f, np.random.default_rng(0).standard_normal((64, 50)), progress=False)
    assert points.kinks is None
    # Plain NumPy, see the README of the test data.
    assert sorted(points.spectral_radii) == pytest.approx([0.974734, 0.986934, 1.02773], abs=5e-6)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.maximum(0.5 * x, -0.3 * x),
        lambda x: jnp.where(x > 0, 0.5 * x, -0.3 * x),
        lambda x: 0.1 * x + 0.4 * jnp.abs(x),
        lambda x: jax.lax.cond(x[0] > 0, lambda x: 0.5 * x, lambda x: -0.3 * x, x),
        lambda x: jnp.clip(0.1 * x + 0.4 * jnp.abs(x), -1, 1),
        lambda x: jnp.max(jnp.stack([0.5 * x, -0.3 * x]), axis=0),
        jax.jit(lambda x: 0.8 * jax.nn.relu(x) - 0.3 * x),
    ],
    ids=["maximum", "where", "abs", "cond", "clip", "reduce", "jit"],
)
def test_every_way_to_write_a_kink_is_seen(f):
    """The map with slopes 1/2 and -3/10: the second maps into the side of the first, so growth is 1/2."""
    found = rd.linearize_one_sided(f, np.zeros(1))
    assert found is not None
    assert sorted(found.jacobians[:, 0, 0]) == pytest.approx([-0.3, 0.5], abs=1e-12)
    assert found.growth == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("f", "x"),
    [
        (lambda x: jnp.tanh(x), 0.0),
        (lambda x: jax.nn.softplus(x) - np.log(2), 0.0),  # a maximum and an absolute value whose kinks cancel
        (lambda x: jax.nn.elu(x), 0.0),
        (lambda x: jnp.where(x > 0, 0.5 * x, 0.3 * x), 1e-3),
    ],
)
def test_smooth_points_have_no_kink(f, x):
    assert rd.linearize_one_sided(f, np.array([x])) is None


def rectified_twice(x):
    """(.8 + .3 [x > 0])^2 x: its switch sits in a loop whose rounds are counted at run time."""
    step = lambda carry: (carry[0] + 1, 0.8 * carry[1] + 0.3 * jax.nn.relu(carry[1]))
    return jax.lax.while_loop(lambda carry: carry[0] < 2, step, (0, x))[1]


def rectified_often(x):
    """(.999 + .002 [x > 0])^100 x, by a scan of 100 rounds."""
    return jax.lax.scan(lambda x, _: (0.999 * x + 0.002 * jax.nn.relu(x), None), x, None, length=100)[0]


@pytest.mark.parametrize(
    ("f", "sides"),
    [(rectified_twice, (0.64, 1.21)), (rectified_often, (0.999**100, 1.001**100))],
    ids=["while", "long scan"],
)
def test_a_kink_inside_a_loop_that_is_not_opened_is_undecided(f, sides):
    found = rd.linearize_one_sided(f, np.zeros(1))
    assert found is not None
    assert found.result == rd.KinkVerdict.hidden
    assert not found.is_stable
    np.testing.assert_allclose(np.unique(np.round(found.jacobians[:, 0, 0], 12)), sides, atol=1e-11)
    assert not rd.linearize(f, np.zeros(1)).is_stable
    # A little away from it the map is smooth.
    assert rd.linearize_one_sided(f, np.array([1e-4])) is None


def test_a_search_sees_kinks_inside_loops_as_well():
    points = rd.find_fixed_points(rectified_twice, np.array([[0.3], [-0.2]]), max_rounds=1, progress=False)
    assert points.is_undecided.tolist() == [True]
    assert not points.is_stable.any()


def test_the_equilibrium_of_a_flow_on_a_kink_is_undecided():
    # x' = -x + 1.5 max(x, 0): time map exp(1/2) = 1.65 to the right, exp(-1) = .37 to the left.
    f = rd.time_map(lambda x: -x + 1.5 * jax.nn.relu(x), 1.0)
    found = rd.linearize_one_sided(f, np.zeros(1))
    assert found is not None
    assert found.stability == "undecided"
    np.testing.assert_allclose(found.spectral_radii.min(), np.exp(-1), rtol=1e-7)
    np.testing.assert_allclose(found.spectral_radii.max(), np.exp(0.5), rtol=1e-7)
    assert rd.linearize_one_sided(rd.time_map(lambda x: -jnp.sin(x), 1.0), np.zeros(1)) is None


def test_stable_pieces_can_make_an_unstable_kink():
    """Each piece is a stable focus, but the directions come to alternate so that they grow; by iteration in NumPy."""
    # Two pieces that agree on x0 = 0: their second columns are equal.
    right, left = np.array([[-1.7, 1.0], [-0.87, 0.0]]), np.array([[0.8, 1.0], [-0.86, 0.0]])
    assert np.max(np.abs(np.linalg.eigvals(right))) < 1
    assert np.max(np.abs(np.linalg.eigvals(left))) < 1
    f = lambda x: jnp.where(x[0] > 0, right @ x, left @ x)
    rates = []
    for angle in np.linspace(0, 2 * np.pi, 11):
        x, total = np.array([np.cos(angle), np.sin(angle)]), 0.0
        for step in range(3000):
            x = (right if x[0] > 0 else left) @ x
            total += np.log(np.linalg.norm(x)) * (step >= 1000)
            x /= np.linalg.norm(x)
        rates.append(np.exp(total / 2000))
    found = rd.linearize_one_sided(f, np.zeros(2))
    assert found is not None
    assert found.growth == pytest.approx(max(rates), rel=2e-3)
    assert max(rates) > 1
    assert found.stability == "unstable"


def test_a_point_within_its_error_of_a_kink_is_undecided_where_the_sides_disagree():
    """x -> 1.1 x or .8 x on either side of a border 1e-17 from the fixed point 1/3: rounding decides which."""
    f = lambda x: 1 / 3 + jnp.where(x - 1 / 3 > 1e-17, 1.1, 0.8) * (x - 1 / 3)
    found = rd.linearize_one_sided(f, np.array([1 / 3]))
    assert found is not None
    assert (found.stability, found.is_exact) == ("undecided", False)
    assert "rounding decides" in found.reason
    # Where all sides agree nothing hangs on it.
    milder = lambda x: 1 / 3 + jnp.where(x - 1 / 3 > 1e-17, 0.9, 0.8) * (x - 1 / 3)
    agreed = rd.linearize_one_sided(milder, np.array([1 / 3]))
    assert agreed is not None
    assert agreed.is_stable


def test_a_jump_is_no_kink():
    found = rd.linearize_one_sided(lambda x: 0.5 * x + jnp.floor(x), np.zeros(1))
    assert found is not None
    assert found.stability == "undecided"
    assert "jumps" in found.reason


def test_a_cycle_on_a_kink():
    """x -> 1 - 2 |x - 1/2| - 1/2 ... the tent of slopes s and -s/2 through the 2-cycle {0, 1}.

    F(0) = 1 on the kink with slopes a = .5 and b = -1.5, F(1) = 0 with slope -.4: the turn has -.2 and .6, and from
    below (x < 0) .6 > 0 leads back to x... each side maps to the other or to itself as its sign says.
    """
    f = lambda x: jnp.where(x < 0.5, 1 + jnp.where(x > 0, 0.5, -1.5) * x, -0.4 * (x - 1))
    found = rd.classify_attractor(f, np.array([0.01]), max_map_steps=2**13)
    # d > 0: -.2 d < 0; d < 0: .6 d < 0: growth .6 a turn.
    assert (found.kind, found.period) == ("cycle", 2)
    assert found.exponents == pytest.approx(np.log(0.6) / 2, abs=1e-9)


def test_a_cycle_search_judges_cycles_on_a_kink():
    """The 2-cycle {0, 1} of the map above, and one whose sides grow: F(0) = 1 with slopes 3 and -3, F(1) = 0, -1/2."""
    mild = lambda x: jnp.where(x < 0.5, 1 + jnp.where(x > 0, 0.5, -1.5) * x, -0.4 * (x - 1))
    starts = np.array([[0.01], [0.98], [-0.02]])
    found = rd.find_cycles(mild, starts, 2, progress=False, num_random=0)[2]
    assert found.kinks is not None
    assert found.spectral_radii == pytest.approx([0.6], abs=1e-9)
    assert found.is_stable.tolist() == [True]
    # d > 0: -3/2 d < 0, and d < 0: 3/2 d < 0, which goes on for ever; JAX's own side says -3/2.
    steep = lambda x: jnp.where(x < 0.5, 1 + jnp.where(x > 0, 3.0, -3.0) * x, -0.5 * (x - 1))
    found = rd.find_cycles(steep, starts, 2, progress=False, num_random=0)[2]
    assert found.spectral_radii == pytest.approx([1.5], abs=1e-9)
    assert found.is_stable.tolist() == [False]
    assert is_verdict(found.result, rd.PointVerdict.on_kink).tolist() == [True]
    assert found.may_be_complete is None
    assert "on a kink" in str(found)


def test_concatenated_selected_and_saved(tmp_path):
    f = Leaky(np.full((1, 1), 1.5), np.zeros(1), 0.2)
    points = rd.find_fixed_points(f, np.array([[0.3], [-0.2]]), progress=False)
    both = rd.FixedPoints.concatenate([points, points])
    assert both.kinks is not None
    assert both.kinks.growths == pytest.approx(1.1, abs=1e-12)
    assert both.select(np.array([0])).is_stable.tolist() == [False]
    assert both.select(np.zeros(0, int)).kinks is None
    assert str(rd.load(points.save(tmp_path / "points"))) == str(points)
    found = rd.linearize_one_sided(f, np.zeros(1))
    assert found is not None
    assert str(rd.load(found.save(tmp_path / "kink"))) == str(found)


def test_bad_points_are_refused():
    f = lambda x: jnp.abs(x)
    with pytest.raises(ValueError, match="error: expected a distance"):
        rd.linearize_one_sided(f, np.zeros(1), error=-1.0)
    with pytest.raises(ValueError, match="x"):
        rd.linearize_one_sided(f, np.zeros(0))
    with pytest.raises(ValueError, match="x: it holds NaN"):
        rd.linearize_one_sided(f, np.array([np.nan]))


class Relu(eqx.Module):
    """d -> A d + B relu(C d)."""

    a: np.ndarray
    b: np.ndarray
    c: np.ndarray

    def __call__(self, d):
        return self.a @ d + self.b @ jax.nn.relu(self.c @ d)


def test_many_units_on_the_border_are_bounded_from_both_sides():
    """Twelve leaky rectifiers in turned coordinates: some of their linear pieces grow, and no trajectory does."""
    rng = np.random.default_rng(3)
    weights = 1.2 * rng.standard_normal((12, 12)) / np.sqrt(12)
    turn = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    f = Relu(turn @ (0.8 * np.eye(12)) @ turn.T, 0.2 * turn @ weights, turn.T)
    # So no bound follows from the pieces one by one.
    pieces = [np.max(np.abs(np.linalg.eigvals(f.a + f.b * (rng.random(12) < 0.5) @ f.c))) for _ in range(400)]
    assert max(pieces) > 1
    found = rd.linearize_one_sided(f, np.zeros(12), bound=True)
    assert found is not None
    assert found.num_on_border == 12
    # No direction of many grows faster in the long run, in NumPy.
    ds, logs = rng.standard_normal((2000, 12)), 0.0
    for step in range(400):
        ds = ds @ f.a.T + np.maximum(ds @ f.c.T, 0) @ f.b.T
        lengths = np.linalg.norm(ds, axis=1)
        logs, ds = logs + (step >= 200) * np.log(lengths), ds / lengths[:, None]
    assert found.growth == pytest.approx(np.exp(np.max(logs) / 200), abs=1e-3)
    assert found.growth <= found.growth_bound < 1
    assert found.is_stable
    assert "quadratic norm" in found.reason


def test_the_bound_on_growth_is_sharp_where_the_growth_is_known():
    """x -> r Q |x| with Q orthogonal keeps lengths but for r: every direction grows by r, and no bound is less."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((9, 9)))[0]
    for rate, stable in ((0.95, True), (1.05, False)):
        # |C d| has the length of d for orthogonal C: F keeps lengths up to the rate.
        f = Relu(-rate * turn, 2 * rate * turn, np.eye(9))
        found = rd.linearize_one_sided(f, np.zeros(9), bound=True)
        assert found is not None
        assert found.is_stable is stable
        assert (found.growth_bound < 1) is stable
        assert not found.growth_bound < rate - 1e-9
