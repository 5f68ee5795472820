"""Padded batches are their sequences one by one: losses and gradients, for every model, direction, loss and window."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

tr = rd.training
KEY = jax.random.key(0)
I, H, O = 2, 3, 2  # noqa: E741
LENGTHS = (6, 3, 1)
T = 8
SGD = optax.sgd(0.1)
RNG = np.random.default_rng(0)
# In float64, so that 1e-10 is far above rounding and far below anything that padding could do.
pytestmark = pytest.mark.usefixtures("x64")
INPUTS = [RNG.normal(size=(length, I)) for length in LENGTHS]
TARGETS = [RNG.normal(size=(length, O)) for length in LENGTHS]
CLASSES = [RNG.integers(0, O, length) for length in LENGTHS]
TOKENS = [RNG.integers(0, I, length) for length in LENGTHS]
COUNTS = [np.array([1.0, 0, 2, 1, 0, 1]), np.array([0, 1.0, 1]), np.array([0.0])]
LINEAR = eqx.nn.Linear(H, O, key=KEY)
BOTH = eqx.nn.Linear(2 * H, O, key=KEY)
CELLS = {
    "vanilla": rd.VanillaCell,
    "leaky": rd.LeakyCell,
    "lstm": rd.LSTMCell,
    "gru": rd.GRUCell,
    "chaos free": rd.ChaosFreeCell,
    "piecewise linear": rd.PiecewiseLinearCell,
}


def double(model):
    """The model in float64."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float) if eqx.is_inexact_array(leaf) else leaf, model)


def stacked(key):
    return rd.StackedRNN([rd.VanillaCell(I, H, key=key), rd.GRUCell(H, H, key=key)], LINEAR, learn_initial_state=True)


def bidirectional(key, forwards=rd.LSTMCell, backwards=rd.GRUCell):
    return rd.BidirectionalRNN(forwards(I, H, key=key), backwards(I, H, key=key), BOTH, learn_initial_state=True)


def both_ways(key):
    """Cells that compile fast, in a model that meets the padding first."""
    return bidirectional(key, rd.VanillaCell, rd.VanillaCell)


class Foreign(eqx.Module):
    """A model of somebody else that looks at the whole sequence: the mean of what exists."""

    weight: jax.Array

    def __call__(self, inputs, mask=None):
        weights = jnp.ones(len(inputs)) if mask is None else mask.astype(float)
        return inputs @ self.weight + (weights @ inputs) / weights.sum()


MODELS = {
    **{name: lambda key, cell=cell: rd.RNN(cell(I, H, key=key), LINEAR) for name, cell in CELLS.items()},
    "stacked": stacked,
    "bidirectional": bidirectional,
    "foreign": lambda key: Foreign(jax.random.normal(key, (I, O))),
}


def padded(rows, filling):
    """With `filling` where there is nothing; NaN must do."""
    out = np.full((len(rows), T, *rows[0].shape[1:]), filling, rows[0].dtype)
    for row, values in zip(out, rows):
        row[: len(values)] = values
    return out


EXISTS = np.arange(T) < np.array(LENGTHS)[:, None]


def assert_close(found, expected):
    leaves = [jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in (found, expected)]
    assert len(leaves[0]) == len(leaves[1])
    for a, b in zip(*leaves):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


@eqx.filter_jit
def value_and_grad(loss, model, batch):
    return eqx.filter_value_and_grad(loss)(model, batch)


def reference(model, trial_loss, inputs, targets, counts=None, by_step=False):
    """The mean over the sequences, each run by itself without any padding, of those that count somewhere."""
    weights = [float(len(inputs[b]) if counts is None else counts[b].sum()) for b in range(len(inputs))]
    shares = [weight if by_step else float(weight > 0) for weight in weights]

    def mean(m):
        trials = [
            share * trial_loss(m(jnp.asarray(inputs[b])), targets[b], *(() if counts is None else (counts[b],)))
            for b, share in enumerate(shares)
            if share
        ]
        return sum(trials) / sum(shares)

    # One program for all of them: taken apart, each operation on each length would be compiled by itself.
    return eqx.filter_jit(eqx.filter_value_and_grad(mean))(model)


