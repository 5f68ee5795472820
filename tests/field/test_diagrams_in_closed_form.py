"""Bifurcation diagrams of maps whose branches and bifurcations are all known: events, branches, and what is left out.

x' = x + s G(x, p) with G a product of curves x - a(p), so that the curves are the branches and their intersections the
bifurcations; or G = x (p - q(x)), whose branches are x = 0 and p = q(x), with folds where q' = 0.
"""

import math

import equinox as eqx
import numpy as np
import pytest
from dynamics.maps import polynomial

import rnndyn as rd

BOX = (-3.0, 3.0)


def curve(*coefficients):
    """x - a(p) as powers {(of x, of p): coefficient}."""
    return {(1, 0): 1.0} | {(0, k): -c for k, c in enumerate(coefficients)}


def product(*factors):
    result = {(0, 0): 1.0}
    for factor in factors:
        terms = {}
        for (a, b), c in result.items():
            for (d, e), g in factor.items():
                terms[a + d, b + e] = terms.get((a + d, b + e), 0.0) + c * g
        result = terms
    return result


def unit(terms, factor, letter="x"):
    """One component x + factor * G of `polynomial`."""
    named = {letter: 1.0}
    for (a, b), c in terms.items():
        name = "".join(sorted(letter * a + "p" * b))
        named[name] = named.get(name, 0.0) + factor * c
    return named


def pitchfork(at=0.0, scale=1.0, letter="x"):
    """x (p / scale - at - x^2)."""
    return unit({(1, 1): 1 / scale, (1, 0): -at, (3, 0): -1}, 0.3, letter)


def diagram(first, second=None, *, x0=0.0, p0=-0.9, span=(-1.0, 1.0), depth=3):
    return rd.bifurcation_diagram(
        polynomial(first, second), np.array([x0, 0.0]), p0, span, depth=depth, box=BOX, max_period=1
    )


def parameters(branch, kind=None):
    return np.sort([e.parameter for e in branch.bifurcations if kind in (None, e.kind)])


@pytest.mark.parametrize(
    ("curves", "factor"),
    [([(0,), (0.4, 1), (0.3, -1)], 0.3), ([(0,), (5e-4, 1), (-5e-4, 0.5)], -0.3), ([(0,), (0.4, 1), (0.3, -1)], 3.0)],
    ids=["apart", "within 3e-3", "steep"],
)
def test_curves_that_cross_in_pairs(curves, factor):
    # Three lines: the first crosses both others, which cross each other; each of their halves is a branch.
    found = diagram(unit(product(*(curve(*c) for c in curves)), factor), depth=3)
    first, second, third = (np.polynomial.Polynomial(c) for c in curves)
    crossing = [float((a - b).roots()[0].real) for a, b in ((first, second), (first, third), (second, third))]
    assert found.is_complete
    np.testing.assert_allclose(parameters(found.branches[0], "branch point"), np.sort(crossing[:2]), atol=1e-10)
    lines = {}
    for branch in found.branches[1:]:
        x, p = branch.points[:, 0], branch.parameters
        which = [k for k, line in enumerate((second, third)) if np.allclose(x, line(p), atol=1e-9)]
        lines.setdefault(which[0], []).append(branch)
    assert {k: len(v) for k, v in lines.items()} == {0: 2, 1: 2}
    # The third crossing lies on one half of each.
    for halves in lines.values():
        met = np.concatenate([parameters(half, "branch point") for half in halves])
        np.testing.assert_allclose(met, crossing[2:], atol=1e-10)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_two_pitchforks_in_any_unit_of_the_parameter(scale):
    # At 0 and at 1e-3 (in units of the scale): x = 0, two arms each, and four where both have opened.
    found = diagram(pitchfork(0, scale), pitchfork(1e-3, scale, "y"), p0=-0.9 * scale, span=(-scale, scale))
    assert found.is_complete
    assert len(found) == 9
    np.testing.assert_allclose(parameters(found.branches[0]) / scale, [0, 1e-3], atol=1e-12)
    ends = {tuple(np.round(b.points[-1], 6) + 0.0) for b in found.branches[1:]}
    y = round(math.sqrt(1 - 1e-3), 6)
    assert ends == {(1, 0), (-1, 0), (0, y), (0, -y), (1, y), (1, -y), (-1, y), (-1, -y)}
    for arm in (b for b in found.branches if abs(b.points[-1, 0]) > 0.5 and b.points[-1, 1] == 0):
        np.testing.assert_allclose(parameters(arm) / scale, [1e-3], atol=1e-12)


