"""`fit` against closed forms and a plain loop: updates, clipping, schedules, validation, stopping, divergence."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

KEY = jax.random.key(0)


def distance(w, batch):
    """1/2 |w - b|^2: the gradient is w - b, so gradient descent at rate r shrinks the distance by 1 - r a step."""
    return 0.5 * jnp.sum((w - batch) ** 2)


def same(a, b):
    """Equal to the last bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in leaves)


class Constant(eqx.Module):
    """The same batch at every step; one compilation serves all tests that use it."""

    batch: jax.Array

    def __call__(self, key):
        return self.batch


def constant(batch):
    return Constant(jnp.asarray(batch))


# Two optimisers made alike are not the same to jit.
sgd = functools.cache(optax.sgd)


def test_gradient_descent_on_a_quadratic_is_a_geometric_sequence(x64):
    trained = rd.fit(jnp.array([3.0, 4.0]), distance, constant([0.0, 0.0]), sgd(0.1), num_steps=500, key=KEY)
    expected = 5 * 0.9 ** np.arange(500)
    # Rounding of 500 products in float64.
    np.testing.assert_allclose(trained.history.grad_norms, expected, rtol=1e-12)
    np.testing.assert_allclose(trained.history.losses, expected**2 / 2, rtol=1e-12)
    np.testing.assert_allclose(trained.model, np.array([3, 4]) * 0.9**500, rtol=1e-12)
    assert np.array_equal(trained.history.steps, np.arange(1, 501))
    assert trained.history.stopped == "num_steps"
    assert trained.history.best_step == 500


def test_clipping_bounds_the_step_and_keeps_its_direction(x64):
    options = {"num_steps": 30, "key": KEY, "max_grad_norm": 1.0}
    trained = rd.fit(jnp.array([6.0, 8.0]), distance, constant([0.0, 0.0]), sgd(0.5), **options)
    # From distance 10 every step is 0.5 long until the distance is 1; from there each halves it.
    expected = np.concatenate([np.arange(10, 1, -0.5), 0.5 ** np.arange(12)])
    # Rounding of 30 float64 sums.
    np.testing.assert_allclose(trained.history.grad_norms, expected, rtol=1e-12)
    np.testing.assert_allclose(trained.model[0] / trained.model[1], 0.75, rtol=1e-12)


def test_learning_rate_schedule_sets_every_step_and_is_recorded(x64):
    schedule = optax.exponential_decay(0.5, transition_steps=10, decay_rate=0.5)
    options = {"num_steps": 40, "key": KEY, "learning_rate": schedule}
    trained = rd.fit(jnp.array([1.0]), distance, constant([0.0]), optax.sgd, **options)
    rates = 0.5 * 0.5 ** (np.arange(40) / 10)
    # optax evaluates this schedule in float32.
    np.testing.assert_allclose(trained.history.learning_rates, rates, rtol=1e-6)
    np.testing.assert_allclose(trained.history.grad_norms, np.cumprod([1, *(1 - rates)])[:-1], rtol=1e-5)


def test_constant_learning_rate_is_recorded_and_an_optimiser_alone_has_none():
    options = {"num_steps": 5, "key": KEY}
    named = rd.fit(jnp.ones(1), distance, constant([0.0]), optax.sgd, learning_rate=0.25, **options)
    alone = rd.fit(jnp.ones(1), distance, constant([0.0]), sgd(0.25), **options)
    assert np.array_equal(named.history.learning_rates, np.full(5, 0.25))
    assert alone.history.learning_rates is None
    assert same(named.model, alone.model)


def test_equals_a_plain_loop_over_a_list_of_batches(x64):
    model = eqx.nn.MLP(2, 1, 8, 1, key=KEY)
    rng = np.random.default_rng(0)
    data = [(rng.normal(size=(16, 2)), rng.normal(size=(16, 1))) for _ in range(7)]

    def loss(model, batch):
        return jnp.mean((jax.vmap(model)(batch[0]) - batch[1]) ** 2)

    optimizer = optax.chain(optax.clip_by_global_norm(0.3), optax.adam(1e-2))
    expected, losses = model, []
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def update(model, state, batch):
        value, gradient = eqx.filter_value_and_grad(loss)(model, batch)
        updates, state = optimizer.update(gradient, state)
        return eqx.apply_updates(model, updates), state, value

    for step in range(60):
        expected, state, value = update(expected, state, data[step % 7])
        losses.append(value)

    trained = rd.fit(model, loss, data, optax.adam(1e-2), num_steps=60, key=KEY, max_grad_norm=0.3)
    # The compiled loop may sum in another order; Adam keeps the float64 differences small over 60 steps.
    np.testing.assert_allclose(trained.history.losses, losses, rtol=1e-9)
    arrays = [jax.tree.leaves(eqx.filter(tree, eqx.is_array)) for tree in (trained.model, expected)]
    for ours, theirs in zip(*arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-8, atol=1e-12)


