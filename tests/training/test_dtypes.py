"""One promotion rule: weights, inputs and states of any precision meet in the widest, however a network is run."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

tr = rd.training
KEY = jax.random.key(0)
I, H, T = 2, 3, 4  # noqa: E741
SGD = optax.sgd(0.1)
# Half precision has 11 or 8 bits; the recurrence adds a few roundings.
TOLERANCE = {"float16": 5e-3, "bfloat16": 4e-2, "float32": 1e-5, "float64": 1e-10}
RNG = np.random.default_rng(0)
# Numbers that every dtype holds exactly, the integers too.
SERIES = RNG.integers(-2, 3, (T, I))
WEIGHTS = [RNG.integers(-8, 9, shape) / 16 for shape in ((H, I), (H, H), (H,), (I, H), (I,))]


def network(dtype):
    ih, hh, b, out, bias = (jnp.asarray(w, dtype) for w in WEIGHTS)
    readout = eqx.tree_at(lambda r: (r.weight, r.bias), eqx.nn.Linear(H, I, key=KEY), (out, bias))
    return rd.RNN(rd.VanillaCell.from_weights(ih, hh, b), readout)


def outputs(inputs, num_steps=T, feed_back=False, start=None):
    """Plain NumPy in float64."""
    ih, hh, b, out, bias = WEIGHTS
    h, ys, u = np.zeros(H) if start is None else start, [], None
    for t in range(num_steps):
        u = ys[-1] if feed_back and t else np.asarray(inputs[t], float)
        h = np.tanh(ih @ u + hh @ h + b)
        ys.append(out @ h + bias)
    return np.array(ys)


def run_stream(model, x):
    stream = rd.Stream(model)
    return np.stack([np.asarray(stream(u), np.float64) for u in x])


def run_fit(model, x):
    def loss(model, batch):
        return tr.mean_squared_error(model(batch), jnp.zeros((T, I)))

    return rd.fit(model, loss, [x], SGD, num_steps=1, key=KEY, progress=False).history.losses


def run_truncated(model, x):
    loss = tr.truncated_bptt(tr.mean_squared_error)
    batches = tr.Windows((x[None], np.zeros((1, T, I), np.float32)), 2)
    return rd.fit(
        model, loss, batches, SGD, num_steps=1, key=KEY, carry=tr.start_states(model, 1), progress=False
    ).history.losses


def run_bptt(model, x):
    return rd.bptt(model.cell, model.readout, x, np.zeros((T, I), np.float32), lambda y, t: jnp.mean((y - t) ** 2)).loss


def run_forcing(model, x):
    zeros = np.zeros((T, I), np.float32)
    return tr.generalized_teacher_forcing(model, zeros, 0.0, inputs=x)


FUNCTIONS = {
    "call": (lambda m, x: m(x), lambda x: outputs(x)),
    "fit": (run_fit, lambda x: [np.mean(outputs(x) ** 2)]),
    "truncated": (run_truncated, lambda x: [np.mean(outputs(x)[:2] ** 2)]),
    "bptt": (run_bptt, lambda x: np.sum(np.mean(outputs(x) ** 2, axis=1))),
    "free": (lambda m, x: tr.scheduled_sampling(m, x, 0.0, key=KEY), lambda x: outputs(x, feed_back=True)),
    "taught": (lambda m, x: tr.scheduled_sampling(m, x, 1.0, key=KEY), lambda x: outputs(x)),
    "forcing": (run_forcing, lambda x: outputs(x)),
    "stream": (run_stream, lambda x: outputs(x)),
    "generate": (lambda m, x: m.generate(x[0], T, feed_back=lambda y: y), lambda x: outputs(x, feed_back=True)),
}
WEIGHT_DTYPES = ("float16", "bfloat16", "float32", "float64")
INPUT_DTYPES = (*WEIGHT_DTYPES, "int32")


SOME = [*zip(WEIGHT_DTYPES, ("float64", "float16", "int32", "bfloat16")), ("float64", "float32")]
"""Each dtype once for the weights and once for the inputs, never the same for both. Every pair is a compilation."""


@pytest.mark.parametrize(
    "pairs", [SOME, pytest.param([*itertools.product(WEIGHT_DTYPES, INPUT_DTYPES)], marks=pytest.mark.slow)], ids=len
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_way_to_run_a_network_takes_every_dtype(x64, name, pairs):
    run, reference = FUNCTIONS[name]
    if pairs is SOME and name in ("fit", "truncated"):
        pairs = SOME[::2]  # a whole training step for each
    with jax.disable_jit(name in ("call", "taught", "free", "forcing", "generate")):
        for weight_dtype, input_dtype in pairs:
            model, x = network(weight_dtype), jnp.asarray(SERIES, input_dtype)
            found = np.asarray(run(model, x), np.float64)
            narrowest = max(TOLERANCE[weight_dtype], TOLERANCE.get(input_dtype, 0))
            np.testing.assert_allclose(
                found, reference(SERIES), rtol=narrowest, atol=narrowest, err_msg=f"{weight_dtype} {input_dtype}"
            )


def test_tokens_out_of_range_are_errors_and_nan_where_traced():
    model = rd.TokenRNN(rd.OneHot(I), network("float32"))
    loss = tr.over_trials(tr.softmax_cross_entropy)
    good, bad = np.array([[0, 1, 1]]), np.array([[0, 7, 1]])
    for call, message in [
        (lambda: model(bad[0]), r"tokens\[1\]: expected numbers from 0 to 1, got 7"),
        (lambda: model(np.array([0, -100])), r"tokens\[1\]: .* got -100"),
        (lambda: rd.Stream(model)(5), "tokens: expected numbers from 0 to 1, got 5"),
        (lambda: model.step(model.start(), 2), "tokens: expected numbers from 0 to 1, got 2"),
        (lambda: model.step(model.start(), 1.0), "token: expected one integer, got float32"),
        (lambda: loss(model, (bad, good)), r"tokens\[0, 1\]: .* got 7"),
        (lambda: loss(model, (good, bad)), r"targets\[0, 1\]: .* got 7"),
        (lambda: tr.softmax_cross_entropy(np.zeros((3, I)), bad[0]), r"targets\[1\]: .* got 7"),
        (lambda: tr.accuracy(np.zeros((3, I)), -bad[0]), r"targets\[1\]: .* got -7"),
        (lambda: tr.scheduled_sampling(model, bad[0], 0.5, key=KEY, feed_back=jnp.argmax), r"tokens\[1\]"),
        (lambda: tr.scheduled_sampling(model, good[0], 0.5, key=KEY), "feed_back: this model reads tokens"),
        (
            lambda: tr.scheduled_sampling(rd.TokenRNN(rd.OneHot(I), two_ways()), good[0], 0.5, key=KEY),
            "model: expected one",
        ),
        (lambda: rd.Stream(rd.TokenRNN(rd.OneHot(I), two_ways())), "model: start goes forwards in time"),
        (
            lambda: rd.generate(rd.TokenRNN(rd.OneHot(2), two_ways(), rd.Vocabulary("ab")), "a", 1, temperature=0),
            "model: ",
        ),
        (lambda: rd.TokenRNN(rd.OneHot(I), two_ways())(good[0], network("float32").start()), "state: a Bidirectional"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    # Traced, they cannot be looked at: NaN, and not the value of another token.
    traced = jax.jit(lambda tokens: model(tokens))(bad[0])
    assert np.isfinite(traced[0]).all()
    assert np.isnan(traced[1:]).all()
    assert np.isnan(jax.jit(lambda y: tr.softmax_cross_entropy(jnp.zeros((3, I)), y))(bad[0]))
    np.testing.assert_allclose(
        jax.jit(lambda y: tr.softmax_cross_entropy(jnp.zeros((3, I)), y))(good[0]), np.log(2), rtol=1e-6
    )
    np.testing.assert_array_equal(jax.jit(lambda t: model(t))(good[0]), model(good[0]))


def two_ways():
    cell = network("float32").cell
    return rd.BidirectionalRNN(cell, cell, eqx.nn.Linear(2 * H, I, key=KEY))


def test_a_divergence_that_is_in_the_tokens_says_so():
    model = rd.TokenRNN(rd.OneHot(I), network("float32"))
    batches = [(np.array([[0, 1]]), np.array([[1, 0]])), (np.array([[0, 1]]), np.array([[1, 3]]))]
    with pytest.raises(tr.DivergenceError, match=r"step 2 .* because of the data: batch: targets\[0, 1\]: .* got 3"):
        rd.fit(model, tr.over_trials(tr.softmax_cross_entropy), batches, SGD, num_steps=3, key=KEY, progress=False)


def test_token_metrics_are_the_counts_written_out():
    logits, classes = RNG.normal(size=(2, 5, 3)), RNG.integers(0, 3, (2, 5))
    mask = np.array([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0]])
    hits = (logits.argmax(-1) == classes) * mask
    identity = lambda x: x
    batch = tr.Batch(logits.astype(np.float32), classes, counts=mask)
    np.testing.assert_allclose(tr.over_steps(tr.accuracy)(identity, batch), hits.sum() / mask.sum(), rtol=1e-6)
    np.testing.assert_allclose(tr.over_steps(tr.error_rate)(identity, batch), 1 - hits.sum() / mask.sum(), rtol=1e-5)
    by_trial = (hits.sum(1) / mask.sum(1)).mean()
    np.testing.assert_allclose(tr.over_trials(tr.accuracy)(identity, batch), by_trial, rtol=1e-6)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = -np.log(np.take_along_axis(p, classes[..., None], -1)[..., 0])
    expected = np.exp((nats * mask).sum() / mask.sum())
    metric = tr.perplexity(tr.over_steps(tr.softmax_cross_entropy))
    np.testing.assert_allclose(metric(identity, batch), expected, rtol=1e-5)
    ignored = tr.Batch(batch.inputs, np.where(mask, classes, -1))
    metric = tr.perplexity(tr.over_steps(tr.softmax_cross_entropy, ignore_index=-1))
    np.testing.assert_allclose(metric(identity, ignored), expected, rtol=1e-5)
