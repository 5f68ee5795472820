"""A certificate is never wrong: checked against fixed points known in closed form or to 80 bits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Logistic

import rnndyn as rd
from rnndyn.dynamics.proofs.interval_arithmetic import Interval
from rnndyn.dynamics.proofs.intervals import enclose
from rnndyn.dynamics.proofs.krawczyk import displacement, interval_precision, krawczyk, zero_problem
from rnndyn.dynamics.proofs.multiplier_discs import count_outside_unit_circle, multiplier_discs

needs_80_bits = pytest.mark.skipif(
    np.finfo(np.longdouble).eps > 2.0**-60, reason="this platform's long double is no better than float64"
)


class Tanh(eqx.Module):
    weight: jax.Array | np.ndarray
    bias: jax.Array | np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weight @ x + self.bias)


@eqx.filter_jit
def enclose_each_map(maps, lower, upper):
    return jax.vmap(lambda f, lo, hi: enclose(f, Interval(lo, hi)))(maps, lower, upper)


def verify_each(maps, states):
    """Krawczyk's test for a batch of maps, each at its own state."""
    with interval_precision():
        each = displacement(lambda lower, upper: jax.device_get(enclose_each_map(maps, lower, upper)))
        return krawczyk(each, states)


def polished(weight, bias, states):
    """Fixed points of x = tanh(W x + b) near `states` (K, N), by Newton's method in 80 bits (Cramer's rule, N <= 2)."""
    weight, bias, x = (np.asarray(a).astype(np.longdouble) for a in (weight, bias, states))
    for _ in range(60):
        y = np.tanh(np.einsum("kij,kj->ki", weight, x) + bias)
        residual, slopes = x - y, np.eye(x.shape[1]) - (1 - y**2)[..., None] * weight
        if x.shape[1] == 1:
            step = residual / slopes[:, 0]
        else:
            a, b, c, d = slopes[:, 0, 0], slopes[:, 0, 1], slopes[:, 1, 0], slopes[:, 1, 1]
            step = np.stack([d * residual[:, 0] - b * residual[:, 1], a * residual[:, 1] - c * residual[:, 0]], 1)
            step = step / (a * d - b * c)[:, None]
        x = x - step
    return x, np.abs(step).max(1)


@needs_80_bits
def test_scalar_certificates_hold_for_thousands_of_displaced_points():
    """x = tanh(w x + b): all fixed points by sign changes and bisection in 80 bits."""
    rng = np.random.default_rng(0)
    count = 6000
    weight, bias = rng.uniform(-3, 3, count), rng.normal(size=count) * 0.3
    weight_80, bias_80 = weight.astype(np.longdouble), bias.astype(np.longdouble)
    grid = np.linspace(-1.0001, 1.0001, 2000).astype(np.longdouble)
    excess = np.tanh(weight_80[:, None] * grid + bias_80[:, None]) - grid
    changes = np.diff(np.sign(excess), axis=1) != 0
    row, column = np.nonzero(changes)
    lo, hi = grid[column], grid[column + 1]
    for _ in range(70):
        middle = (lo + hi) / 2
        # The excess rises through an unstable root and falls through a stable one: its sign at the left end decides.
        left = np.sign(np.tanh(weight_80[row] * middle + bias_80[row]) - middle) == np.sign(excess[row, column])
        lo, hi = np.where(left, middle, lo), np.where(left, hi, middle)
    roots = [lo[row == k] for k in range(count)]
    chosen = np.array([rng.choice(r.astype(float)) for r in roots])
    displaced = chosen + 10.0 ** rng.uniform(-17, 0.3, count) * rng.choice([-1, 1], count)
    out = verify_each(Tanh(weight[:, None, None], bias[:, None]), displaced[:, None])
    for k in np.flatnonzero(out.verified):
        distance = np.abs(roots[k] - displaced[k])
        assert distance.min() <= out.error[k, 0]
        assert (distance <= out.uniqueness_radius[k]).sum() == 1
        assert out.uniqueness_radius[k] >= out.error[k, 0]
    # Not by refusing: close points pass unless nearly degenerate.
    close = np.abs(displaced - chosen) < 1e-6
    steep = np.abs(1 - weight / np.cosh(weight * chosen + bias) ** 2) > 1e-2
    assert out.verified[close & steep].all()
    # Nor by accepting everything: the displaced and the nearly degenerate are refused.
    assert 1000 < out.verified.sum() < count - 100


