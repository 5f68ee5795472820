"""The memories of a network that holds bits, which pulses lead from one to another, and its echo index."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from experiments._echo_index import count_responses
from experiments._pulses import destinations, pulse_and_settle, switch_times, weakest_pulses
from experiments._settings import Seed


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What is looked at in each network."""

    num_candidates: int = 96
    """Starting points of the search for fixed points, drawn from visited states."""
    settle_steps: int = 200
    """Steps without input after which the state is compared with the memories."""
    passage_steps: int = 600
    """The same where a pulse is bisected to the last bit: the state then stays long at a saddle."""
    num_pulses: int = 24
    """In a sequence."""
    gaps: tuple[int, ...] = (4, 16, 64)
    """Steps from one pulse of a sequence to the next."""
    seed: Seed = 0


class ExcitableNetwork(rd.Result):
    """The memories of one trained network, and which pulses lead from one to another.

    - `memories`: the stable fixed points, `(M, N)`.
    - `thresholds`: the size of the weakest pulse from one memory to another, `(M, M)`; infinite where there is none.
    - `edge`: the memories at both ends of the edge with the lowest threshold; (-1, -1) without one.
    - `saddle_distance`: how close the state comes, after a pulse of threshold size, to the saddle that it passes.
    - `saddle_multipliers`: the multipliers of that saddle outside of the unit circle.
    - `waits`: steps to switch at each excess.
    - `echo_indices`, `predicted_indices`: counted and of the graph, (gap, amplitude).
    """

    validation_loss: float
    fixed_points: rd.FixedPoints
    memories: np.ndarray
    bits: np.ndarray
    trajectories: np.ndarray
    thresholds: np.ndarray
    edge: tuple[int, int]
    saddle_distance: float
    saddle_multipliers: np.ndarray
    waits: np.ndarray
    echo_indices: np.ndarray
    predicted_indices: np.ndarray


def analyse(
    fitted: Any,
    inputs: jax.Array,
    starts: jax.Array,
    angles: np.ndarray,
    radii: np.ndarray,
    excesses: np.ndarray,
    amplitudes: np.ndarray,
    config: Analysis,
) -> ExcitableNetwork:
    """Memories, edges, the saddle of the weakest edge, and echo indices of one network."""
    cell = fitted.model.cell
    visited = np.asarray(eqx.filter_vmap(fitted.model.states)(inputs))
    rng = np.random.default_rng(config.seed)
    pool = visited.reshape(-1, visited.shape[-1])
    candidates = pool[rng.integers(0, len(pool), config.num_candidates)]
    points = rd.find_fixed_points(rd.as_map(cell), candidates, until_complete=True, progress=False)
    stable = points.points[points.is_stable]
    readout = fitted.model.readout
    read = stable @ np.asarray(readout.weight, float).T + np.asarray(readout.bias, float)
    order = np.lexsort(read.round().T) if len(stable) else np.arange(0)
    memories, bits = stable[order], np.sign(read[order]).astype(int)

    # In double precision: the time that a switch takes grows with the logarithm of what is left to the threshold.
    with jax.enable_x64(True):
        f = in_double(rd.as_driven_map(cell))
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        pulses = (directions[:, None] * radii[:, None]).reshape(-1, 2)
        ends = [destinations(f, memory, memories, pulses, config.settle_steps) for memory in memories]
        reached = np.reshape(ends, (len(memories), len(angles), len(radii))).astype(int)
        thresholds, ways = weakest_pulses(f, memories, reached, directions, radii, config.passage_steps)
        edge, distance, multipliers, waits = (-1, -1), np.nan, np.array([]), np.full(len(excesses), -1)
        if np.isfinite(thresholds).any():
            i, j = (int(k) for k in np.unravel_index(np.argmin(thresholds), thresholds.shape))
            edge = i, j
            passage = pulse_and_settle(f, memories[i], thresholds[i, j] * ways[i, j], config.passage_steps)
            saddles = np.flatnonzero(points.num_unstable > 0)
            if saddles.size:
                gaps = np.linalg.norm(np.asarray(passage)[:, None] - points.points[saddles], axis=-1)
                saddle, distance = saddles[np.argmin(gaps.min(axis=0))], float(gaps.min())
                values = points.multipliers[saddle]
                multipliers = values[np.abs(values) > 1]
                # A switch has happened when the state is halfway from the saddle to the memory, or closer.
                near = np.linalg.norm(points.points[saddle] - memories[j]) / 2
                strengths = thresholds[i, j] * (1 + excesses)
                waits = switch_times(f, memories[i], memories[j], strengths[:, None] * ways[i, j], near)
    counted, predicted = echo_indices(cell, memories, starts, amplitudes, config)
    return ExcitableNetwork(
        validation_loss=float(fitted.history.validation_losses[-1]),
        fixed_points=points,
        memories=memories,
        bits=bits,
        trajectories=visited[:12],
        thresholds=thresholds,
        edge=edge,
        saddle_distance=distance,
        saddle_multipliers=multipliers,
        waits=np.asarray(waits),
        echo_indices=counted,
        predicted_indices=predicted,
    )


def in_double(tree: Any) -> Any:
    """The same network with its numbers in double precision."""
    return jax.tree.map(lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, tree)


def echo_indices(
    cell: Any, memories: np.ndarray, starts: jax.Array, amplitudes: np.ndarray, config: Analysis
) -> tuple[np.ndarray, np.ndarray]:
    """The echo index under one sequence of pulses, counted and from the graph, (gap, amplitude)."""
    f = rd.as_driven_map(cell)
    rng = np.random.default_rng([config.seed, 1])
    kinds = rng.integers(0, 4, config.num_pulses)
    pulses = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]], np.float32)
    counted, predicted = np.zeros((2, len(config.gaps), len(amplitudes)), int)
    initial = jnp.concatenate([jnp.asarray(memories, starts.dtype), starts])[: len(starts)]
    length = config.num_pulses * max(config.gaps) + config.settle_steps
    for row, gap in enumerate(config.gaps):
        sequence = np.zeros((length, 2), np.float32)
        sequence[np.arange(config.num_pulses) * gap] = pulses[kinds]
        counted[row] = count_responses(f, initial, jnp.asarray(sequence), jnp.asarray(amplitudes))
    for column, amplitude in enumerate(amplitudes):
        tables = [destinations(f, m, memories, amplitude * pulses, config.settle_steps) for m in memories]
        table = np.reshape(tables, (len(memories), 4)).astype(int)
        alive = set(range(len(memories)))
        for kind in kinds:
            alive = {int(table[m, kind]) if m >= 0 else -1 for m in alive}
        predicted[:, column] = len(alive)
    return counted, predicted
