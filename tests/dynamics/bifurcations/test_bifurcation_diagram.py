"""Branch switching: arms of pitchforks, doubled cycles, and the cascade."""

import numpy as np
import pytest
from dynamics.maps import henon, logistic, polynomial, tanh_gain, tanh_unit

import rnndyn as rd

# Where the cycles of period 2, 4, ..., 64 are born. cycles_and_bifurcations.json: r2 = 1 + sqrt 6; OEIS A086178 and on.
DOUBLINGS = [
    3.0,
    3.449489742783178,
    3.5440903595519235,
    3.564407266095432,
    3.568759419543825,
    3.5696916098013953,
]


def logistic_diagram(depth):
    return rd.bifurcation_diagram(logistic(), np.array([0.6, 0.0]), 2.5, (2.0, 3.6), depth=depth, max_period=32)


@pytest.fixture(scope="module")
def cascade():
    """Each generation has programs of its own, for cycles of twice the period: two show what there is between them."""
    return logistic_diagram(2)


def check_doublings(diagram):
    """The parameters of the doublings, after a check of each against the reference."""
    flips = {branch.period: branch.of_kind("flip") for branch in diagram.branches}
    assert sorted(flips) == [2**k for k in range(len(diagram))]
    found = np.array([flips[period][0].parameter for period in sorted(flips)])
    np.testing.assert_allclose(found, DOUBLINGS[: len(found)], atol=1e-8)
    assert all(event.criticality == "supercritical" for events in flips.values() for event in events)
    return found


def test_period_doublings_of_the_logistic_map(cascade):
    assert len(check_doublings(cascade)) == 2


@pytest.mark.slow
def test_period_doublings_to_period_64_and_the_constant_of_feigenbaum():
    found = check_doublings(logistic_diagram(6))
    assert len(found) == 6
    # OEIS A006890; the estimates converge like delta^-n, and this one is off by 5e-4.
    gaps = np.diff(found)
    assert abs(gaps[-2] / gaps[-1] - 4.66920160910299) < 1e-3


def test_the_diagram_knows_where_its_branches_come_from(cascade):
    assert cascade.levels == (1, 2)
    assert cascade.parents == (-1, 0)
    assert cascade.is_complete
    for branch, parent, number in zip(cascade.branches[1:], cascade.parents[1:], cascade.born_at[1:], strict=True):
        event = cascade.branches[parent].bifurcations[number]
        # Equal up to the rounding of one scaling.
        np.testing.assert_allclose(branch.parameters[0], event.parameter, rtol=1e-15)
        assert branch.message[0] == "born at a bifurcation"
        np.testing.assert_allclose(branch.points[0], np.tile(event.points, (2, 1)), atol=1e-15)
        # Born stable, as the flips are supercritical; they lose it at the flip that follows.
        following = branch.of_kind("flip")[0]
        before = branch.is_stable[1 : following.index + 1]
        assert before.all()
        assert not branch.is_stable[following.index + 2 :].any()
    assert str(cascade).count("born at the flip") == 1


@pytest.mark.parametrize("depth", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_period_doublings_of_the_henon_map(depth):
    periods = [2**level for level in range(depth)]
    diagram = rd.bifurcation_diagram(
        henon(), np.array([0.9, 0.27]), 0.2, (-0.5, 1.06), depth=depth, max_period=periods[-1], box=(-3.0, 3.0)
    )
    flips = {branch.period: branch.of_kind("flip") for branch in diagram.branches}
    found = [flips[period][0].parameter for period in periods]
    # 3 (1-b)^2 / 4 and (1-b)^2 + (1+b)^2 / 4; the others by an independent program (cycles_and_bifurcations.json).
    np.testing.assert_allclose(found, [0.3675, 0.9125, 1.0258554050737811, 1.051125662035171][:depth], atol=1e-9)


def test_both_arms_of_the_pitchfork_are_followed():
    diagram = rd.bifurcation_diagram(tanh_gain(), np.zeros(2), 0.5, (0.0, 2.0))
    assert len(diagram) == 3
    trunk, *arms = diagram.branches
    assert trunk.is_stable[trunk.parameters < 1].all()
    assert not trunk.is_stable[trunk.parameters > 1].any()
    assert {np.sign(arm.points[-1, 0]) for arm in arms} == {-1.0, 1.0}
    for arm in arms:
        x, w = arm.points[1:, 0], arm.parameters[1:]
        np.testing.assert_allclose(w, np.arctanh(x) / x, atol=1e-10)
        assert arm.is_stable[1:].all()
        assert arm.parameters[-1] == 2.0
        assert np.all(np.diff(arm.parameters) > 0)


def test_a_bubble_of_doubled_cycles_is_one_branch():
    diagram = rd.bifurcation_diagram(tanh_unit(-2.0), np.zeros(2), 0.0, (-4.0, 4.0), depth=3)
    # It is born at one flip and dies at the other, where it is not followed once more.
    assert len(diagram) == 2
    doubled = diagram.branches[1]
    assert doubled.period == 2
    assert doubled.message[1] == "met a cycle of smaller period"
    edges = sorted(event.parameter for event in diagram.branches[0].bifurcations)
    assert abs(doubled.parameters.min() - edges[0]) < 0.05
    assert abs(doubled.parameters.max() - edges[1]) < 0.05


def test_a_loop_between_two_branch_points_is_followed_once():
    # x = 0 and the circle x^2 + p^2 = 1 cross at p = -1 and p = 1.
    f = polynomial({"x": 1.2, "ppx": -0.2, "xxx": -0.2})
    diagram = rd.bifurcation_diagram(f, np.zeros(2), 0.0, (-2.0, 2.0))
    trunk, *arms = diagram.branches
    assert [event.subtype for event in trunk.bifurcations] == ["pitchfork", "pitchfork"]
    # The first arm goes all the way round, through the other branch point and back.
    points = np.concatenate([arm.points[:, 0] for arm in arms])
    parameters = np.concatenate([arm.parameters for arm in arms])
    np.testing.assert_allclose(points**2 + parameters**2, 1.0, atol=1e-12)
    length = sum(np.sum(np.hypot(np.diff(arm.points[:, 0]), np.diff(arm.parameters))) for arm in arms)
    assert abs(length - 2 * np.pi) < 0.05


def test_a_diagram_starts_from_a_cycle_too():
    diagram = rd.bifurcation_diagram(
        tanh_unit(-2.0), np.array([[0.9575, 0.0], [-0.9575, 0.0]]), 0.0, (-4.0, 4.0), depth=1
    )
    assert len(diagram) == 1
    assert diagram.branches[0].period == 2


def test_a_diagram_that_is_cut_off_says_so():
    diagram = rd.bifurcation_diagram(tanh_gain(), np.zeros(2), 0.5, (0.0, 2.0), max_branches=2)
    assert len(diagram) == 2
    assert not diagram.is_complete
    assert "cut off" in str(diagram)


def test_a_diagram_is_saved_and_loaded(tmp_path):
    diagram = rd.bifurcation_diagram(tanh_gain(), np.zeros(2), 0.5, (0.0, 2.0))
    again = rd.load(diagram.save(tmp_path / "diagram"))
    assert isinstance(again, rd.BifurcationDiagram)
    assert again.parents == diagram.parents
    np.testing.assert_array_equal(again.branches[1].points, diagram.branches[1].points)


@pytest.mark.parametrize("options", [{"depth": 0}, {"max_branches": 0}, {"max_points": 0}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        rd.bifurcation_diagram(tanh_unit(2.0), np.zeros(2), 0.0, (-1.0, 1.0), **options)
