"""Branches against curves known in closed form: points, tangents, multipliers, ends; and what bad input gives."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import TestMap, henon, logistic, polynomial, tanh_network, tanh_unit
from networks_from_data import large_flip_flop

import rnndyn as rd
from rnndyn.dynamics.bifurcations._curve import _largest_multipliers


def circle(radius=1.0):
    """Its fixed points are the circle x^2 + p^2 = r^2."""
    return polynomial({"x": 1, "": 0.3 * radius**2, "xx": -0.3, "pp": -0.3})


class ChebyshevAndPitchfork(eqx.Module):
    """u' = T_16(u) and v' = p v - v^3, seen in turned coordinates."""

    turn: np.ndarray

    def __call__(self, x, p):
        u, v = self.turn.T @ x
        for _ in range(4):
            u = 2 * u * u - 1
        return self.turn @ jnp.stack([u, p * v - v**3])


class Pitchforks(eqx.Module):
    """y' = p d y - y^3 entry by entry, seen in turned coordinates x = Q y."""

    turn: np.ndarray
    slopes: np.ndarray

    def __call__(self, x, p):
        y = self.turn.T @ x
        return self.turn @ (p * self.slopes * y - y**3)


def skew_tent(left, right):
    """x' = p + slope x, with one slope on each side of zero."""
    return polynomial({"p": 1, "x": (left + right) / 2, "a": (right - left) / 2})


def test_points_tangents_and_multipliers_of_a_tanh_unit():
    branch = rd.continue_fixed_points(tanh_unit(2.0), np.array([0.99, 0.0]), 1.0, (-2.0, 2.0))
    x, p = branch.points[:, 0], branch.parameters
    # The curve is p = artanh(x) - w x; artanh loses digits as x nears 1.
    np.testing.assert_allclose(p, np.arctanh(x) - 2 * x, atol=1e-11)
    slope = 2 * (1 - x**2)
    np.testing.assert_allclose(branch.multipliers[:, 0], slope, atol=1e-13)
    # dp/dx along the curve, from the tangents: the tangent is that of the last iterate but one of the corrector.
    np.testing.assert_allclose(branch.tangents[:, 2] * (1 - x**2), branch.tangents[:, 0] * (1 - slope), atol=1e-9)
    assert tuple(branch.message) == ("left the interval", "left the interval")
    assert sorted([p[0], p[-1]]) == [-2.0, 2.0]
    assert p[branch.start] == 1.0
    np.testing.assert_array_equal(branch.is_stable, slope < 1)
    assert branch.residuals.max() < 1e-13
    # It is one curve: no step is longer than asked for.
    scaled = np.hypot(np.sqrt(np.mean(np.diff(branch.points, axis=0) ** 2, axis=1)), np.diff(p) / 4)
    assert scaled.max() < 0.051


def test_both_ends_are_reached_from_either_end():
    forward = rd.continue_fixed_points(tanh_unit(0.5), np.array([-0.9, 0.0]), -2.0, (-2.0, 2.0))
    assert forward.start == 0
    assert forward.parameters[0] == -2.0
    assert forward.parameters[-1] == 2.0
    assert not forward.bifurcations
    backward = rd.continue_fixed_points(tanh_unit(0.5), np.array([0.9, 0.0]), 2.0, (-2.0, 2.0))
    assert backward.start == len(backward) - 1
    np.testing.assert_allclose(backward.points[0], forward.points[0], atol=1e-14)


def test_a_closed_branch_is_recognised_and_goes_round_once():
    branch = rd.continue_fixed_points(circle(), np.array([0.8, 0.0]), 0.6, (-2.0, 2.0))
    assert branch.is_closed
    assert tuple(branch.message) == ("closed", "closed")
    angle = np.unwrap(np.arctan2(branch.points[:, 0], branch.parameters))
    assert abs(abs(angle[-1] - angle[0]) - 2 * np.pi) < 1e-12
    np.testing.assert_allclose(branch.points[:, 0] ** 2 + branch.parameters**2, 1.0, atol=1e-14)
    assert [e.kind for e in branch.bifurcations] == ["fold", "fold"]
    np.testing.assert_allclose(sorted(e.parameter for e in branch.bifurcations), [-1.0, 1.0], atol=1e-12)


