"""Everything about one network in one report: what it does under each held input, and how sure that is."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike

from rnndyn._validation import check_at_least
from rnndyn.portrait import _growth_words, _verdict
from rnndyn.portrait._budget import Budget
from rnndyn.portrait._stages import Place, exponents, horizon
from rnndyn.portrait._system import System, as_system, check_given_states, held_inputs, start_states
from rnndyn.portrait.report import PlacePortrait, Portrait
from rnndyn.portrait.sentences import Sentence

_NUM_STATES = 512
_DRIVE_LENGTH = 2200
_KEPT_PATHS, _KEPT_STEPS = 16, 64


def portrait(
    network: Any,
    inputs: ArrayLike | Sequence[Any] | None = None,
    states: ArrayLike | Sequence[Any] | None = None,
    *,
    drive: ArrayLike | Sequence[Any] | None = None,
    budget: float = 60.0,
    seed: int = 0,
    title: str | None = None,
    progress: bool = True,
) -> Portrait:
    r"""Say in words what a network does, each sentence with its evidence, within a budget of time.

    Under each held input: trajectories; fixed points, and proofs that they exist and how stable they are; where states
    end, with basin fractions; cycles of periods 2 to 4, slow points; exponents where an attractor is neither point nor
    cycle. Driven: conditional exponents and how far back gradients reach. Cheap evidence comes first and for all
    inputs; searches grow as far as time allows, and `stages` says what there was no time for.

    **Arguments:**

    - `network`: a cell of rnndyn or Equinox, a model with a `cell` and a `readout`, what `load_network` or `from_torch`
        returned, a map `f(x)`, or a function `(state, input) -> state` (the last two need `states`).
    - `inputs`: inputs to hold one after another, shape `(M, I)`: phases of the task, a grid. Zero by default.
    - `states`: flat states to start from, shape `(K, N)`, best those of the network at its task. By default 512 random
        ones: uniform in the box that the cell keeps its state in, or standard normal where there is none. Basin
        fractions are fractions of these.
    - `drive`: a sequence of inputs `(T, I)` for the conditional exponents and the memory, such as a trial of the task;
        by default random steps between the `inputs` when there are several, else white noise of variance 1.
    - `budget`: seconds. The last stage may run over; compilation counts.
    - `seed`: of all that is drawn.
    - `title`: the name of the report; that of the cell by default.
    - `progress`: print one line per stage to standard error.

    **Returns:** a `Portrait`: `print` it, `.figure()`, `.save(folder)`. Ctrl-C ends the work and returns what is known
    by then (`is_interrupted`).

    **Raises:** `ValueError` for something that is no network, inputs or states of another shape, or NaN in the weights.
    An analysis that refuses the map does not stop the others: its stage says so.

    No sentence is a proof unless it is called one. What a portrait shows holds for the inputs held, the states tried
    and the time spent.
    """
    if not budget > 0:
        raise ValueError(f"budget: expected seconds above 0, got {budget}.")
    check_at_least("seed", seed, 0)
    given = check_given_states(states)
    rows = None if inputs is None else np.atleast_2d(np.asarray(inputs, np.float64))
    system = as_system(network, given, rows)
    held, names = held_inputs(rows, system)
    rng = np.random.default_rng(seed)
    sequence, drive_name = _drive(drive, system, held, rng)
    clock = Budget(budget, _to_stderr if progress else lambda line: None)
    places = []
    for row, name in zip(held, names, strict=True):
        f = system.at(row)
        starts, origin = start_states(given, _NUM_STATES, system, f, rng)
        places.append(Place(name, row, f, starts, origin))
    driven: dict[str, Any] = {}
    try:
        _work(places, system, sequence, drive_name, clock, driven, seed)
        is_interrupted = False
    except KeyboardInterrupt:
        clock.report("interrupted: the portrait holds what was done by now")
        is_interrupted = True
    conditional, memory = driven.get("conditional"), driven.get("memory")
    dt = system.time_step
    step = None if dt is None else float(np.max(np.asarray(dt)))
    sentences = [s for place in places for s in _place_sentences(place, step)]
    if conditional is not None:
        sentences.append(_growth_words.conditional_sentence(conditional, drive_name))
    if memory is not None:
        sentences.append(_growth_words.memory_sentence(memory, drive_name))
    return Portrait(
        title=title or system.name,
        description=system.description,
        places=tuple(_freeze(place) for place in places),
        conditional=conditional,
        memory=memory,
        drive=drive_name,
        sentences=tuple(sentences),
        stages=tuple(clock.stages),
        budget=float(budget),
        seconds=clock.spent,
        is_interrupted=is_interrupted,
    )


def _work(
    places: list[Place],
    system: System,
    sequence: np.ndarray | None,
    drive_name: str,
    clock: Budget,
    driven: dict[str, Any],
    seed: int,
) -> None:
    """All stages, stage by stage and for all inputs, cheap ones first."""
    for place in places:
        place.follow(clock)
    pools = [place.paths.reshape(-1, system.state_size) for place in places]

    def others(k: int) -> np.ndarray:
        return np.concatenate([pool for j, pool in enumerate(pools) if j != k] or [np.zeros((0, system.state_size))])

    share = 0.4 / len(places)
    for k, place in enumerate(places):
        place.find_points(clock, others(k))
    for place in places:
        place.settle(clock, share)
    for k, place in enumerate(places):
        place.find_more_points(clock, others(k), share)
    for place in places:
        place.prove(clock)
    for place in places:
        place.measure_spectrum(clock)
    if sequence is not None:
        x0 = places[0].starts[0]
        driven["conditional"] = clock.run(
            "conditional exponents",
            drive_name,
            lambda: exponents(system.driven, x0, len(sequence) * 10 // 11, sequence),
        )
        driven["memory"] = clock.run("memory horizon", drive_name, lambda: horizon(system.driven, x0, sequence, seed))
    for k, place in enumerate(places):
        place.find_cycles(clock, others(k))
    for k, place in enumerate(places):
        place.find_slow(clock, others(k))


def _drive(
    drive: ArrayLike | Sequence[Any] | None, system: System, held: list[np.ndarray | None], rng: np.random.Generator
) -> tuple[np.ndarray | None, str]:
    """The sequence that drives the network, and in words what it is."""
    if system.driven is None:
        if drive is not None:
            raise ValueError("drive: the map given has no input; pass the cell itself, or leave drive out.")
        return None, ""
    if drive is not None:
        sequence = np.asarray(drive, np.float64)
        if sequence.ndim != 2 or sequence.shape[1] != system.input_size or len(sequence) < 110:
            raise ValueError(
                f"drive: expected a sequence of at least 110 inputs, shape (T, {system.input_size}), "
                f"got {sequence.shape}."
            )
        if not np.isfinite(sequence).all():
            raise ValueError("drive: some inputs are NaN or infinite.")
        return sequence, f"the given sequence of {len(sequence)} inputs"
    if len(held) > 1:
        rows = np.stack([row for row in held if row is not None])
        return rows[rng.integers(len(rows), size=_DRIVE_LENGTH)], "random steps between the inputs"
    return rng.standard_normal((_DRIVE_LENGTH, system.input_size)), "white noise of variance 1"


def _place_sentences(place: Place, dt: float | None) -> list[Sentence]:
    sentences: list[Sentence | None] = []
    if place.fixed_points is not None:
        sentences.append(_verdict.fixed_point_sentence(place.fixed_points, place.certificates, place.name))
    if place.attractors is not None:
        sentences += _verdict.attractor_sentences(place.attractors, place.fixed_points, place.name, place.origin)
    if place.fixed_points is not None:
        sentences.append(_verdict.time_constant_sentence(place.fixed_points, place.name, dt))
    if place.spectrum is not None:
        sentences.append(_growth_words.spectrum_sentence(place.spectrum, place.name))
    if place.slow_points is not None:
        sentences.append(_verdict.slow_sentence(place.slow_points, place.name))
    if place.cycles is not None:
        sentences.append(_verdict.cycle_sentence(place.cycles, place.name))
    return [sentence for sentence in sentences if sentence is not None]


def _freeze(place: Place) -> PlacePortrait:
    return PlacePortrait(
        name=place.name,
        input=place.input,
        states=place.starts,
        trajectories=place.paths[:_KEPT_PATHS, :_KEPT_STEPS],
        fixed_points=place.fixed_points,
        certificates=place.certificates,
        attractors=place.attractors,
        cycles=place.cycles,
        slow_points=place.slow_points,
        spectrum=place.spectrum,
    )


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
