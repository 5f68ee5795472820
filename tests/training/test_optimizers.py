"""Optimisers, what is trained, norms, keys, callbacks and mixed precision: against closed forms and plain loops."""

import gc
import weakref

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd
from rnndyn.training._norm import clip, scaled_norm

tr = rd.training
KEY = jax.random.key(0)
ZERO = [np.zeros(2, np.float32)]
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, seconds, **_: compilations.append(name) if name.endswith("backend_compile_duration") else None
)


def distance(w, batch):
    return 0.5 * sum(jnp.sum((leaf - jnp.mean(batch)) ** 2) for leaf in jax.tree.leaves(w))


def fit(model=None, optimizer=None, loss=distance, batches=ZERO, num_steps=3, **options):
    model = {"a": jnp.ones(2), "b": jnp.ones(2)} if model is None else model
    options = {"key": KEY, "progress": False, **options}
    return rd.fit(
        model, loss, batches, optax.sgd(0.1) if optimizer is None else optimizer, num_steps=num_steps, **options
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: optax.adam(1e-2),
        lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(1e-2, 9))),
    ],
    ids=["adam", "chain"],
)
def test_fresh_optimizers_of_one_kind_share_a_compilation_and_are_let_go(make):
    fit(optimizer=make())
    before, alive = len(compilations), []
    for _ in range(40):
        optimizer = make()
        alive.append(weakref.ref(optimizer.update))
        fit(optimizer=optimizer)
        del optimizer
    assert len(compilations) == before
    gc.collect()
    assert sum(ref() is not None for ref in alive) == 0


def test_optimizers_that_differ_in_the_last_bit_are_not_one():
    # A rate of 1/2 and a bit gives another number at once.
    rates = [0.5, float(np.nextafter(np.float32(0.5), np.float32(1)))]
    first, second = (float(fit(optimizer=optax.sgd(rate), num_steps=1).model["a"][0]) for rate in rates)
    assert first == float(np.float32(1) - np.float32(rates[0]))
    assert second == float(np.float32(1) - np.float32(rates[1]))
    assert first != second
    table = lambda last: optax.sgd(lambda count: jnp.asarray([0.5] * 2000 + [last])[count + 1999])
    # Long constants, which print in short, differ in the middle only.
    assert float(fit(optimizer=table(0.1), num_steps=2).model["a"][0]) == pytest.approx(0.5 * 0.9, rel=1e-6)
    assert float(fit(optimizer=table(0.2), num_steps=2).model["a"][0]) == pytest.approx(0.5 * 0.8, rel=1e-6)


def test_many_updates_in_one_and_line_searches():
    # Two gradients are averaged before they are used: after 4 steps 2 updates of 0.9 have been made.
    assert float(fit(optimizer=optax.MultiSteps(optax.sgd(0.1), 2), num_steps=4).model["a"][0]) == pytest.approx(0.81)
    # A quadratic with curvatures 1 and 100: L-BFGS is at its minimum after a few steps, gradient descent far from it.
    quadratic = lambda w, batch: 0.5 * (w[0] ** 2 + 100 * w[1] ** 2) + jnp.sum(batch)
    found = fit(jnp.ones(2), optax.lbfgs(), quadratic, num_steps=8).model
    assert np.abs(found).max() < 1e-3