def test_a_start_on_a_fold_gives_the_same_branch():
    branch = rd.continue_fixed_points(circle(), np.array([1e-9, 0.0]), 1.0, (-2.0, 2.0))
    assert branch.is_closed
    np.testing.assert_allclose(sorted(e.parameter for e in branch.bifurcations), [-1.0, 1.0], atol=1e-10)


def test_the_branch_ends_at_the_box_and_at_the_end_of_the_points():
    branch = rd.continue_fixed_points(henon(), np.array([0.9, 0.27]), 0.2, (-0.5, 1.4), box=(-3.0, 3.0))
    assert tuple(branch.message) == ("left the box", "left the interval")
    assert np.abs(branch.points).max() <= 3
    short = rd.continue_fixed_points(henon(), np.array([0.9, 0.27]), 0.2, (-0.5, 1.4), max_points=5)
    assert tuple(short.message) == ("reached max_points", "reached max_points")
    assert len(short) == 9


def test_where_the_branch_turns_back_at_a_kink_the_step_becomes_too_small():
    # The fixed points are p = 10 |x|: a corner that turns by more than a right angle in scaled lengths.
    branch = rd.continue_fixed_points(polynomial({"x": 1, "p": 0.1, "a": -1}), np.array([0.1, 0.0]), 1.0, (-2.0, 2.0))
    assert sorted(branch.message) == ["left the interval", "step too small"]
    assert 0 <= branch.parameters.min() < 1e-6
    np.testing.assert_allclose(branch.parameters, 10 * np.abs(branch.points[:, 0]), atol=1e-12)


@pytest.mark.slow
def test_where_the_map_is_undefined_the_step_becomes_too_small():
    branch = rd.continue_fixed_points(lambda x, p: 0.5 * x + jnp.sqrt(p), np.array([2.0]), 1.0, (-1.0, 2.0))
    assert branch.message[0] == "step too small"
    # x = 2 sqrt(p) ends, vertically, at p = 0.
    assert 0 <= branch.parameters[0] < 1e-3
    np.testing.assert_allclose(branch.points[:, 0], 2 * np.sqrt(branch.parameters), atol=1e-12)


def test_a_multiplier_that_jumps_across_the_circle_is_a_border_collision():
    branch = rd.continue_fixed_points(skew_tent(0.5, -1.5), np.array([-0.5, 0.0]), -0.25, (-1.0, 1.0))
    (event,) = branch.bifurcations
    assert event.kind == "border collision"
    assert abs(event.parameter) < 1e-10
    assert event.converged
    assert np.isnan(event.coefficient)


def test_other_branches_close_by_are_not_jumped_to():
    # An imperfect pitchfork: the two branches of tanh(p x + eps) come within 2 (eps/3)^(1/3), about 1e-3, at p = 1.
    network = tanh_network(0.0, [1e-9, 0.0], gain=np.diag([1.0, 0.0]))
    branch = rd.continue_fixed_points(network, np.zeros(2), 0.5, (0.0, 2.0))
    assert not branch.bifurcations
    assert branch.parameters[-1] == 2.0
    assert branch.points[-1, 0] > 0.9
    low = rd.continue_fixed_points(network, np.array([-0.95, 0.0]), 2.0, (0.0, 2.0))
    assert [e.kind for e in low.bifurcations] == ["fold"]
    assert (low.points[:, 0] < 0).all()


@pytest.fixture(scope="module")
def trained():
    """A trained network of 100 units over the input of its first bit, and its memories."""
    cell, data = large_flip_flop()
    f = rd.input_parameter(cell, np.zeros(2), np.array([1.0, 0.0]))
    weights = [np.asarray(w, float) for w in (cell.weight_ih, cell.weight_hh, cell.bias)]
    bits = np.sign(data["memories"] @ data["W_out"].T + data["b_out"])
    return f, weights, data["memories"].astype(float), bits


@pytest.fixture(scope="module")
def memory_branches(trained):
    f, _, memories, _ = trained
    return [rd.continue_fixed_points(f, memory, 0.0, (-1.0, 1.0)) for memory in memories]


