"""Bifurcation diagrams and curves that lost branches, or stopped with an error, for users."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from dynamics.maps import polynomial

import rnndyn as rd


class Bumps(eqx.Module):
    """x_i' = (1 + g_i(p)) x_i - x_i^3, each g_i above zero in an interval of its own about a centre."""

    centres: np.ndarray
    width: float = eqx.field(static=True)

    def __call__(self, x, p):
        return (0.9 + 0.2 * jnp.exp(-(((p - self.centres) / self.width) ** 2))) * x - x**3


def test_a_branch_point_after_refined_nodes_is_switched_at():
    # x = 0 and p = g(x) with g = .4 x + x^2: transcritical at p = 0. A second unit with its multiplier just below 1 near
    # p = -.5 has the nodes there divided, which moves the numbers of all that follow.
    f = polynomial({"x": 1, "px": 0.3, "xx": -0.12, "xxx": -0.3}, {"y": 0.749, "py": -1, "ppy": -1})
    diagram = rd.bifurcation_diagram(f, np.zeros(2), -0.9, (-1.0, 1.0), box=(-2.0, 2.0))
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
    # goes out within the step in which the last comes in.
    centres, width = np.array([-0.6, -0.2, 0.2, 0.6]), 0.2
    half = width * np.sqrt(np.log(2))
    branch = rd.continue_fixed_points(Bumps(centres, width), np.zeros(4), -1.0, (-1.0, 1.0), max_step=0.2)
    found = [event.parameter for event in branch.bifurcations]
    np.testing.assert_allclose(found, np.sort([*(centres - half), *(centres + half)]), atol=1e-9)
    assert all(event.kind == "branch point" for event in branch.bifurcations)
    # Each event carries the tangent of its branch: along the parameter alone.
    for event in branch.bifurcations:
        np.testing.assert_allclose(event.tangent[:-1], 0, atol=1e-9)
        assert abs(event.tangent[-1]) > 0


def test_a_diagram_whose_branch_ends_early_says_so():
    f = polynomial({"x": 0.5, "p": 1})
    diagram = rd.bifurcation_diagram(f, np.zeros(2), 0.0, (-1.0, 1.0), max_points=3)
    assert not diagram.is_complete
    assert "max_points" in diagram.gaps[0]
    assert "left out" in str(diagram)


def test_a_flip_curve_goes_through_a_fold_flip():
    # The first unit has x = 0 with multiplier 1 + q, transcritical at q = 0; the second flips at p = 0, with the cubic
    # coefficient -1 and no coupling: no generalised flip, one fold-flip at (0, 0).
    line = polynomial({"x": 1.5, "xx": -1}, {"y": -1, "py": -1, "yyy": 1})
    plane = polynomial({"x": 1, "qx": 1, "xx": -1, "yy": 0.3}, {"y": -1, "py": -1, "yyy": 1, "xy": 0.2})
    (event,) = rd.continue_fixed_points(line, np.array([0.0, 0.0]), -0.3, (-0.5, 0.5)).of_kind("flip")
    curve = rd.continue_bifurcation(plane, event, (event.parameter, 0.5), ((-1.0, 1.0), (-1.0, 1.0)))
    (point,) = (p for p in curve.special_points if p.kind == "fold-flip")
    np.testing.assert_allclose(point.parameters, [0, 0], atol=1e-9)
    assert curve.parameters[:, 1].min() == -1.0
    assert curve.parameters[:, 1].max() == 1.0
