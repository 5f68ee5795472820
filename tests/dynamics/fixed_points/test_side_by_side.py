"""A sweep without `follow` searches all its maps at once: what it finds is what each alone has."""

import contextlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dynamics.maps import Logistic
from scipy.optimize import brentq

import rnndyn as rd
from rnndyn._programs import stacked
from rnndyn.dynamics.fixed_points import sweep as sweep_module
from rnndyn.dynamics.numerics.drivers import double_precision, let_in
from rnndyn.dynamics.numerics.newton import solve_each
from rnndyn.dynamics.numerics.verdicts import NewtonVerdict
from rnndyn.dynamics.proofs.trapping import region_of_range, regions_of_ranges

STARTS = np.random.default_rng(0).uniform(-1, 1, (40, 2))
GAINS, BIASES = np.array([[0.5, 2.0], [2.0, 3.0], [1.1, 0.3], [3.0, 2.5]]), np.array([0.1, -0.2])


class Units(eqx.Module):
    """Two units that do not know of each other, x_i -> tanh(g_i x_i + b_i)."""

    gains: np.ndarray
    biases: np.ndarray

    def __call__(self, x):
        return jnp.tanh(self.gains * x + self.biases)


class Shifted(eqx.Module):
    """x -> x + x^2 - a: two fixed points, none, or one that is degenerate."""

    a: np.ndarray

    def __call__(self, x):
        return x + x**2 - self.a


UNITS = Units(GAINS, np.repeat(BIASES[None], 4, axis=0))


@pytest.fixture
def at_once(monkeypatch):
    """How many maps went through each call of `side_by_side`."""
    numbers, original = [], sweep_module.side_by_side

    def counted(searches, family):
        numbers.append(len(searches))
        return original(searches, family)

    monkeypatch.setattr(sweep_module, "side_by_side", counted)
    return numbers


def row(maps, i):
    return jax.tree.map(lambda leaf: leaf[i], maps)


def fixed_points_of_a_unit(gain, bias):
    """By sign changes of tanh(g x + b) - x on a grid that is far finer than they lie apart."""
    grid = np.linspace(-1, 1, 4001)
    g = lambda x: np.tanh(gain * x + bias) - x
    signs = np.sign(g(grid))
    return [brentq(g, grid[i], grid[i + 1], xtol=1e-15) for i in np.flatnonzero(signs[1:] != signs[:-1])]


def assert_same(found, alone):
    assert len(found) == len(alone)
    for name in ("points", "multipliers", "jacobians", "singular_gaps"):
        np.testing.assert_allclose(getattr(found, name), getattr(alone, name), rtol=1e-10, atol=1e-12)
    for name in ("num_hits", "near_jump", "indices", "is_stable", "expected_index_sum", "num_candidates", "num_spared"):
        np.testing.assert_array_equal(getattr(found, name), getattr(alone, name))
    assert found.completeness == alone.completeness
    assert bool(np.all(found.result == alone.result))
    assert bool(np.all(found.unconverged.result == alone.unconverged.result))
    np.testing.assert_allclose(found.unconverged.points, alone.unconverged.points, rtol=1e-8, atol=1e-10)


def test_unequal_numbers_of_points_of_networks_that_are_solved_unit_by_unit(at_once):
    sweep = rd.find_fixed_points_sweep(UNITS, STARTS, follow=False)
    assert at_once == [4]
    assert sweep.counts.tolist() == [3, 9, 1, 9]
    for found, gains in zip(sweep.results, GAINS):
        first, second = (fixed_points_of_a_unit(g, b) for g, b in zip(gains, BIASES))
        exact = np.array([[x, y] for x in first for y in second])
        slopes = gains * (1 - exact**2)
        unstable = np.sum(slopes > 1, axis=1)
        np.testing.assert_array_equal(found.num_unstable, np.sort(unstable))
        # Coordinates that two points share differ by rounding, which decides on their order.
        theirs = np.lexsort((*exact.T.round(9), unstable))
        ours = np.lexsort((*found.points.T.round(9), found.num_unstable))
        np.testing.assert_allclose(found.points[ours], exact[theirs], atol=1e-13)
        np.testing.assert_allclose(found.multipliers[ours], -np.sort(-slopes[theirs], axis=1), atol=1e-12)
        assert found.is_balanced
        assert found.index_sum == 1


def test_each_is_what_its_map_alone_has(at_once):
    sweep = rd.find_fixed_points_sweep(UNITS, STARTS, follow=False)
    for i, found in enumerate(sweep.results):
        assert_same(found, rd.find_fixed_points(row(UNITS, i), STARTS))
    assert at_once == [4]


def test_a_map_without_fixed_points_and_one_of_nan_beside_others(at_once):
    """Roots of x^2 = a, with multipliers 1 + 2 x."""
    a = np.array([1.0, -0.5, np.nan, 0.25])
    starts = np.stack([np.linspace(-2, 2, 40)[:, None] + 0.01 * i for i in range(4)])
    sweep = rd.find_fixed_points_sweep(Shifted(a), starts, follow=False)
    assert at_once == [4]
    assert sweep.counts.tolist() == [2, 0, 0, 2]
    for i in (0, 3):
        root = np.sqrt(a[i])
        np.testing.assert_allclose(sweep[i].points[:, 0], [-root, root], atol=1e-14)
        np.testing.assert_allclose(sweep[i].multipliers[:, 0], [1 - 2 * root, 1 + 2 * root], atol=1e-13)
    # |F - x| has its minimum, .5, at 0.
    assert sweep[1].unconverged.best == pytest.approx(0.5)
    assert bool(np.all(sweep[2].unconverged.result == NewtonVerdict.not_finite))
    for i, found in enumerate(sweep.results):
        assert_same(found, rd.find_fixed_points(Shifted(a[i]), starts[i]))


