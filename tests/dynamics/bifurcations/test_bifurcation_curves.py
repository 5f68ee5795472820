"""Curves of bifurcations in two parameters, against closed forms, and the points of codimension two on them."""

import numpy as np
import pytest
from dynamics.maps import polynomial, rotation, tanh_gain, tanh_network, tanh_unit, two_units

import rnndyn as rd


def with_biases(weights):
    """x' = tanh(W x + (p, q))."""
    return tanh_network(weights, direction=np.eye(2))


def weight_and_bias():
    """x' = tanh(p x + q), with a second unit that stays zero."""
    return tanh_network(0.0, gain=np.diag([1.0, 0.0]), direction=np.array([[0.0, 1.0], [0.0, 0.0]]))


WEIGHTS = np.array([[2.0, -1.5], [1.5, 1.0]])
BIAS = np.array([0.741846059192905, -0.4952773199451148])


@pytest.fixture(scope="module")
def two_unit_branch():
    """Two folds and a Neimark-Sacker point of a 2-unit network over its first bias."""
    state = np.array([0.5477225575051662, 0.8147794463647738])
    return rd.continue_fixed_points(two_units(WEIGHTS, BIAS), state, BIAS[0] - 0.05, (-2.0, 2.0))


@pytest.fixture(scope="module")
def two_unit_curves(two_unit_branch):
    """The curve of each of them in the plane of both biases."""
    span = ((-4.0, 4.0), (-4.0, 4.0))
    return [
        rd.continue_bifurcation(with_biases(WEIGHTS), event, (event.parameter, BIAS[1]), span)
        for event in two_unit_branch.bifurcations
    ]


def trace_and_det(curve):
    slopes = 1 - curve.points**2
    trace = slopes[:, 0] * WEIGHTS[0, 0] + slopes[:, 1] * WEIGHTS[1, 1]
    return trace, slopes.prod(axis=1) * np.linalg.det(WEIGHTS)


def test_the_fold_curve_of_a_tanh_unit_and_its_cusp():
    (event, _) = rd.continue_fixed_points(tanh_unit(2.0), np.array([0.97, 0.0]), 1.0, (-2.0, 2.0)).bifurcations
    curve = rd.continue_bifurcation(
        weight_and_bias(), event, (2.0, event.parameter), ((0.5, 6.0), (-4.0, 4.0)), box=(-1.0, 1.0)
    )
    w, b = curve.parameters.T
    # b = w s - artanh s with s = -x = sqrt(1 - 1/w); in terms of x, which is exact at the cusp too.
    x = curve.points[:, 0]
    np.testing.assert_allclose(w, 1 / (1 - x**2), atol=1e-10)
    np.testing.assert_allclose(b, np.arctanh(x) - w * x, atol=1e-10)
    assert tuple(curve.message) == ("left the interval", "left the interval")
    np.testing.assert_allclose(sorted(b[[0, -1]]), [-3.9327411, 3.9327411], atol=1e-6)
    (cusp,) = curve.special_points
    assert cusp.kind == "cusp"
    np.testing.assert_allclose(cusp.parameters, [1.0, 0.0], atol=1e-10)
    assert b[cusp.index] * b[cusp.index + 1] <= 0


def test_the_flip_curve_of_a_tanh_unit():
    (event, _) = rd.continue_fixed_points(tanh_unit(-2.0), np.zeros(2), 0.0, (-4.0, 4.0)).bifurcations
    curve = rd.continue_bifurcation(weight_and_bias(), event, (-2.0, event.parameter), ((-6.0, 0.0), (-8.0, 8.0)))
    w, b = curve.parameters.T
    x = curve.points[:, 0]
    np.testing.assert_allclose(w, -1 / (1 - x**2), atol=1e-10)
    np.testing.assert_allclose(b, np.arctanh(x) - w * x, atol=1e-10)
    assert not curve.special_points
    np.testing.assert_array_equal(curve.angles, np.pi)