@needs_80_bits
def test_planar_certificates_hold_and_are_unique():
    rng = np.random.default_rng(1)
    count = 4000
    weight, target = rng.normal(size=(count, 2, 2)) * 2, rng.uniform(-0.95, 0.95, (count, 2))
    bias = np.arctanh(target) - np.einsum("kij,kj->ki", weight, target)
    exact, last_step = polished(weight, bias, target)
    known = (last_step < 1e-17) & (np.abs(exact - target).max(1) < 1e-6)
    assert known.mean() > 0.95
    displaced = exact.astype(float) + 10.0 ** rng.uniform(-17, 0, (count, 1)) * rng.uniform(-1, 1, (count, 2))
    out = verify_each(Tanh(weight, bias), displaced)
    distance = np.abs(exact - displaced)
    right = (distance <= out.error).all(1)
    # A certificate may be about another fixed point than the one displaced: find that one and check it instead.
    centers = polished(weight, bias, displaced)[0]
    right |= (np.abs(centers - displaced) <= out.error).all(1)
    assert right[out.verified & known].all()
    assert out.verified[known].mean() > 0.4
    # Newton's method from anywhere in the certified ball finds no second fixed point there.
    radius = out.uniqueness_radius[:, None]
    for _ in range(10):
        starts = displaced + radius * rng.uniform(-1, 1, (count, 2))
        found, step = polished(weight, bias, np.clip(starts, -1, 1))
        inside = (step < 1e-16) & (np.abs(found - displaced) <= radius).all(1) & out.verified & known
        assert (np.abs(found - centers).max(1)[inside] < 1e-12).all()  # one point, to the rounding of the two runs


def test_slow_points_without_fixed_point_are_refused():
    """x = tanh(w x + b) just past its fold: the two fixed points are gone, the speed there is the distance past it."""
    weight = np.random.default_rng(2).uniform(1.1, 4, 500)
    slow = -np.sqrt(1 - 1 / weight)  # where the slope is 1
    past = np.repeat(10.0 ** np.arange(-15, -1.0), 500)
    weight, slow = np.tile(weight, 14), np.tile(slow, 14)
    # tanh(w x + b) at the slow point is x + past; from below, this is where the graphs touch and then part
    bias = np.arctanh(slow + past) - weight * slow
    out = verify_each(Tanh(weight[:, None, None], bias[:, None]), slow[:, None])
    assert not out.verified.any()


def test_fixed_points_of_closed_form():
    # logistic map: 0 and 1 - 1/r, multipliers r and 2 - r
    for r, num_unstable in [(2.5, (1, 0)), (3.3, (1, 1))]:
        f = Logistic(r)
        both = rd.certify_fixed_points(f, np.array([[0.0], [1 - 1 / r]]))
        assert both.certified.all()
        assert tuple(both.num_unstable) == num_unstable
        assert (both.existence_radius < 1e-14).all()
        # the other fixed point, at a distance of 1 - 1/r, is outside; half of it is the most the test can reach
        assert (both.uniqueness_radius < 1 - 1 / r).all()
        assert (both.uniqueness_radius > 0.25 * (1 - 1 / r)).all()
        np.testing.assert_allclose(both.multipliers[:, 0], [r, 2 - r], rtol=1e-12)  # error bar below
        assert (np.abs(both.multipliers[:, 0] - [r, 2 - r]) <= both.multiplier_radii[:, 0] + 1e-15).all()


def test_large_random_network():
    rng = np.random.default_rng(3)
    weight, bias = rng.normal(size=(100, 100)) * 0.15, rng.normal(size=100) * 0.3
    x = np.zeros(100)
    for _ in range(40):
        y = np.tanh(weight @ x + bias)
        x = x - np.linalg.solve(np.eye(100) - (1 - y**2)[:, None] * weight, x - y)
    jacobian = (1 - np.tanh(weight @ x + bias) ** 2)[:, None] * weight
    certificate = rd.certify_fixed_point(Tanh(weight, bias), x)
    assert certificate.certified
    # I - DF of this chaotic network has a condition number near 1e4, which multiplies the rounding of 100 sums.
    assert certificate.existence_radius < 1e-9
    assert certificate.uniqueness_radius > 1e-6
    assert certificate.num_unstable == (np.abs(np.linalg.eigvals(jacobian)) > 1).sum() > 0
    assert "exists" in str(certificate)
    shifted = rd.certify_fixed_point(Tanh(weight, bias), x + 1e-9)
    assert 1e-9 <= shifted.existence_radius < 1.1e-9
    far = rd.certify_fixed_point(Tanh(weight, bias), x + 0.05)
    assert not far.certified
    assert "too far" in far.reason
    assert far.existence_radius == np.inf
    assert far.uniqueness_radius == 0
    assert far.num_unstable == -1


@pytest.mark.slow
def test_thousand_units():
    rng = np.random.default_rng(4)
    weight, bias = rng.normal(size=(1000, 1000)) * 0.9 / np.sqrt(1000), rng.normal(size=1000) * 0.3
    x = np.zeros(1000)
    for _ in range(40):
        y = np.tanh(weight @ x + bias)
        x = x - np.linalg.solve(np.eye(1000) - (1 - y**2)[:, None] * weight, x - y)
    certificate = rd.certify_fixed_point(Tanh(weight, bias), x)
    assert certificate.certified
    assert certificate.existence_radius < 1e-8
    assert certificate.num_unstable >= 0


