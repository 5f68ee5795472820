"""Plots of bifurcations are tested for what they draw."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

import rnndyn as rd
from rnndyn import plotting
from rnndyn.results import repeat_verdict

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def bifurcation(kind, parameter, points, angle=0.0):
    points = np.atleast_2d(points)
    return rd.Bifurcation(
        kind=kind,
        parameter=parameter,
        points=points,
        multipliers=np.ones(points.shape[1], complex),
        angle=angle,
        coefficient=1.0,
        subtype=None,
        multiplicity=1,
        residual=0.0,
        error=0.0,
        result=rd.BifurcationVerdict.solved,
        index=1,
        tangent=np.zeros(points.size + 1),
    )


def branch(points, multipliers, events=()):
    num = len(points)
    return rd.Branch(
        parameters=np.linspace(0, 1, num),
        points=points,
        multipliers=np.array(multipliers, complex)[:, None],
        residuals=np.zeros(num),
        tangents=np.zeros((num, 2)),
        bifurcations=tuple(events),
        start=0,
        result=repeat_verdict(rd.BranchVerdict.left_interval, 2),
    )


@pytest.fixture(scope="module")
def fixed_points():
    """Of one unit, stable, then unstable, with a flip between."""
    return branch(np.arange(4.0)[:, None], [0.5, 0.5, 1.5, 1.5], [bifurcation("flip", 0.5, [1.5], np.pi)])


def test_stable_and_unstable_parts_and_bifurcations(fixed_points):
    ax = plotting.plot_bifurcation_diagram(fixed_points)
    stable, unstable, flip = ax.lines
    # The segment across the bifurcation has the stability of its first point; both parts reach its second.
    np.testing.assert_array_equal(stable.get_ydata(), [0, 1, 2, np.nan])
    np.testing.assert_array_equal(unstable.get_ydata(), [np.nan, np.nan, 2, 3])
    assert (stable.get_linestyle(), unstable.get_linestyle()) == ("-", "--")
    np.testing.assert_array_equal(flip.get_xydata(), [[0.5, 1.5]])
    assert ax.get_legend_handles_labels()[1] == ["stable", "unstable", "flip"]


def test_a_cycle_has_a_line_for_each_point_and_an_observable(fixed_points):
    cycle = branch(np.stack([np.arange(4.0), -np.arange(4.0)], axis=1)[..., None], [0.1] * 4)
    diagram = rd.BifurcationDiagram((fixed_points, cycle), (1, 2), (-1, 0), (-1, 0), ())
    ax = plotting.plot_bifurcation_diagram(diagram, lambda x: 2 * x[..., 0])
    heights = [line.get_ydata()[1] for line in ax.lines if len(line.get_xdata()) == 4 and line.get_linestyle() == "-"]
    assert heights == [2, 2, -2]
    assert ax.get_legend_handles_labels()[1].count("stable") == 1


def test_curves_and_points_of_codimension_two():
    point = rd.SpecialPoint("cusp", np.array([1.0, 0.0]), np.zeros((1, 1)), np.ones(1, complex), 0.0, 0.0, 0)
    curves = [
        rd.BifurcationCurve(
            kind="fold",
            parameters=np.array([[1.0, 0.0], [2.0, sign * 0.5]]),
            points=np.zeros((2, 1)),
            multipliers=np.ones((2, 1), complex),
            angles=np.zeros(2),
            residuals=np.zeros(2),
            special_points=(point,),
            start=0,
            result=repeat_verdict(rd.BranchVerdict.left_interval, 2),
        )
        for sign in (1, -1)
    ]
    ax = plotting.plot_bifurcation_curves(curves)
    # Two curves, and their common cusp once.
    assert len(ax.lines) == 3
    np.testing.assert_array_equal(ax.lines[2].get_xydata(), [[1.0, 0.0]])
    assert ax.get_legend_handles_labels()[1] == ["fold", "cusp"]


def test_orbit_diagram():
    orbits = rd.OrbitDiagram(np.array([1.0, 2.0]), np.arange(6.0).reshape(2, 3, 1), np.array([-1.0, 0.5]), np.zeros(2))
    top, bottom = plotting.plot_orbit_diagram(orbits)
    np.testing.assert_array_equal(top.lines[0].get_xydata()[:, 1], np.arange(6))
    np.testing.assert_array_equal(top.lines[0].get_xydata()[:, 0], [1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(bottom.lines[1].get_ydata(), [-1, 0.5])
    assert bottom.get_ylabel().startswith(r"$\lambda_1$")


def test_bad_input_is_named(fixed_points):
    with pytest.raises(ValueError, match="diagram: expected at least one"):
        plotting.plot_bifurcation_diagram([])
    with pytest.raises(ValueError, match="observable: states have variables 0 to 0"):
        plotting.plot_bifurcation_diagram(fixed_points, 1)
    with pytest.raises(ValueError, match="observable: expected it to map"):
        plotting.plot_bifurcation_diagram(fixed_points, lambda x: x)
    with pytest.raises(ValueError, match="curves: expected at least one"):
        plotting.plot_bifurcation_curves([])