def test_labels_say_whose_optimiser_trains_what():
    model = rd.RNN(rd.VanillaCell(1, 2, key=KEY), eqx.nn.Linear(2, 1, key=KEY))
    ones = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if eqx.is_inexact_array(leaf) else leaf, model)
    loss = lambda model, batch: distance(eqx.filter(model, eqx.is_inexact_array), batch)
    slow = jax.tree.map(lambda _: "slow", ones)
    labels = eqx.tree_at(lambda m: (m.readout, m.cell.bias), slow, ("fast", "frozen"))
    both = {"slow": optax.sgd(0.1), "fast": optax.sgd(0.5)}
    found = fit(ones, both, loss, num_steps=2, trainable=labels).model
    np.testing.assert_allclose(found.cell.weight_hh, 0.81, rtol=1e-6)
    np.testing.assert_allclose(found.readout.weight, 0.25, rtol=1e-6)
    assert (found.cell.bias == 1).all()
    by_optax = optax.multi_transform(
        {"slow": optax.sgd(0.1), "fast": optax.sgd(0.5)},
        lambda _: eqx.filter(
            eqx.tree_at(
                lambda m: m.cell.bias,
                eqx.tree_at(lambda m: (m.readout.weight, m.readout.bias), slow, ("fast", "fast")),
                "slow",
            ),
            lambda leaf: isinstance(leaf, str),
        ),
    )
    np.testing.assert_allclose(fit(ones, by_optax, loss, num_steps=2).model.readout.weight, 0.25, rtol=1e-6)
    # A tree of booleans freezes what it says, of whatever depth; the norm is that of what is trained.
    only = eqx.tree_at(lambda m: m.readout, jax.tree.map(lambda _: False, ones), True)
    result = fit(ones, None, loss, num_steps=1, trainable=only)
    assert (result.model.cell.weight_hh == 1).all()
    np.testing.assert_allclose(result.model.readout.weight, 0.9, rtol=1e-6)
    np.testing.assert_allclose(result.history.grad_norms, np.sqrt(3), rtol=1e-6)
    matrices = fit(ones, None, loss, num_steps=1, trainable=lambda leaf: leaf.ndim == 2).model
    assert (matrices.cell.bias == 1).all()
    assert (matrices.cell.weight_ih != 1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainable": lambda leaf: False}, "trainable: leaves no floating-point array"),
        ({"trainable": {"a": True}}, "trainable: expected a filter"),
        ({"trainable": {"a": "x", "b": True}}, "trainable: expected booleans or labels, got both"),
        ({"trainable": {"a": "x", "b": "y"}}, r"optimizer: trainable has the labels \['x', 'y'\]; pass a dictionary"),
        (
            {"trainable": {"a": "x", "b": "y"}, "optimizer": {"x": optax.sgd(1.0)}},
            r"no optimiser for the labels \['y'\]",
        ),
        ({"optimizer": {"x": optax.sgd(1.0)}}, "trainable: the optimizer is a dictionary"),
        (
            {"optimizer": optax.multi_transform({"x": optax.sgd(1.0)}, {"a": "x"})},
            "optimizer: it does not fit the model's parameters",
        ),
        ({"precision": "float8"}, "precision: expected 'float16', 'bfloat16'"),
        ({"validation": tr.Minibatches(np.ones((4, 2)), 2, key=KEY)}, "validation: expected a batch"),
        ({"batches": [["a"]]}, "batches: expected arrays of numbers"),
    ],
)
def test_misfits_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        fit(**options)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-4, 470.0, 1e20, 3e38])
def test_the_norm_neither_overflows_nor_vanishes(x64, dtype, size):
    tree = {"a": jnp.full(3, size, dtype), "b": jnp.asarray([[-size]], dtype)}
    entry = float(jnp.asarray(size, dtype))
    norm = scaled_norm(tree)
    # Of four equal entries the norm is twice one of them; the range of the result is that of float32 or wider.
    expected = 2 * entry if 2 * entry < 3.4e38 or dtype == "float64" else np.inf
    np.testing.assert_allclose(float(norm.value), expected, rtol=1e-6)
    if np.isfinite(entry) and entry > 0:
        clipped = clip(tree, norm, 1.0)
        assert clipped["a"].dtype == dtype
        np.testing.assert_allclose(float(clipped["b"][0, 0]), -min(entry, 0.5), rtol=1e-2 if "16" in dtype else 1e-6)


