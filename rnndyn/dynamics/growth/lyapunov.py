"""The Lyapunov spectrum of a map or driven map, with error bars."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int
from scipy import special

from rnndyn._validation import check_at_least
from rnndyn.dynamics.growth._arguments import check_dt, check_growth_arguments
from rnndyn.dynamics.growth._frame_run import make_plan, run_frame
from rnndyn.dynamics.growth._spectrum_summary import summarise
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.frames import random_frame
from rnndyn.results import Judged


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
    - `history_every`: steps per block of `local_exponents`, the history that is kept. Default: 64 blocks.
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
    suffer first. An exponent is -inf where one step of the map destroys a direction: beyond the rank of DF, to the last
    digit of its rows and columns (`result` is `singular`). Where a single step loses more than half of the digits, DF
    itself is decomposed with pivoting, so that saturated units (slopes over many decades) cost
    none; several steps without a QR are not saved that way, and the condition gives them away.

    Compilation: with plain arrays the program depends on the structure of `f`, the shapes of `x0` and of one input,
    and k; other lengths, transients, schedules and networks share it. Under `jit`, `vmap` or `grad` the lengths are
    part of it.

    Gradients are those of the finite-time exponents and exist while these are finite. Along a chaotic trajectory they
    grow with T, like the sensitivity of the trajectory itself.

    ??? cite "Reference"
        G. Benettin, L. Galgani, A. Giorgilli & J.-M. Strelcyn (1980), "Lyapunov characteristic exponents for smooth
        dynamical systems and for Hamiltonian systems", Meccanica 15; R. Engelken, F. Wolf & L. F. Abbott (2023),
        "Lyapunov spectra of chaotic recurrent neural networks", Phys. Rev. Research 5.
    """
    f, x0, inputs, num_exponents = check_growth_arguments(f, x0, num_steps, num_transient, inputs, num_exponents)
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
    else:
        frame = random_frame(x0.shape[0], num_exponents, x0.dtype)
    plan = make_plan(num_steps, num_transient, qr_every, history_every)
    final = run_frame(f, x0, inputs, frame, plan, remat_every)
    return LyapunovSpectrum(**summarise(final, plan, jnp.asarray(dt, x0.dtype)))


class LyapunovSpectrum(Judged):
    """The k largest Lyapunov exponents with the evidence for them, in nats per step, or per unit time with `dt`.

    Under `vmap` every field has the axes of the batch in front. Where the trajectory left the floating-point range the
    rates and their errors are NaN, `result` is `not_finite`, and `first_nonfinite` says when; where another check
    failed the numbers are what was measured, and `result` says what is wrong with them.
    """

    exponents: Float[Array, " k"]
    """The exponents, descending; -inf beyond the rank of DF."""
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
    """Growth rates over consecutive blocks of the window, 64 of them that differ by at most one step (or QR interval)
    where `history_every` says nothing else and the window has as many."""
    times: Float[Array, " M"]
    """The times at which the blocks end, counted from the end of the transient."""
    participation: Float[Array, " k"]
    """$1 / \\sum_j q_j^4$ averaged over the run: over how many units each orthonormal vector spreads (1 to N)."""
    condition: Float[Array, " k"]
    """The largest cancellation that a QR of the window met: $|v_i| / R_{ii}$, or less where the direction lives on rows
    of $DF$ that are small as a whole (saturated units). 1 for a destroyed direction."""
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
    result: GrowthVerdict
    """The verdict, one of `GrowthVerdict`; `message` has it in words."""

    @property
    def converged(self) -> Bool[Array | np.ndarray, "..."]:
        """Whether every check of `result` passed; exponents of -inf (`singular`) are no fault."""
        return (self.result == GrowthVerdict.converged) | (self.result == GrowthVerdict.singular)

    @property
    def finite_time_exponents(self) -> Float[Array, "... M k"]:
        """The exponents as they were known at each of `times`: running means of `local_exponents`."""
        times = jnp.asarray(self.times)[..., None]
        durations = jnp.diff(times, axis=-2, prepend=0)
        return jnp.cumsum(jnp.asarray(self.local_exponents) * durations, axis=-2) / times

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
        half_width = special.stdtrit(np.asarray(self.degrees_of_freedom), 0.5 + level / 2) * np.asarray(self.stderr)
        exponents = np.asarray(self.exponents)
        return exponents - half_width, exponents + half_width

    def table(self) -> str:
        if np.ndim(self.sum):
            share = float(np.mean(np.asarray(self.converged)))
            return f"LyapunovSpectrum: a batch of shape {np.shape(self.sum)}, {share:.0%} converged"
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
            f"  {self.message}" + (f", at step {int(self.first_nonfinite)}" if self.first_nonfinite >= 0 else ""),
        ]
        return "\n".join(lines)


def _pm(value, error):
    return f"{float(value):.6f} +- {float(error):.1e}"
