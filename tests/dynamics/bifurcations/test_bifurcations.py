"""Bifurcations against closed forms: where and what they are, and their normal forms. None missed, none invented."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import (
    FixedPointCurve,
    henon,
    logistic,
    polynomial,
    rotation,
    tanh_gain,
    tanh_network,
    tanh_unit,
    turned,
    two_units,
)

import rnndyn as rd
from rnndyn.dynamics.bifurcations import _events

MATRICES = {
    "A": [[2.0, -1.5], [1.5, 1.0]],
    "B": [[1.2, -2.0], [1.8, 0.3]],
    "C": [[-2.0, 0.7], [0.4, 1.6]],
    "E": [[-2.0, 0.7], [0.4, -1.6]],
    "P": [[-2.0, 3.0], [-3.0, 0.5]],
}
# cycles_and_bifurcations.json, codim1_points_2unit (Haschke & Steil 2005): matrix, kind, state, bias.
CODIMENSION_ONE = [
    ("A", "fold", (0.22360679774997907, 0.8388704928078611), (1.038541679717625, 0.043068493255097096)),
    ("A", "neimark-sacker", (0.5477225575051662, 0.8147794463647738), (0.741846059192905, -0.4952773199451148)),
    ("A", "neimark-sacker", (0.8660254037844386, 0.242535625036333), (-0.051289473089561, -1.2941072691657274)),
    ("B", "neimark-sacker", (0.22360679774997907, 0.8568453446861111), (1.6728120680780387, 0.6218085226414433)),
    ("B", "neimark-sacker", (0.7416198487095663, 0.6624445427098827), (1.3890147427749389, -0.7364917907428775)),
    ("C", "fold", (0.5477225575051662, 0.6366724695622651), (1.2648963909728235, -0.48520709304353327)),
    ("C", "fold", (0.8660254037844386, 0.6266678151997974), (2.610341233853836, -0.6131685073054445)),
    ("E", "flip", (0.22360679774997907, 0.4831046669723094), (0.3364898646251331, 1.210551005116862)),
    ("E", "flip", (0.7416198487095663, 0.8064425896179159), (1.8727993604932447, 2.110430507525308)),
    ("E", "flip", (0.938083151964686, 0.6259435898871963), (3.159836977727045, 1.3609949738936802)),
    ("P", "flip", (0.5477225575051662, 0.9666572451020045), (-1.1894046156396043, 3.1984640730971963)),
    ("P", "neimark-sacker", (0.5477225575051662, 0.9063269671749657), (-1.0084137818584882, 2.696565824579987)),
    ("P", "neimark-sacker", (0.8660254037844386, 0.7071067811865476), (0.9276883609340509, 3.125896407779585)),
]


# cycles_and_bifurcations.json, tanh_1unit: w s - artanh s with s = sqrt(1 - 1/w), and artanh s - w s with
# s = sqrt(1 + 1/w).
FOLDS = {
    1.2: 0.05639058531135305,
    1.5: 0.2075464553220303,
    2.0: 0.532839975353552,
    3.0: 1.303273908002589,
    5.0: 3.028500479820769,
    10.0: 7.668386521273072,
}
FLIPS = {
    -1.2: 0.9234053118019181,
    -1.5: 1.5245043522468473,
    -2.0: 2.295587149392638,
    -3.0: 3.5957055775637667,
    -5.0: 5.91577143017839,
}


@pytest.mark.parametrize(("w", "fold"), FOLDS.items())
def test_folds_of_a_tanh_unit(w, fold):
    s = np.sqrt(1 - 1 / w)
    span = (-fold - 1, fold + 1)
    branch = rd.continue_fixed_points(tanh_unit(w), np.array([0.99, 0.0]), fold, span)
    low, high = sorted(branch.bifurcations, key=lambda e: e.parameter)
    assert (low.kind, high.kind) == ("fold", "fold")
    np.testing.assert_allclose([low.parameter, high.parameter], [-fold, fold], atol=1e-10)
    # At x the map's second derivative is -2 w^2 x (1 - x^2), and 1 - x^2 = 1 / w; a = F'' / 2.
    np.testing.assert_allclose([low.point[0], high.point[0]], [s, -s], atol=1e-9)
    np.testing.assert_allclose([low.coefficient, high.coefficient], [-w * s, w * s], rtol=1e-8)
    for event in (low, high):
        assert abs(event.multipliers[0] - 1) < 1e-9
        assert event.converged
        assert event.error < 1e-10
        assert event.residual < 1e-13
        assert event.criticality is None


@pytest.mark.parametrize(("w", "flip"), FLIPS.items())
def test_flips_of_a_tanh_unit(w, flip):
    branch = rd.continue_fixed_points(tanh_unit(w), np.zeros(2), 0.0, (-flip - 1, flip + 1))
    assert [e.kind for e in branch.bifurcations] == ["flip", "flip"]
    np.testing.assert_allclose(sorted(e.parameter for e in branch.bifurcations), [-flip, flip], atol=1e-10)
    for event in branch.bifurcations:
        # The Schwarzian derivative of tanh(w x) is -2 w^2, and c = -S/6 - (F'' / 2)^2 ... at F' = -1: c = -S / 6.
        assert abs(event.coefficient - w**2 / 3) < 1e-7 * w**2
        assert event.criticality == "supercritical"
        assert event.multiplier == -1


def test_fold_and_flip_of_the_henon_map():
    branch = rd.continue_fixed_points(henon(), np.array([0.9, 0.27]), 0.2, (-0.5, 1.4), box=(-3.0, 3.0))
    # Fold at -(1 - b)^2 / 4, flip at 3 (1 - b)^2 / 4.
    assert [e.kind for e in branch.bifurcations] == ["fold", "flip"]
    np.testing.assert_allclose([e.parameter for e in branch.bifurcations], [-0.1225, 0.3675], atol=1e-10)


def test_a_transcritical_point_of_the_logistic_map():
    branch = rd.continue_fixed_points(logistic(), np.array([0.0, 0.0]), 0.5, (0.2, 2.0))
    (event,) = branch.bifurcations
    assert (event.kind, event.subtype, event.criticality) == ("branch point", "transcritical", None)
    assert abs(event.parameter - 1) < 1e-12
    assert abs(event.coefficient + 1) < 1e-12  # x' = p x - p x^2


def test_a_pitchfork_seen_from_the_trunk_and_from_an_arm():
    network = tanh_gain()
    trunk = rd.continue_fixed_points(network, np.zeros(2), 0.5, (0.0, 2.0))
    arm = rd.continue_fixed_points(network, np.array([0.96, 0.0]), 2.0, (0.0, 2.0))
    for branch in (trunk, arm):
        (event,) = branch.bifurcations
        assert (event.kind, event.subtype, event.criticality) == ("branch point", "pitchfork", "supercritical")
        assert abs(event.parameter - 1) < 1e-10
        assert abs(event.point[0]) < 1e-9
        assert abs(event.coefficient + 1 / 3) < 1e-8  # tanh(x) = x - x^3 / 3
    # Both arms are one curve through the branch point.
    assert arm.points[0, 0] * arm.points[-1, 0] < 0


@pytest.mark.parametrize(
    ("angle", "resonance"),
    [
        (1.0, None),
        (2.0, None),
        (0.3, None),
        (1.9416110387254666, None),
        (0.4 * np.pi, None),
        (np.pi / 2, "1:4"),
        (2 * np.pi / 3, "1:3"),
    ],
)
def test_neimark_sacker_of_a_rotation_at_gain_one(angle, resonance):
    branch = rd.continue_fixed_points(rotation(angle), np.zeros(2), 0.5, (0.0, 2.0))
    (event,) = branch.bifurcations
    assert event.kind == "neimark-sacker"
    assert abs(event.parameter - 1) < 1e-10
    assert abs(event.angle - angle) < 1e-10
    assert event.subtype == resonance
    if resonance == "1:3":
        assert np.isnan(event.coefficient)
    else:
        # z' = g e^{i theta} z (1 - |g z|^2 / 4) in z = x + i y (Kuznetsov, theorem 4.6); with a critical eigenvector
        # of length one, z = sqrt(2) times the coordinate here.
        assert abs(event.coefficient + 0.5) < 1e-10
        assert event.criticality == ("supercritical" if resonance is None else None)


@pytest.mark.parametrize("number", range(len(CODIMENSION_ONE)))
def test_codimension_one_points_of_two_unit_networks(number):
    name, kind, state, bias = CODIMENSION_ONE[number]
    weights = np.array(MATRICES[name])
    # Start a little further along the same curve of fixed points, which is known in closed form.
    curve = FixedPointCurve(weights, bias, (-np.inf, np.inf), num=4)
    start, p0 = curve.point(np.arctanh(state[1]) - 0.005)
    branch = rd.continue_fixed_points(two_units(weights, bias), start, p0, (bias[0] - 0.5, bias[0] + 0.5))
    distances = [
        max(abs(event.parameter - bias[0]), np.max(np.abs(event.point - state))) for event in branch.of_kind(kind)
    ]
    assert min(distances) < 1e-8


def check_network(seed):
    """Every bifurcation of one random network on (-3, 3), against the closed form; the number of them."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(2, 2)) * rng.choice([1.0, 2.0, 4.0])
    bias = rng.normal(size=2)
    span = (-3.0, 3.0)
    curve = FixedPointCurve(weights, bias, span)
    num_events = 0
    for component in curve.components:
        expected = curve.bifurcations(component)
        start, p0 = curve.point(component[len(component) // 2])
        branch = rd.continue_fixed_points(two_units(weights, bias), start, p0, span)
        assert branch.residuals.max() < 1e-12
        found = list(branch.bifurcations)
        for kind, parameter, state in expected:
            matches = [
                event
                for event in found
                if event.kind == kind
                and abs(event.parameter - parameter) < 1e-8
                and np.max(np.abs(event.point - state)) < 1e-6
            ]
            assert matches, f"seed {seed}: missed a {kind} at {parameter}"
            found.remove(matches[0])
        assert not found, f"seed {seed}: invented {found[0]}"
        num_events += len(expected)
    return num_events


def test_no_event_missed_or_invented_on_random_networks():
    # Seed 321 has a flip and a Neimark-Sacker point within one step, between which the multipliers meet.
    assert sum(check_network(seed) for seed in [*range(40), 321]) > 50


@pytest.mark.slow
def test_no_event_missed_or_invented_on_two_hundred_random_networks():
    assert sum(check_network(seed) for seed in range(200)) > 250


def test_multipliers_that_cross_together_are_told():
    branch = rd.continue_fixed_points(tanh_network(0.0, gain=np.eye(2)), np.zeros(2), 0.5, (0.0, 2.0))
    (event,) = branch.bifurcations
    assert (event.kind, event.multiplicity) == ("branch point", 2)
    assert abs(event.parameter - 1) < 1e-10
    assert np.isnan(event.coefficient)


def test_a_flip_and_a_branch_point_at_one_parameter_are_both_found():
    branch = rd.continue_fixed_points(tanh_network(0.0, gain=np.diag([1.0, -1.0])), np.zeros(2), 0.5, (0.0, 2.0))
    assert sorted(event.kind for event in branch.bifurcations) == ["branch point", "flip"]
    np.testing.assert_allclose([event.parameter for event in branch.bifurcations], 1.0, atol=1e-10)


def test_two_flips_within_one_step_are_both_found():
    # The multiplier -1 - eps + p^2 leaves the circle between -sqrt(eps) and sqrt(eps) only.
    f = polynomial({"x": -1 - 1e-4, "ppx": 1})
    branch = rd.continue_fixed_points(f, np.zeros(2), -0.5, (-1.0, 1.0))
    assert [event.kind for event in branch.bifurcations] == ["flip", "flip"]
    np.testing.assert_allclose([event.parameter for event in branch.bifurcations], [-0.01, 0.01], atol=1e-10)


def test_subcritical_normal_forms():
    flip = polynomial({"x": -1, "px": -1, "xxx": -1})
    (event,) = rd.continue_fixed_points(flip, np.zeros(2), -0.5, (-1.0, 1.0)).bifurcations
    assert (event.kind, event.criticality) == ("flip", "subcritical")
    assert abs(event.coefficient + 1) < 1e-12
    # (1 + p + 0.7 |x|^2) R x.
    circle = polynomial(*turned(1.2, one=1, p=1, xx=0.7, yy=0.7))
    (event,) = rd.continue_fixed_points(circle, np.zeros(2), -0.5, (-1.0, 1.0)).bifurcations
    assert (event.kind, event.criticality) == ("neimark-sacker", "subcritical")
    # |x|^2 = 2 |z|^2 for a critical eigenvector of length one.
    assert abs(event.coefficient - 1.4) < 1e-10


def test_the_neimark_sacker_coefficient_predicts_the_radius_of_the_circle():
    """With quadratic terms, where the coefficient takes all of its parts: r^2 = (|mu| - 1) / -d near the point."""
    c, s = np.cos(1.0), np.sin(1.0)
    first = {"x": c, "px": c, "y": -s, "py": -s, "xx": 0.3, "xy": -0.2, "xxx": -0.5}
    second = {"x": s, "px": s, "y": c, "py": c, "yy": 0.25, "yyy": -0.4}
    (event,) = rd.continue_fixed_points(polynomial(first, second), np.zeros(2), -0.2, (-0.3, 0.3)).bifurcations
    assert event.coefficient < 0
    excess, num_steps = 1e-3, 40_000
    x, y = 0.02, 0.0
    orbit = np.empty((num_steps, 2))
    for k in range(-20_000, num_steps):
        x, y = (
            (1 + excess) * (c * x - s * y) + 0.3 * x * x - 0.2 * x * y - 0.5 * x**3,
            (1 + excess) * (s * x + c * y) + 0.25 * y * y - 0.4 * y**3,
        )
        if k >= 0:
            orbit[k] = x, y
    # x = z q + z* q* with |q| = 1 on an orthonormal plane: <|x - mean|^2> = 2 |z|^2.
    measured = np.mean(np.sum((orbit - orbit.mean(axis=0)) ** 2, axis=1)) / 2
    predicted = -excess / event.coefficient
    # The next order is smaller by the radius squared, about a thousandth.
    assert abs(measured / predicted - 1) < 1e-2


class Noise(eqx.Module):
    """Multipliers .5 and 1 + .1 sin(k 1e15 p), k = 1, 2, at zero: a sine that no two floats resolve."""

    def __call__(self, x, p):
        return x * jnp.stack([0.5, *(1 + 0.1 * jnp.sin(1e15 * k * p) for k in (1, 2))])


@pytest.mark.slow
def test_the_search_ends_where_multipliers_jump_about_at_random(monkeypatch):
    # Each part of each segment has crossings. With the usual number of nodes between two it takes a minute.
    monkeypatch.setattr(_events, "MOST_MIDDLES", 2)
    branch = rd.continue_fixed_points(Noise(), np.zeros(3), 0.5, (0.0, 1.0), max_step=0.3, max_points=2)
    located = [event for event in branch.bifurcations if event.converged]
    assert len(located) < len(branch.bifurcations)
    assert all(event.error > 1e-10 for event in branch.bifurcations if not event.converged)
