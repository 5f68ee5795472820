"""Enclosures over ellipsoids: hold samples, and are those of the ellipsoid and not of the box around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.dynamics.proofs.intervals import enclose_boxes
from rnndyn.dynamics.proofs.krawczyk import interval_precision
from rnndyn.dynamics.proofs.set_images import enclose_balls

N = 6
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(N, N)) / np.sqrt(N)
FACTOR = RNG.normal(size=(1, N, N)) / np.sqrt(N)
CENTER = 0.5 * RNG.normal(size=(1, N))


def layer(x):
    return jnp.tanh(jnp.asarray(WEIGHT) @ x)


def gated(x):
    gate = jax.nn.sigmoid(jnp.asarray(WEIGHT.T) @ x)
    new = jnp.tanh(jnp.asarray(WEIGHT) @ (gate * x))
    return new + jnp.clip(gate, 0.1, 0.9) * (x - new)


def in_ball(radius, num):
    y = RNG.normal(size=(num, N))
    y *= radius * RNG.uniform(size=(num, 1)) ** (1 / N) / np.linalg.norm(y, axis=1, keepdims=True)
    return y, CENTER + y @ FACTOR[0].T


@pytest.mark.parametrize("f", [layer, gated])
@pytest.mark.parametrize("radius", [1e-8, 0.1, 1.0])
def test_slopes_and_differences_of_samples_are_enclosed(f, radius):
    with interval_precision():
        found = jax.device_get(enclose_balls(f, CENTER, FACTOR, np.array([radius])))
        y, x = in_ball(radius, 300)
        at_center = np.asarray(f(jnp.asarray(CENTER[0])))
        images = np.asarray(jax.vmap(f)(jnp.asarray(x)))
        slopes = np.asarray(jax.vmap(jax.jacfwd(f))(jnp.asarray(x))) @ FACTOR[0]
    assert np.all((found.value.lo[0] <= at_center) & (at_center <= found.value.hi[0]))
    rounding = 1e-14  # of the samples
    assert np.all((found.jacobian.lo[0] - rounding <= slopes) & (slopes <= found.jacobian.hi[0] + rounding))
    middle, radii = 0.5 * (found.jacobian.lo + found.jacobian.hi)[0], 0.5 * (found.jacobian.hi - found.jacobian.lo)[0]
    off = np.abs(images - at_center - y @ middle.T)
    assert np.all(off <= np.abs(y) @ radii.T + rounding)
    assert not found.jumps[0]


def test_the_slopes_of_a_layer_are_as_known_as_their_weighted_sums_on_the_ellipsoid():
    radius = 0.5
    with interval_precision():
        ball = jax.device_get(enclose_balls(layer, CENTER, FACTOR, np.array([radius])))
        reach = radius * np.linalg.norm(FACTOR, axis=2)
        box = jax.device_get(enclose_boxes(layer, CENTER - reach, CENTER + reach))
    # In closed form: the sums reach |Q' w| r about w c, and 1 - tanh^2 is largest where its argument is smallest.
    sums, width = WEIGHT @ CENTER[0], radius * np.linalg.norm(WEIGHT @ FACTOR[0], axis=1)
    high = 1 - np.tanh(np.maximum(np.abs(sums) - width, 0)) ** 2
    low = 1 - np.tanh(np.abs(sums) + width) ** 2
    weights = WEIGHT @ FACTOR[0]
    expected = np.minimum(low[:, None] * weights, high[:, None] * weights)
    np.testing.assert_allclose(ball.jacobian.lo[0], expected, rtol=1e-9, atol=1e-12)
    width_of_box = np.max(box.jacobian.hi - box.jacobian.lo) / np.max(np.abs(WEIGHT))
    width_of_ball = np.max(ball.jacobian.hi - ball.jacobian.lo) / np.max(np.abs(weights))
    assert width_of_ball < width_of_box


def test_nothing_is_known_where_the_map_may_jump():
    with interval_precision():
        found = jax.device_get(enclose_balls(lambda x: jnp.where(x > 0.2, x, -x), 0 * CENTER, FACTOR, np.array([1.0])))
    assert found.jumps[0]
    assert np.isnan(found.jacobian.lo).any()


def test_further_arguments_are_constants_of_each_ball():
    with interval_precision():
        inputs = np.array([[1.0] * N, [2.0] * N])
        twice = [np.repeat(a, 2, axis=0) for a in (CENTER, FACTOR)]
        found = jax.device_get(enclose_balls(lambda x, u: x * u, *twice, np.ones(2), inputs))
    np.testing.assert_allclose(found.jacobian.lo[1], 2 * FACTOR[0], atol=1e-14)
    np.testing.assert_allclose(found.value.hi, inputs * CENTER, atol=1e-14)
