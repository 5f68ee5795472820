"""Images to second order: hold samples, are exact for quadratic maps, and trust no derivative that is set by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.dynamics.proofs.curved_images import curved_images_of_sets
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.set_images import Sets

N = 4
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(N, N))
CENTER = 0.3 * RNG.normal(size=N)
AXES = 0.2 * RNG.normal(size=(N, N))


def layer(x):
    return jnp.tanh(jnp.asarray(WEIGHT) @ x)


def gated(x):
    gate = jax.nn.sigmoid(jnp.asarray(WEIGHT.T) @ x)
    return gate * x + (1 - gate) * jnp.tanh(jnp.asarray(WEIGHT) @ (gate * x))


def image(f, axes, num_first=1):
    sets = Sets(np.stack([CENTER, CENTER]), np.zeros((2, N)), np.stack([axes, axes]))
    found = jax.device_get(curved_images_of_sets(f, sets, num_first, np.asarray(1)))
    assert np.isnan(found.plain.center.lo[1]).all()  # which was not asked for
    return jax.tree.map(lambda a: a[0], found)


def halves(x):
    return 0.5 * (x.lo + x.hi), 0.5 * (x.hi - x.lo)


@pytest.mark.parametrize(("f", "u"), [(layer, 1), (gated, 2)])
def test_values_and_second_derivatives_of_samples_are_enclosed(f, u):
    with interval_precision():
        found = image(f, AXES, u)
        z = RNG.normal(size=(200, N))
        for part in (slice(0, u), slice(u, N)):
            z[:, part] *= RNG.uniform(size=(200, 1)) / np.linalg.norm(z[:, part], axis=1, keepdims=True)
        x = CENTER + z @ AXES.T
        values = np.asarray(jax.vmap(f)(jnp.asarray(x)))
        second = np.asarray(jax.vmap(jax.hessian(f))(jnp.asarray(x)))
        here = np.asarray(f(jnp.asarray(CENTER)))
    assert found.is_bend_known
    bends = np.einsum("tijk,jl,km->tilm", second, AXES[:, :u], AXES)
    assert np.all((found.bend.lo - 1e-14 <= bends) & (bends <= found.bend.hi + 1e-14))
    (g, dg), (s, ds), (h, dh) = map(halves, (found.outward, found.inward, found.bend))
    p, q = z[:, :u], z[:, u:]
    expected = here + p @ g.T + 0.5 * np.einsum("tk,ikl,tl->ti", p, h[:, :, :u], p)
    expected += q @ s.T + np.einsum("tk,ikl,tl->ti", p, h[:, :, u:], q)
    size = np.abs(p) @ dg.T + 0.5 * np.einsum("tk,ikl,tl->ti", abs(p), dh[:, :, :u], abs(p))
    size += np.abs(q) @ ds.T + np.einsum("tk,ikl,tl->ti", abs(p), dh[:, :, u:], abs(q))
    assert np.all(np.abs(values - expected) <= size + 1e-14)


def test_what_is_unknown_is_of_third_order():
    # tanh''' is at most 2: a set ten times as wide along p has second derivatives that vary a thousand times as much.
    first = np.zeros((N, N))
    first[:, 0] = AXES[:, 0]
    with interval_precision():
        wide, narrow = (halves(image(layer, size * first).bend)[1].max() for size in (1e-2, 1e-3))
    assert wide / narrow == pytest.approx(1000, rel=0.05)


def test_a_quadratic_map_is_known_exactly():
    with interval_precision():
        found = image(lambda x: x * x[0], AXES)
    a = AXES[:, 0]
    exact = np.einsum("i,k->ik", a, AXES[0]) + AXES * a[0]
    np.testing.assert_allclose(halves(found.bend)[0][:, 0], exact, atol=1e-15)
    assert halves(found.bend)[1].max() < 1e-14


def test_derivatives_that_are_set_by_hand_are_not_trusted():
    @jax.custom_jvp
    def square(x):
        return x * x

    square.defjvp(lambda x, t: (x[0] ** 2, 100.0 * t[0]))
    with interval_precision():
        found = image(lambda x: square(x) + jax.lax.stop_gradient(x) ** 2, AXES)
    np.testing.assert_allclose(halves(found.bend)[0][:, 0], 4 * AXES[:, :1] * AXES, atol=1e-14)


def test_where_a_kink_may_lie_only_the_mean_value_form_is_known():
    with interval_precision():
        found = image(lambda x: jnp.maximum(x, 0.0), AXES)
    assert found.plain.is_known
    assert not found.is_bend_known