def test_every_step_sees_a_new_batch_and_the_key_fixes_them():
    # With rate 1 the parameter becomes the batch, so each loss is half the squared jump between two batches.
    run = lambda key, steps: (
        rd.fit(jnp.zeros(()), distance, jax.random.normal, sgd(1.0), num_steps=steps, key=key).history.losses
    )
    losses = run(KEY, 300)
    assert len(np.unique(losses)) == 300
    assert np.array_equal(losses, run(KEY, 300))
    assert np.array_equal(losses[:100], run(KEY, 100))
    assert not np.array_equal(losses, run(jax.random.key(1), 300))
    # The jump between independent standard normals has variance 2: mean of its half square 1, standard error 0.08.
    assert abs(losses[1:].mean() - 1) < 0.4


def test_one_compilation_serves_any_number_of_steps():
    def count(num_steps):
        traces = []

        def loss(w, batch):
            traces.append(None)
            return distance(w, batch)

        rd.fit(jnp.ones(2), loss, constant([0.0, 0.0]), sgd(0.1), num_steps=num_steps, key=KEY, validate_every=7)
        return len(traces)

    assert count(1) == count(1000)


def test_validates_the_first_the_last_and_every_nth_model(x64):
    trained = rd.fit(
        jnp.array([1.0]),
        distance,
        constant([0.0]),
        sgd(0.5),
        num_steps=25,
        key=KEY,
        validation=jnp.array([0.0]),
        metric=lambda w, batch: jnp.sum(jnp.abs(w - batch)),
        validate_every=10,
    )
    assert trained.history.validation_steps.tolist() == [0, 10, 20, 25]
    # Powers of two are exact.
    assert trained.history.validation_losses.tolist() == [1, 0.5**10, 0.5**20, 0.5**25]
    assert trained.history.best_validation_loss == 0.5**25


def test_validation_batch_is_drawn_once():
    options = {"num_steps": 40, "key": KEY, "validation": jax.random.normal, "validate_every": 10}
    trained = rd.fit(jnp.array(0.5), distance, constant(0.0), sgd(0.0), **options)
    # The parameter stands still, so a metric that changes would come from another batch.
    assert np.ptp(trained.history.validation_losses) == 0
    assert trained.history.best_step == 0


def test_returns_the_best_model_and_the_last_one(x64):
    # The batch pulls towards 1, validation asks for 0.5: the model passes through its best one.
    options = {"num_steps": 60, "key": KEY, "validation": jnp.array([0.5]), "validate_every": 1}
    trained = rd.fit(jnp.array([0.0]), distance, constant([1.0]), sgd(0.05), **options)
    path = 1 - 0.95 ** np.arange(61)
    best = int(np.argmin(np.abs(path - 0.5)))
    assert trained.history.best_step == best
    # Rounding of 60 float64 steps.
    np.testing.assert_allclose(trained.model, [path[best]], rtol=1e-12)
    np.testing.assert_allclose(trained.last_model, [path[60]], rtol=1e-12)


def test_patience_counts_validations_without_a_new_best(x64):
    options = {"num_steps": 600, "key": KEY, "validation": jnp.array([0.5]), "validate_every": 2, "patience": 3}
    trained = rd.fit(jnp.array([0.0]), distance, constant([1.0]), sgd(0.05), **options)
    path = 1 - 0.95 ** np.arange(0, 61, 2)
    best = 2 * int(np.argmin(np.abs(path - 0.5)))
    assert trained.history.stopped == "patience"
    assert trained.history.best_step == best
    assert len(trained.history.losses) == best + 6