def test_a_branch_through_four_folds():
    # p = T_5(x), Chebyshev's polynomial: folds at p = +-1, twice each.
    found = diagram(unit({(0, 1): 1, (5, 0): -16, (3, 0): 20, (1, 0): -5}, 0.02), x0=1.0, p0=1.0, span=(-1.2, 1.2))
    (branch,) = found.branches
    assert found.is_complete
    assert [e.kind for e in branch.bifurcations] == ["fold"] * 4
    np.testing.assert_allclose([e.parameter for e in branch.bifurcations], [1, -1, 1, -1], atol=1e-12)


def test_two_folds_closer_than_1e_6():
    # p = x^3 - 1e-4 x.
    found = diagram(unit({(0, 1): 1, (3, 0): -1, (1, 0): 1e-4}, 0.3), x0=-0.9, p0=-0.729 + 9e-5)
    half = 2 * (1e-4 / 3) ** 1.5
    np.testing.assert_allclose(parameters(found.branches[0], "fold"), [-half, half], rtol=1e-9)
    assert found.is_complete
    # At x^3 = p the multiplier touches 1, and nothing happens.
    upright = diagram(unit({(0, 1): 1, (3, 0): -1}, 0.3), x0=-0.9, p0=-0.729)
    assert upright.is_complete
    assert not upright.bifurcations


def test_a_subcritical_pitchfork_and_its_folds():
    # p = x^4 - x^2: folds at x^2 = 1/2, p = -1/4.
    found = diagram(unit({(1, 1): 1, (3, 0): 1, (5, 0): -1}, 0.1))
    assert found.is_complete
    assert [parameters(b).size for b in found.branches] == [1, 1, 1]
    for arm in found.branches[1:]:
        np.testing.assert_allclose(parameters(arm, "fold"), [-0.25], atol=1e-12)


def test_a_loop_whose_folds_lie_beside_its_branch_points():
    # A circle about (.02, 0) of radius .4 and the line x = 0: they cross 5e-4 from where the circle turns.
    circle = {(2, 0): 1, (1, 0): -0.04, (0, 0): 4e-4 - 0.16, (0, 2): 1}
    found = diagram(unit(product({(1, 0): 1.0}, circle), -0.3))
    at = math.sqrt(0.16 - 4e-4)
    line, loop = found.branches
    assert found.is_complete
    assert loop.message[1] == "closed"
    assert loop.is_closed
    assert not line.is_closed
    np.testing.assert_allclose(parameters(line), [-at, at], atol=1e-12)
    np.testing.assert_allclose(np.hypot(loop.points[:, 0] - 0.02, loop.parameters), 0.4, atol=1e-12)
    np.testing.assert_allclose(parameters(loop, "fold"), [-0.4, 0.4], atol=1e-12)
    np.testing.assert_allclose(parameters(loop, "branch point"), [-at, at], atol=1e-12)


@pytest.mark.parametrize(
    ("terms", "multiplicity"),
    [
        (unit(product(curve(0), curve(0, 0, 1)), -0.3), 0),
        (unit(product(curve(0), curve(0, 1), curve(0, -1)), -0.3), 0),
        (unit(product(curve(0), curve(0, 0, 0, 1)), -0.3), 1),
        ({"x": -1, "ppx": 0.3, "xxx": -0.3}, 0),
    ],
    ids=["tangent branches", "three branches", "tangent and crossing", "a multiplier touches -1"],
)
def test_what_is_not_followed_at_a_degenerate_point_is_said(terms, multiplicity):
    found = rd.bifurcation_diagram(polynomial(terms), np.zeros(2), -0.9, (-1.0, 1.0), depth=3, box=BOX)
    (event,) = found.branches[0].bifurcations
    # As near as a triple zero can be told in double precision.
    assert abs(event.parameter) < 1e-5
    assert event.error >= abs(event.parameter)
    assert (event.multiplicity, event.converged) == (multiplicity, False)
    assert not found.is_complete
    assert "was not followed" in found.gaps[0]


def test_two_multipliers_at_once_are_no_resonance():
    # Both units open at p = 0: a double multiplier 1, which solves the equations of a pair with angle 0 as well.
    found = diagram(pitchfork(), pitchfork(letter="y"))
    (event,) = found.branches[0].bifurcations
    assert (event.kind, event.multiplicity) == ("branch point", 2)
    assert abs(event.parameter) < 1e-10
    assert not found.is_complete


