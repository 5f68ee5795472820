"""A frame carried along a trajectory: one step, and two ways to repeat it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from rnndyn._programs import compiled
from rnndyn.dynamics.growth._qr_schedule import FADING, next_interval, rate_of_loss
from rnndyn.dynamics.growth._scan import scan_steps
from rnndyn.dynamics.growth._step_qr import step_qr
from rnndyn.dynamics.numerics.frames import log_abs_det, push_frame, quick_qr, shared_min

NUM_BLOCKS = 64
_NUM_CHECKED_BLOCKS = 4

_CHUNK_BYTES = 4 * 2**20
"""Rows of input that go to the device at once: enough that starting a program costs nothing beside its steps."""


class Plan(NamedTuple):
    """When things happen. Numbers only, so that other lengths and schedules run the same program."""

    num_transient: Any
    num_steps: Any
    qr_every: Any
    """Steps between QRs; 0 leaves it to the schedule."""
    edges: Any
    """(M + 1,): the steps of the window at which its blocks begin and end."""
    checked: Any
    """(M + 1,): the blocks over which the sum rule is checked; the last entry is for what comes after them."""


def make_plan(num_steps: int, num_transient: int, qr_every: int | None, history_every: int | None) -> Plan:
    """Blocks of `history_every` steps; or `NUM_BLOCKS` of them, as equal as whole QR intervals allow."""
    if history_every is not None:
        edges = np.arange(num_steps // history_every + 1) * history_every
    else:
        unit = qr_every or 1  # blocks end with a QR
        num_units = num_steps // unit
        num_blocks = min(NUM_BLOCKS, num_units)
        edges = unit * (np.arange(num_blocks + 1) * num_units // num_blocks)
    num_blocks = len(edges) - 1
    # Few, for a dense determinant costs about as much as a step.
    checked = np.zeros(num_blocks + 1, bool)
    checked[:num_blocks][:: max(1, num_blocks // _NUM_CHECKED_BLOCKS)][:_NUM_CHECKED_BLOCKS] = True
    # Arrays, also of one number, are arguments of a compiled program; a number would be part of it.
    transient, steps, between = (np.full((), n, np.int32) for n in (num_transient, num_steps, qr_every or 0))
    return Plan(transient, steps, between, edges.astype(np.int32), checked)


class Run(NamedTuple):
    """A state with its frame, and what was gathered on the way."""

    x: Array
    frame: Array
    log_growth: Array  # (M + 1, k): per block, the last row for the steps after the last whole block
    condition: Array
    participation: Array
    num_qrs: Array
    log_det: Array  # of the checked blocks
    until_qr: Array  # steps to the next QR; one for a whole batch
    since_qr: Array
    rate: Array  # of loss of digits, per step: the recent maximum
    first_nonfinite: Array


def run_frame(
    f: Callable, x0: Array, inputs: Array | np.ndarray | None, frame: Array, plan: Plan, remat_every: int | None
) -> Run:
    """Carry `frame` from `x0` through transient and window.

    With plain numbers everything is done by a `while_loop` whose length is an argument of the program: another length,
    transient or schedule compiles nothing. Where something is traced (`grad`, `vmap`, `jit` around this function), the
    loop is a `scan` of fixed length, for a `while_loop` has no reverse mode.
    """
    # Keys of random numbers have no form on the host.
    is_key = inputs is not None and jnp.issubdtype(inputs.dtype, jax.dtypes.extended)
    if is_key or _is_traced(f, x0, inputs, frame):
        return _scanned(f, x0, inputs, frame, plan, int(plan.num_transient + plan.num_steps), remat_every)
    total = int(plan.num_transient + plan.num_steps)
    carry, while_careful = _start(x0, frame, plan, np), 64
    if inputs is None:
        return _run_between(f, carry, None, plan, 0, total, while_careful)[0]
    rows = np.asarray(inputs)  # sliced and padded on the host, where that compiles nothing
    size = _chunk_size(rows)
    for start in range(0, total, size):
        part = rows[start : start + size]
        padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
        padded[: len(part)] = part
        carry, while_careful = _run_between(f, carry, padded, plan, start, start + len(part), while_careful)
    return carry


def run_frame_forward(f: Callable, x0: Array, frame: Array, plan: Plan) -> Run:
    """`run_frame` of an autonomous map inside of a traced function, in a loop whose length is traced too: other lengths
    of the same number of blocks run the same program. Forward mode only."""
    return _looped(f, _start(x0, frame, plan, jnp), None, plan, 0, 0, plan.num_transient + plan.num_steps)


def _is_traced(f, x0, inputs, frame) -> bool:
    """Whether any of the arrays, those that `f` closes over included, belongs to a transformation."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((f, x0, inputs, frame))):
        return True
    rows = () if inputs is None else (jax.ShapeDtypeStruct(inputs.shape[1:], inputs.dtype),)
    arrays, rest = eqx.partition(f, eqx.is_array)
    call = lambda arrays, x, *u: eqx.combine(arrays, rest)(x, *u)
    closed = jax.make_jaxpr(call)(arrays, jax.ShapeDtypeStruct(x0.shape, x0.dtype), *rows)
    return any(isinstance(constant, Tracer) for constant in closed.consts)


