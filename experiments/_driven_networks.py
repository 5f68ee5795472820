"""Driven random networks, of which it is proved that every input contracts, or seen that one does not."""

import dataclasses

import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from experiments._settings import Seed


@dataclasses.dataclass(frozen=True)
class Drive:
    """What decides the networks and their inputs."""

    gains: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9, 1.2)
    """Of the driven networks: standard deviation of the weights times the root of their number."""
    num_driven: int = 20
    """Units of a driven network."""
    input_bound: float = 0.03
    """Inputs lie between this and its negative; they enter by weights of standard deviation 1."""
    num_steps: int = 20000
    """Over which exponents are measured."""
    seed: Seed = 0


class DrivenNetworks(rd.Result):
    """Driven random networks, one for each gain (G,): bounds and measurements of the largest conditional exponent.

    `bounds` are NaN where nothing is proved, and `refuted` where an input was found under which states separate.
    `accepted`: whether a second program accepts each proof; true where there is none.
    """

    gains: np.ndarray
    bounds: np.ndarray
    exponents: np.ndarray
    stderr: np.ndarray
    refuted: np.ndarray
    accepted: np.ndarray


def driven_networks(config: Drive) -> DrivenNetworks:
    """Bounds and measurements for random networks that share all but the gain."""
    rng = np.random.default_rng([config.seed, 7])
    size = config.num_driven
    weight, into = rng.normal(size=(size, size)) / np.sqrt(size), rng.normal(size=(size, 1))
    transient = min(500, config.num_steps)
    inputs = rng.uniform(-config.input_bound, config.input_bound, (config.num_steps + transient, 1))
    bound, state = config.input_bound * np.ones(1), np.zeros(size)
    bounds, exponents, stderr, refuted, accepted = [], [], [], [], []
    for gain in config.gains:
        cell = rd.VanillaCell.from_weights(into, gain * weight, np.zeros(size))
        g = rd.as_driven_map(cell)
        proof = rd.prove_contraction(g, -bound, bound, state=state)
        growth = rd.lyapunov_spectrum(
            g,
            jnp.asarray(state, jnp.float32),
            config.num_steps,
            inputs=jnp.asarray(inputs, jnp.float32),
            num_exponents=1,
            num_transient=transient,
        )
        bounds.append(proof.exponent_bound if proof.proved else np.nan)
        refuted.append(len(proof.counterexample) > 0)
        numbers = (cell.weight_hh, cell.weight_ih, cell.bias)
        accepted.append(rd.check_contraction(proof, *numbers).accepted if proof.proved else True)
        exponents.append(float(growth.exponents[0]))
        stderr.append(float(growth.stderr[0]))
    return DrivenNetworks(
        *(np.asarray(x) for x in (config.gains, bounds, exponents, stderr, refuted, accepted)),
    )