def test_two_branch_points_nearer_than_a_step_can_be_divided():
    # x (1e-10 - p^2 - x^2): the arms form a loop that rounding of the state, 1e-16 / 1e-10, does not resolve.
    found = diagram(unit({(1, 0): 1e-10, (1, 2): -1, (3, 0): -1}, 0.3))
    np.testing.assert_allclose(parameters(found.branches[0]), [-1e-5, 1e-5], atol=1e-11)
    assert not found.is_complete
    assert "a branch born there was not found" in found.gaps[0]
    # A thousandth apart it is followed, and closes.
    wider = diagram(unit({(1, 0): 1e-6, (1, 2): -1, (3, 0): -1}, 0.3))
    np.testing.assert_allclose(parameters(wider.branches[0]), [-1e-3, 1e-3], atol=1e-12)
    assert wider.is_complete
    assert len(wider) == 2
    assert wider.branches[1].message[1] == "closed"


def test_a_border_passed_without_a_bifurcation_is_said():
    # x' = p - |x| / 2: x = 2 p below 0 with multiplier 1/2, x = 2 p / 3 above with -1/2. The curve has a corner.
    found = rd.bifurcation_diagram(polynomial({"p": 1, "a": -0.5}), np.array([-1.0, 0.0]), -0.5, (-1.0, 1.0))
    (branch,) = found.branches
    (event,) = branch.bifurcations
    assert (event.kind, event.multiplicity, event.converged) == ("border collision", 0, True)
    assert abs(event.parameter) < 1e-9
    assert found.is_complete
    assert "no multiplier crosses" in str(found)
    at = branch.parameters
    np.testing.assert_allclose(branch.points[:, 0], np.where(at < 0, 2 * at, 2 * at / 3), atol=1e-12)


class Mixed(eqx.Module):
    """x + Q G(Q^T x, p) with G_i = (3/10) (b_i (p - r_i) y_i - y_i^3) and an orthogonal Q: every unit a pitchfork."""

    basis: np.ndarray
    slopes: np.ndarray
    roots: np.ndarray

    def __call__(self, x, p):
        y = self.basis.T @ x
        return x + self.basis @ (0.3 * (self.slopes * (p - self.roots) * y - y**3))


def test_five_multipliers_in_and_out_in_a_random_basis():
    rng = np.random.default_rng(3)
    # Three within 6e-4 of one another and two within 1e-6; every second one opens the other way.
    roots = np.array([-0.2, -0.2 + 4e-4, -0.2 + 6e-4, 0.3, 0.3 + 1e-6])
    slopes = np.array([-0.5, 0.9, -0.4, 0.7, -0.8])
    basis = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    found = rd.bifurcation_diagram(Mixed(basis, slopes, roots), np.zeros(5), -1.0, (-1.0, 1.0))
    np.testing.assert_allclose(parameters(found.branches[0]), np.sort(roots), atol=1e-12)
    assert found.is_complete
    assert len(found) == 11
    for branch in found.branches[1:]:
        y = basis.T @ branch.points[-1]
        opened = int(np.argmax(np.abs(y)))
        others = np.delete(roots, opened)
        # The others bifurcate from this arm where it exists.
        expected = others[slopes[opened] * (others - roots[opened]) > 0]
        np.testing.assert_allclose(parameters(branch), np.sort(expected), atol=1e-9)


def test_isolas_are_found_from_searches_and_from_given_points():
    """The line x = -1.5 and, apart from it, the circle p^2 + (x - .5)^2 = .36, with folds at p = -.6 and .6."""
    circle = {(0, 2): 1, (2, 0): 1, (1, 0): -1, (0, 0): 0.25 - 0.36}
    f = polynomial(unit(product(curve(-1.5), circle), -0.3))
    known = {"depth": 3, "box": BOX, "max_period": 1}
    start = (np.array([-1.5, 0.0]), -0.9, (-1.0, 1.0))
    alone = rd.bifurcation_diagram(f, *start, **known)
    assert len(alone) == 1
    for more in ({"num_searches": 3}, {"others": [(0.0, [1.1, 0.0]), (0.1, [-0.09, 0.0]), (0.5, [-1.5, 0.0])]}):
        found = rd.bifurcation_diagram(f, *start, **known, **more)
        assert found.is_complete
        assert found.parents == (-1, -1)
        line, isola = found.branches
        np.testing.assert_allclose(line.points[:, 0], -1.5, atol=1e-12)
        np.testing.assert_allclose(np.hypot(isola.points[:, 0] - 0.5, isola.parameters), 0.6, atol=1e-12)
        assert isola.is_closed
        np.testing.assert_allclose(parameters(isola, "fold"), [-0.6, 0.6], atol=1e-12)
    with pytest.raises(ValueError, match="num_searches: it needs `box`"):
        rd.bifurcation_diagram(f, *start, num_searches=3)
    with pytest.raises(ValueError, match="others: 2"):
        rd.bifurcation_diagram(f, *start, others=[(2.0, [0.0, 0.0])])
