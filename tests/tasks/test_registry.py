"""What all tasks share: the registry, batches, reproducibility, jit and vmap, the dtype."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.tasks import TASKS, Trial, batches, find_task

KEY = jax.random.key(0)
NAMES = sorted(TASKS)


def test_every_entry_names_its_function_what_it_asks_and_where_it_comes_from():
    assert {"adding", "context_integration", "delayed_copy", "flip_flop", "sine_wave"} <= set(NAMES)
    for name, task in TASKS.items():
        assert task.generate is getattr(rd.tasks, name)
        assert task is find_task(name)
        assert task.description.endswith(".")
        assert re.search(r"\((19|20)\d\d\)", task.reference)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_the_trials_of_its_keys(name):
    made = batches(name, 3)(KEY)
    assert isinstance(made, Trial)
    assert made.inputs.shape[:2] == made.targets.shape[:2] == made.mask.shape
    assert set(np.unique(made.mask)) <= {0.0, 1.0}
    assert made.mask.any()
    for i, key in enumerate(jax.random.split(KEY, 3)):
        for batched, alone in zip(made, TASKS[name].generate(key=key)):
            # Products and sums may be contracted under jit, which rounds once less.
            np.testing.assert_allclose(batched[i], alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_key_fixes_a_batch(name):
    make = batches(name, 3)
    first, again, other = make(KEY), make(KEY), make(jax.random.key(1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    assert not np.array_equal(first.inputs, other.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_dtype_follows_the_precision_asked_for(name):
    shapes = lambda: jax.eval_shape(lambda: TASKS[name].generate(key=KEY))
    assert {leaf.dtype for leaf in shapes()} == {jnp.dtype("float32")}
    with jax.enable_x64(True):
        assert {leaf.dtype for leaf in shapes()} == {jnp.dtype("float64")}


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
