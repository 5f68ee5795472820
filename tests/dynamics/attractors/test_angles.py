"""Orbits on a torus: nothing depends on where the circle is cut open."""

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

GOLDEN = (np.sqrt(5) - 1) / 2


def test_a_fixed_point_on_the_cut_is_a_fixed_point():
    # The multiplier is 1 - 1.5 = -1/2, so that every other state lies on the other side of the cut.
    for shift in (0.0, 0.3):
        f = rd.on_torus(lambda x, s=shift: x - 0.75 / np.pi * jnp.sin(2 * np.pi * (x - s)), 1.0)
        found = rd.classify_attractor(f, np.array([0.1 + shift]))
        assert found.kind == "fixed point"
        np.testing.assert_allclose(np.exp(2j * np.pi * found.points[0]), np.exp(2j * np.pi * shift), atol=1e-12)
        np.testing.assert_allclose(found.multipliers, [-0.5], atol=1e-12)
        many = rd.find_attractors(f, np.linspace(0.05, 0.45, 9)[:, None] + shift, progress=False)
        assert [a.kind for a in many.attractors] == ["fixed point"]


def test_a_rotation_is_a_circle_wherever_it_is_cut():
    # theta' = theta + golden, r' = r / 2 + cos(2 pi theta) / 4: the exponents are 0 and -ln 2.
    def f(x):
        return jnp.stack([x[0] + GOLDEN, x[1] / 2 + jnp.cos(2 * np.pi * x[0]) / 4])

    found = rd.classify_attractor(rd.on_torus(f, np.array([1.0, np.inf])), np.array([0.2, 0.0]))
    assert (found.kind, found.num_circles) == ("invariant circle", 1)
    assert found.rotation_number == pytest.approx(1 - GOLDEN, abs=1e-9)
    # A mean over some thousand steps, up to the bounded stretching of one round.
    np.testing.assert_allclose(found.exponents, [0, -np.log(2)], atol=1e-3)


def test_the_cat_map_is_chaotic_and_keeps_volume():
    cat = rd.on_torus(lambda x: jnp.array([[2.0, 1.0], [1.0, 1.0]]) @ x, 1.0)
    found = rd.classify_attractor(cat, np.array([0.123, GOLDEN]), max_map_steps=2**14)
    assert found.kind == "chaotic"
    assert found.keeps_volume
    assert found.exponents[0] == pytest.approx(np.log((3 + np.sqrt(5)) / 2), abs=1e-9)
