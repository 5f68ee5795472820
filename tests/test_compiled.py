"""What `compiled` keeps: one program for equal structures, and never more than its bound."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilation_counts import count_compilations

import rnndyn as rd
from rnndyn._programs import compiled, compiling
from rnndyn._programs.recent import Recent

linux = pytest.mark.skipif(compiling.num_maps() == 0, reason="this system does not count memory maps")


@compiled
def scaled(tree, factor, power, *, name="x"):
    return {name: jnp.tanh(factor * tree["a"]) ** power, "power": power}


def test_arrays_are_inputs_and_the_rest_is_static():
    a = np.array([0.5, -1.0])
    out = scaled({"a": a}, np.float64(2.0), 2, name="y")
    np.testing.assert_allclose(out["y"], np.tanh(2 * a) ** 2, rtol=1e-6)  # float32
    assert type(out["power"]) is int
    with count_compilations() as count:
        again = scaled({"a": 3 * a}, np.float64(0.5), 2, name="y")
    assert count() == 0
    np.testing.assert_allclose(again["y"], np.tanh(1.5 * a) ** 2, rtol=1e-6)
    # 1 and 1.0 and True are equal, and different statics.
    assert isinstance(scaled({"a": a}, np.float64(2.0), 1)["power"], int)
    assert isinstance(scaled({"a": a}, np.float64(2.0), 1.0)["power"], float)


def test_it_is_transparent_to_transformations():
    x = jnp.array([0.1, 0.2, 0.3])
    value = lambda x: scaled({"a": x}, jnp.asarray(2.0), 1)["x"]
    np.testing.assert_allclose(jax.vmap(jax.grad(value))(x), 2 / np.cosh(2 * x) ** 2, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda x: value(x))(x), np.tanh(2 * x), rtol=1e-6)


def test_an_error_of_the_user_is_told_in_his_words():
    @compiled
    def checked(x):
        return eqx.error_if(x, x < 0, "the state must not be negative")

    checked(jnp.asarray(1.0))
    with pytest.raises(RuntimeError, match="the state must not be negative"):
        checked(jnp.asarray(-1.0))


@linux
def test_what_is_older_is_freed_with_its_memory_maps(monkeypatch):
    monkeypatch.setattr(compiling, "_kept", Recent(8))

    @compiled
    def decompose(a):
        return jax.lax.scan(lambda q, _: (jnp.linalg.qr(jnp.tanh(a @ q))[0], None), jnp.eye(len(a)), length=5)[0]

    used = []
    for size in range(3, 27):
        decompose(np.eye(size, dtype=np.float32))
        used.append(compiling.num_maps())
    # A program of this loop takes 10 to 20 maps, by the flags of XLA. Eight are kept; of the sixteen made before them
    # nothing is left, but for the one or two maps of the single operations that JAX keeps by shape.
    assert len(compiling._kept) == 8
    grown = used[-1] - used[8]
    compiling._kept.shrink(0)
    freed = used[-1] - compiling.num_maps()
    assert freed > 40
    assert grown < freed


@linux
def test_near_the_limit_of_the_process_the_older_half_goes(monkeypatch):
    kept = Recent(1000)
    monkeypatch.setattr(compiling, "_kept", kept)
    monkeypatch.setattr(compiling, "_most_maps", lambda: 3 * compiling.num_maps())

    @compiled
    def double(x):
        return 2 * x

    for size in range(1, 34):
        double(np.ones(size, np.float32))
    # Looked at after every sixteenth compilation: half of some sixteen, then of some 24, went.
    assert 8 <= len(kept) <= 24
    np.testing.assert_array_equal(double(np.ones(1, np.float32)), [2.0])


def fit_once(optimizer, seed=0):
    cell = rd.VanillaCell(1, 3, key=jax.random.key(seed))
    model = rd.RNN(cell, eqx.nn.Linear(3, 1, key=jax.random.key(seed)))
    return rd.fit(model, mean_square, ones, optimizer, num_steps=20, key=jax.random.key(1))


class One(eqx.Module):
    w: jax.Array


def parabola(model, batch):
    return (model.w - 3.0) ** 2


def mean_square(model, batch):
    return jnp.mean((jax.vmap(model)(batch) - 0.5) ** 2)


def ones(key):
    return jnp.ones((2, 5, 1))


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: optax.adam(rate),
        lambda rate: optax.chain(optax.clip_by_global_norm(3 * rate), optax.sgd(optax.cosine_decay_schedule(rate, 50))),
        lambda rate: optax.inject_hyperparams(optax.rmsprop)(learning_rate=rate),
    ],
    ids=["adam", "clipped with a schedule", "injected"],
)
def test_a_fresh_optimizer_with_other_numbers_compiles_nothing(make):
    fit_once(make(1e-3))
    for rate in (3e-3, 7e-2):
        with count_compilations() as count:
            fit_once(make(rate))
        assert count() == 0


def test_the_numbers_of_each_optimizer_are_its_own():
    # Plain gradient descent on (w - 3)^2 from 0: w = 3 (1 - (1 - 2 r)^n) after n steps of rate r.
    for rate in (0.01, 0.07, 0.2):
        trained = rd.fit(
            One(jnp.zeros(())),
            parabola,
            ones,
            optax.sgd(rate),
            num_steps=10,
            key=jax.random.key(0),
        )
        # float32, ten steps
        np.testing.assert_allclose(trained.model.w, 3 * (1 - (1 - 2 * rate) ** 10), rtol=1e-5)


def test_an_optimizer_that_asks_for_the_loss_is_left_as_it_is():
    # A line search calls the loss: no program of the gradient alone. On a parabola one step of it halves the distance.
    optimizer = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(max_backtracking_steps=5))
    trained = rd.fit(One(jnp.zeros(())), parabola, ones, optimizer, num_steps=20, key=jax.random.key(0))
    np.testing.assert_allclose(trained.model.w, 3.0, rtol=1e-4)
