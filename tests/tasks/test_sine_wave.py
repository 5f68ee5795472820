"""The sine-wave task: the frequency of the target read off its zero crossings, and from the input level."""

import math

import jax
import numpy as np
import pytest

import rnndyn as rd


def test_input_level_gives_the_target():
    batch = rd.tasks.batches("sine_wave", 200, num_steps=300)(jax.random.key(0))
    levels = np.asarray(batch.inputs, float)[:, :, 0]
    assert (np.ptp(levels, axis=1) == 0).all()
    for level, target in zip(levels[:, 0], np.asarray(batch.targets)[:, :, 0]):
        index = round((level - 0.25) * 51)
        assert 1 <= index <= 51
        frequency = 0.1 + 0.5 * (index - 1) / 50
        # The phase grows to 180, of which float32 keeps 1e-5.
        np.testing.assert_allclose(target, [math.sin(frequency * t) for t in range(300)], atol=1e-4)


def test_zero_crossings_have_the_frequency():
    trial = rd.tasks.sine_wave(key=jax.random.key(3), num_steps=2000, num_frequencies=1, min_frequency=0.37)
    crossings = np.count_nonzero(np.diff(np.signbit(np.asarray(trial.targets)[:, 0])))
    # One crossing every half period, the last one possibly not reached.
    assert abs(crossings - 2000 * 0.37 / math.pi) <= 1
    assert trial.inputs[0, 0] == 1.25


def test_every_frequency_occurs_equally_often():
    batch = rd.tasks.batches("sine_wave", 4000, num_steps=1, num_frequencies=5)(jax.random.key(0))
    indices = np.rint((np.asarray(batch.inputs)[:, 0, 0] - 0.25) * 5)
    counts = [np.count_nonzero(indices == j) for j in range(1, 6)]
    assert sum(counts) == 4000
    # Five binomial standard errors.
    assert np.abs(np.array(counts) - 800).max() < 5 * math.sqrt(4000 * 0.2 * 0.8)


def test_every_step_counts():
    trial = rd.tasks.sine_wave(key=jax.random.key(0), num_steps=7)
    assert trial.inputs.shape == trial.targets.shape == (7, 1)
    assert trial.mask.tolist() == [1.0] * 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps: expected at least 1"),
        ({"num_frequencies": 0}, "num_frequencies: expected at least 1"),
        ({"min_frequency": 0.0}, "min_frequency, max_frequency: expected 0 < min_frequency"),
        ({"min_frequency": 0.7}, "min_frequency, max_frequency: .* got 0.7 and 0.6"),
        ({"max_frequency": 4.0}, "min_frequency, max_frequency: .* <= pi"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        rd.tasks.sine_wave(key=jax.random.key(0), **options)