@pytest.mark.slow
def test_curves_of_a_two_unit_network_satisfy_their_conditions(two_unit_curves):
    kinds = [curve.kind for curve in two_unit_curves]
    assert kinds == ["fold", "fold", "neimark-sacker"]
    for curve in two_unit_curves:
        trace, det = trace_and_det(curve)
        assert curve.residuals.max() < 1e-11
        x = curve.points
        np.testing.assert_allclose(np.arctanh(x) - x @ WEIGHTS.T, curve.parameters, atol=1e-10)
        if curve.kind == "fold":
            np.testing.assert_allclose(1 - trace + det, 0.0, atol=1e-11)
        else:
            np.testing.assert_allclose(det, 1.0, atol=1e-11)
            np.testing.assert_allclose(trace, 2 * np.cos(curve.angles), atol=1e-11)


def test_fold_and_neimark_sacker_curves_meet_at_the_bogdanov_takens_points(two_unit_curves):
    fold, _, circle = two_unit_curves
    assert tuple(circle.message) == ("ends at the resonance 1:1",) * 2
    # Trace 2 and determinant 1 of [[2 d_1, -1.5 d_1], [1.5 d_2, d_2]], d_i = 1 - x_i^2: one pair of slopes, and four
    # points of either sign. Folds have d_2 < 1/3, so x_2 keeps its sign on their curve; on the Neimark-Sacker curve
    # d_1 < 1, and x_1 keeps its own. They share one point.
    first = (1 + np.sqrt(1 - 4 / 8.5)) / 2
    size = np.sqrt(1 - np.array([first, 2 - 2 * first]))
    for curve, signs in ((fold, [(1, -1), (-1, -1)]), (circle, [(1, -1), (1, 1)])):
        expected = [np.arctanh(size * sign) - WEIGHTS @ (size * sign) for sign in np.array(signs)]
        found = [point.parameters for point in curve.special_points if point.kind == "1:1"]
        np.testing.assert_allclose(sorted(map(tuple, found)), sorted(map(tuple, expected)), atol=1e-8)
    # The ends of the curve are those points themselves.
    np.testing.assert_allclose(circle.angles[[0, -1]], 0.0, atol=1e-6)


def test_the_two_folds_lie_on_one_curve_with_a_cusp(two_unit_curves):
    first, second, _ = two_unit_curves
    cusps = [[p.parameters for p in curve.special_points if p.kind == "cusp"] for curve in (first, second)]
    assert len(cusps[0]) == len(cusps[1]) == 1
    np.testing.assert_allclose(cusps[0], cusps[1], atol=1e-10)
    # At a cusp three fixed points merge: two more exist on one side of either fold only.
    (cusp,) = (p for p in first.special_points if p.kind == "cusp")
    x = cusp.points[0]
    slopes, bends = 1 - x**2, -2 * x * (1 - x**2)
    jacobian = slopes[:, None] * WEIGHTS
    q = np.linalg.svd(jacobian - np.eye(2))[2][-1]
    p = np.linalg.svd((jacobian - np.eye(2)).T)[2][-1]
    assert abs(p @ (bends * (WEIGHTS @ q) ** 2)) < 1e-8


def test_a_generalised_flip():
    # -(1 + p) x + q x^3 + x^5: the flip at p = 0 changes its criticality at q = 0.
    line = polynomial({"x": -1, "px": -1, "xxx": 0.5, "xxxxx": 1})
    plane = polynomial({"x": -1, "px": -1, "qxxx": 1, "xxxxx": 1})
    (event,) = rd.continue_fixed_points(line, np.zeros(2), -0.5, (-1.0, 1.0)).bifurcations
    curve = rd.continue_bifurcation(plane, event, (event.parameter, 0.5), ((-1.0, 1.0), (-1.0, 1.0)))
    (point,) = curve.special_points
    assert point.kind == "generalized flip"
    np.testing.assert_allclose(point.parameters, [0.0, 0.0], atol=1e-10)


