import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import programs
from dynamics.maps import Logistic

import rnndyn as rd
from rnndyn.dynamics.fixed_points import sweep as sweep_module
from rnndyn.dynamics.fixed_points._newton_lanes import _step_lanes

UNIT = rd.VanillaCell.from_weights(np.ones((1, 1)), np.array([[2.0]]), np.zeros(1))
# Fold of x = tanh(2 x + u): |u| = 2 s - artanh s with s = sqrt(1/2), 0.5328399753535520.
FOLD = 0.532839975353552
LINE = np.linspace(-1, 1, 64)[:, None]


def test_a_sweep_over_inputs_sees_the_folds():
    inputs = jnp.array([-0.7, -FOLD - 1e-3, -FOLD + 1e-3, 0.0, FOLD - 1e-3, FOLD + 1e-3])[:, None]
    sweep = rd.find_fixed_points_sweep(eqx.filter_vmap(lambda u: rd.as_map(UNIT, u))(inputs), LINE)
    assert sweep.counts.tolist() == [1, 1, 3, 3, 3, 1]
    assert sweep.num_stable.tolist() == [1, 1, 2, 2, 2, 1]
    assert len(sweep) == 6
    for result, u in zip(sweep.results, np.asarray(inputs[:, 0], float)):
        x = result.points[:, 0]
        np.testing.assert_allclose(x, np.tanh(2 * x + u), atol=1e-14)


def test_an_ensemble_of_networks_takes_one_compilation(tmp_path):
    make = lambda key: rd.VanillaCell(1, 3, weight_hh_init=rd.initializers.gaussian(2.0), key=key)
    cells = eqx.filter_vmap(make)(jax.random.split(jax.random.key(0), 4))
    starts = np.random.default_rng(0).uniform(-1, 1, (64, 3))
    first = jax.tree.map(lambda leaf: leaf[0] if eqx.is_array(leaf) else leaf, cells)
    alone = rd.find_fixed_points(rd.as_map(first), starts)
    before = programs(_step_lanes)
    sweep = rd.find_fixed_points_sweep(eqx.filter_vmap(rd.as_map)(cells), starts, follow=False)
    assert before
    assert programs(_step_lanes) <= before
    np.testing.assert_allclose(sweep[0].points, alone.points, atol=1e-14)
    assert "Fixed points of 4 maps" in str(sweep)
    assert rd.load(sweep.save(tmp_path / "sweep")).counts.tolist() == sweep.counts.tolist()


def test_rows_of_numpy_arrays_keep_their_digits():
    """x = r x (1 - x) at 0 and 1 - 1/r; in float32 the second would be off by 1e-8."""
    r = np.array([2.1, 2.7])
    sweep = rd.find_fixed_points_sweep(Logistic(r), (LINE + 1) / 2, follow=False)
    for found, exact in zip(sweep.results, 1 - 1 / r):
        np.testing.assert_allclose(np.sort(found.points[:, 0]), [0, exact], atol=4e-16)


def test_each_map_may_have_its_own_candidates():
    maps = eqx.filter_vmap(lambda u: rd.as_map(UNIT, u))(jnp.zeros((2, 1)))
    starts = np.stack([np.full((64, 1), 0.9), LINE])
    sweep = rd.find_fixed_points_sweep(maps, starts, follow=False, until_complete=True)
    assert sweep.counts.tolist() == [3, 3]


def test_bad_input():
    with pytest.raises(ValueError, match="maps: expected a map whose arrays share a leading axis"):
        rd.find_fixed_points_sweep(rd.as_map(rd.VanillaCell(2, 3, key=jax.random.key(0))), np.zeros((2, 3)))
    maps = eqx.filter_vmap(lambda u: rd.as_map(UNIT, u))(jnp.zeros((2, 1)))
    with pytest.raises(ValueError, match="candidates: expected a leading axis of 2"):
        rd.find_fixed_points_sweep(maps, np.zeros((3, 4, 1)))


def test_a_sweep_that_was_killed_goes_on_to_the_same_file(tmp_path, monkeypatch):
    inputs = jnp.array([-0.7, -0.1, 0.1, 0.7])[:, None]
    maps = eqx.filter_vmap(lambda u: rd.as_map(UNIT, u))(inputs)
    whole = rd.find_fixed_points_sweep(maps, LINE, path=tmp_path / "whole.npz")
    original, calls = sweep_module.find_fixed_points, []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    path = tmp_path / "sweep.npz"
    monkeypatch.setattr(sweep_module, "find_fixed_points", killed)
    with pytest.raises(KeyboardInterrupt):
        rd.find_fixed_points_sweep(maps, LINE, path=path)
    assert rd.load(path).counts.tolist() == [1, 3]
    resumed = rd.find_fixed_points_sweep(maps, LINE, path=path)
    assert len(calls) == 5  # two maps, the one that was killed, and the two that were left
    assert rd.load(path).to_dict().keys() == rd.load(tmp_path / "whole.npz").to_dict().keys()
    for a, b, c in zip(whole.results, resumed.results, rd.load(path).results, strict=True):
        for name in ("points", "residuals", "multipliers", "num_hits"):
            np.testing.assert_array_equal(getattr(b, name), getattr(a, name))
            np.testing.assert_array_equal(getattr(c, name), getattr(a, name))
    others = [(maps, LINE + 0.01, {}), (maps, LINE, {"seed": 1}), (maps, LINE, {"follow": False})]
    others.append((eqx.filter_vmap(lambda u: rd.as_map(UNIT, u))(inputs + 0.01), LINE, {}))
    for other, starts, options in others:
        with pytest.raises(ValueError, match="path"):
            rd.find_fixed_points_sweep(other, starts, path=path, **options)
