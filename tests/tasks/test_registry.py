"""What all tasks share: the registry, batches, reproducibility, jit and vmap, the dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.tasks import TASKS, Trial, batches, find_task

KEY = jax.random.key(0)
NAMES = sorted(TASKS)


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_holds_the_tasks_of_the_package():
    assert NAMES == ["adding", "context_integration", "delayed_copy", "flip_flop", "sine_wave"]
    for name, task in TASKS.items():
        assert task.generate is getattr(rd.tasks, name)
        assert task is find_task(name)
        assert task.description.endswith(".")
        assert any(year in task.reference for year in ("1997", "2013"))


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_is_fixed_by_its_key_and_jit_changes_nothing(name):
    generate = TASKS[name].generate
    jitted = jax.jit(lambda key: generate(key=key))
    trial = generate(key=KEY)
    assert isinstance(trial, Trial)
    # Products and sums may be contracted under jit, which rounds once less.
    for ours, theirs in zip(trial, jitted(KEY)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert equal(jitted(KEY), jitted(jax.random.wrap_key_data(jax.random.key_data(KEY))))
    assert not equal(jitted(KEY), jitted(jax.random.key(1)))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_trials_of_its_keys(name):
    made = batches(name, 3)(KEY)
    alone_each = jax.jit(lambda key: TASKS[name].generate(key=key))
    for i, key in enumerate(jax.random.split(KEY, 3)):
        for batched, alone in zip(made, alone_each(key)):
            # As above.
            np.testing.assert_allclose(batched[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_follows_the_precision_asked_for(name):
    shapes = lambda: jax.eval_shape(lambda: TASKS[name].generate(key=KEY))
    assert {leaf.dtype for leaf in shapes()} == {jnp.dtype("float32")}
    with jax.enable_x64(True):
        assert {leaf.dtype for leaf in shapes()} == {jnp.dtype("float64")}


@pytest.mark.parametrize("name", NAMES)
def test_shapes_fit_together(name):
    trial = Trial(*(leaf[0] for leaf in batches(name, 3)(KEY)))
    assert trial.inputs.shape[0] == trial.targets.shape[0] == trial.mask.shape[0]
    assert set(np.unique(trial.mask)) <= {0.0, 1.0}
    assert trial.mask[-1] == 1


def test_takes_a_task_of_ones_own():
    def echo(*, key, num_steps):
        inputs = jax.random.normal(key, (num_steps, 1))
        return Trial(inputs, inputs, jnp.ones(num_steps))

    made = batches(echo, 4, num_steps=5)(KEY)
    assert made.inputs.shape == (4, 5, 1)
    assert np.array_equal(made.inputs, made.targets)


def test_batches_made_alike_share_a_compilation():
    count = []

    @jax.jit
    def draw(make, key):
        count.append(None)
        return make(key)

    for _ in range(3):
        draw(batches("flip_flop", 2, num_bits=1, num_steps=3), KEY)
    draw(batches("flip_flop", 2, num_bits=2, num_steps=3), KEY)
    assert len(count) == 2


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("flipflop", 2), {}, "task: there is no task 'flipflop'. Known tasks: adding, context_integration, "),
        (("adding", 0), {}, "batch_size: expected at least 1, got 0"),
        (("adding", 2), {"bits": 3}, r"options: adding\(.*num_steps.* cannot be called .*unexpected .*'bits'"),
        (("adding", 2), {"num_steps": 0}, "num_steps: expected at least 2"),
        (("flip_flop", 2), {"pulse_probability": 2.0}, "pulse_probability: expected a probability"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        batches(*arguments, **options)
