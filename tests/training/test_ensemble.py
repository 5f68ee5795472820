"""Ensembles: each member is the run that `fit` alone would have made."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

KEY = jax.random.key(0)
OPTIMIZER = optax.adam(1e-2)
HALVE = optax.sgd(0.5)


def draw(key):
    return jax.random.normal(key, (8, 3))


def loss(model, batch):
    return jnp.mean((jnp.tanh(jax.vmap(model)(batch)) - jnp.sin(batch[:, :2])) ** 2)


def origin(key):
    return jnp.zeros(1)


def distance(w, batch):
    return 0.5 * jnp.sum((w - batch) ** 2)


def make(key):
    return eqx.nn.Linear(3, 2, key=key)


@pytest.mark.parametrize("batches", [draw, [draw(jax.random.key(7)), draw(jax.random.key(8))]], ids=["made", "given"])
def test_members_equal_single_runs(x64, batches):
    keys = jax.random.split(jax.random.key(1), 3)
    models = eqx.filter_vmap(make)(keys)
    options = {"num_steps": 40, "max_grad_norm": 0.1, "validation": draw, "validate_every": 15}
    ensemble = rd.fit_ensemble(models, loss, batches, OPTIMIZER, key=KEY, **options)
    for i, key in enumerate(jax.random.split(KEY, 3)):
        alone = rd.fit(make(keys[i]), loss, batches, OPTIMIZER, key=key, **options)
        member = ensemble.member(i)
        # A batched product may sum in another order; float64 keeps the difference small over 40 steps.
        np.testing.assert_allclose(member.history.losses, alone.history.losses, rtol=1e-9)
        np.testing.assert_allclose(member.history.grad_norms, alone.history.grad_norms, rtol=1e-9)
        np.testing.assert_allclose(member.history.validation_losses, alone.history.validation_losses, rtol=1e-9)
        arrays = [jax.tree.leaves(eqx.filter(run.model, eqx.is_array)) for run in (member, alone)]
        for ours, theirs in zip(*arrays, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-10)


def test_diverged_member_is_reported_and_leaves_the_others_alone(x64):
    # The second entry marks the member whose loss is not finite once its first entry has come below 1.6.
    start = jnp.array([[1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])

    def loss(w, batch):
        return distance(w[0], 0.0) + jnp.where((w[1] == 1) & (w[0] < 1.6), jnp.nan, 0.0)

    with pytest.warns(UserWarning, match=r"diverged in 1 of 3 members: 1 \(at step 2\)"):
        trained = rd.fit_ensemble(start, loss, lambda key: 0.0, optax.sgd(0.25), num_steps=30, key=KEY)
    assert trained.diverged == (1,)
    assert trained.member(1).history.stopped == "diverged"
    assert trained.member(1).history.losses[0] == 2
    assert np.isnan(trained.member(1).history.losses[1:]).tolist() == [True]
    assert "diverged" in str(trained).splitlines()[3]
    # Powers of 3/4 in float64: 30 roundings.
    np.testing.assert_allclose(trained.models[:, 0], [0.75**30, 1.5, 3 * 0.75**30], rtol=1e-13)


def test_all_members_diverging_is_an_error():
    # Member 0 is lost at its first step, member 1 when it has fallen from 2 to 1.
    loss = lambda w, batch: 0.5 * jnp.sum(w) ** 2 + jnp.where(jnp.sum(w) == 1, jnp.nan, 0.0)
    start = jnp.array([[1.0], [2.0]])
    with pytest.raises(FloatingPointError, match=r"every member: 0 \(at step 1\), 1 \(at step 2\)") as caught:
        rd.fit_ensemble(start, loss, lambda key: 0.0, optax.sgd(0.5), num_steps=5, key=KEY)
    # What was reached before is not lost.
    assert isinstance(caught.value, rd.training.EnsembleDivergenceError)
    assert caught.value.result.diverged == (0, 1)
    assert caught.value.result.member(1).history.losses[0] == 2
    assert caught.value.result.last_models[:, 0].tolist() == [1, 1]


def test_members_stop_one_by_one_at_the_target(x64):
    options = {"num_steps": 1000, "validation": jnp.zeros(1), "validate_every": 1, "target": 1e-3, "key": KEY}
    start = jnp.array([[0.01], [1.0], [16.0]])
    trained = rd.fit_ensemble(start, distance, origin, HALVE, **options)
    # 1/2 (2^-t w)^2 <= 1e-3 from t = log2(w / sqrt(0.002)) on: 0, 4.5 and 8.5.
    assert [len(history.losses) for history in trained.histories] == [0, 5, 9]
    assert {history.stopped for history in trained.histories} == {"target"}
    assert trained.models[:, 0].tolist() == [0.01, 2.0**-5, 16 * 2.0**-9]
    assert trained.last_models[:, 0].tolist() == trained.models[:, 0].tolist()
    assert [len(history.validation_steps) for history in trained.histories] == [1, 6, 10]


def test_members_keep_their_own_best_model(x64):
    # Two members pass the value that validation asks for, at different steps.
    options = {"num_steps": 60, "validation": jnp.array([0.5]), "validate_every": 1, "key": KEY}
    start = jnp.array([[0.0], [-3.0]])
    trained = rd.fit_ensemble(start, distance, lambda key: jnp.ones(1), optax.sgd(0.05), **options)
    for i in range(2):
        path = 1 - (1 - float(start[i, 0])) * 0.95 ** np.arange(61)
        best = int(np.argmin(np.abs(path - 0.5)))
        assert trained.histories[i].best_step == best
        # Rounding of 60 float64 steps.
        np.testing.assert_allclose(trained.models[i, 0], path[best], rtol=1e-12)


def test_snapshots_of_a_member_end_with_it(x64):
    options = {"num_steps": 8, "validation": jnp.zeros(1), "validate_every": 1, "target": 1e-3, "key": KEY}
    start = jnp.array([[0.5], [64.0]])
    trained = rd.fit_ensemble(start, distance, origin, HALVE, snapshots_every=2, **options)
    assert trained.snapshot_steps.tolist() == [0, 2, 4, 6, 8]
    assert trained.member(0).history.snapshot_steps.tolist() == [0, 2, 4]
    assert [float(w[0]) for w in trained.member(0).snapshots] == [0.5, 0.125, 0.03125]
    assert [float(w[0]) for w in trained.member(1).snapshots] == [64, 16, 4, 1, 0.25]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ((np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)), "models: expected arrays with one common leading"),
        (np.float32(1), "models: expected arrays with one common leading axis"),
        (np.ones((0, 3), np.float32), "models: expected at least one member"),
    ],
)
def test_models_without_a_common_axis_are_refused(models, message):
    with pytest.raises(ValueError, match=message):
        rd.fit_ensemble(models, distance, lambda key: jnp.zeros(3), optax.sgd(0.1), num_steps=1, key=KEY)


def test_unknown_member_is_refused():
    trained = rd.fit_ensemble(jnp.ones((2, 1)), distance, origin, optax.sgd(0.1), num_steps=1, key=KEY)
    with pytest.raises(ValueError, match="index: expected 0 to 1, got 2"):
        trained.member(2)
