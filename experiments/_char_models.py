"""Character models of a text: its three parts, the networks, how they are trained, and what they and gzip score."""

import dataclasses
import functools
import zlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import rnndyn as rd
from experiments._settings import Seed

CELLS = {
    "vanilla": rd.VanillaCell,
    "GRU": rd.GRUCell,
    # Without a bias to its forget gates an LSTM starts by forgetting within two characters (Jozefowicz et al. 2015).
    "LSTM": functools.partial(rd.LSTMCell, bias_init=rd.initializers.forget_gate_bias(1.0)),
}

RESTART_EVERY = 32
"""Windows after which a place of the text goes on from the state of rest. Without it a network may score well in
training and badly from rest: a vanilla network of 40 thousand parameters, trained with Adam at a rate of 1.6e-2, ended
at 3.0 bits per character of the text it was reading and at 6.6 of held-out text, which it reads from rest:
memories that do not fade stood otherwise in training. With it, at 2.6 and 2.6."""

MOMENTUM = 0.85
"""At 200 thousand parameters and 300 updates, validation text takes 2.41 bits per character with it and 2.42 with 0.9;
at 40 thousand and 450, 2.55 with 0.9 and 2.60 with 0.95."""


class Parts(eqx.Module):
    """A text in three parts: to train on, to choose by, to judge by; in this order in the text."""

    train: rd.tasks.TextPart
    validation: rd.tasks.TextPart
    held_out: rd.tasks.TextPart
    vocabulary: rd.Vocabulary


def in_three_parts(text: rd.tasks.Text) -> Parts:
    """The end of what is there to train on is kept to choose by; it is as long as what the networks are judged by."""
    cut = len(text.train) - len(text.validation)
    part = lambda codes: rd.tasks.TextPart(codes, text.vocabulary)
    return Parts(part(text.train.codes[:cut]), part(text.train.codes[cut:]), text.validation, text.vocabulary)


@dataclasses.dataclass(frozen=True)
class Training:
    """What decides the networks: their size, and how they are trained."""

    num_layers: int = 1
    num_parameters: int = 200_000
    """Of every network, at most."""
    embedding_size: int = 64
    num_updates: int = 950
    batch_size: int = 32
    window: int = 64
    """Characters between truncations of the gradient; the states are carried on."""
    max_grad_norm: float = 1.0
    validate_every: int = 100
    seed: Seed = 0


def train(name: str, rate: float, parts: Parts, config: Training) -> rd.training.FitResult:
    """A network of the given kind, trained on the text as streams from many places."""
    key = jax.random.key(config.seed)
    model = make(name, largest_width(name, parts.vocabulary, config), parts.vocabulary, config, key)
    return rd.fit(
        model,
        rd.training.truncated_bptt(rd.training.softmax_cross_entropy),
        parts.train.stream(config.batch_size, config.window, restart_every=RESTART_EVERY),
        optimizer(rate, config.num_updates),
        num_steps=config.num_updates,
        max_grad_norm=config.max_grad_norm,
        carry=rd.training.start_states(model, config.batch_size),
        validation=parts.validation.batch(16, min(1024, len(parts.validation) // 20)),
        metric=rd.training.over_trials(rd.training.softmax_cross_entropy),
        validate_every=config.validate_every,
        key=key,
    )


def optimizer(rate: float, num_updates: int) -> optax.GradientTransformation:
    """Muon for the matrices, Adam for the biases, with rates that rise for a twentieth of the updates and then fall.

    A step of Muon is the orthogonal factor of the momentum, so that all directions in which a matrix may change move
    alike (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"). With
    word vectors of 32 and a momentum of 0.9, a GRU of 40 thousand parameters is at 2.34 bits per held-out character
    after 450 updates; with Adam at a rate of 1.2e-2 it is at 2.87.
    """
    rise = max(num_updates // 20, 1)

    def schedule(peak: float) -> optax.Schedule:
        pieces = optax.linear_schedule(peak / 10, peak, rise), optax.linear_schedule(peak, 0.0, num_updates - rise)
        return optax.join_schedules(pieces, [rise])

    return optax.contrib.muon(schedule(rate), beta=MOMENTUM, adam_b2=0.99, adam_learning_rate=schedule(rate / 4))


def make(name: str, width: int, vocabulary: rd.Vocabulary, config: Training, key: Any) -> rd.TokenRNN:
    """Word vectors of the characters, layers of cells, and a linear readout of the logits."""
    return rd.TokenRNN(*make_parts(name, width, vocabulary.size, config, key), vocabulary)


# One program: each array that is drawn by itself compiles by itself.
@eqx.filter_jit
def make_parts(name: str, width: int, num_characters: int, config: Training, key: Any) -> tuple[Any, Any]:
    """The word vectors, and the network that reads them."""
    embedding_key, readout_key, *keys = jax.random.split(key, 2 + config.num_layers)
    sizes = [config.embedding_size, *[width] * config.num_layers]
    cells = [CELLS[name](sizes[layer], width, key=keys[layer]) for layer in range(config.num_layers)]
    readout = eqx.nn.Linear(width, num_characters, key=readout_key)
    # Small, so that the first predictions are nearly even and the first loss is T ln V.
    readout = jax.tree.map(lambda leaf: 0.1 * leaf, readout)
    network = rd.RNN(cells[0], readout) if config.num_layers == 1 else rd.StackedRNN(cells, readout)
    return eqx.nn.Embedding(num_characters, config.embedding_size, key=embedding_key), network


def largest_width(name: str, vocabulary: rd.Vocabulary, config: Training) -> int:
    """The most units with which the network has no more parameters than allowed."""
    fits, too_large = 1, config.num_parameters
    while too_large - fits > 1:
        width = (fits + too_large) // 2
        model = eqx.filter_eval_shape(make, name, width, vocabulary, config, jax.random.key(0))
        if count_parameters(model) > config.num_parameters:
            too_large = width
        else:
            fits = width
    return fits


def count_parameters(model: Any) -> int:
    """Trained numbers of a model, or of its shapes."""
    floats = lambda leaf: hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(model) if floats(leaf))


def held_out_bits(model: rd.TokenRNN, part: rd.tasks.TextPart, num_places: int = 32, window: int = 256) -> float:
    """Bits per character on the whole of a text, read from `num_places` places with the states carried along."""
    window = min(window, len(part) // num_places - 1)
    loss = eqx.filter_jit(rd.training.truncated_bptt(rd.training.softmax_cross_entropy))
    states, losses = rd.training.start_states(model, num_places), []
    for batch in part.stream(num_places, window):
        value, states = loss(model, jax.tree.map(jnp.asarray, batch), states)
        losses.append(float(value))
    return float(np.mean(losses) / np.log(2))


def primed_deflate_bits(text: rd.tasks.Text) -> float:
    """Bits per held-out character of DEFLATE that has the end of the training text in its window of 32 kB."""
    before = text.train.text(max(len(text.train) - 2**15, 0)).encode()[-(2**15) :]
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=before)
    size = len(compressor.compress(text.validation.text().encode()) + compressor.flush())
    return 8 * size / len(text.validation)