@pytest.mark.slow
def test_the_memories_of_a_trained_network_of_a_hundred_units_end_at_folds(trained, memory_branches):
    _, (weight_ih, weight_hh, bias), _, bits = trained
    for branch, (bit, _) in zip(memory_branches, bits, strict=True):
        assert branch.points.shape[1] == 100
        assert tuple(branch.message) == ("left the interval", "left the interval")
        assert branch.residuals.max() < 1e-12
        drive = branch.points @ weight_hh.T + bias + branch.parameters[:, None] * weight_ih[:, 0]
        assert np.abs(np.tanh(drive) - branch.points).max() < 1e-12
        # Memory, saddle, other memory: one curve that turns twice, once for a pulse of either sign.
        assert [event.kind for event in branch.bifurcations] == ["fold", "fold"]
        for fold in branch.bifurcations:
            slopes = 1 - np.tanh(weight_hh @ fold.point + bias + fold.parameter * weight_ih[:, 0]) ** 2
            # Independent eigenvalues; a multiplier near a fold moves like the root of the error of the parameter.
            assert np.min(np.abs(np.linalg.eigvals(slopes[:, None] * weight_hh) - 1)) < 1e-9
            assert fold.error < 1e-10
        # A pulse against the bit erases the memory: its own part of the branch does not reach p = -bit.
        stable = branch.is_stable
        own = _run_of(stable, branch.start)
        assert branch.parameters[own].min() > -0.1 if bit > 0 else branch.parameters[own].max() < 0.1


def _run_of(mask, at):
    """The indices of the run of True that holds `at`."""
    labels = np.cumsum(np.concatenate([[0], np.diff(mask.astype(int)) != 0]))
    return np.flatnonzero(labels == labels[at])


@pytest.mark.parametrize(
    "options", [{}, pytest.param({"linear_solver": "gmres"}, marks=pytest.mark.slow)], ids=["dense", "gmres"]
)
def test_fewer_multipliers_and_matrix_free_steps_give_the_same_branch(trained, memory_branches, options):
    f, _, memories, _ = trained
    dense = memory_branches[0]
    branch = rd.continue_fixed_points(f, memories[0], 0.0, (-1.0, 1.0), num_multipliers=6, **options)
    assert branch.multipliers.shape[1] < 100
    assert branch.residuals.max() < 1e-12
    assert [e.kind for e in branch.bifurcations] == [e.kind for e in dense.bifurcations]
    np.testing.assert_allclose(
        [e.parameter for e in branch.bifurcations], [e.parameter for e in dense.bifurcations], atol=1e-10
    )
    np.testing.assert_allclose(branch.points[-1], dense.points[-1], atol=1e-12)
    np.testing.assert_array_equal(branch.num_unstable[[0, -1]], dense.num_unstable[[0, -1]])


def test_the_largest_of_many_close_multipliers_are_not_missed():
    # A full disc of 150 eigenvalues, whose leading pair lies outside the circle and is not far from the others: ARPACK
    # with eight vectors, asked for two, gives the next pair, inside, for the largest.
    matrix = np.random.default_rng(0).standard_normal((150, 150)) / np.sqrt(150)
    expected = np.linalg.eigvals(matrix)
    expected = expected[np.argsort(-np.abs(expected), kind="stable")]
    values = _largest_multipliers(matrix, 2)
    assert np.abs(expected[2]) < 1 < np.abs(expected[1])
    assert len(values) < 150
    # The tolerance 1e-12, and a condition of an eigenvalue below 100
    np.testing.assert_allclose(np.abs(values), np.abs(expected[: len(values)]), atol=1e-10)


