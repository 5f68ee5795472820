"""The Lyapunov spectrum of a map or driven map, with error bars."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from scipy import stats

from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth._arguments import check_dt, check_growth_arguments
from rnndyn.dynamics.growth._qr_schedule import FADING, next_interval, rate_of_loss
from rnndyn.dynamics.growth._scan import scan_steps
from rnndyn.dynamics.growth.kaplan_yorke import kaplan_yorke_dimension
from rnndyn.dynamics.numerics.frames import log_abs_det, orthonormalize, push_frame, random_frame, shared_min
from rnndyn.dynamics.numerics.statistics import batch_means, drift
from rnndyn.results import Result

_NUM_BLOCKS = 64
_NUM_CHECKED_BLOCKS = 4

_CONVERGED, _DRIFTING, _CORRELATED, _ILL_CONDITIONED, _NON_FINITE = range(5)
VERDICTS = (
    "converged",
    "drifting: the start of the window differs from its end; raise num_transient",
    "correlated: the window is too short for its error bars; raise num_steps",
    "ill-conditioned: the frame lost more than half of its digits; see rounding_error, lower qr_every or use float64",
    "not finite: the trajectory or its derivative left the floating-point range at step first_nonfinite",
)


def lyapunov_spectrum(
    f: Callable,
    x0: ArrayLike,
    num_steps: int,
    *,
    inputs: ArrayLike | None = None,
    num_exponents: int | None = None,
    num_transient: int = 0,
    qr_every: int | None = None,
    dt: ArrayLike = 1.0,
    frame: ArrayLike | None = None,
    history_every: int | None = None,
    remat_every: int | None = None,
) -> "LyapunovSpectrum":
    r"""The k largest Lyapunov exponents along a trajectory, each with a standard error.

    An orthonormal frame $Q$ of k tangent vectors is carried along $x_{t+1} = F(x_t)$ or $F(x_t, u_t)$:

    $$DF(x_t)\, Q_t = Q_{t+1} R_{t+1} \;\text{(QR decomposition, positive diagonal)}, \qquad
    \lambda_i = \lim_{T \to \infty} \frac{1}{T\,dt} \sum_{t=1}^{T} \ln (R_t)_{ii}$$

    Under drive these are the *conditional* exponents: growth of differences between states that see the same input.

    **Arguments:**

    - `f`: the map, `f(x) -> x` or `f(x, u) -> x`, on states of shape (N,). An `eqx.Module` shares its compilation
      with others of its structure; a new lambda compiles anew.
    - `x0`: the initial state, (N,).
    - `num_steps`: T, the steps that are averaged over.
    - `inputs`: one row per step, (num_transient + num_steps, ...), the transient's first. Without it, `f` is `f(x)`.
    - `num_exponents`: k, from 1 to N (default N).
    - `num_transient`: steps before the averaging starts. State and frame both run through them.
    - `qr_every`: steps between QR decompositions. By default chosen on the way, from the spread of the growth rates
      and the condition of the frame seen so far: an interval costs a quarter of the digits and, but for a sudden
      burst, never more than half. The condition reached is in the result.
    - `dt`: time per step; exponents come in nats per unit of it (default: nats per step).
    - `frame`: the initial frame, (N, k), orthonormal. By default a fixed one in general position. To continue a
      run, pass the `final_state` and `final_frame` of the last one.
    - `history_every`: steps per block of `local_exponents`, the history that is kept. Default: up to 64 blocks.
      Error bars are computed from these blocks.
    - `remat_every`: for `jax.grad` over long windows: keep the state and frame of every so manieth step only and
      recompute the others, for memory O((T / remat_every + remat_every) N k) in place of O(T N k).

    **Returns:** a `LyapunovSpectrum`.

    **Raises:** `ValueError` for wrong shapes or counts. A state that becomes infinite or NaN is no exception here
    (this function may run inside `jit`): the exponents are NaN, and `result` and `first_nonfinite` say when.

    Pure: `jit`, `vmap` and `grad` work; results have the dtype of `x0`. Memory of the forward pass is O(N k). Under
    `vmap` the whole batch is orthonormalised at the same steps, as often as its worst member needs.

    Accuracy: the logarithm of one $R_{ii}$ carries a rounding error of about the machine epsilon times the condition
    of the frame; the result has it as `rounding_error`. In float64 that is below 1e-8 nats per interval. In float32,
    where half of the digits is a condition of 3e3, it is below about 4e-4, and the strongly contracting exponents
    suffer first. An exponent is -inf where the map destroys a direction exactly; where it does so up to rounding,
    the condition gives it away.

    Gradients are those of the finite-time exponents and exist while these are finite. Along a chaotic trajectory they
    grow with T, like the sensitivity of the trajectory itself.

    ??? cite "Reference"
        G. Benettin, L. Galgani, A. Giorgilli & J.-M. Strelcyn (1980), "Lyapunov characteristic exponents for smooth
        dynamical systems and for Hamiltonian systems", Meccanica 15; R. Engelken, F. Wolf & L. F. Abbott (2023),
        "Lyapunov spectra of chaotic recurrent neural networks", Phys. Rev. Research 5.
    """
    x0, inputs, num_exponents = check_growth_arguments(f, x0, num_steps, num_transient, inputs, num_exponents)
    check_dt(dt)
    for name, count in (("qr_every", qr_every), ("history_every", history_every), ("remat_every", remat_every)):
        if count is not None:
            check_at_least(name, count, 1)
            if count > num_steps and name != "remat_every":
                raise ValueError(
                    f"{name}: {count} steps do not fit into num_steps={num_steps}. Raise num_steps or lower {name}."
                )
    if frame is not None:
        if np.shape(frame) != (x0.shape[0], num_exponents):
            raise ValueError(f"frame: expected shape {(x0.shape[0], num_exponents)} (N, k), got {np.shape(frame)}.")
        frame = jnp.asarray(frame, x0.dtype)
    plan = _plan(num_steps, num_transient, num_exponents, qr_every, history_every, remat_every)
    # Two programs: the second depends on shapes only, so different systems and lengths of window share it.
    final = _run(f, x0, inputs, frame, plan)
    return _summarise(final, *(jnp.asarray(number, x0.dtype) for number in (dt, num_steps, plan.block)))


class LyapunovSpectrum(Result):
    """Lyapunov exponents with the evidence for them, in nats per step, or per unit time when `dt` was given."""

    exponents: Float[Array, " k"]
    """The exponents, descending."""
    stderr: Float[Array, " k"]
    """Their standard errors (batch means over doubling blocks, so correlation in time is accounted for)."""
    degrees_of_freedom: Float[Array, " k"]
    """How many degrees of freedom the standard errors rest on; see `confidence_interval`."""
    kaplan_yorke_dimension: Float[Array, ""]
    """$j + (\\lambda_1 + \\dots + \\lambda_j) / |\\lambda_{j+1}|$, j the last index with a non-negative sum; 0 when
    $\\lambda_1 < 0$, N when the sum of all N is not negative, NaN when k < N exponents do not reach j + 1."""
    kaplan_yorke_stderr: Float[Array, ""]
    """Its standard error, covariances of the exponents included."""
    entropy_rate: Float[Array, ""]
    """The sum of the positive exponents: an upper bound of the Kolmogorov-Sinai entropy, equal to it for an SRB measure
    (Pesin). NaN when all of k < N exponents are positive."""
    entropy_stderr: Float[Array, ""]
    """Its standard error, likewise."""
    sum: Float[Array, ""]
    """The growth rate of k-dimensional volume."""
    sum_stderr: Float[Array, ""]
    """Its standard error, likewise."""
    sum_rule_defect: Float[Array, ""]
    """For k = N the volume grows by |det DF| at every step. This is the difference of the two rates, with dense
    determinants, over four blocks spread over the window (NaN for k < N)."""
    local_exponents: Float[Array, "M k"]
    """Growth rates over consecutive blocks of the window."""
    times: Float[Array, " M"]
    """The times at which the blocks end, counted from the end of the transient."""
    participation: Float[Array, " k"]
    """$1 / \\sum_j q_j^4$ averaged over the run: over how many units each orthonormal vector spreads (1 to N)."""
    condition: Float[Array, " k"]
    """The largest cancellation $|v_i| / R_{ii}$ that a QR of the window met."""
    rounding_error: Float[Array, " k"]
    """The rounding error of the exponents that this leads one to expect."""
    mean_qr_interval: Float[Array, ""]
    """The mean number of steps from one QR to the next."""
    final_state: Float[Array, " N"]
    """The state at the end,"""
    final_frame: Float[Array, "N k"]
    """and the frame there."""
    first_nonfinite: Int[Array, ""]
    """The step, counted from the start of the transient, that left the floating-point range; -1 if none did."""
    status: Int[Array, ""]
    """The verdict as a number; `result` has it in words."""

    @property
    def converged(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether every check of `result` passed."""
        return self.status == _CONVERGED

    @property
    def result(self) -> Any:
        """The verdict in words, one string (or an array of them for a batch)."""
        words = np.array(VERDICTS, dtype=object)[np.asarray(self.status)]
        return words if np.ndim(self.status) else str(words)

    @property
    def finite_time_exponents(self) -> Float[Array, "... M k"]:
        """The exponents as they were known at each of `times`: running means of `local_exponents`."""
        counts = jnp.arange(1, self.local_exponents.shape[-2] + 1)[:, None]
        return jnp.cumsum(jnp.asarray(self.local_exponents), axis=-2) / counts

    @property
    def is_zero(self) -> Bool[Array | np.ndarray, "... k"]:
        """Which exponents cannot be told from zero: within four standard errors, or within the O(1/T) bound of a
        neutral direction, whose length stays within one factor e over the whole window.

        A flow has one zero exponent on every attractor that is not an equilibrium.
        """
        duration = jnp.asarray(self.times)[..., -1:]
        return jnp.abs(jnp.asarray(self.exponents)) <= jnp.maximum(4 * jnp.asarray(self.stderr), 1 / duration)

    def confidence_interval(
        self, level: float | int = 0.95
    ) -> tuple[Float[np.ndarray, "... k"], Float[np.ndarray, "... k"]]:
        """Lower and upper ends of the interval that holds each exponent with probability `level` (Student's t)."""
        if not 0 < level < 1:
            raise ValueError(f"level: expected a probability between 0 and 1, got {level}.")
        half_width = stats.t.ppf(0.5 + level / 2, np.asarray(self.degrees_of_freedom)) * np.asarray(self.stderr)
        exponents = np.asarray(self.exponents)
        return exponents - half_width, exponents + half_width

    def table(self) -> str:
        if np.ndim(self.status):
            share = float(np.mean(np.asarray(self.converged)))
            return f"LyapunovSpectrum: a batch of shape {np.shape(self.status)}, {share:.0%} converged"
        lines = ["LyapunovSpectrum", "    i     exponent       stderr    condition"]
        exponents, stderr = np.asarray(self.exponents), np.asarray(self.stderr)
        shown = range(len(exponents)) if len(exponents) <= 12 else [*range(8), len(exponents) - 1]
        for i in shown:
            if i and i - 1 not in shown:
                lines.append("  ...")
            lines.append(f"  {i + 1:>3} {exponents[i]:>12.6f} {stderr[i]:>12.1e} {float(self.condition[i]):>12.1e}")
        lines += [
            f"  sum                     {_pm(self.sum, self.sum_stderr)}",
            f"  sum rule defect         {float(self.sum_rule_defect):.1e}",
            f"  Kaplan-Yorke dimension  {_pm(self.kaplan_yorke_dimension, self.kaplan_yorke_stderr)}",
            f"  entropy rate            {_pm(self.entropy_rate, self.entropy_stderr)}",
            f"  QR every {float(self.mean_qr_interval):.1f} steps; rounding error up to "
            f"{float(np.max(np.asarray(self.rounding_error))):.1e}",
            f"  {self.result}" + (f" ({int(self.first_nonfinite)})" if self.status == _NON_FINITE else ""),
        ]
        return "\n".join(lines)