def test_finite_gradients_with_a_large_norm_are_no_divergence():
    slope = np.full(4, 470, np.float16)
    options = {"loss": lambda w, batch: jnp.sum(w * batch), "batches": [slope], "max_grad_norm": 1.0}
    found = fit(jnp.ones(4, jnp.float16), optax.sgd(0.5), num_steps=1, **options)
    np.testing.assert_allclose(found.history.grad_norms, 940, rtol=1e-6)
    np.testing.assert_allclose(found.model, 0.75)
    options["batches"] = [np.full(4, 1e20, np.float32)]
    found = fit(jnp.ones(4), optax.sgd(0.5), num_steps=1, **options)
    np.testing.assert_allclose(found.history.grad_norms, 2e20, rtol=1e-6)
    np.testing.assert_allclose(found.model, 0.75, rtol=1e-6)


def test_nan_in_the_data_is_named_and_nan_of_the_training_is_not_blamed_on_it():
    model = rd.RNN(rd.VanillaCell(1, 2, key=KEY), eqx.nn.Linear(2, 1, key=KEY))
    loss = tr.over_trials(tr.mean_squared_error)
    x, y = np.zeros((2, 4, 1), np.float32), np.zeros((2, 4, 1), np.float32)
    bad = x.copy()
    bad[1, 2, 0] = np.nan
    with pytest.raises(tr.DivergenceError, match=r"step 2 .*: batch.inputs\[1, 2, 0\] is nan \(1 of 8") as caught:
        fit(model, None, loss, [tr.Batch(x, y), tr.Batch(bad, y)])
    assert "max_grad_norm" not in str(caught.value)
    with pytest.raises(ValueError, match=r"validation.inputs\[1, 2, 0\] is nan"):
        fit(model, None, loss, [tr.Batch(x, y)], validation=tr.Batch(bad, y))
    # The NaN is where nothing exists, and the divergence comes from elsewhere.
    explode = lambda model, batch: loss(model, batch) + jnp.log(-jnp.sum(model.readout.bias**2))
    exists = np.arange(4) < np.array([[4], [2]])
    with pytest.raises(tr.DivergenceError, match="max_grad_norm"):
        fit(model, None, explode, [tr.Batch(bad, y, exists=exists)])
    models = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2) if eqx.is_array(leaf) else leaf, model)
    with pytest.raises(tr.EnsembleDivergenceError, match=r"of 1, batch.targets\[1, 2, 0\] is nan"):
        rd.fit_ensemble(models, loss, [tr.Batch(x, bad)], optax.sgd(0.1), num_steps=2, key=KEY, progress=False)


