"""Sweeps: the grid, the chunks, and going on after an interruption."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation_counts import programs

import rnndyn as rd
from rnndyn.dynamics.growth import lyapunov_sweep as sweep_module


def build(gain, seed):
    weight = gain * jax.random.normal(jax.random.key(seed), (5, 5)) / jnp.sqrt(5.0)
    return (lambda x: weight @ jnp.tanh(x)), jnp.linspace(-1.0, 1.0, 5)


AXES = {"gain": [0.5, 1.0, 2.0], "seed": range(3)}


def test_every_grid_point_is_the_single_run():
    sweep = rd.lyapunov_sweep(build, AXES, 40, num_transient=10, chunk_size=4)
    assert sweep.exponents.shape == (3, 3, 5)
    assert sweep.exponents.dtype == np.float64
    assert sweep.axis_names == ("gain", "seed")
    with jax.enable_x64(True):
        f, x0 = build(2.0, 1)
        single = rd.lyapunov_spectrum(f, x0, 40, num_transient=10)
    # Other QR intervals and another program: rounding, which weak chaos amplifies.
    np.testing.assert_allclose(sweep.exponents[2, 1], single.exponents, atol=1e-6)
    # Rounding; at much larger gains saturated units would lose digits within one step.
    assert sweep.sum_rule_defect.max() < 1e-10
    assert "gain (3) x seed (3)" in str(sweep)


def test_a_sweep_resumes(tmp_path, monkeypatch):
    path = tmp_path / "sweep.npz"
    whole = rd.lyapunov_sweep(build, AXES, 100, chunk_size=2)
    chunks = []
    original = sweep_module._chunk

    def interrupted(*args):
        if len(chunks) == 3:
            raise KeyboardInterrupt
        chunks.append(1)
        return original(*args)

    monkeypatch.setattr(sweep_module, "_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rd.lyapunov_sweep(build, AXES, 100, chunk_size=2, path=path)
    chunks.clear()
    resumed = rd.lyapunov_sweep(build, AXES, 100, chunk_size=2, path=path)
    assert len(chunks) == 2  # 6 of 9 points were done; 2 chunks of at most 2 were left
    np.testing.assert_array_equal(resumed.exponents, whole.exponents)
    again = rd.lyapunov_sweep(build, AXES, 100, chunk_size=2, path=path)
    assert len(chunks) == 2  # nothing was computed again
    np.testing.assert_array_equal(again.exponents, whole.exponents)


def test_a_file_of_another_sweep_is_refused(tmp_path):
    path = tmp_path / "sweep.npz"
    rd.lyapunov_sweep(build, {"gain": [1.0], "seed": [0]}, 50, path=path)
    for axes, num_steps in [({"gain": [1.5], "seed": [0]}, 50), ({"gain": [1.0], "seed": [0]}, 60)]:
        with pytest.raises(ValueError, match="path"):
            rd.lyapunov_sweep(build, axes, num_steps, path=path)

    def other(gain, seed):
        f, x0 = build(gain, seed)
        return (lambda x: 0.5 * f(x)), x0

    with pytest.raises(ValueError, match="path"):
        rd.lyapunov_sweep(other, {"gain": [1.0], "seed": [0]}, 50, path=path)


def test_other_lengths_compile_nothing():
    axes = {"gain": [1.0, 2.0], "seed": [0]}
    rd.lyapunov_sweep(build, axes, 100, chunk_size=2)
    before = programs(sweep_module._chunk)
    for num_steps, num_transient, qr_every in [(130, 0, None), (100, 7, None), (200, 0, 2)]:
        rd.lyapunov_sweep(build, axes, num_steps, num_transient=num_transient, qr_every=qr_every, chunk_size=2, dt=0.5)
    assert before
    assert programs(sweep_module._chunk) <= before


def test_saving(tmp_path):
    sweep = rd.lyapunov_sweep(build, {"gain": [1.0, 2.0], "seed": [0]}, 50)
    back = rd.load(sweep.save(tmp_path / "result"))
    np.testing.assert_array_equal(back.exponents, sweep.exponents)
    np.testing.assert_array_equal(back.axis_values["gain"], [1.0, 2.0])