@pytest.mark.slow
def test_strong_resonances_and_a_chenciner_point():
    # M = [[0, -1], [1, q]] has determinant 1 and 2 cos(theta) = q, and keeps Q = x^2 + q x y + y^2. The map is
    # (1 + p + (1 - q) Q) M x, so Q' = Q (1 + p + (1 - q) Q)^2: on p = 0 the coefficient changes sign at q = 1.
    first, second = {}, {}
    for name, factor in {"": 1, "p": 1, "xx": 1, "qxy": 1, "yy": 1, "qxx": -1, "qqxy": -1, "qyy": -1}.items():
        for out, column in ((first, {"y": -1}), (second, {"x": 1, "qy": 1})):
            for letters, value in column.items():
                term = "".join(sorted(name + letters))
                out[term] = out.get(term, 0) + factor * value
    q0 = 2 * np.cos(0.7)
    (event,) = rd.continue_fixed_points(rotation(0.7), np.zeros(2), 0.5, (0.0, 2.0)).bifurcations
    # The same point, with the same multipliers, of another map.
    curve = rd.continue_bifurcation(polynomial(first, second), event, (0.0, q0), ((-1.0, 1.0), (-1.5, 1.8)))
    np.testing.assert_allclose(curve.parameters[:, 0], 0.0, atol=1e-12)
    np.testing.assert_allclose(2 * np.cos(curve.angles), curve.parameters[:, 1], atol=1e-10)
    found = sorted((p.parameters[1], p.kind) for p in curve.special_points)
    assert [kind for _, kind in found] == ["1:3", "1:4", "Chenciner"]
    np.testing.assert_allclose([q for q, _ in found], [-1.0, 0.0, 1.0], atol=1e-8)


def test_a_fold_flip():
    # x + p + x^2 folds at p = 0 while -(1 + q) y flips at q = 0.
    line = polynomial({"x": 1, "p": 1, "xx": 1}, {"y": -1.3})
    plane = polynomial({"x": 1, "p": 1, "xx": 1}, {"y": -1, "qy": -1})
    (event,) = rd.continue_fixed_points(line, np.array([-0.5, 0.0]), -0.25, (-1.0, 1.0)).of_kind("fold")
    curve = rd.continue_bifurcation(plane, event, (event.parameter, 0.3), ((-1.0, 1.0), (-0.5, 0.5)))
    (point,) = curve.special_points
    assert point.kind == "fold-flip"
    np.testing.assert_allclose(point.parameters, [0.0, 0.0], atol=1e-10)


def test_a_curve_prints_saves_and_loads(two_unit_curves, tmp_path):
    curve = two_unit_curves[0]
    assert "cusp" in str(curve)
    again = rd.load(curve.save(tmp_path / "curve"))
    assert isinstance(again, rd.BifurcationCurve)
    np.testing.assert_array_equal(again.parameters, curve.parameters)


def test_bad_input_is_named(two_unit_branch):
    event = two_unit_branch.bifurcations[0]
    f, p, span = with_biases(WEIGHTS), (event.parameter, BIAS[1]), ((-4.0, 4.0), (-4.0, 4.0))
    with pytest.raises(ValueError, match="p0: expected the two parameters"):
        rd.continue_bifurcation(f, event, np.array([0.0]), span)
    with pytest.raises(ValueError, match="p_span: expected two intervals"):
        rd.continue_bifurcation(f, event, np.array(p), (-4.0, 4.0))
    with pytest.raises(ValueError, match=r"p0\[0\]"):
        rd.continue_bifurcation(f, event, np.array([9.0, 0.0]), span)
    with pytest.raises(ValueError, match="has no fold point near it"):
        rd.continue_bifurcation(f, event, np.array([p[0] + 0.3, p[1]]), span)
    pitchfork = rd.continue_fixed_points(tanh_gain(), np.zeros(2), 0.5, (0.0, 2.0)).bifurcations[0]
    with pytest.raises(ValueError, match="got a branch point"):
        rd.continue_bifurcation(weight_and_bias(), pitchfork, np.array([1.0, 0.0]), span)