class Held(eqx.Module):
    """A cell with its input held, weights in NumPy's float64."""

    weight: np.ndarray
    weight_in: np.ndarray
    bias: np.ndarray
    input: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.weight @ x + self.weight_in @ self.input + self.bias)


@needs_80_bits
def test_weights_in_float64_are_not_rounded_where_x64_is_off():
    """x = tanh(1.7 x + 1.1 * .3 + .1), weights in float64 against weights in float32, by bisection in 80 bits."""
    assert not jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    weights = [np.array([[1.7]]), np.array([[1.1]]), np.array([0.1]), np.array([0.3])]
    w, w_in, b, u = weights
    closure = lambda x: jnp.tanh(w @ x + w_in @ u + b)
    single = Held(*(a.astype(np.float32) for a in weights))
    for f, dtype in ((Held(*weights), np.float64), (closure, np.float64), (single, np.float32)):
        a, c, d, v = (np.longdouble(dtype(value)) for value in (1.7, 1.1, 0.1, 0.3))
        lo, hi = np.longdouble(0.5), np.longdouble(1.5)
        for _ in range(70):
            middle = (lo + hi) / 2
            lo, hi = (middle, hi) if np.tanh(a * middle + c * v + d) > middle else (lo, middle)
        certificate = rd.certify_fixed_point(f, np.array([float(lo)]))
        assert certificate.certified
        assert abs(certificate.point[0] - lo) <= certificate.existence_radius < 1e-14
        cycle = rd.certify_cycle(f, np.array([[float(lo)]]))
        assert abs(cycle.points[0, 0] - lo) <= cycle.existence_radius < 1e-14
    listed = rd.enumerate_fixed_points(Held(*weights), [0.5], [1.5], progress=False)
    exact = rd.enumerate_fixed_points(closure, [0.5], [1.5], progress=False)
    np.testing.assert_allclose(listed.points, exact.points, rtol=1e-15)


# --- what must be refused, and why

REFUSED = {
    "degenerate": (lambda x: x - x**2, 0.0, "degenerate"),
    "cubic degenerate": (lambda x: x + x**3, 0.0, "degenerate"),
    "near a degenerate one": (lambda x: x - x**2, 1e-6, "too far"),
    "identity": (lambda x: 1.0 * x, 0.3, "continuum"),
    "no fixed point": (lambda x: x + 1, 0.2, "degenerate"),
    "jump onto itself": (lambda x: jnp.floor(x) * 1.0, 1.0, "jump"),
    "sign at its jump": (lambda x: 0.5 * jnp.sign(x), 0.0, "jump"),
    "jump over the diagonal": (lambda x: jnp.where(x > 0, -1.0, 1.0) + 0 * x, 0.0, "jump"),
    "jump between close branches": (lambda x: jnp.where(x > 0.5, 0.5 - 1e-9, 0.5 + 1e-9) + 0 * x, 0.5, "jump"),
    "undefined": (jnp.log, -1.0, "leaves its domain"),
    "undefined nearby": (lambda x: jnp.sqrt(x) * 2, 0.0, "leave its domain"),
    "not a number": (lambda x: jnp.where(x > 0, 0.5 * x, jnp.nan), -1.0, "NaN"),
    "overflow": (lambda x: jnp.exp(x), 800.0, "infinite"),
    "wrong derivative rule": (lambda x: jax.lax.stop_gradient(x), 0.3, "continuum"),
    "kink on the diagonal": (lambda x: jnp.maximum(x, 0.0), 0.0, "degenerate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_say_why(name):
    f, x, reason = REFUSED[name]
    certificate = rd.certify_fixed_point(f, np.array([x]))
    assert not certificate.certified
    assert reason in certificate.reason
    assert certificate.num_unstable == -1
    assert "not certified" in str(certificate)


ACCEPTED = {
    "beside a jump": (lambda x: 0.5 * jnp.sign(x), 0.5, 0.5, 0),
    "beside NaN": (lambda x: jnp.where(x > 0, 0.5 * x + 1, jnp.nan), 2.0, 2.0, 0),
    "root": (lambda x: 2 * jnp.sqrt(x), 4.0, 4.0, 0),
    "kink": (lambda x: 0.5 * jax.nn.relu(x), 0.0, 0.0, 0),
    "kink, unstable side": (lambda x: 3 * jnp.abs(x) - 1, 0.5, 0.5, 1),
    "loop": (
        lambda x: jax.lax.fori_loop(0, 3, lambda i, y: jnp.cos(y), x),
        0.7390851332151607,
        0.73908513321516064165,
        0,
    ),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_can_be_proved_is(name):
    f, x, exact, num_unstable = ACCEPTED[name]
    certificate = rd.certify_fixed_point(f, np.array([x]))
    assert certificate.certified, certificate.reason
    assert abs(x - exact) <= certificate.existence_radius < 1e-13
    assert certificate.num_unstable == num_unstable
    assert certificate.reason == ""


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 2)), "shape"),
        (np.zeros(0), "shape"),
        (np.array([np.nan]), "NaN"),
        (np.array([1]), "floating"),
    ],
)
def test_bad_states_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        rd.certify_fixed_point(jnp.tanh, x)


