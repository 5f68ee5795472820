"""Losses against sums written out, their values where nothing is known, and what a mask must keep out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnndyn.training import mean_squared_error, over_trials, sigmoid_cross_entropy, softmax_cross_entropy

RNG = np.random.default_rng(0)
OUTPUTS = RNG.normal(size=(6, 3))
PROBABILITIES = RNG.dirichlet(np.ones(3), size=6)
MASK = np.array([1, 0, 2, 1, 0, 0.5])
LOSSES = [mean_squared_error, softmax_cross_entropy, sigmoid_cross_entropy]


def step_loss(loss, output, target):
    if loss is mean_squared_error:
        return sum((y - z) ** 2 for y, z in zip(output, target)) / len(output)
    if loss is softmax_cross_entropy:
        total = sum(math.exp(z) for z in output)
        return -sum(y * math.log(math.exp(z) / total) for z, y in zip(output, target))
    sigmoid = [1 / (1 + math.exp(-z)) for z in output]
    nats = [-y * math.log(s) - (1 - y) * math.log(1 - s) for s, y in zip(sigmoid, target)]
    return sum(nats) / len(nats)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mask", [None, MASK, MASK > 0])
def test_equals_the_sum_written_out(x64, loss, mask):
    weights = np.ones(6) if mask is None else np.asarray(mask, float)
    steps = [step_loss(loss, z, y) for z, y in zip(OUTPUTS, PROBABILITIES)]
    expected = sum(w * s for w, s in zip(weights, steps)) / weights.sum()
    # Rounding of a few float64 sums.
    np.testing.assert_allclose(loss(OUTPUTS, PROBABILITIES, mask), expected, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
def test_steps_that_do_not_count_reach_neither_loss_nor_gradient(loss):
    hidden = MASK[:, None] == 0
    outputs, targets = np.where(hidden, np.inf, OUTPUTS), np.where(hidden, np.nan, PROBABILITIES)
    clean = jax.value_and_grad(loss)(OUTPUTS, PROBABILITIES, MASK)
    dirty = jax.value_and_grad(loss)(outputs, targets, MASK)
    assert np.array_equal(clean[0], dirty[0])
    assert np.array_equal(clean[1], dirty[1])
    assert (np.asarray(dirty[1])[hidden[:, 0]] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_counting_step_gives_zero_with_a_finite_gradient(loss):
    value, gradient = jax.value_and_grad(loss)(OUTPUTS, PROBABILITIES, np.zeros(6))
    assert value == 0
    assert (np.asarray(gradient) == 0).all()


def test_outputs_that_know_nothing_have_the_entropy_of_the_classes(x64):
    targets = np.eye(3)[[0, 1, 2, 0, 0, 1]]
    # Rounding in float64.
    np.testing.assert_allclose(softmax_cross_entropy(np.full((6, 3), 7.0), targets), math.log(3), rtol=1e-14)
    np.testing.assert_allclose(sigmoid_cross_entropy(np.zeros((6, 3)), targets), math.log(2), rtol=1e-14)


def test_class_numbers_equal_one_hot_targets():
    classes = np.array([0, 1, 2, 0, 0, 1])
    one_hot = np.eye(3, dtype=np.float32)[classes]
    assert softmax_cross_entropy(OUTPUTS, classes, MASK) == softmax_cross_entropy(OUTPUTS, one_hot, MASK)


@pytest.mark.parametrize("loss", [softmax_cross_entropy, sigmoid_cross_entropy])
def test_extreme_logits_stay_finite(loss):
    outputs = np.array([[1e4, -1e4]], np.float32)
    value, gradient = jax.value_and_grad(loss)(outputs, np.array([[0.0, 1.0]], np.float32))
    # Wrong by 1e4 nats in each binary answer (their mean), and by 2e4 in the difference of two logits.
    assert value == (2e4 if loss is softmax_cross_entropy else 1e4)
    assert np.isfinite(gradient).all()


def test_over_trials_is_the_mean_over_trials():
    inputs = RNG.normal(size=(4, 6, 3)).astype(np.float32)
    targets = RNG.normal(size=(4, 6, 3)).astype(np.float32)
    mask = RNG.integers(0, 2, size=(4, 6))
    model = lambda x: 2 * x
    trials = [float(mean_squared_error(2 * x, y, m)) for x, y, m in zip(inputs, targets, mask)]
    # float32 rounding.
    np.testing.assert_allclose(
        over_trials(mean_squared_error)(model, (inputs, targets, mask)), np.mean(trials), rtol=1e-6
    )
    unmasked = over_trials(mean_squared_error)(model, (inputs, targets))
    np.testing.assert_allclose(unmasked, np.mean((2 * inputs - targets) ** 2), rtol=1e-6)


def test_equal_losses_share_a_compilation():
    assert over_trials(mean_squared_error) == over_trials(mean_squared_error)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("outputs", "targets", "mask", "message"),
    [
        (np.ones((6, 3)), np.ones((5, 3)), None, r"targets: expected the shape \(6, 3\) .* got \(5, 3\)"),
        (np.ones((6, 3)), np.ones((6, 3)), np.ones(5), r"mask: expected one entry per step, shape \(6,\), got \(5,\)"),
        (np.ones((6, 3)), np.ones((6, 3)), np.ones((6, 1)), "mask: expected one entry per step"),
        (np.ones((2, 6, 3)), np.ones((2, 6, 3)), None, r"outputs: expected one trial of shape \(T, O\)"),
        (np.ones((0, 3)), np.ones((0, 3)), None, "outputs: expected at least one step"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(loss, outputs, targets, mask, message):
    with pytest.raises(ValueError, match=message):
        loss(outputs, targets, mask)


def test_class_numbers_must_be_integers():
    with pytest.raises(ValueError, match=r"targets: class numbers of shape \(T,\) must be integers"):
        softmax_cross_entropy(jnp.ones((6, 3)), jnp.ones(6))


def test_batches_need_inputs_and_targets():
    with pytest.raises(ValueError, match=r"batch: expected \(inputs, targets\)"):
        over_trials(mean_squared_error)(lambda x: x, (np.ones((2, 6, 3)),))
