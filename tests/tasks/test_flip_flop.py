"""The flip-flop task: targets against a loop with memory, and the statistics of its pulses."""

import jax
import numpy as np
import pytest

import rnndyn as rd

OPTIONS = {"num_bits": 3, "num_steps": 50, "pulse_probability": 0.15}


def held_bits(inputs):
    memory, targets = [0.0] * len(inputs[0]), []
    for row in inputs.tolist():
        memory = [pulse if pulse != 0 else bit for pulse, bit in zip(row, memory)]
        targets.append(memory)
    return targets


def test_targets_are_the_last_pulses():
    batch = rd.tasks.batches(rd.tasks.flip_flop, 400, **OPTIONS)(jax.random.key(0))
    for inputs, targets in zip(np.asarray(batch.inputs), np.asarray(batch.targets)):
        assert targets.tolist() == held_bits(inputs)


def test_every_step_counts_and_inputs_are_pulses():
    trial = rd.tasks.flip_flop(key=jax.random.key(0), **OPTIONS)
    assert trial.inputs.shape == trial.targets.shape == (50, 3)
    assert trial.mask.tolist() == [1.0] * 50
    assert set(np.unique(trial.inputs)) == {-1.0, 0.0, 1.0}


def test_pulses_have_the_asked_probability_and_are_independent():
    batch = rd.tasks.batches(rd.tasks.flip_flop, 400, **OPTIONS)(jax.random.key(1))
    inputs = np.asarray(batch.inputs, float)
    pulsed, count = inputs != 0, inputs.size
    # Five binomial standard errors: a right generator fails once in two million seeds.
    assert abs(pulsed.mean() - 0.15) < 5 * np.sqrt(0.15 * 0.85 / count)
    assert abs((inputs[pulsed] > 0).mean() - 0.5) < 5 * np.sqrt(0.25 / pulsed.sum())
    bits = inputs.reshape(-1, 3)
    correlations = np.corrcoef(np.hstack([bits[1:], bits[:-1]]).T) - np.eye(6)
    assert np.abs(correlations).max() < 5 / np.sqrt(len(bits))


@pytest.mark.parametrize(("probability", "num_pulses"), [(0.0, 0), (1.0, 150)])
def test_extreme_probabilities(probability, num_pulses):
    trial = rd.tasks.flip_flop(key=jax.random.key(0), num_steps=50, pulse_probability=probability)
    assert np.count_nonzero(trial.inputs) == num_pulses
    # Without a pulse there is nothing to hold, and with one at every step the targets repeat the inputs.
    assert np.array_equal(trial.targets, trial.inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_bits": 0}, "num_bits: expected at least 1, got 0"),
        ({"num_steps": 0}, "num_steps: expected at least 1, got 0"),
        ({"pulse_probability": 1.5}, "pulse_probability: expected a probability between 0 and 1, got 1.5"),
        ({"pulse_probability": -0.1}, "pulse_probability: expected a probability"),
        ({"pulse_probability": float("nan")}, "pulse_probability: expected a probability"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        rd.tasks.flip_flop(key=jax.random.key(0), **options)