def test_a_small_multiplier_beside_a_very_large_one_crosses_once():
    # T_16(cos a) = cos 16 a: with a a multiple of 2 pi / (16^8 - 1) a cycle of 8 at v = 0, with multipliers 16^8 = 4e9
    # and p^8. Rounding of the product of its Jacobians is 1e-6, and the small one crosses in it again and again.
    order = 16**8 - 1
    angles = 2 * np.pi * np.array([order * 618 // 1000 * 16**k % order for k in range(8)]) / order
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    start = np.stack([np.cos(angles), np.zeros(8)], axis=1) @ turn.T
    branch = rd.continue_cycles(ChebyshevAndPitchfork(turn), start, 0.9, (0.9, 1.2))
    np.testing.assert_allclose(branch.multipliers[:, 0], 16.0**8, rtol=1e-6)
    np.testing.assert_allclose(branch.multipliers[:, 1], branch.parameters**8, rtol=1e-10)
    (pitchfork,) = branch.bifurcations
    assert pitchfork.subtype == "pitchfork"
    assert abs(pitchfork.parameter - 1) < 1e-12
    # At p = 1 each round subtracts v^3 eight times.
    assert abs(pitchfork.coefficient + 8) < 1e-6


def test_none_outside_the_circle_is_missing_though_one_multiplier_is_asked_for():
    # At zero the multipliers are p d: four of eight cross at p = 1 / d, each behind those that have crossed before.
    slopes = np.array([1.0, 0.8, 0.65, 0.55, 0.3, 0.2, -0.1, 0.05])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(8, 8)))[0]
    branch = rd.continue_fixed_points(Pitchforks(turn, slopes), np.zeros(8), 0.9, (0.9, 2.0), num_multipliers=1)
    np.testing.assert_allclose([event.parameter for event in branch.bifurcations], 1 / slopes[:4], atol=1e-10)
    for p, row in zip(branch.parameters, branch.multipliers):
        found = row[np.isfinite(row)].real
        np.testing.assert_allclose(found, p * slopes[: len(found)], atol=1e-12)
        assert np.abs(found).min() < 1


def test_a_cycle_of_three_of_the_logistic_map():
    x = 0.15
    for _ in range(2000):
        x = 3.84 * x * (1 - x)
    cycle = [x]
    for _ in range(2):
        cycle.append(3.84 * cycle[-1] * (1 - cycle[-1]))
    start = np.stack([cycle, np.zeros(3)], axis=1)
    branch = rd.continue_cycles(logistic(), start, 3.84, (3.8, 3.86))
    assert branch.points.shape[1:] == (3, 2)
    assert branch.period == 3
    (fold,) = branch.of_kind("fold")
    # Saha & Strogatz (1995): the window opens at 1 + sqrt 8.
    assert abs(fold.parameter - (1 + np.sqrt(8))) < 1e-10
    flips = [e.parameter for e in branch.of_kind("flip")]
    assert min(abs(p - 3.8414990075435) for p in flips) < 1e-10
    assert len(branch.bifurcations) == 2
    images = branch.parameters[:, None] * branch.points[..., 0] * (1 - branch.points[..., 0])
    np.testing.assert_allclose(np.roll(images, 1, axis=1), branch.points[..., 0], atol=1e-13)
    slopes = branch.parameters[:, None] * (1 - 2 * branch.points[..., 0])
    np.testing.assert_allclose(branch.multipliers[:, 0], slopes.prod(axis=1), rtol=1e-10, atol=1e-12)


def test_a_doubled_cycle_ends_where_it_meets_the_fixed_point():
    # The two-cycle of x' = tanh(w x + p) at w = -2 exists between the two flips, and is one branch.
    branch = rd.continue_cycles(tanh_unit(-2.0), np.array([[0.9575, 0.0], [-0.9575, 0.0]]), 0.0, (-4.0, 4.0))
    assert tuple(branch.message) == ("met a cycle of smaller period",) * 2
    s = np.sqrt(0.5)
    edge = np.arctanh(s) + 2 * s
    kinds = [(e.kind, e.parameter) for e in branch.bifurcations]
    assert [kind for kind, _ in kinds] == ["branch point"] * 2
    np.testing.assert_allclose(sorted(p for _, p in kinds), [-edge, edge], atol=1e-10)
    assert np.all(np.abs(branch.parameters) <= edge + 1e-10)
    at_zero = np.argmin(np.abs(branch.parameters))
    assert branch.is_stable[at_zero]