class _Plan(eqx.Module):
    """When things happen: all static, so that a schedule is part of the compiled program."""

    num_steps: int = eqx.field(static=True)
    num_transient: int = eqx.field(static=True)
    num_exponents: int = eqx.field(static=True)
    qr_every: int | None = eqx.field(static=True)
    block: int = eqx.field(static=True)
    remat_every: int | None = eqx.field(static=True)

    @property
    def num_blocks(self) -> int:
        return self.num_steps // self.block


def _plan(num_steps, num_transient, num_exponents, qr_every, history_every, remat_every):
    if history_every is not None:
        block = history_every
    else:
        # Blocks end with a QR, so they are made of whole QR intervals.
        unit = qr_every or 1
        block = unit * max(1, math.ceil(num_steps / (_NUM_BLOCKS * unit)))
    return _Plan(num_steps, num_transient, num_exponents, qr_every, block, remat_every)


def _checked_blocks(num_blocks: int) -> tuple[int, ...]:
    """The blocks over which the sum rule is checked: few, for a dense determinant costs about as much as a step."""
    return tuple(range(0, num_blocks, max(1, num_blocks // _NUM_CHECKED_BLOCKS)))[:_NUM_CHECKED_BLOCKS]


class _Carry(eqx.Module):
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


@eqx.filter_jit
def _run(f, x0, inputs, frame, plan):
    num_units, num_exponents = x0.size, plan.num_exponents
    if frame is None:
        frame = random_frame(num_units, num_exponents, x0.dtype)
    num_blocks, block = plan.num_blocks, plan.block
    total = plan.num_transient + plan.num_steps
    initial = _Carry(
        x=x0,
        frame=frame,
        log_growth=jnp.zeros((num_blocks + 1, num_exponents), x0.dtype),
        condition=jnp.ones(num_exponents, x0.dtype),
        participation=jnp.zeros(num_exponents, x0.dtype),
        num_qrs=jnp.array(0, jnp.int32),
        log_det=jnp.array(0, x0.dtype),
        until_qr=jnp.array(plan.qr_every or 1, jnp.int32),
        since_qr=jnp.array(0, jnp.int32),
        rate=jnp.array(0, x0.dtype),
        first_nonfinite=jnp.array(-1, jnp.int32),
    )

    def step(carry: _Carry, xs) -> _Carry:
        t, u = xs
        args = () if inputs is None else (u,)
        elapsed = t - plan.num_transient  # steps of the window before this one
        counts = elapsed >= 0
        index = jnp.clip(elapsed // block, 0, num_blocks)

        log_det = carry.log_det
        if num_exponents == num_units:
            checked = counts & jnp.isin(index, jnp.asarray(_checked_blocks(num_blocks)))
            log_det += jax.lax.cond(
                checked,
                lambda x: jax.lax.stop_gradient(log_abs_det(f, jax.lax.stop_gradient(x), args)),
                lambda x: jnp.zeros((), x.dtype),
                carry.x,
            )

        x, vectors = push_frame(f, carry.x, args, carry.frame)
        until_qr, since_qr = carry.until_qr - 1, carry.since_qr + 1
        ends = (elapsed == -1) | (counts & ((elapsed + 1) % block == 0)) | (elapsed == plan.num_steps - 1)
        due = (until_qr <= 0) | ends

        finite = jnp.all(jnp.isfinite(x)) & ~(due & ~jnp.all(jnp.isfinite(vectors)))
        first_nonfinite = jnp.where((carry.first_nonfinite < 0) & ~finite, t, carry.first_nonfinite)
        # A lost run keeps its last good frame: NaN would send a whole batch through the slow branch of the QR.
        vectors = jnp.where(first_nonfinite < 0, vectors, carry.frame)

        def qr(vectors):
            q, log_diagonal, condition = orthonormalize(vectors)
            rate = jnp.maximum(rate_of_loss(vectors, log_diagonal, condition, since_qr), FADING * carry.rate)
            interval = next_interval(rate, since_qr) if plan.qr_every is None else jnp.int32(plan.qr_every)
            return q, log_diagonal, condition, 1 / jnp.sum(q**4, axis=0), rate, interval

        def no_qr(vectors):
            nothing = jnp.zeros(num_exponents, vectors.dtype)
            return vectors, nothing, jnp.ones_like(nothing), nothing, carry.rate, until_qr

        new_frame, log_diagonal, condition, participation, rate, until_qr = jax.lax.cond(due, qr, no_qr, vectors)
        return _Carry(
            x=x,
            frame=new_frame,
            log_growth=carry.log_growth.at[index].add(jnp.where(counts, log_diagonal, 0)),
            condition=jnp.where(counts, jnp.maximum(carry.condition, condition), carry.condition),
            participation=carry.participation + jnp.where(counts, participation, 0),
            num_qrs=carry.num_qrs + (counts & due),
            log_det=log_det,
            until_qr=shared_min(until_qr),
            since_qr=jnp.where(due, 0, since_qr),
            rate=rate,
            first_nonfinite=first_nonfinite,
        )

    times = jnp.arange(total, dtype=jnp.int32)
    return scan_steps(step, initial, (times, inputs), total, plan.remat_every)


@eqx.filter_jit
def _summarise(final, dt, num_steps, block):
    num_units, num_exponents, num_blocks = final.x.size, final.frame.shape[1], final.log_growth.shape[0] - 1
    lost = final.first_nonfinite >= 0
    log_growth = jnp.where(lost, jnp.nan, final.log_growth)
    exponents = jnp.sum(log_growth, axis=0) / (num_steps * dt)
    order = jnp.argsort(-exponents)
    exponents, log_growth = exponents[order], log_growth[:, order]
    blocks = log_growth[:num_blocks] / (block * dt)

    def dimension(exponents):
        return kaplan_yorke_dimension(exponents, num_units)

    def entropy(exponents):
        positive = jnp.sum(jnp.maximum(exponents, 0))
        return positive if num_exponents == num_units else jnp.where(exponents[-1] > 0, jnp.nan, positive)

    destroyed = jnp.isneginf(exponents)
    # An exponent of -inf has no fluctuations; zeros in its place keep the other columns free of inf - inf.
    finite_blocks = jnp.where(destroyed, 0, blocks)
    # What derives from the exponents fluctuates along its gradient: three more columns, for one pass over all.
    gradients = [jnp.where(destroyed, 0, jax.grad(derived)(exponents)) for derived in (dimension, entropy, jnp.sum)]
    columns = jnp.concatenate([finite_blocks, finite_blocks @ jnp.stack(gradients, axis=1)], axis=1)
    errors, degrees, resolved = batch_means(columns)
    stderr, (dimension_stderr, entropy_stderr, sum_stderr) = errors[:num_exponents], errors[num_exponents:]
    degrees, resolved = degrees[:num_exponents], resolved[:num_exponents]

    if num_exponents < num_units:
        defect = jnp.array(jnp.nan, exponents.dtype)
    else:
        checked = np.array(_checked_blocks(num_blocks))
        volume = jnp.sum(log_growth[checked])
        # Two infinitely contracting volumes agree.
        difference = jnp.where(volume == final.log_det, 0, volume - final.log_det)
        defect = jnp.abs(difference) / (checked.size * block * dt)

    eps = jnp.finfo(exponents.dtype).eps
    interval = num_steps / jnp.maximum(final.num_qrs, 1).astype(exponents.dtype)
    condition = final.condition[order]
    rounding_error = eps * (condition / (interval * dt) + jnp.where(destroyed, 0, jnp.abs(exponents)))
    # Rounding errors are correlated too, but nobody asks for their error bar.
    resolved = resolved | (stderr <= rounding_error)
    status = jnp.select(
        [
            lost,
            jnp.max(condition) > 1 / jnp.sqrt(eps),
            jnp.any(drift(finite_blocks, rtol=1e-3)),
            ~jnp.all(resolved) | (num_blocks < 2),
        ],
        [_NON_FINITE, _ILL_CONDITIONED, _DRIFTING, _CORRELATED],
        _CONVERGED,
    )
    return LyapunovSpectrum(
        exponents=exponents,
        stderr=stderr,
        degrees_of_freedom=degrees,
        kaplan_yorke_dimension=dimension(exponents),
        kaplan_yorke_stderr=dimension_stderr,
        entropy_rate=entropy(exponents),
        entropy_stderr=entropy_stderr,
        sum=jnp.sum(exponents),
        sum_stderr=sum_stderr,
        sum_rule_defect=jax.lax.stop_gradient(defect),
        local_exponents=blocks,
        times=jnp.arange(1, num_blocks + 1) * block * dt,
        participation=final.participation[order] / jnp.maximum(final.num_qrs, 1),
        condition=condition,
        rounding_error=rounding_error,
        mean_qr_interval=interval,
        final_state=final.x,
        final_frame=final.frame[:, order],
        first_nonfinite=final.first_nonfinite,
        status=status,
    )


def _pm(value, error):
    return f"{float(value):.6f} +- {float(error):.1e}"
