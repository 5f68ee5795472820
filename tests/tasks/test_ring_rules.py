"""Tasks on a ring: every trial against a loop in plain Python, and the statistics of what is drawn."""

import jax
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.tasks.ring_rules import RING_RULES

OPTIONS = {"num_steps": 30, "context_steps": (2, 4), "stimulus_steps": (3, 5), "memory_steps": (4, 9)}


@pytest.fixture(scope="module")
def trials():
    batch = rd.tasks.batches("ring_rules", 600, noise_std=0, **OPTIONS)(jax.random.key(0))
    return [np.asarray(part, float) for part in batch]


def epochs(inputs):
    """Rule, onset and offset of the stimulus and the end of fixation, read off the inputs."""
    seen = np.hypot(inputs[:, 1], inputs[:, 2]) > 0.5
    onset = int(np.argmax(seen))
    offset = int(np.argmin(seen[onset:]) + onset) if not seen[onset:].all() else None
    end = int(np.argmin(inputs[:, 0])) if inputs[:, 0].min() < 0.5 else None
    return RING_RULES[int(np.argmax(inputs[0, 3:]))], onset, offset, end


def test_targets_follow_the_rule(trials):
    for inputs, targets, mask in zip(*trials):
        rule, onset, offset, end = epochs(inputs)
        timing, side = rule.split("_")
        go = onset if timing == "react" else end
        assert (end is None) == (timing == "react")
        assert (offset is None) == (timing != "memory")
        # Exactly one rule, all the time.
        assert np.array_equal(inputs[:, 3:], np.tile(np.eye(6)[RING_RULES.index(rule)], (30, 1)))
        place = inputs[onset, 1:3] * (1 if side == "pro" else -1)
        for step in range(30):
            assert mask[step] == (0 if go <= step < go + 3 else 1)
            assert np.allclose(targets[step], [1, 0, 0] if step < go else [0, *place], atol=1e-6)


def test_times_and_rules_have_the_asked_ranges(trials):
    seen = [epochs(inputs) for inputs in trials[0]]
    assert {rule for rule, *_ in seen} == set(RING_RULES)
    assert {onset for _, onset, _, _ in seen} == {2, 3, 4}
    assert {offset - onset for _, onset, offset, _ in seen if offset is not None} == {3, 4, 5}
    assert {end - onset for rule, onset, _, end in seen if rule.startswith("delay")} == {3, 4, 5}
    assert {end - offset for _, _, offset, end in seen if offset is not None} == set(range(4, 10))
    angles = np.array([np.arctan2(*inputs[epochs(inputs)[1], [2, 1]]) for inputs in trials[0]])
    # The mean of unit vectors at uniform angles has the variance 1/(2n) in each direction: five standard errors.
    assert np.abs(np.mean(np.exp(1j * angles))) < 5 / np.sqrt(len(angles))


def test_noise_and_a_choice_of_rules():
    batch = rd.tasks.batches("ring_rules", 200, rules=("memory_anti", "delay_pro"), noise_std=0.2)(jax.random.key(1))
    inputs = np.asarray(batch.inputs, float)
    assert inputs.shape == (200, 50, 5)
    context = inputs[:, :4, 1:3]
    # Before the stimulus comes there is only noise; five standard errors of a standard deviation.
    assert abs(context.std() - 0.2) < 5 * 0.2 / np.sqrt(2 * context.size)
    assert set(np.unique(inputs[:, :, 3:])) == {0.0, 1.0}
    # The first of these rules goes anti, and the second pro.
    for row, targets in zip(inputs, np.asarray(batch.targets)):
        agreement = np.sum(row[:, 1:3].sum(axis=0) * targets[-1, 1:])
        assert (agreement < 0) == (row[0, 3] == 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": ()}, "rules: expected one or more of delay_pro"),
        ({"rules": ("delay_pro", "delay_pro")}, "each once"),
        ({"rules": ("delay",)}, "rules: expected one or more"),
        ({"memory_steps": (5, 4)}, r"memory_steps: expected \(least, most\) in this order, got \(5, 4\)"),
        ({"context_steps": (0, 4)}, "context_steps: the least: expected at least 1, got 0"),
        ({"num_steps": 39}, "num_steps: expected more than 39"),
        ({"noise_std": -1.0}, "noise_std: expected at least 0"),
        ({"grace_steps": -1}, "grace_steps: expected at least 0"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        rd.tasks.ring_rules(key=jax.random.key(0), **options)
