"""Which automaton a trained network is, proved for every string (Tomita's languages; Kolen 1994, Casey 1996).

Networks that answer after every symbol learn a regular language; samples say that they make no error, and a proof
that none of any length does. State noise in training makes the images of sets shrink, which is what the proof needs.
"""

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import rnndyn as rd
from experiments._settings import NotNegative, Seed, check

CellName = Literal["vanilla", "gru", "lstm"]
LanguageName = Literal["1", "2", "3", "4", "5", "6", "7", "parity"]

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


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides the result."""

    languages: tuple[LanguageName, ...] = ("2", "4", "6")
    cells: tuple[CellName, ...] = ("vanilla", "gru", "lstm")
    num_units: int = 32
    num_updates: int = 1000
    batch_size: int = 64
    length: int = 24
    noise: NotNegative = 0.3
    """Standard deviation of what is added to every state in training."""
    learning_rate: float = 5e-3
    budget: float = 60.0
    """Seconds for each proof."""
    seed: Seed = 0

    def __post_init__(self) -> None:
        check(self)


class Strings(eqx.Module):
    """Random strings with the automaton's answer after every symbol. Half of them avoid where nothing is accepted."""

    transitions: jax.Array
    accepting: jax.Array
    is_live: jax.Array
    batch_size: int = eqx.field(static=True)
    length: int = eqx.field(static=True)

    def __call__(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        symbol_key, kind_key = jax.random.split(key)
        avoids = jax.random.bernoulli(kind_key, 0.5, (self.batch_size,))
        uniform = jax.random.uniform(symbol_key, (self.length, self.batch_size))

        def read(state: jax.Array, drawn: jax.Array) -> Any:
            # Where only one symbol leads on, it is taken nineteen times in twenty.
            live = self.is_live[self.transitions[state]]
            forced = avoids & (live[:, 0] != live[:, 1])
            probability = jnp.where(forced, jnp.where(live[:, 1], 0.95, 0.05), 0.5)
            symbol = (drawn < probability).astype(int)
            state = self.transitions[state, symbol]
            return state, (symbol, self.accepting[state])

        start = jnp.zeros(self.batch_size, int)
        symbols, answers = jax.lax.scan(read, start, uniform)[1]
        return jax.nn.one_hot(symbols.T, 2), answers.T


def strings_of(language: str, batch_size: int, length: int) -> Strings:
    """The strings of a language, of one shape for all languages."""
    transitions, accepting = (np.array(part) for part in LANGUAGES[language])
    missing = MOST_STATES - len(accepting)
    transitions = np.concatenate([transitions, np.zeros((missing, 2), int)])
    accepting = np.concatenate([accepting, np.zeros(missing, int)])
    live = accepting > 0
    for _ in range(MOST_STATES):
        live = live | live[transitions].any(axis=1)
    return Strings(jnp.asarray(transitions), jnp.asarray(accepting), jnp.asarray(live), batch_size, length)


class NoisyLoss(eqx.Module):
    """Cross-entropy of the answers after every symbol, with noise added to the state after each."""

    noise: float = eqx.field(static=True)

    def __call__(self, model: Any, batch: Any, *, key: jax.Array | None = None) -> jax.Array:
        inputs, answers = batch
        map_ = rd.as_driven_map(model.cell)
        start = map_.flatten(model.cell.initial_state())

        def logits(inputs: jax.Array, noise: jax.Array) -> jax.Array:
            def read(x: jax.Array, given: Any) -> Any:
                x = map_(x, given[0]) + given[1]
                return x, model.readout(x[: model.cell.hidden_size])[0]

            return jax.lax.scan(read, start, (inputs, noise))[1]

        shape = (*inputs.shape[:2], start.size)
        noise = jnp.zeros(shape) if key is None else self.noise * jax.random.normal(key, shape)
        found = jax.vmap(logits)(inputs, noise)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(found, answers))


CELLS = {"vanilla": rd.VanillaCell, "gru": rd.GRUCell, "lstm": rd.LSTMCell}


def train(config: Config, language: str, cell_name: str) -> Any:
    """A network that answers after every symbol."""
    cell_key, readout_key, fit_key = jax.random.split(jax.random.key(config.seed), 3)
    cell = CELLS[cell_name](2, config.num_units, key=cell_key)
    model = rd.RNN(cell, eqx.nn.Linear(config.num_units, 1, key=readout_key))
    schedule = optax.cosine_decay_schedule(config.learning_rate, config.num_updates, alpha=0.1)
    return rd.fit(
        model,
        NoisyLoss(config.noise),
        strings_of(language, config.batch_size, config.length),
        optax.adam(schedule),
        num_steps=config.num_updates,
        max_grad_norm=1.0,
        key=fit_key,
        progress=False,
    ).last_model


class FirstOutput(eqx.Module):
    """The readout of a network on its flat state, which begins with h."""

    readout: Any
    hidden_size: int = eqx.field(static=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.readout(x[: self.hidden_size])[0]


def certify(model: Any, language: str, budget: float) -> rd.AutomatonCertificate:
    """The proof, or what stands in its way, for a trained network."""
    g = rd.as_driven_map(model.cell)
    return rd.certify_automaton(
        g,
        g.flatten(model.cell.initial_state()),
        jnp.eye(2),
        FirstOutput(model.readout, model.cell.hidden_size),
        LANGUAGES[language],
        budget=budget,
        progress=False,
    )