def test_where_the_budget_runs_out_it_does_for_each(at_once):
    options = {"follow": False, "max_steps": 1, "max_rounds": 1, "num_paths": 0}
    with pytest.warns(UserWarning, match="some are missing"):
        sweep = rd.find_fixed_points_sweep(UNITS, STARTS, **options)
    assert at_once == [4]
    del options["follow"]
    late = 0
    for i, found in enumerate(sweep.results):
        with (
            pytest.warns(UserWarning, match="some are missing")
            if found.is_balanced is False
            else contextlib.nullcontext()
        ):
            assert_same(found, rd.find_fixed_points(row(UNITS, i), STARTS, **options))
        late += int(np.sum(found.unconverged.result == NewtonVerdict.out_of_steps))
    assert late > 0


def test_blocks_of_candidates_and_paths_of_longer_states(at_once):
    """Twenty units: candidates in blocks, paths from constant maps, mirror images; orbits four to a block."""
    rng = np.random.default_rng(3)
    cells = [
        rd.VanillaCell.from_weights(np.zeros((20, 1)), 2.0 * w / np.sqrt(20), np.zeros(20))
        for w in rng.standard_normal((3, 20, 20))
    ]
    maps = [rd.as_map(cell) for cell in cells]
    together = jax.tree.map(lambda *leaves: np.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *maps)
    starts = rng.uniform(-1, 1, (48, 20))
    sweep = rd.find_fixed_points_sweep(together, starts, follow=False)
    assert at_once == [3]
    assert len(set(sweep.counts.tolist())) > 1
    for f, cell, found in zip(maps, cells, sweep.results):
        alone = rd.find_fixed_points(f, starts)
        np.testing.assert_allclose(found.points, alone.points, atol=1e-11)
        np.testing.assert_allclose(found.multipliers, alone.multipliers, atol=1e-9)
        assert found.index_sum == alone.index_sum == 1
        weights = np.asarray(cell.weight_hh, float)
        np.testing.assert_allclose(np.tanh(found.points @ weights.T), found.points, atol=1e-13)


def test_a_file_goes_on_to_the_same_result(tmp_path, at_once, monkeypatch):
    monkeypatch.setattr(sweep_module, "MOST_MEMBERS", 2)
    monkeypatch.setattr(sweep_module, "_WRITE_EVERY", -1.0)
    path = tmp_path / "sweep.npz"
    inner = sweep_module.side_by_side

    def killed(searches, family):
        if at_once:
            raise KeyboardInterrupt
        return inner(searches, family)

    monkeypatch.setattr(sweep_module, "side_by_side", killed)
    with pytest.raises(KeyboardInterrupt):
        rd.find_fixed_points_sweep(UNITS, STARTS, follow=False, path=path)
    assert rd.load(path).counts.tolist() == [3, 9]
    monkeypatch.setattr(sweep_module, "side_by_side", inner)
    resumed = rd.find_fixed_points_sweep(UNITS, STARTS, follow=False, path=path)
    assert at_once == [2, 2]
    assert resumed.counts.tolist() == [3, 9, 1, 9]


def test_angles_and_long_states_are_searched_one_by_one(at_once):
    tori = rd.on_torus(UNITS, 2.0)
    tori = eqx.tree_at(lambda f: f.period, tori, np.full((4, 2), 2.0))
    assert len(rd.find_fixed_points_sweep(tori, STARTS, follow=False, max_rounds=1)) == 4
    assert at_once == []


def test_a_system_that_is_singular_to_the_last_bit_leaves_the_others_alone():
    matrices = np.array([[[2.0, 0.0], [0.0, 4.0]], [[1.0, 1.0], [1.0, 1.0]]])
    np.testing.assert_array_equal(solve_each(matrices, np.ones((2, 2))), [[0.5, 0.25], [np.nan, np.nan]])
    # x (1 - x): a start comes to where 1 - DF, less the shift of the solver, is 0.
    found = rd.find_fixed_points(Logistic(1.0), np.linspace(0, 1, 40)[:, None])
    np.testing.assert_allclose(found.points, [[0.0]], atol=1e-7)


def test_boxes_that_networks_keep_are_those_of_each_alone():
    """Of x -> tanh(g x + b) any box that holds the range: one is proved; x + x^2 keeps none."""
    with double_precision():
        programs = [let_in(row(UNITS, i), STARTS[0]) for i in range(4)]
        images = [np.tanh(STARTS * g + BIASES) for g in GAINS]
        boxes = regions_of_ranges(stacked(programs, 4), np.arange(4), [STARTS] * 4, images)
        for f, box, gains in zip(programs, boxes, GAINS):
            np.testing.assert_allclose(box, region_of_range(f, STARTS), rtol=1e-12)
            corners = np.tanh(np.abs(gains) * box + BIASES)
            assert np.all(corners[0] > box[0])
            assert np.all(corners[1] < box[1])
        squares = [let_in(Shifted(a), np.zeros(1)) for a in np.array([0.7, 1.3])]
        line = np.linspace(-1, 1, 8)[:, None]
        images = [line + line**2 - a for a in (0.7, 1.3)]
        assert regions_of_ranges(stacked(squares, 2), np.arange(2), [line] * 2, images) == [None, None]