@pytest.mark.parametrize("name", MODELS)
def test_padding_is_nothing_to_any_model(name):
    model = double(MODELS[name](KEY))
    batch = tr.Batch(padded(INPUTS, np.nan), padded(TARGETS, np.nan), exists=EXISTS)
    found = value_and_grad(tr.over_trials(tr.mean_squared_error), model, batch)
    assert_close(found, reference(model, tr.mean_squared_error, INPUTS, TARGETS))


LOSSES = {
    "mse": (tr.mean_squared_error, TARGETS),
    "sigmoid": (tr.sigmoid_cross_entropy, [1 / (1 + np.exp(-y)) for y in TARGETS]),
    "softmax": (tr.softmax_cross_entropy, [np.exp(y) / np.exp(y).sum(1, keepdims=True) for y in TARGETS]),
    "classes": (tr.softmax_cross_entropy, CLASSES),
}


@pytest.fixture(scope="module")
def of_each_loss():
    """What `reference` gives for each loss, by trials and by steps. What takes long to compile, the model on each
    length and back, stands in one program for all of them."""

    @jax.jit
    def all_of_them(weights):
        outputs, pull = jax.vjp(lambda w: [eqx.combine(w, rest)(jnp.asarray(row)) for row in INPUTS], weights)
        values, slopes = {}, {}
        for name, (trial_loss, rows) in LOSSES.items():
            for over, shares in (
                (tr.over_trials, [float(counts.any()) for counts in COUNTS]),
                (tr.over_steps, [counts.sum() for counts in COUNTS]),
            ):

                def mean(outputs, trial_loss=trial_loss, rows=rows, shares=shares):
                    counting = [trial for trial in zip(shares, outputs, rows, COUNTS) if trial[0]]
                    return sum(share * trial_loss(*trial) for share, *trial in counting) / sum(shares)

                values[name, over], slopes[name, over] = jax.value_and_grad(mean)(outputs)
        (gradients,) = jax.vmap(pull)(jax.tree.map(lambda *each: jnp.stack(each), *slopes.values()))
        return list(values.values()), gradients

    with jax.enable_x64(True):
        weights, rest = eqx.partition(double(both_ways(KEY)), eqx.is_inexact_array)
        values, gradients = all_of_them(weights)
        cases = [(name, over) for name in LOSSES for over in (tr.over_trials, tr.over_steps)]
        return {case: (values[i], jax.tree.map(lambda leaf, i=i: leaf[i], gradients)) for i, case in enumerate(cases)}


@pytest.mark.parametrize("over", [tr.over_trials, tr.over_steps])
@pytest.mark.parametrize("name", LOSSES)
def test_padding_is_nothing_to_any_loss(name, over, of_each_loss):
    trial_loss, rows = LOSSES[name]
    model = double(both_ways(KEY))
    # What does not exist is told apart from what does not count: the last trial exists, and counts nowhere.
    filling = -100 if name == "classes" else np.nan
    batch = tr.Batch(padded(INPUTS, np.nan), padded(rows, filling), padded(COUNTS, np.nan), EXISTS)
    found = value_and_grad(over(trial_loss), model, batch)
    assert_close(found, of_each_loss[name, over])


def test_tokens_in_the_padding_may_be_any_numbers():
    embedding = eqx.nn.Embedding(I, I, key=KEY)
    for network in (both_ways(KEY), MODELS["vanilla"](KEY)):
        model = double(rd.TokenRNN(embedding, network))
        batch = tr.Batch(padded(TOKENS, -7), padded(CLASSES, 99), exists=EXISTS)
        found = value_and_grad(tr.over_steps(tr.softmax_cross_entropy), model, batch)
        assert_close(found, reference(model, tr.softmax_cross_entropy, TOKENS, CLASSES, by_step=True))


def test_ignored_classes_count_nowhere():
    model = double(MODELS["vanilla"](KEY))
    marked = [np.where(counts == 0, -100, row) for counts, row in zip(COUNTS, CLASSES)]
    weights = [(counts > 0).astype(float) for counts in COUNTS]
    batch = tr.pad_batch(INPUTS, marked, num_steps=T)
    for by_step, over in ((False, tr.over_trials), (True, tr.over_steps)):
        expected = reference(model, tr.softmax_cross_entropy, INPUTS, CLASSES, weights, by_step)
        assert_close(value_and_grad(over(tr.softmax_cross_entropy, ignore_index=-100), model, batch), expected)