def _chunk_size(rows: np.ndarray) -> int:
    """A power of two that depends on the shape of one row only."""
    bytes_per_row = max(1, rows.dtype.itemsize * int(np.prod(rows.shape[1:], dtype=int)))
    return 1 << max(4, min(10, (_CHUNK_BYTES // bytes_per_row).bit_length() - 1))


def _start(x0, frame, plan, xp) -> Run:
    num_exponents, dtype = frame.shape[1], x0.dtype
    return Run(
        x=x0,
        frame=frame,
        log_growth=xp.zeros((len(plan.edges), num_exponents), dtype),
        condition=xp.ones(num_exponents, dtype),
        participation=xp.zeros(num_exponents, dtype),
        num_qrs=xp.zeros((), xp.int32),
        log_det=xp.zeros((), dtype),
        until_qr=xp.asarray(xp.maximum(plan.qr_every, 1), xp.int32),
        since_qr=xp.zeros((), xp.int32),
        rate=xp.zeros((), dtype),
        first_nonfinite=xp.full((), -1, xp.int32),
    )


@compiled
def _scanned(f, x0, inputs, frame, plan, total, remat_every) -> Run:
    step = lambda carry, xs: _step(f, plan, carry, *xs)
    times = jnp.arange(total, dtype=jnp.int32)
    return scan_steps(step, _start(x0, frame, plan, jnp), (times, inputs), total, remat_every)


def _run_between(
    f: Callable, carry: Run, rows: np.ndarray | None, plan: Plan, start: int, stop: int, while_careful: int
) -> tuple[Run, int]:
    """Steps `start` to `stop`, with `rows` of inputs from the first of them on: by `_quickly` up to a step that needs
    more than that, then by `_looped` for `while_careful` steps, and so on; and how many it shall be the next time.

    Most runs never need more, and what such a step needs takes longer to compile than all the rest.
    """
    first, at, last = (np.full((), t, np.int32) for t in (start, start, stop))
    while int(at) < stop:
        carry, at = _quickly(f, carry, rows, plan, first, at, last)
        if int(at) < stop:
            until = np.minimum(last, int(at) + while_careful, dtype=np.int32)
            carry = _looped(f, carry, rows, plan, first, at, until)
            # Twice as long each time, so that where it happens often little is lost to trying.
            at, while_careful = until, 2 * while_careful
    return carry, while_careful


@compiled
def _looped(f, carry, rows, plan, first, start, stop) -> Run:
    def step(t, carry):
        return _step(f, plan, carry, t, None if rows is None else rows[t - first])

    return jax.lax.fori_loop(start, stop, step, carry)


@compiled
def _quickly(f, carry, rows, plan, first, start, stop) -> tuple[Run, Array]:
    """The run up to the first step that needs more than `quick_qr`, and its number; `stop` if none does."""

    def step(state):
        t, carry, _ = state
        new, good = _try_step(f, plan, carry, t, None if rows is None else rows[t - first], _quick_qr)
        # The frame is the old one already.
        kept = jax.tree.map(
            lambda new, old: jnp.where(good, new, old), new._replace(frame=()), carry._replace(frame=())
        )
        return jnp.where(good, t + 1, t), kept._replace(frame=new.frame), good

    def unfinished(state):
        return (state[0] < stop) & state[2]

    t, carry, _ = jax.lax.while_loop(unfinished, step, (start, carry, jnp.asarray(True)))
    return carry, t


def _quick_qr(f, x, args, frame, vectors, one_step, exact):
    return quick_qr(vectors, exact)


def _step(f: Callable, plan: Plan, carry: Run, t: Array, u: Array | None) -> Run:
    return _try_step(f, plan, carry, t, u, lambda *args: (True, step_qr(*args)))[0]


def _try_step(f: Callable, plan: Plan, carry: Run, t: Array, u: Array | None, decompose) -> tuple[Run, Any]:
    """The run one step further, and whether `decompose` was good enough; if not, the frame is that before the step."""
    num_units, num_exponents = carry.frame.shape
    args = () if u is None else (u,)
    edges, checked = jnp.asarray(plan.edges), jnp.asarray(plan.checked)
    elapsed = t - plan.num_transient  # steps of the window before this one
    counts = elapsed >= 0
    index = jnp.sum(edges[1:] <= elapsed)

    log_det = carry.log_det
    if num_exponents == num_units:
        log_det += jax.lax.cond(
            counts & checked[index],
            lambda x: jax.lax.stop_gradient(log_abs_det(f, jax.lax.stop_gradient(x), args)),
            lambda x: jnp.zeros((), x.dtype),
            carry.x,
        )

    x, vectors = push_frame(f, carry.x, args, carry.frame)
    until_qr, since_qr = carry.until_qr - 1, carry.since_qr + 1
    ends = (elapsed == -1) | jnp.any(edges[1:] == elapsed + 1) | (elapsed == plan.num_steps - 1)
    due = (until_qr <= 0) | ends

    finite = jnp.all(jnp.isfinite(x)) & ~(due & ~jnp.all(jnp.isfinite(vectors)))
    first_nonfinite = jnp.where((carry.first_nonfinite < 0) & ~finite, t, carry.first_nonfinite)
    # A lost run keeps its last good frame: NaN would send a whole batch through the slow branch of the QR.
    vectors = jnp.where(first_nonfinite < 0, vectors, carry.frame)

    # Blocks end with an orthonormal frame, so that their sums are exact.
    def qr(vectors):
        good, (q, log_diagonal, condition) = decompose(f, carry.x, args, carry.frame, vectors, since_qr == 1, ends)
        alive = jnp.where(jnp.isneginf(log_diagonal), 0, log_diagonal)  # a destroyed direction asks for no QR
        rate = jnp.maximum(rate_of_loss(vectors, alive, condition, since_qr), FADING * carry.rate)
        interval = jnp.where(plan.qr_every > 0, plan.qr_every, next_interval(rate, since_qr))
        if good is not True:
            q = jnp.where(good, q, carry.frame)
        return q, log_diagonal, condition, 1 / jnp.sum(q**4, axis=0), rate, interval, good

    def no_qr(vectors):
        nothing = jnp.zeros(num_exponents, vectors.dtype)
        return vectors, nothing, jnp.ones_like(nothing), nothing, carry.rate, until_qr, True

    # Nothing that is computed after a direction was destroyed says anything more about it.
    gone = jnp.any(jnp.isneginf(carry.log_growth), axis=0)
    found = jax.lax.cond(due, qr, no_qr, vectors)
    frame, log_diagonal, condition, participation, rate, until_qr, good = found
    run = Run(
        x=x,
        frame=frame,
        log_growth=carry.log_growth.at[index].add(jnp.where(counts, log_diagonal, 0)),
        condition=jnp.where(counts & ~gone, jnp.maximum(carry.condition, condition), carry.condition),
        participation=carry.participation + jnp.where(counts, participation, 0),
        num_qrs=jnp.where(counts & due, carry.num_qrs + 1, carry.num_qrs),
        log_det=log_det,
        until_qr=shared_min(until_qr),
        since_qr=jnp.where(due, 0, since_qr),
        rate=rate,
        first_nonfinite=first_nonfinite,
    )
    return run, good
