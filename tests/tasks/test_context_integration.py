"""The context-integration task: the answer read off the stream that the context names, and an ideal observer."""

import math

import jax
import numpy as np
import pytest

import rnndyn as rd


def draw(num, **options):
    batch = rd.tasks.batches("context_integration", num, **options)(jax.random.key(0))
    return tuple(np.asarray(leaf, float) for leaf in batch)


def test_answer_is_the_sign_of_the_named_stream_without_noise():
    inputs, targets, mask = draw(200, num_steps=12, num_response_steps=4, noise_std=0.0)
    for trial, target, counts in zip(inputs, targets, mask):
        context = [row.index(1.0) for row in trial[:, 2:].tolist()]
        assert len(set(context)) == 1
        named = trial[:8, context[0]]
        assert len(set(named)) == 1
        assert target[:, 0].tolist() == [0.0] * 8 + [math.copysign(1, named[0])] * 4
        assert counts.tolist() == [0.0] * 8 + [1.0] * 4
        assert (trial[8:, :2] == 0).all()


def test_coherences_signs_and_contexts_are_drawn_evenly_and_independently():
    inputs, _, _ = draw(4000, num_steps=2, num_response_steps=1, noise_std=0.0, coherences=(0.25, 0.5, 1.0))
    first, second, context = inputs[:, 0, 0], inputs[:, 0, 1], inputs[:, 0, 3]
    cells = [
        np.count_nonzero((first == a * s) & (second == b * r) & (context == c))
        for a in (0.25, 0.5, 1.0)
        for b in (0.25, 0.5, 1.0)
        for s in (-1, 1)
        for r in (-1, 1)
        for c in (0, 1)
    ]
    assert sum(cells) == 4000
    chi_square = ((np.array(cells) - 4000 / 72) ** 2 / (4000 / 72)).sum()
    # Mean 71, standard deviation sqrt(142); five of them.
    assert abs(chi_square - 71) < 5 * math.sqrt(142)


def test_noise_has_the_asked_spread():
    inputs, _, _ = draw(500, num_steps=40, num_response_steps=10, noise_std=0.3, coherences=(0.1,))
    variances = inputs[:, :30, :2].var(axis=1, ddof=1)
    # The mean variance of 1000 streams of 30 has the relative standard error sqrt(2 / 29000); five of them.
    assert abs(variances.mean() / 0.09 - 1) < 5 * math.sqrt(2 / 29000)


def test_ideal_observer_is_right_as_often_as_documented():
    inputs, targets, _ = draw(4000, num_steps=50, num_response_steps=10, noise_std=1.0, coherences=(0.15,))
    context = inputs[:, 0, 3].astype(int)
    evidence = inputs[np.arange(4000), :, context].sum(axis=1)
    expected = 0.5 * (1 + math.erf(0.15 * math.sqrt(40) / math.sqrt(2)))
    correct = (np.sign(evidence) == targets[:, -1, 0]).mean()
    # Five binomial standard errors.
    assert abs(correct - expected) < 5 * math.sqrt(expected * (1 - expected) / 4000)
    other = inputs[np.arange(4000), :, 1 - context].sum(axis=1)
    assert abs((np.sign(other) == targets[:, -1, 0]).mean() - 0.5) < 5 * math.sqrt(0.25 / 4000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_response_steps": 0}, "num_response_steps: expected at least 1"),
        ({"num_steps": 10}, "num_steps: expected more than num_response_steps = 10.* got 10"),
        ({"noise_std": -1.0}, "noise_std: expected at least 0"),
        ({"coherences": ()}, "coherences: expected one or more positive numbers"),
        ({"coherences": (0.1, -0.1)}, "coherences: expected one or more positive numbers"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        rd.tasks.context_integration(key=jax.random.key(0), **options)