def test_windows_hold_the_state_where_a_sequence_has_ended():
    # Windows of 4 steps: the lengths 6, 3 and 1 end in the second and the first.
    model = double(rd.RNN(rd.LSTMCell(I, H, key=KEY), LINEAR, learn_initial_state=True))
    windows = tr.Windows(tr.Batch(padded(INPUTS, np.nan), padded(TARGETS, np.nan), exists=EXISTS), 4)
    loss = tr.truncated_bptt(tr.mean_squared_error)
    states = tr.start_states(model, 3)
    first, second = list(windows)
    (value, states), gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))(model, first, states)
    cut = [row[:4] for row in INPUTS], [row[:4] for row in TARGETS]
    assert_close((value, gradient), reference(model, tr.mean_squared_error, *cut))
    for b in range(3):
        ends = jax.tree.map(lambda leaf: leaf[-1], model.states(cut[0][b]))
        assert_close(jax.tree.map(lambda leaf, b=b: leaf[b], states), ends)
    # In the second window only the first sequence goes on, and it alone is the mean.
    (value, after), gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss, has_aux=True))(model, second, states)
    carried = jax.tree.map(lambda leaf: leaf[0], states)
    rest = lambda m: tr.mean_squared_error(jax.vmap(m.read)(m.states(INPUTS[0][4:], carried)), TARGETS[0][4:])
    alone = eqx.filter_jit(eqx.filter_value_and_grad(rest))(model)
    np.testing.assert_allclose(value, alone[0], rtol=1e-10)
    np.testing.assert_allclose(gradient.cell.weight_hh, alone[1].cell.weight_hh, rtol=1e-10, atol=1e-10)
    assert_close(jax.tree.map(lambda leaf: leaf[1:], after), jax.tree.map(lambda leaf: leaf[1:], states))


def test_fit_ensemble_and_validation_see_what_exists():
    model = double(both_ways(KEY))
    batch = tr.Batch(padded(INPUTS, np.nan), padded(TARGETS, np.nan), exists=EXISTS)
    loss = tr.over_trials(tr.mean_squared_error)
    options = {"num_steps": 2, "key": KEY, "validation": batch, "validate_every": 1, "progress": False}
    value, gradient = reference(model, tr.mean_squared_error, INPUTS, TARGETS)
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    moved = eqx.apply_updates(model, jax.tree.map(lambda g: -0.1 * g, gradient))
    second, _ = reference(moved, tr.mean_squared_error, INPUTS, TARGETS)
    alone = rd.fit(model, loss, [batch], SGD, **options).history
    models = jax.tree.map(lambda leaf: jnp.stack([leaf] * 2) if eqx.is_array(leaf) else leaf, model)
    member = rd.fit_ensemble(models, loss, [batch], SGD, **options).histories[1]
    for history in (alone, member):
        # The history is kept in float32.
        np.testing.assert_allclose(history.losses, [value, second], rtol=1e-6)
        np.testing.assert_allclose(history.grad_norms[0], norm, rtol=1e-6)
        np.testing.assert_allclose(history.validation_losses[:2], [value, second], rtol=1e-6)


def test_sampling_and_forcing_hold_the_state_in_the_padding():
    model = double(rd.RNN(rd.GRUCell(O, H, key=KEY), LINEAR))
    series = padded(TARGETS, np.nan)[1]
    run = lambda m, x, **options: tr.scheduled_sampling(m, x, 0.5, key=KEY, **options)
    forced = lambda m, x, u, **options: tr.generalized_teacher_forcing(m, x, 0.3, inputs=u, **options)
    for call, options in ((run, {}), (forced, {"u": 1})):
        inputs = lambda x, options=options: {"x": x, **({"u": x} if options else {})}
        loss = lambda m, x, call=call, inputs=inputs, **mask: jnp.sum(call(m, **inputs(x), **mask)[:3] ** 2)
        gradient = lambda of: eqx.filter_jit(eqx.filter_value_and_grad(of))(model)
        found = gradient(lambda m, loss=loss: loss(m, series, mask=EXISTS[1]))
        wild = np.where(EXISTS[1][:, None], series, 7.0)
        # Steps forwards in time do not see what comes after them, so without a mask it is the same.
        assert_close(found, gradient(lambda m, loss=loss, wild=wild: loss(m, wild)))


