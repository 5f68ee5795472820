"""Bifurcation diagrams and curves that lost branches, or stopped with an error, for users."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import polynomial

import rnndyn as rd


class Bumps(eqx.Module):
    """x_i' = (1 + g_i(p)) x_i - x_i^3, each g_i above zero in an interval of its own about a centre."""

    centres: np.ndarray
    width: np.ndarray

    def __call__(self, x, p):
        return (0.9 + 0.2 * jnp.exp(-(((p - self.centres) / self.width) ** 2))) * x - x**3


def test_a_branch_point_after_refined_nodes_is_switched_at():
    # x = 0 and p = .4 x + x^2 cross at p = 0. A second unit with its multiplier just below 1 near p = -.5 has the nodes
    # there divided, which moves the numbers of all that follow.
    f = polynomial({"x": 1, "px": 0.3, "xx": -0.12, "xxx": -0.3}, {"y": 0.749, "py": -1, "ppy": -1})
    diagram = rd.bifurcation_diagram(f, np.zeros(2), -0.9, (-1.0, 0.8), box=(-2.0, 2.0))
    assert [event.kind for event in diagram.branches[0].bifurcations] == ["branch point"]
    arms = diagram.branches[1:]
    assert len(arms) == 2
    for arm in arms:
        x = arm.points[:, 0]
        np.testing.assert_allclose(arm.parameters, 0.4 * x + x**2, atol=1e-10)
        assert np.max(np.abs(x)) > 0.2
    assert diagram.is_complete


def test_multipliers_that_peak_in_turn_are_all_seen():
    # g crosses 1 where exp(-(d / w)^2) = 1/2, at d = w sqrt(ln 2) on either side of each centre. The next multiplier
    # goes out within the step in which the last comes in, and the last does so before that: three ways to be equal.
    centres, width = np.array([-0.31, -0.1, 0.12, 0.3]), 0.11
    half = width * np.sqrt(np.log(2))
    branch = rd.continue_fixed_points(Bumps(centres, np.array(width)), np.zeros(4), -1.0, (-1.0, 1.0))
    found = [event.parameter for event in branch.bifurcations]
    np.testing.assert_allclose(found, np.sort([*(centres - half), *(centres + half)]), atol=1e-9)
    assert all(event.kind == "branch point" for event in branch.bifurcations)
    # Each event carries the tangent of its branch: along the parameter alone.
    for event in branch.bifurcations:
        np.testing.assert_allclose(event.tangent[:-1], 0, atol=1e-9)
        assert abs(event.tangent[-1]) > 0


NARROW = np.array([-0.61, -0.187, 0.203, 0.633])


@pytest.mark.parametrize(("width", "bound"), [(4e-3, False), (4e-4, True)], ids=["a 25th", "a 250th"])
def test_multipliers_that_go_out_and_come_back_within_a_fraction_of_a_step(width, bound):
    """Steps are up to .1 long in the parameter, and between the peaks every multiplier is .9."""
    half = width * np.sqrt(np.log(2))
    branch = rd.continue_fixed_points(Bumps(NARROW, np.array(width)), np.zeros(4), -1.0, (-1.0, 1.0), bound=bound)
    found = [event.parameter for event in branch.bifurcations]
    np.testing.assert_allclose(found, np.sort([*(NARROW - half), *(NARROW + half)]), atol=1e-9)
    assert branch.unseen.shape == (0, 2)
    assert branch.is_bounded == bound
    assert ("bounded by intervals" in str(branch)) == bound
    assert len(branch) < 200


class Touching(eqx.Module):
    """x' = m(p) x - x^3, m = .9 + (.1 - gap) exp(-(p / .01)^2) + blur (sin p - sin p): intervals see the blur."""

    gap: np.ndarray
    blur: np.ndarray

    def __call__(self, x, p):
        window = jnp.exp(-((p / 0.01) ** 2))
        return (0.9 + (0.1 - self.gap + self.blur * (jnp.sin(p) - jnp.sin(p))) * window) * x - x**3


def test_where_a_crossing_is_not_excluded_the_diagram_says_so():
    """The multiplier comes within 1e-3 of the circle and turns back; bounds that are too wide cannot tell."""
    start = (np.zeros(1), -0.4, (-0.5, 0.5))
    clear = rd.bifurcation_diagram(Touching(np.array(1e-3), np.array(0.0)), *start, bound=True)
    assert clear.is_complete
    assert not clear.bifurcations
    wide = rd.bifurcation_diagram(Touching(np.array(1e-3), np.array(1e3)), *start, bound=True)
    assert not wide.is_complete
    assert not wide.bifurcations
    ((low, high),) = wide.branches[0].unseen
    assert -0.03 < low < 0 < high < 0.03
    assert "may leave and come back unseen" in wide.gaps[0]
    with pytest.raises(ValueError, match="bound: needs all multipliers"):
        rd.continue_fixed_points(Touching(np.array(1e-3), np.array(0.0)), *start, bound=True, num_multipliers=1)


@pytest.mark.slow
def test_bounds_hold_on_cycles_too():
    """The 2-cycle of the logistic map has the multiplier 4 + 2 r - r^2: -1 at r = 1 + sqrt(6)."""
    r = 3.2
    half = np.sqrt((r + 1) * (r - 3)) / (2 * r)
    points = (r + 1) / (2 * r) + np.array([[-half], [half]])
    branch = rd.continue_cycles(lambda x, r: r * x * (1 - x), points, r, (3.1, 3.55), bound=True)
    assert [event.kind for event in branch.bifurcations] == ["flip"]
    assert branch.bifurcations[0].parameter == pytest.approx(1 + np.sqrt(6), abs=1e-10)
    assert branch.unseen.shape == (0, 2)


def test_a_diagram_whose_branch_ends_early_says_so():
    f = polynomial({"x": 0.5, "p": 1})
    diagram = rd.bifurcation_diagram(f, np.zeros(2), 0.0, (-1.0, 1.0), max_points=3)
    assert not diagram.is_complete
    assert "max_points" in diagram.gaps[0]
    assert "left out" in str(diagram)


@pytest.mark.slow
def test_a_flip_curve_goes_through_a_fold_flip():
    # x' = y, y' = p + q x - y^2 - .1 x y. With 1 - q = 2 x a multiplier is -1 and p = 3.1 x^2; at x = 0 the other is 1.
    line = polynomial({"y": 1}, {"p": 1, "x": -0.5, "yy": -1, "xy": -0.1})
    plane = polynomial({"y": 1}, {"p": 1, "qx": 1, "yy": -1, "xy": -0.1})
    (event,) = rd.continue_fixed_points(line, np.array([0.74, 0.74]), 1.72, (1.0, 2.0)).of_kind("flip")
    assert abs(event.parameter - 3.1 * 0.75**2) < 1e-12
    curve = rd.continue_bifurcation(plane, event, (event.parameter, -0.5), ((-1.0, 3.0), (-1.0, 2.0)))
    x = (1 - curve.parameters[:, 1]) / 2
    np.testing.assert_allclose(curve.parameters[:, 0], 3.1 * x**2, atol=1e-11)
    assert curve.parameters[:, 1].max() == 2.0
    (point,) = (p for p in curve.special_points if p.kind == "fold-flip")
    np.testing.assert_allclose(point.parameters, [0, 1], atol=1e-10)