def test_target_stops_at_the_first_validation_that_reaches_it(x64):
    options = {"num_steps": 600, "key": KEY, "validation": jnp.array([0.0]), "validate_every": 4, "target": 1e-3}
    trained = rd.fit(jnp.array([1.0]), distance, constant([0.0]), sgd(0.1), **options)
    reached = next(step for step in range(0, 600, 4) if 0.5 * 0.9 ** (2 * step) <= 1e-3)
    assert trained.history.stopped == "target"
    assert len(trained.history.losses) == trained.history.best_step == reached
    assert same(trained.model, trained.last_model)


def test_without_a_finite_validation_the_last_model_is_returned():
    options = {"num_steps": 6, "key": KEY, "validation": jnp.zeros(1), "validate_every": 2}
    metric = lambda w, batch: jnp.sum(w) * jnp.nan
    trained = rd.fit(jnp.ones(1), distance, constant([0.0]), sgd(0.5), metric=metric, **options)
    assert float(trained.model[0]) == 0.5**6
    assert trained.history.best_validation_loss is None


def test_snapshots_are_the_models_of_their_steps(x64):
    options = {"num_steps": 25, "key": KEY, "snapshots_every": 10}
    trained = rd.fit(jnp.array([1.0]), distance, constant([0.0]), sgd(0.5), **options)
    assert trained.history.snapshot_steps.tolist() == [0, 10, 20]
    # Powers of two are exact.
    assert [float(w[0]) for w in trained.snapshots] == [1, 0.5**10, 0.5**20]


@pytest.mark.parametrize("failing", [1, 18, 300])
def test_non_finite_loss_stops_at_its_step_with_the_model_before_it(failing):
    data = [np.zeros(2, np.float32) for _ in range(320)]
    data[failing - 1] = np.array([0, np.nan], np.float32)
    with pytest.raises(
        rd.training.DivergenceError, match=rf"step {failing} \(loss nan\) because of the data: batch\[1\] is nan"
    ) as caught:
        rd.fit(jnp.ones(2), distance, data, optax.adam(1e-2), num_steps=320, key=KEY)
    result = caught.value.result
    assert caught.value.step == failing == len(result.history.losses)
    assert np.isnan(result.history.losses[-1])
    assert np.isfinite(result.history.losses[:-1]).all()
    if failing > 1:
        before = rd.fit(jnp.ones(2), distance, data, optax.adam(1e-2), num_steps=failing - 1, key=KEY)
        assert same(result.last_model, before.model)


def test_non_finite_gradient_of_a_finite_loss_is_divergence():
    root = lambda w, batch: jnp.sqrt(jnp.sum(w * batch))
    with pytest.raises(rd.training.DivergenceError, match="step 1: loss 0, gradient norm inf"):
        rd.fit(jnp.zeros(1), root, constant([1.0]), sgd(0.1), num_steps=5, key=KEY, max_grad_norm=1.0)


def test_integers_and_functions_in_a_model_are_left_alone():
    model = {"w": jnp.ones(2), "count": jnp.array([3, 4]), "activation": jnp.tanh, "name": "net"}
    trained = rd.fit(model, lambda m, b: distance(m["w"], b), constant([0.0, 0.0]), sgd(0.5), num_steps=2, key=KEY)
    assert trained.model["count"].tolist() == [3, 4]
    assert trained.model["name"] == "net"
    assert trained.model["w"].tolist() == [0.25, 0.25]


def test_takes_numpy_weights_and_keys_of_the_old_kind():
    old, new = (
        rd.fit(np.ones(2, np.float32), distance, jax.random.normal, sgd(0.1), num_steps=3, key=key)
        for key in (jax.random.PRNGKey(0), jax.random.key(0))
    )
    assert np.array_equal(old.history.losses, new.history.losses)


def test_an_iterable_shorter_than_the_run_is_started_again(x64):
    trained = rd.fit(jnp.zeros(()), distance, [1.0, 2.0, 4.0], sgd(1.0), num_steps=7, key=KEY)
    # With rate 1 the parameter becomes the batch: 0, 1, 2, 4, 1, 2, 4, 1.
    assert trained.history.losses.tolist() == [0.5, 0.5, 2, 4.5, 0.5, 2, 4.5]