@pytest.mark.parametrize(
    ("w", "point", "multiplier"),
    # cycles_and_bifurcations.json, two_cycle_b0: x* = tanh(|w| x*), multiplier (w (1 - x*^2))^2.
    [
        (-1.1, 0.5029405749446414, 0.6752826866760115),
        (-1.5, 0.8585596366401104, 0.1554827620778615),
        (-2.0, 0.9575040240772688, 0.027679671582850826),
        (-4.0, 0.9993256730151082, 2.908225960836384e-05),
    ],
)
def test_the_two_cycle_of_a_tanh_unit(w, point, multiplier):
    start = np.array([[point + 1e-3, 0.0], [-point, 0.0]])
    branch = rd.continue_cycles(tanh_unit(w), start, 0.0, (-0.5, 0.5))
    np.testing.assert_allclose(np.abs(branch.points[branch.start, :, 0]), point, atol=1e-12)
    assert abs(branch.multipliers[branch.start, 0] - multiplier) < 1e-12


def test_one_compilation_serves_all_networks_of_one_structure(monkeypatch):
    traced = []
    call = TestMap.__call__

    def counting(self, x, p):
        traced.append(1)
        return call(self, x, p)

    rd.continue_fixed_points(tanh_unit(2.0), np.array([0.99, 0.0]), 1.0, (-2.0, 2.0))
    monkeypatch.setattr(TestMap, "__call__", counting)
    rd.continue_fixed_points(tanh_unit(3.0), np.array([0.99, 0.0]), 1.0, (-2.0, 2.0))
    # The check of the map traces it once; everything else has been compiled.
    assert len(traced) == 1


def test_a_branch_prints_saves_and_loads(tmp_path):
    branch = rd.continue_fixed_points(tanh_unit(2.0), np.array([0.99, 0.0]), 1.0, (-2.0, 2.0))
    text = str(branch)
    assert "left the interval" in text
    assert text.count("fold") == 2
    again = rd.load(branch.save(tmp_path / "branch"))
    assert isinstance(again, rd.Branch)
    np.testing.assert_array_equal(again.points, branch.points)
    assert again.bifurcations[0].kind == "fold"
    assert again.bifurcations[0].parameter == branch.bifurcations[0].parameter


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros((2, 1)), 0.0, (-1.0, 1.0)), {}, "x0"),
        ((np.array([1, 0]), 0.0, (-1.0, 1.0)), {}, "x0"),
        ((np.array([np.nan, 0.0]), 0.0, (-1.0, 1.0)), {}, "x0"),
        ((np.zeros(2), 2.0, (-1.0, 1.0)), {}, "p0.*outside"),
        ((np.zeros(2), np.nan, (-1.0, 1.0)), {}, "p0"),
        ((np.zeros(2), 0.0, (1.0, -1.0)), {}, "p_span"),
        ((np.zeros(2), 0.0, (-1.0, 0.0, 1.0)), {}, "p_span"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"max_points": 0}, "max_points"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"initial_step": 1.0}, "initial_step"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"state_scale": 0.0}, "state_scale"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"box": (1.0, 2.0)}, "box"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"box": (np.zeros(3), np.ones(3))}, "box"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"num_multipliers": 0}, "num_multipliers"),
        ((np.zeros(2), 0.0, (-1.0, 1.0)), {"linear_solver": "cg"}, "linear_solver"),
    ],
)
def test_bad_input_is_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        rd.continue_fixed_points(tanh_unit(2.0), *arguments, **options)


def test_bad_maps_and_starts_are_named():
    with pytest.raises(ValueError, match="f: expected it to keep the shape"):
        rd.continue_fixed_points(lambda x, p: jnp.append(x, p), np.zeros(1), 0.0, (-1.0, 1.0))
    with pytest.raises(ValueError, match="no fixed point near"):
        rd.continue_fixed_points(polynomial({"x": 1, "": 1, "pp": 1}), np.zeros(2), 0.0, (-1.0, 1.0))
    with pytest.raises(ValueError, match="cycle of period 1, not 2"):
        rd.continue_cycles(tanh_unit(-2.0), np.zeros((2, 2)), 0.0, (-4.0, 4.0))
    with pytest.raises(ValueError, match="points"):
        rd.continue_cycles(tanh_unit(-2.0), np.zeros(2), 0.0, (-4.0, 4.0))