def test_buckets_show_every_trial_once_an_epoch_with_little_padding():
    rng = np.random.default_rng(1)
    inputs = [np.full((n, 1), i, np.float32) for i, n in enumerate(rng.integers(1, 21, 40))]
    buckets = tr.Buckets(inputs, inputs, 4, lengths=[5, 10, 20], key=KEY)
    batches = iter(buckets)
    first, second = [[next(batches) for _ in range(10)] for _ in range(2)]
    for epoch in (first, second):
        shown = sorted(int(row[0, 0]) for batch in epoch for row in batch.inputs)
        assert shown == list(range(40))
        assert {batch.inputs.shape[1] for batch in epoch} <= {5, 10, 20}
        for batch in epoch:
            for row, exists in zip(batch.inputs, batch.exists):
                np.testing.assert_array_equal(row[exists], inputs[int(row[0, 0])])
    assert [b.inputs[0, 0, 0] for b in first] != [b.inputs[0, 0, 0] for b in second]
    again = iter(buckets)
    assert all(np.array_equal(next(again).inputs, batch.inputs) for batch in first)


def test_fit_takes_buckets(tmp_path):
    # The loss of a batch is the mean of its trials, whatever its shape: a plain loop gives the same.
    rows = [np.full((n, 1), n, np.float32) for n in (2, 3, 2, 5, 5, 3, 2, 5)]
    buckets = tr.Buckets(rows, rows, 2, lengths=[2, 3, 5], key=KEY)
    loss = lambda w, batch: jnp.sum(jnp.where(batch.exists[..., None], (w - batch.inputs) ** 2, 0)) / batch.exists.sum()
    fit = lambda steps, **options: rd.fit(
        jnp.zeros(()), loss, buckets, SGD, num_steps=steps, key=KEY, progress=False, **options
    )
    w, expected = 0.0, []
    for batch, _ in zip(buckets, range(9)):
        values = batch.inputs[batch.exists]
        expected.append(np.mean((w - values) ** 2))
        w -= 0.2 * np.mean(w - values)
    np.testing.assert_allclose(fit(9).history.losses, expected, rtol=1e-5)  # float32
    fit(5, checkpoint=tmp_path / "run")
    resumed = fit(9, checkpoint=tmp_path / "run", resume=True)
    assert np.array_equal(resumed.history.losses, fit(9).history.losses)


def test_what_is_refused():
    mse, model = tr.over_trials(tr.mean_squared_error), MODELS["gru"](KEY)
    x, y = np.zeros((2, 4, I), np.float32), np.zeros((2, 4, O), np.float32)
    mask = np.ones((2, 4), bool)
    for call, message in [
        (lambda: mse(model, (x, y, mask)), "batch: the third entry has no name"),
        (lambda: tr.Windows((x, y, mask), 2), "batch: the third entry has no name"),
        (lambda: mse(lambda x: x, tr.Batch(x, y, exists=mask)), "model: .*takes no mask"),
        (lambda: mse(model, tr.Batch(x, y, exists=mask.astype(float))), "batch: expected exists to be booleans"),
        (lambda: mse(model, tr.Batch(x, y, counts=mask[:, :3])), r"batch: expected counts .* \(2, 4\), got \(2, 3\)"),
        (lambda: mse(model, (INPUTS, TARGETS)), "batch: inputs is a list of 3 trials"),
        (lambda: tr.pad_batch(INPUTS, TARGETS[:2]), "targets: expected 3 sequences"),
        (lambda: tr.pad_batch(INPUTS, [*TARGETS[:2], TARGETS[0]]), r"targets\[2\]: expected 1 steps"),
        (lambda: tr.pad_sequences([[[1, 2], [3]]]), r"sequences\[0\]: expected one array"),
        (lambda: tr.Buckets(INPUTS, TARGETS, 4, key=KEY), "batch_size: expected 1 to 3"),
        (lambda: tr.Buckets(INPUTS, TARGETS, 2, lengths=[4], key=KEY), "lengths: .* at least 6"),
        (lambda: tr.Minibatches((INPUTS, TARGETS), 2, key=KEY), "data: expected .*Buckets"),
        (lambda: tr.start_states(bidirectional(KEY), 2), "model: expected one that runs forwards"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