def test_network_learns_a_flip_flop():
    batches = rd.tasks.batches("flip_flop", 32, num_bits=1, num_steps=12)
    model = rd.RNN(rd.GRUCell(1, 8, key=jax.random.key(1)), eqx.nn.Linear(8, 1, key=jax.random.key(2)))
    loss = rd.training.over_trials(rd.training.mean_squared_error)
    options = {"num_steps": 200, "max_grad_norm": 1.0, "validation": batches, "key": KEY}
    trained = rd.fit(model, loss, batches, optax.adam(2e-2), **options)
    fresh = batches(jax.random.key(9))
    held = jax.vmap(trained.model)(fresh.inputs)
    # A network that remembers answers with the right sign; one that only echoes pulses is right in a fifth of steps.
    set_bits = np.asarray(fresh.targets) != 0
    assert (np.sign(held) == fresh.targets)[set_bits].mean() > 0.99
    assert trained.history.best_validation_loss < 0.05


def test_history_prints_and_survives_saving(tmp_path):
    trained = rd.fit(
        jnp.ones(1),
        distance,
        constant([0.0]),
        optax.sgd,
        learning_rate=0.5,
        num_steps=4,
        key=KEY,
        validation=jnp.zeros(1),
    )
    assert "4 steps, stopped by num_steps" in str(trained)
    loaded = rd.load(trained.history.save(tmp_path / "history"))
    assert str(loaded) == str(trained.history)
    assert np.array_equal(loaded.losses, trained.history.losses)
    assert np.array_equal(loaded.learning_rates, trained.history.learning_rates)


class TestBadInput:
    def fit(self, batches=None, optimizer=None, model=None, loss=distance, **options):
        batches = constant([0.0, 0.0]) if batches is None else batches
        optimizer = sgd(0.1) if optimizer is None else optimizer
        model = jnp.ones(2) if model is None else model
        return rd.fit(model, loss, batches, optimizer, **{"num_steps": 10, "key": KEY, **options})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_steps": 0}, "num_steps: expected at least 1, got 0"),
            ({"validate_every": 0}, "validate_every: expected at least 1"),
            ({"checkpoint_every": 0}, "checkpoint_every: expected at least 1"),
            ({"snapshots_every": 0}, "snapshots_every: expected at least 1"),
            ({"patience": 0, "validation": np.zeros(2)}, "patience: expected at least 1"),
            ({"max_grad_norm": 0.0}, "max_grad_norm: expected a positive number"),
            ({"target": 0.1}, "target: .*no validation"),
            ({"patience": 2}, "patience: .*no validation"),
            ({"resume": True}, "resume: needs checkpoint="),
            ({"learning_rate": 0.1}, "learning_rate: the optimizer has one already"),
            ({"optimizer": optax.adam}, "learning_rate: the optimizer is a constructor"),
            ({"optimizer": optax.adam, "learning_rate": -1.0}, "learning_rate: expected a positive number"),
            ({"optimizer": 0.1}, "optimizer: expected an optax optimiser .* got a float"),
            ({"model": np.arange(3)}, "model: has no floating-point array"),
            ({"loss": lambda w, batch: w - batch}, r"loss: expected .* one floating-point number, got shape \(2,\)"),
            ({"loss": lambda w, batch: (jnp.sum(w), 0)}, "loss: expected .* one floating-point number, got a tuple"),
            (
                {"metric": lambda w, batch: w, "validation": np.zeros(2)},
                r"metric: expected .* number, got shape \(2,\)",
            ),
            ({"batches": (np.zeros(2), np.zeros(2))}, "batches: got a tuple, which looks like a data set"),
            ({"batches": np.zeros((5, 2))}, "batches: got a ndarray, which looks like a data set"),
            ({"batches": 3}, "batches: expected a function of a key or an iterable"),
            ({"batches": lambda: np.zeros(2)}, "batches: calling it with a key failed"),
            ({"batches": []}, "batches: the iterable gave 0 batches"),
            ({"batches": (np.zeros(2) for _ in range(4))}, "batches: the iterable gave 4 batches"),
            ({"batches": [np.zeros(2), (np.zeros(2),)]}, "batches: batch 1 is .* one structure throughout"),
        ],
    )
    def test_names_the_argument(self, options, message):
        with pytest.raises(ValueError, match=message):
            self.fit(**options)