def test_maps_that_change_shape_are_named():
    with pytest.raises(ValueError, match="shape"):
        rd.certify_fixed_point(lambda x: jnp.concatenate([x, x]), np.zeros(2))


def test_many_points_are_certified_as_one_by_one(tmp_path):
    f = lambda x: jnp.tanh(jnp.array([[2.0, 1.0], [-1.0, 1.5]]) @ x)
    points = np.array([[0.0, 0.0], [0.3, 0.1], [1e-9, -1e-9]])
    together = rd.certify_fixed_points(f, points)
    assert len(together) == 3
    assert list(together.certified) == [True, False, True]
    assert "2 of 3" in str(together)
    for k in range(3):
        alone = rd.certify_fixed_point(f, points[k])
        assert alone.certified == together[k].certified
        assert alone.num_unstable == together[k].num_unstable
        if alone.certified:
            assert alone.existence_radius == pytest.approx(together.existence_radius[k], rel=1e-3)
    again = rd.load(together.save(tmp_path / "certificates"))
    np.testing.assert_array_equal(again.existence_radius, together.existence_radius)


def test_zeros_of_a_multiple_shooting_system_use_the_same_test():
    """A 2-cycle of the logistic map: x± = (r + 1 ± sqrt((r - 3)(r + 1))) / 2r."""
    r = 3.3
    cycle = np.array([(r + 1 + s * np.sqrt((r - 3) * (r + 1))) / (2 * r) for s in (1, -1)])
    f = Logistic(r)
    with interval_precision():
        closing = zero_problem(lambda z: jnp.stack([z[1] - f(z[0]), z[0] - f(z[1])]))
        found = krawczyk(closing, cycle[None])
    assert found.verified[0]
    assert (found.error < 1e-14).all()


# --- discs


def test_discs_hold_the_eigenvalues_of_every_matrix():
    """Random matrices inside the interval matrix, normal, non-normal and defective; eigenvalues by LAPACK."""
    rng = np.random.default_rng(5)
    for _ in range(200):
        size = rng.integers(1, 6)
        center = rng.normal(size=(size, size)) * rng.choice([0.5, 1, 2])
        if rng.uniform() < 0.5:
            center = np.triu(center, 1) * 10 + np.diag(rng.choice([0.3, 0.5, 2.0], size))
        radius = np.abs(center) * 10.0 ** rng.uniform(-16, -3)
        multipliers, discs = multiplier_discs(center[None], radius[None])
        counted = count_outside_unit_circle(multipliers, discs)[0]
        for _ in range(10):
            sample = np.linalg.eigvals(center + radius * rng.uniform(-1, 1, center.shape))
            if counted >= 0:
                assert (np.abs(sample) > 1).sum() == counted
            distance = np.abs(sample[:, None] - multipliers[0]) - discs[0]
            # LAPACK's own error at a defective eigenvalue of this size
            assert (distance.min(1) < 1e-3).all()
            if np.isfinite(discs).all() and discs.max() < 1e-6:
                assert (distance.min(1) <= 1e-7).all()


@pytest.mark.parametrize("size", [2, 4, 6])
def test_defective_multipliers_are_counted(size):
    block = np.eye(size) * 0.5 + np.diag(np.ones(size - 1), 1)
    for scale, expected in [(1.0, 0), (4.0, size)]:
        certificate = rd.certify_fixed_point(lambda x, a=block * scale: jnp.asarray(a) @ x, np.zeros(size))
        assert certificate.certified
        assert certificate.num_unstable == expected


def test_multipliers_on_the_unit_circle_are_left_open():
    angle = 1.0
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for matrix in (-np.eye(1), rotation):
        certificate = rd.certify_fixed_point(lambda x, a=matrix: jnp.asarray(a) @ x, np.zeros(len(matrix)))
        assert certificate.certified
        assert certificate.num_unstable == -1
        assert "unit circle" in certificate.reason
    for radius, expected in [(1 - 1e-9, 0), (1 + 1e-9, 2)]:
        certificate = rd.certify_fixed_point(lambda x, a=rotation * radius: jnp.asarray(a) @ x, np.zeros(2))
        assert certificate.num_unstable == expected
