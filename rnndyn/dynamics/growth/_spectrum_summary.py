"""What a run of a frame says about the exponents: their values, error bars and verdict."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rnndyn._arrays import as_array
from rnndyn.dynamics.growth._frame_run import Plan, Run
from rnndyn.dynamics.growth.kaplan_yorke import kaplan_yorke_dimension, kaplan_yorke_gradient
from rnndyn.dynamics.growth.verdicts import GrowthVerdict
from rnndyn.dynamics.numerics.statistics import batch_means, drift


def summarise(run: Run, plan: Plan, dt: Any) -> dict[str, Any]:
    """The fields of a `LyapunovSpectrum`.

    On plain numbers NumPy does it, because compiling it took longer than most runs; on traced ones JAX does, as one
    program: under `grad` or `vmap` without `jit` each of its operations would be compiled by itself, 200 of them.
    """
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((run, plan, dt))):
        return _traced(run, plan, dt)
    found = _fields(np, jax.tree.map(np.asarray, run), plan, np.asarray(dt))
    return jax.tree.map(as_array, found)


@jax.jit
def _traced(run: Run, plan: Plan, dt: Any) -> dict[str, Any]:
    return _fields(jnp, run, plan, dt)


def _fields(xp: Any, run: Run, plan: Plan, dt: Any) -> dict[str, Any]:
    num_units, num_exponents = run.frame.shape
    num_blocks, dtype = len(plan.edges) - 1, run.x.dtype
    duration = plan.num_steps.astype(dtype) * dt
    durations = xp.diff(plan.edges).astype(dtype) * dt
    lost = run.first_nonfinite >= 0
    log_growth = xp.where(lost, dtype.type(np.nan), run.log_growth)
    exponents = xp.sum(log_growth, axis=0) / duration
    order = xp.argsort(-exponents)
    exponents, log_growth = exponents[order], log_growth[:, order]
    blocks = log_growth[:num_blocks] / durations[:, None]

    destroyed = xp.isneginf(exponents)
    # An exponent of -inf has no fluctuations; zeros in its place keep the other columns free of inf - inf.
    finite_blocks = xp.where(destroyed, 0, blocks)
    dimension = kaplan_yorke_dimension(exponents, num_units)
    positive = xp.sum(xp.maximum(exponents, 0))
    entropy = positive if num_exponents == num_units else xp.where(exponents[-1] > 0, xp.nan, positive)
    # What derives from the exponents fluctuates along its gradient: three more columns, for one pass over all.
    gradients = [kaplan_yorke_gradient(exponents, num_units), (exponents > 0).astype(dtype), xp.ones_like(exponents)]
    gradients = xp.where(destroyed[:, None], 0, xp.stack(gradients, axis=1))
    errors, degrees, resolved = batch_means(xp.concatenate([finite_blocks, finite_blocks @ gradients], axis=1))
    stderr, degrees, resolved = errors[:num_exponents], degrees[:num_exponents], resolved[:num_exponents]

    if num_exponents < num_units:
        defect = xp.full((), xp.nan, dtype)
    else:
        volume = xp.sum(xp.where(plan.checked[:, None], log_growth, 0))
        # Two infinitely contracting volumes agree.
        same = volume == run.log_det
        difference = xp.where(same, 0, volume - xp.where(same, 0, run.log_det))
        defect = xp.abs(difference) / xp.sum(xp.where(plan.checked[:-1], durations, 0))

    eps = xp.finfo(dtype).eps
    interval = plan.num_steps / xp.maximum(run.num_qrs, 1).astype(dtype)
    condition = run.condition[order]
    rounding_error = eps * (condition / (interval * dt) + xp.where(destroyed, 0, xp.abs(exponents)))
    # Rounding errors are correlated too, but nobody asks for their error bar: those of a block are at most those of one
    # interval, and a QR of N columns rounds to about sqrt(N) eps.
    floor = 4 * num_units**0.5 * rounding_error
    resolved = resolved | (xp.max(xp.abs(finite_blocks - exponents), axis=0, initial=0) <= floor)
    checks = [
        (xp.any(destroyed), GrowthVerdict.singular),
        (~xp.all(resolved) | (num_blocks < 2), GrowthVerdict.correlated),
        (xp.any(drift(finite_blocks, rtol=1e-3)), GrowthVerdict.drifting),
        (xp.max(condition) > 1 / xp.sqrt(eps), GrowthVerdict.ill_conditioned),
        (lost, GrowthVerdict.not_finite),
    ]
    return {
        "exponents": exponents,
        "stderr": stderr,
        "degrees_of_freedom": degrees,
        "kaplan_yorke_dimension": dimension,
        "kaplan_yorke_stderr": errors[num_exponents],
        "entropy_rate": entropy,
        "entropy_stderr": errors[num_exponents + 1],
        "sum": xp.sum(exponents),
        "sum_stderr": errors[num_exponents + 2],
        "sum_rule_defect": defect if xp is np else jax.lax.stop_gradient(defect),
        "local_exponents": blocks,
        "times": xp.asarray(plan.edges[1:].astype(dtype) * dt),
        "participation": run.participation[order] / xp.maximum(run.num_qrs, 1).astype(dtype),
        "condition": condition,
        "rounding_error": rounding_error,
        "mean_qr_interval": interval,
        "final_state": run.x,
        "final_frame": run.frame[:, order],
        "first_nonfinite": run.first_nonfinite,
        "result": _last_that_holds(xp, checks),
    }


def _last_that_holds(xp: Any, checks: list[tuple[Any, GrowthVerdict]]) -> Any:
    number = _number(GrowthVerdict.converged)
    for holds, verdict in checks:
        number = xp.where(holds, _number(verdict), number)
    return jax.tree.map(lambda _: number, GrowthVerdict.converged)


def _number(verdict: Any) -> Any:
    return jax.tree.leaves(verdict)[0]
