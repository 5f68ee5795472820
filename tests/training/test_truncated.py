"""What `fit` hands from one update to the next, and truncated backpropagation: against plain loops and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

KEY = jax.random.key(0)
B, T, I, O, H = 3, 12, 2, 2, 4  # noqa: E741
rng = np.random.default_rng(0)
INPUTS, TARGETS = rng.normal(size=(B, T, I)).astype(np.float32), rng.normal(size=(B, T, O)).astype(np.float32)
LOSS = rd.training.truncated_bptt(rd.training.mean_squared_error)
SGD = optax.sgd(0.1)


def make(learn_initial_state=True):
    cell_key, readout_key = jax.random.split(KEY)
    return rd.RNN(
        rd.LSTMCell(I, H, key=cell_key),
        eqx.nn.Linear(H, O, key=readout_key),
        learn_initial_state=learn_initial_state,
    )


def fit(model=None, num_steps=7, windows=4, **options):
    model = make() if model is None else model
    batches = rd.training.Windows((INPUTS, TARGETS), windows) if isinstance(windows, int) else windows
    options = {"key": KEY, "carry": rd.training.start_states(model, B), "progress": False, **options}
    return rd.fit(model, LOSS, batches, SGD, num_steps=num_steps, **options)


@pytest.fixture(scope="module")
def trained():
    return fit()


def arrays(model):
    return jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))


def test_equals_a_loop_that_keeps_the_states(trained):
    model, states, losses = make(), None, []

    @eqx.filter_jit
    def update(model, states, inputs, targets, start):
        def loss(model):
            begin = jax.tree.map(lambda leaf: jnp.tile(leaf, (B, 1)), model.start()) if start else states
            after = jax.vmap(model.states)(inputs, begin)
            outputs = jax.vmap(jax.vmap(model.readout))(after[0])
            return jnp.mean((outputs - targets) ** 2), jax.tree.map(lambda leaf: leaf[:, -1], after)

        (value, states_after), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(model)
        return eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient)), states_after, value

    for step in range(7):
        cut = slice(4 * (step % 3), 4 * (step % 3) + 4)
        model, states, value = update(model, states, INPUTS[:, cut], TARGETS[:, cut], step % 3 == 0)
        losses.append(value)
    # float32, sums in another order.
    np.testing.assert_allclose(trained.history.losses, losses, rtol=1e-5)
    for ours, theirs in zip(arrays(trained.model), arrays(model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    # The learned initial state was trained: the gradient goes through it where a sequence starts.
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(trained.model.learned_state))


def test_one_window_is_the_whole_gradient_and_shorter_ones_leave_out_the_past():
    model, whole = make(), rd.training.over_trials(rd.training.mean_squared_error)

    @eqx.filter_jit
    def gradients(model, windows):
        states, total = rd.training.start_states(model, B), 0
        for window in windows:
            (_, states), gradient = eqx.filter_value_and_grad(LOSS, has_aux=True)(model, window, states)
            total = (
                jax.tree.map(lambda g: g / len(windows), gradient)
                if total == 0
                else jax.tree.map(lambda a, g: a + g / len(windows), total, gradient)
            )
        return jnp.concatenate([leaf.ravel() for leaf in arrays(total)])

    exact = eqx.filter_jit(eqx.filter_grad(whole))(model, (INPUTS, TARGETS))
    exact = np.concatenate([np.ravel(leaf) for leaf in arrays(exact)])
    cut = lambda steps: gradients(model, list(rd.training.Windows((INPUTS, TARGETS), steps)))
    np.testing.assert_allclose(cut(12), exact, atol=1e-6)  # float32
    errors = [np.linalg.norm(cut(steps) - exact) / np.linalg.norm(exact) for steps in (6, 1)]
    assert 1e-3 < errors[0] < errors[1]


def test_the_carried_states_are_those_of_the_whole_sequence():
    model = make()
    states = rd.training.start_states(model, B)
    values = []
    for window in rd.training.Windows((INPUTS, TARGETS), 3):
        value, states = LOSS(model, window, states)
        values.append(value)
    whole = jax.vmap(model.states)(INPUTS)
    for ours, theirs in zip(states, whole, strict=True):
        np.testing.assert_allclose(ours, theirs[:, -1], atol=1e-6)  # float32
    outputs = jax.vmap(jax.vmap(model.readout))(whole[0])
    np.testing.assert_allclose(np.mean(values), np.mean((outputs - TARGETS) ** 2), rtol=1e-5)


def test_a_mask_leaves_out_steps_of_the_loss():
    mask = np.arange(T) < np.array([[12], [7], [5]])
    wild = np.where(mask[..., None], TARGETS, np.nan)
    model = make()
    window = next(iter(rd.training.Windows(rd.training.Batch(INPUTS, wild, counts=mask), T)))
    value, _ = LOSS(model, window, rd.training.start_states(model, B))
    outputs = np.asarray(jax.vmap(model)(INPUTS))
    expected = np.mean([np.mean((outputs[b, m] - TARGETS[b, m]) ** 2) for b, m in enumerate(mask)])
    np.testing.assert_allclose(value, expected, rtol=1e-5)  # float32


def test_resume_is_exact_with_states_and_refuses_other_windows(trained, tmp_path):
    path = tmp_path / "run"
    # Interrupted within a pass, so the states carried over matter.
    fit(num_steps=5, checkpoint=path)
    again = fit(checkpoint=path, resume=True)
    assert np.array_equal(again.history.losses, trained.history.losses)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(again.model), arrays(trained.model)))
    with pytest.raises(ValueError, match=r"resume: .* another configuration:\n  batch: saved"):
        fit(checkpoint=path, resume=True, windows=3)
    with pytest.raises(ValueError, match=r"resume: .* another structure"):
        fit(
            checkpoint=path,
            resume=True,
            carry=rd.training.start_states(make(), B - 1),
            windows=rd.training.Windows((INPUTS[:2], TARGETS[:2]), 4),
        )


def test_validation_starts_from_the_first_states():
    window = next(iter(rd.training.Windows((INPUTS, TARGETS), T)))
    result = fit(validation=window, validate_every=3)
    value, _ = LOSS(make(), window, rd.training.start_states(make(), B))
    np.testing.assert_allclose(result.history.validation_losses[0], value, rtol=1e-6)
    last, _ = LOSS(result.last_model, window, rd.training.start_states(make(), B))
    np.testing.assert_allclose(result.history.validation_losses[-1], last, rtol=1e-6)


def test_every_member_of_an_ensemble_carries_its_own_states(trained):
    models = eqx.filter_vmap(lambda key: make())(jax.random.split(KEY, 2))
    shifted = eqx.tree_at(lambda m: m.readout.bias, models, models.readout.bias + jnp.array([[0.0], [1.0]]))
    batches = rd.training.Windows((INPUTS, TARGETS), 4)
    options = {"num_steps": 7, "key": KEY, "carry": rd.training.start_states(make(), B), "progress": False}
    both = rd.fit_ensemble(shifted, LOSS, batches, SGD, **options)
    np.testing.assert_allclose(both.histories[0].losses, trained.history.losses, rtol=1e-4)  # float32
    alone = fit(eqx.tree_at(lambda m: m.readout.bias, make(), make().readout.bias + 1))
    np.testing.assert_allclose(both.histories[1].losses, alone.history.losses, rtol=1e-4)


def test_the_number_of_updates_is_handed_on(x64, tmp_path):
    # The gradient of w * step is step: after n updates w = -(0 + 1 + ... + n - 1).
    loss = rd.training.with_step(lambda w, batch, step: w * step.astype(float) + 0 * batch)
    run = lambda steps, **options: rd.fit(
        jnp.zeros(()), loss, [np.zeros(())], optax.sgd(1.0), num_steps=steps, key=KEY, carry=0, **options
    )
    assert float(run(6).model) == -15
    assert run(6).history.losses.tolist() == [0, 0, -2, -9, -24, -50]
    run(4, checkpoint=tmp_path / "run")
    assert float(run(6, checkpoint=tmp_path / "run", resume=True).model) == -15


def test_a_step_that_fails_hands_nothing_on():
    loss = lambda w, batch, carry: (jnp.sum(w * batch), carry + 1)
    data = [np.ones(2, np.float32)] * 3 + [np.full(2, np.nan, np.float32)] * 5
    with pytest.raises(rd.training.DivergenceError, match="step 4"):
        rd.fit(jnp.ones(2), loss, data, SGD, num_steps=8, key=KEY, carry=jnp.zeros(()))


def test_misfits_are_named():
    quick = lambda loss, carry: rd.fit(jnp.ones(2), loss, [np.zeros(2)], SGD, num_steps=2, key=KEY, carry=carry)
    for call, message in [
        (lambda: fit(windows=13), "num_steps: expected a window of 1 to 12 steps, .* got 13"),
        (lambda: rd.training.Windows((INPUTS, TARGETS[:, :5]), 2), r"data: expected arrays with common leading axes"),
        (lambda: rd.training.Windows((INPUTS,), 2), r"data: expected \(inputs, targets\)"),
        (lambda: rd.training.start_states(make(), 0), "batch_size: expected at least 1"),
        (lambda: quick(lambda w, b, c: jnp.sum(w), 0), r"loss: with carry=, .* to be the pair \(value, carry\)"),
        (lambda: quick(lambda w, b, c: (jnp.sum(w), c + 0.5), 0), "carry: expected the loss to keep its structure"),
        (lambda: quick(lambda w, b, c: (w, c), 0), r"loss: expected .* one floating-point number, got shape \(2,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
