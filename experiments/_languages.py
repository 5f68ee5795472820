"""Regular languages as automata, strings of them, and the loss by which networks learn to answer after every symbol."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn as rd

LANGUAGES: dict[str, tuple[list[list[int]], list[int]]] = {
    "1": ([[1, 0], [1, 1]], [1, 0]),
    "2": ([[2, 1], [0, 2], [2, 2]], [1, 0, 0]),
    "3": ([[0, 1], [2, 0], [3, 4], [2, 1], [4, 4]], [1, 1, 0, 1, 0]),
    "4": ([[1, 0], [2, 0], [3, 0], [3, 3]], [1, 1, 1, 0]),
    "5": ([[1, 2], [0, 3], [3, 0], [2, 1]], [1, 0, 0, 0]),
    "6": ([[1, 2], [2, 0], [0, 1]], [1, 0, 0]),
    "7": ([[0, 1], [2, 1], [2, 3], [4, 3], [4, 4]], [1, 1, 1, 1, 0]),
    "parity": ([[0, 1], [1, 0]], [1, 0]),
}
"""Tomita's languages over 0 and 1 as automata: 1*, (10)*, no odd run of 0s after an odd run of 1s, no 000, even
numbers of both, as many 0s as 1s modulo 3, 0*1*0*1*; and an even number of 1s."""
MOST_STATES = 5


class Grammar(eqx.Module):
    """An automaton as arrays, of one shape for all languages."""

    transitions: jax.Array
    accepting: jax.Array
    is_live: jax.Array

    def read(self, uniform: jax.Array, avoids: jax.Array, repeats: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Random strings (symbols as one-hot inputs), and the automaton's answer and state after every symbol.

        **Arguments:** numbers (batch, length) that decide the symbols, which strings (batch,) avoid the states from
        which nothing is accepted any more, and with which probability (batch,) the last symbol comes again.
        """

        def step(carry: Any, drawn: jax.Array) -> Any:
            state, last = carry
            # Where only one symbol leads on, it is taken nineteen times in twenty.
            live = self.is_live[self.transitions[state]]
            forced = avoids & (live[:, 0] != live[:, 1])
            probability = jnp.where(forced, jnp.where(live[:, 1], 0.95, 0.05), 0.5)
            fresh = (drawn - repeats) / (1 - repeats)
            symbol = jnp.where(drawn < repeats, last, (fresh < probability).astype(int))
            state = self.transitions[state, symbol]
            return (state, symbol), (symbol, self.accepting[state], state)

        start = jnp.zeros(len(avoids), int)
        first = (uniform[:, 0] > 0.5).astype(int)
        symbols, answers, states = jax.lax.scan(step, (start, first), uniform.T)[1]
        return jax.nn.one_hot(symbols.T, 2), answers.T, states.T


def grammar_of(name: str) -> Grammar:
    """A language, filled up to the most states that any has."""
    transitions, accepting = (np.array(part) for part in LANGUAGES[name])
    missing = MOST_STATES - len(accepting)
    transitions = np.concatenate([transitions, np.zeros((missing, 2), int)])
    accepting = np.concatenate([accepting, np.zeros(missing, int)])
    live = accepting > 0
    for _ in range(MOST_STATES):
        live = live | live[transitions].any(axis=1)
    return Grammar(jnp.asarray(transitions), jnp.asarray(accepting), jnp.asarray(live))


class Draws(eqx.Module):
    """What decides the strings of a batch, whatever the language.

    Half of them avoid where nothing is accepted; half of them have runs of one symbol, short ones and long ones.
    """

    batch_size: int = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __call__(self, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        symbol_key, kind_key, run_key = jax.random.split(key, 3)
        avoids = jax.random.bernoulli(kind_key, 0.5, (self.batch_size,))
        repeats = jnp.clip(jax.random.uniform(run_key, (self.batch_size,), minval=-0.97, maxval=0.97), 0)
        return jax.random.uniform(symbol_key, (self.batch_size, self.length)), avoids, repeats


class Learner(eqx.Module):
    """A network with the language that it is to learn, so that many learn side by side."""

    network: Any
    grammar: Grammar


class NoisyLoss(eqx.Module):
    """Cross-entropy of the answers after every symbol, with noise added to the state after each.

    Noise alone teaches a network to forget disturbances that change its answers. Those that do not, such as of a cell
    whose output is saturated, may last for ever, and then sets of states never shrink. So what is left of the noise
    after each symbol, the distance of the state from that of a run without it, is part of the loss, in units of noise.
    """

    noise: jax.Array
    contraction: jax.Array

    def __call__(self, learner: Learner, batch: Any, *, key: jax.Array | None = None) -> jax.Array:
        model = learner.network
        inputs, answers, _ = learner.grammar.read(*batch)
        map_ = rd.as_driven_map(model.cell)
        start = map_.flatten(model.cell.initial_state())

        def logits(inputs: jax.Array, noise: jax.Array) -> Any:
            def read(pair: Any, given: Any) -> Any:
                clean, noisy = (map_(x, given[0]) for x in pair)
                left = jnp.mean((noisy - clean) ** 2)
                noisy = noisy + given[1]
                return (clean, noisy), (model.readout(noisy[: model.cell.hidden_size])[0], left)

            return jax.lax.scan(read, (start, start), (inputs, noise))[1]

        shape = (*inputs.shape[:2], start.size)
        noise = jnp.zeros(shape) if key is None else self.noise * jax.random.normal(key, shape)
        found, left = jax.vmap(logits)(inputs, noise)
        error = jnp.mean(optax.sigmoid_binary_cross_entropy(found, answers))
        return error + self.contraction * jnp.mean(left) / jnp.maximum(self.noise**2, 1e-6)
