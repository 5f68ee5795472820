"""Trained character models as dynamical systems: exponents, held characters, free runs, and units that follow text."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from experiments._char_models import Parts, count_parameters, held_out_bits
from experiments._python_source import source_features, telling_passage
from experiments._settings import Seed


@dataclasses.dataclass(frozen=True)
class Examination:
    """What is looked at in a trained network."""

    num_read: int = 24_000
    """Held-out characters on which units are looked at."""
    num_exponents: int = 8
    num_exponent_steps: int = 1000
    held: str = " \ne"
    """Characters that are held while fixed points are searched."""
    num_candidates: int = 8
    num_settle: int = 600
    """Steps with the character held before a search starts there."""
    num_prompts: int = 16
    num_free: int = 1000
    """Characters of a free run."""
    seed: Seed = 0


class Network(rd.Result):
    """One trained network."""

    name: str
    num_units: int
    num_parameters: int
    learning_rate: float
    rate_bits: np.ndarray
    """Bits per validation character at each learning rate of the grid; not looked at where it has one."""
    first_loss: float
    """The loss of the first window in nats, over T ln V."""
    steps: np.ndarray
    """Updates made at each validation."""
    curve: np.ndarray
    """Bits per character at each of them, on a sample of the validation text."""
    bits: float
    """Bits per character on all of the held-out text."""
    exponents: rd.LyapunovSpectrum
    """Conditional exponents while held-out text is read."""
    num_fixed_points: np.ndarray
    """With each of the held characters."""
    num_stable: np.ndarray
    index_sums: np.ndarray
    """1 when all fixed points are found and none is degenerate (a unit that keeps its state for ever makes one so)."""
    spectral_radii: np.ndarray
    """Largest multiplier of the most stable fixed point with each of them; NaN without a fixed point."""
    periods: np.ndarray
    """Period of the cycle into which the free run from each prompt fell; 0 where it did not."""
    cycle_text: str
    """The characters of the longest cycle."""
    sample: str
    """Text drawn at temperature 0.6."""


class Unit(rd.Result):
    """The unit that follows a feature of the text best."""

    feature: str
    correlation: float
    """On the second half of the text; the unit was chosen on the first."""
    text: str
    values: np.ndarray


def examine(
    name: str,
    model: rd.TokenRNN,
    fit: rd.training.FitResult,
    rate: float,
    rate_bits: np.ndarray,
    parts: Parts,
    config: Examination,
) -> Network:
    """What a trained network scores on held-out text, and what it does as a dynamical system."""
    ids = parts.held_out.ids(0, config.num_exponent_steps + 200)
    inputs = model.embed(ids)
    driven = rd.as_driven_map(model.cell)
    start = driven.flatten(model.start())
    spectrum = rd.lyapunov_spectrum(
        driven,
        start,
        len(inputs) - 200,
        inputs=inputs,
        num_exponents=min(config.num_exponents, start.size),
        num_transient=200,
    )
    states = rd.trajectory(driven, start, len(inputs), inputs=inputs)
    counts, stable, index_sums, radii = [], [], [], []
    met = np.asarray(states)[np.linspace(0, len(states) - 1, config.num_candidates).astype(int)]
    for character in config.held:
        held = rd.as_map(model.cell, model.embed(parts.vocabulary.encode(character))[0])
        # Half of the candidates are where the held character leads to, half are states met in reading.
        settled = [rd.trajectory(held, x, config.num_settle)[-1] for x in met[::2]]
        candidates = np.concatenate([settled, met[1::2]])
        found = rd.find_fixed_points(held, candidates, max_rounds=1, progress=False)
        counts.append(len(found))
        stable.append(int(np.sum(found.is_stable)))
        index_sums.append(found.index_sum)
        largest = np.max(np.abs(found.multipliers), axis=1) if len(found) else np.array([np.nan])
        radii.append(float(np.min(largest)))
    periods, cycle_text = free_runs(model, parts, config)
    prompt = parts.held_out.text(0, 200)
    return Network(
        name=name,
        num_units=jax.tree.leaves(model.start())[0].shape[-1],
        num_parameters=count_parameters(model),
        learning_rate=rate,
        rate_bits=rate_bits,
        first_loss=float(fit.history.losses[0] / np.log(parts.vocabulary.size)),
        steps=fit.history.validation_steps,
        curve=fit.history.validation_losses / np.log(2),
        bits=held_out_bits(model, parts.held_out),
        exponents=spectrum,
        num_fixed_points=np.array(counts),
        num_stable=np.array(stable),
        index_sums=np.array(index_sums),
        spectral_radii=np.array(radii),
        periods=periods,
        cycle_text=cycle_text,
        sample=rd.generate(model, prompt, 400, temperature=0.6, key=jax.random.key(config.seed)),
    )


def free_runs(model: rd.TokenRNN, parts: Parts, config: Examination) -> tuple[np.ndarray, str]:
    """The periods of the cycles that the network falls into when it reads its likeliest character, and the longest."""
    prompts, _ = parts.held_out.batch(config.num_prompts, 100)

    @eqx.filter_jit
    def run(model: rd.TokenRNN, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jax.tree.map(lambda leaf: leaf[-1], model.states(prompt))

        def step(state: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            token = jnp.argmax(model.read(state))
            state, _logits = model.step(state, token)
            return state, (token, jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state)])[:8])

        return jax.lax.scan(step, state, length=config.num_free)[1]

    tokens, states = (np.asarray(a) for a in jax.lax.map(lambda prompt: run(model, prompt), jnp.asarray(prompts)))
    periods = np.array([period(*pair) for pair in zip(tokens, states)])
    if not periods.any():
        return periods, ""
    longest = int(np.argmax(periods))
    return periods, parts.vocabulary.decode(tokens[longest][-periods[longest] :])


def period(tokens: np.ndarray, states: np.ndarray) -> int:
    """The period of the last half of a run, 0 when it has none; characters and states (to 1e-4) must repeat."""
    tokens, states = tokens[len(tokens) // 2 :], states[len(states) // 2 :]
    for p in range(1, len(tokens) // 2):
        if (tokens[p:] == tokens[:-p]).all() and np.max(np.abs(states[-1] - states[-1 - p])) < 1e-4:
            return p
    return 0


def following_units(model: rd.TokenRNN, parts: Parts, config: Examination) -> tuple[Unit, ...]:
    """For every feature of the text the unit that correlates best with it, chosen and judged on different halves."""
    ids = parts.held_out.ids(0, config.num_read)
    states = model.states(ids)
    # The memory of an LSTM is in c; h is what it shows of it.
    states = np.asarray(states[-1] if isinstance(states, tuple) else states, float)
    source = parts.vocabulary.decode(ids)
    half = len(ids) // 2
    chosen = []
    for name, values in source_features(source).items():
        first, second = (correlations(states[part], values[part]) for part in (slice(half), slice(half, None)))
        unit = int(np.argmax(np.abs(first)))
        place = telling_passage(name, source)
        trace = np.sign(first[unit]) * (states[:, unit] - states[:, unit].mean()) / states[:, unit].std()
        chosen.append(Unit(name, float(abs(second[unit])), source[place], trace[place]))
    return tuple(chosen)


def correlations(states: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Pearson correlation of every unit with a feature; 0 where one of them is constant."""
    a, b = states - states.mean(axis=0), values - values.mean()
    scale = np.sqrt(np.sum(a**2, axis=0) * np.sum(b**2))
    return np.divide(b @ a, scale, out=np.zeros(a.shape[1]), where=scale > 0)