def test_keys_reach_the_loss_and_the_model():
    draws = lambda w, batch, key=None: jnp.sum(w) * 0 + (0.0 if key is None else jax.random.normal(key))
    first, again, other = (
        fit(loss=lambda w, b, key=None: draws(w["a"], b, key), num_steps=400, key=k).history.losses
        for k in (KEY, KEY, jax.random.key(1))
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    # Standard normals, independent from step to step: four standard errors.
    assert abs(first.mean()) < 4 / 20
    assert abs(first.var() - 1) < 4 * np.sqrt(2) / 20
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 4 / 20
    # A cell that is nothing but noise: x' = sqrt(2) sigma eta with alpha = 1, so the mean square is 2 sigma^2.
    cell = rd.LeakyCell.from_weights(
        np.zeros((50, 1)), np.zeros((50, 50)), np.zeros(50), tau=1.0, noise=0.5, activation="identity"
    )
    model = rd.RNN(cell, lambda h: h)
    x, y = np.zeros((4, 20, 1), np.float32), np.zeros((4, 20, 50), np.float32)
    still = optax.sgd(0.0)
    losses = fit(model, still, tr.over_trials(tr.mean_squared_error), [(x, y)], num_steps=2, validation=(x, y)).history
    np.testing.assert_allclose(losses.losses, 0.5, rtol=4 * np.sqrt(2 / 4000))
    assert losses.losses[0] != losses.losses[1]
    # Validation sees the network without noise.
    assert (losses.validation_losses == 0).all()
    windows = tr.Windows((x, y), 10)
    loss, carry = tr.truncated_bptt(tr.mean_squared_error), tr.start_states(model, 4)
    losses = fit(model, still, loss, windows, num_steps=2, carry=carry).history.losses
    np.testing.assert_allclose(losses, 0.5, rtol=4 * np.sqrt(2 / 2000))
    # A network without noise is not asked for any.
    quiet = rd.RNN(rd.GRUCell(1, 2, key=KEY), eqx.nn.Linear(2, 50, key=KEY))
    assert np.isfinite(fit(quiet, None, tr.over_trials(tr.mean_squared_error), [(x, y)]).history.losses).all()


def test_batches_may_hold_keys_and_tensors_of_others():
    class Tensor:
        """What of a PyTorch tensor matters: NumPy may not look at it while it is part of a graph."""

        def __init__(self, values, requires_grad=True):
            self.values, self.requires_grad = values, requires_grad

        def detach(self):
            return Tensor(self.values, False)

        def cpu(self):
            return self

        def __array__(self, dtype=None, copy=None):
            if self.requires_grad:
                raise RuntimeError("Can't call numpy() on Tensor that requires grad.")
            return np.asarray(self.values, dtype)

    loss = lambda w, batch: jnp.sum(w["a"]) * 0 + jnp.sum(batch[0]) + jax.random.normal(batch[1])
    keys = [jax.random.key(3), jax.random.key(4)]
    batches = [[Tensor([1.0, 2.0]), key] for key in keys]
    found = fit(loss=loss, batches=batches, num_steps=4).history.losses
    np.testing.assert_allclose(found, 3 + np.array([jax.random.normal(key) for key in keys] * 2), rtol=1e-6)


def test_a_model_that_was_on_the_host_is_trained_as_before():
    model = rd.RNN(rd.LSTMCell(1, 2, key=KEY), eqx.nn.Linear(2, 1, key=KEY), learn_initial_state=True)
    x, y = np.ones((2, 4, 1), np.float32), np.ones((2, 4, 1), np.float32)
    loss = tr.over_trials(tr.mean_squared_error)
    a, b = (fit(m, None, loss, [(x, y)]).history.losses for m in (model, jax.device_get(model)))
    assert np.array_equal(a, b)
    assert a[-1] < a[0]
    models = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2) if eqx.is_array(leaf) else leaf, model)
    options = {"num_steps": 3, "key": KEY, "progress": False}
    found = rd.fit_ensemble(jax.device_get(models), loss, [(x, y)], optax.sgd(0.1), **options)
    np.testing.assert_allclose(found.histories[1].losses, a, rtol=1e-5)


def test_validation_may_have_fewer_sequences_than_a_window():
    model = rd.RNN(rd.GRUCell(1, 2, key=KEY), eqx.nn.Linear(2, 1, key=KEY))
    x, y = np.ones((3, 4, 1), np.float32), np.zeros((3, 4, 1), np.float32)
    small = next(iter(tr.Windows((x[:1], y[:1]), 4)))
    loss = tr.truncated_bptt(tr.mean_squared_error)
    result = fit(model, None, loss, tr.Windows((x, y), 2), carry=tr.start_states(model, 3), validation=small)
    expected = np.mean(np.asarray(model(x[0])) ** 2)
    np.testing.assert_allclose(result.history.validation_losses[0], expected, rtol=1e-5)


def test_callbacks_see_everything_and_can_stop():
    events = []
    options = {"num_steps": 6, "validation": ZERO[0], "validate_every": 3}
    plain = fit(**options)
    told = fit(callbacks=[events.append], **options)
    assert events[0].kind == "start"
    assert events[-1].kind == "end"
    losses = np.concatenate([event.losses for event in events if event.kind == "steps"], axis=1)[0]
    assert np.array_equal(losses, plain.history.losses)
    assert np.array_equal(losses, told.history.losses)
    validations = [(e.step, e.validation_losses[0]) for e in events if e.kind == "validation"]
    assert [step for step, _ in validations] == [0, 3, 6]
    assert [value for _, value in validations] == plain.history.validation_losses.tolist()
    stopped = fit(callbacks=[lambda event: event.kind == "validation" and event.step == 3], **options)
    assert stopped.history.stopped == "callback"
    assert len(stopped.history.losses) == 3


