"""Affine forms hold what they say: points of the set, followed through the function in 80 bits, lie in the image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.dynamics.proofs.affine_forms import AffineForm, as_interval, reduced, spread_as_generators
from rnndyn.dynamics.proofs.affine_images import affine_image
from rnndyn.dynamics.proofs.krawczyk import interval_precision

SIZE, NUM_GENERATORS = 4, 6
RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(3 * SIZE, SIZE))
MASK = np.array([True, False, True, True])


def gated(x, xp, sigmoid):
    """Everything that cells are made of: products with matrices, gates, products of forms, kinks, quotients."""
    a, b, c = (WEIGHT.astype(x.dtype) @ x).reshape(3, SIZE)
    gate = sigmoid(a)
    kept = gate * x + (1 - gate) * xp.tanh(b + gate * c)
    bent = xp.maximum(kept, 0.25) - abs(c) / (4 + xp.tanh(b)) + kept**3
    return xp.where(MASK, bent, 0.5 * kept) + xp.sum(kept) + xp.sin(b) + xp.exp(-b)


@jax.jit
def image(center, generators):
    return affine_image(lambda x: gated(x, jnp, jax.nn.sigmoid), AffineForm(center, generators, jnp.zeros_like(center)))


@pytest.mark.parametrize("size", [1e-12, 1e-3, 0.3, 3.0])
def test_images_hold_the_images_of_points_with_the_same_numbers_y(size):
    center, generators = RNG.normal(size=SIZE), size * RNG.normal(size=(NUM_GENERATORS, SIZE))
    with interval_precision():
        form = jax.device_get(image(center, generators))
    exact = np.longdouble
    for y in (*RNG.uniform(-1, 1, (300, NUM_GENERATORS)), *RNG.choice([-1.0, 1.0], (300, NUM_GENERATORS))):
        x = center.astype(exact) + y.astype(exact) @ generators.astype(exact)
        value = gated(x, np, lambda a: 1 / (1 + np.exp(-a)))
        linear = form.center.astype(exact) + y.astype(exact) @ form.generators.astype(exact)
        assert (abs(value - linear) <= form.spread).all()
    if size == 1e-12:  # what is left of a nearly straight function is rounding
        assert form.spread.max() < 1e-12


def test_the_error_of_a_single_tanh_is_that_of_the_best_line():
    """On [-1, 2]: the largest distance of tanh from its secant's slope, halved by the shift; by a fine grid."""
    lo, hi = -1.0, 2.0
    with interval_precision():
        form = affine_image(jnp.tanh, AffineForm(jnp.array([0.5]), jnp.array([[1.5]]), jnp.zeros(1)))
    x = np.linspace(lo, hi, 200_001)
    rest = np.tanh(x) - (np.tanh(hi) - np.tanh(lo)) / (hi - lo) * x
    best = (rest.max() - rest.min()) / 2
    # The grid misses the extremum by less than its spacing squared.
    assert best - 1e-12 <= float(form.spread[0]) <= best + 1e-9


def test_fewer_generators_make_a_larger_set():
    with interval_precision():
        form = AffineForm(jnp.zeros(2), jnp.array([[3.0, 0.0], [0.0, 0.1], [2.0, 1.0]]), jnp.array([0.5, 0.5]))
        whole, less = as_interval(form), as_interval(reduced(form, 1))
        dense = as_interval(spread_as_generators(form))
    np.testing.assert_allclose(less.hi, whole.hi, rtol=1e-14)  # of the same box
    np.testing.assert_allclose(dense.hi, whole.hi, rtol=1e-14)


def test_gates_that_do_not_wait_for_each_other_are_one_program():
    """Rows of tanh in the evaluation: two for an LSTM's five curves, as many as two tanh in a row have."""

    def lstm(x):
        i, f, g, o = jnp.split(jnp.tile(x, 4), 4)
        c = jax.nn.sigmoid(f) * x + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c)

    def evaluations(f):
        form = AffineForm(jnp.zeros(SIZE), jnp.zeros((1, SIZE)), jnp.zeros(SIZE))
        return str(jax.make_jaxpr(lambda x: affine_image(f, x))(form)).count("= tanh")

    with interval_precision():
        assert evaluations(lstm) == evaluations(lambda x: jnp.tanh(jnp.tanh(x))) > 0