def test_bfloat16_computes_in_bfloat16_and_keeps_the_weights():
    seen = []

    def loss(w, batch):
        seen.append((w["a"].dtype, batch.dtype))
        return distance(w, batch)

    result = fit(loss=loss, precision="bfloat16", optimizer=optax.sgd(2.0**-12), num_steps=1)
    assert (jnp.bfloat16, jnp.bfloat16) in seen
    # An update of 1/4096 is lost in bfloat16 weights of 1, which have 8 bits.
    np.testing.assert_allclose(result.model["a"], 1 - 2.0**-12, rtol=1e-7)


def test_the_loss_scale_saves_what_underflows_and_backs_off_where_it_overflows():
    # The gradient 2^-26 is below the smallest float16, 2^-24; scaled by 2^15 it is exact.
    options = {"batches": [np.full(1, 2.0**-13, np.float32)], "num_steps": 1, "optimizer": optax.sgd(2.0**20)}
    scaled = lambda w, batch: jnp.sum((w * batch[0]) * jnp.asarray(2.0**-13, w.dtype))
    kept = fit(jnp.ones(1), loss=scaled, precision="float16", **options)
    np.testing.assert_allclose(kept.history.grad_norms, 2.0**-26, rtol=1e-6)
    np.testing.assert_allclose(kept.model, 1 - 2.0**-6, rtol=1e-6)
    unscaled = tr.MixedPrecision("float16", initial_scale=1.0)
    assert fit(jnp.ones(1), loss=scaled, precision=unscaled, **options).history.grad_norms[0] == 0
    # A gradient of 16 times 2^15 overflows (largest 65504): four halvings to 2^11, each a step without update.
    steep = lambda w, batch: jnp.sum(w) * 16 + 0 * jnp.sum(batch)
    result = fit(jnp.zeros(1), loss=steep, precision="float16", optimizer=optax.sgd(1.0), num_steps=7)
    assert np.isinf(result.history.grad_norms).tolist() == [True] * 4 + [False] * 3
    np.testing.assert_allclose(result.model, -48)
    # It grows again: 2^11 and 2 good steps double it, the step after overflows.
    grows = tr.MixedPrecision("float16", initial_scale=2.0**11, growth_every=2)
    result = fit(jnp.zeros(1), loss=steep, precision=grows, optimizer=optax.sgd(1.0), num_steps=6)
    assert np.isinf(result.history.grad_norms).tolist() == [False, False, True, False, False, True]
    # What overflows without any scale is divergence.
    with pytest.raises(tr.DivergenceError):
        fit(
            jnp.zeros(1),
            loss=lambda w, b: jnp.sum(w * 60000) * 4,
            precision="float16",
            optimizer=optax.sgd(1.0),
            num_steps=40,
        )


def test_mixed_precision_trains_a_network_and_resumes_exactly(tmp_path):
    model = rd.RNN(rd.GRUCell(1, 4, key=KEY), eqx.nn.Linear(4, 1, key=KEY))
    x = np.random.default_rng(0).normal(size=(8, 6, 1)).astype(np.float32)
    windows, loss = tr.Windows((x, np.cumsum(x, axis=1)), 3), tr.truncated_bptt(tr.mean_squared_error)
    run = lambda steps, **options: fit(
        model, optax.adam(1e-2), loss, windows, steps, carry=tr.start_states(model, 8), **options
    )
    half = run(60, precision="float16")
    # Rounding to 11 bits moves the losses little.
    np.testing.assert_allclose(half.history.losses, run(60).history.losses, rtol=0.05)
    run(31, precision="float16", checkpoint=tmp_path / "run")
    resumed = run(60, precision="float16", checkpoint=tmp_path / "run", resume=True)
    assert np.array_equal(resumed.history.losses, half.history.losses)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(eqx.filter(resumed.model, eqx.is_inexact_array)))
