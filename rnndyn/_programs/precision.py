"""Where a program traced in float64 falls back to a narrower format by itself."""

from collections.abc import Sequence
from typing import Any

import jax.extend.core as jex
import jax.numpy as jnp


def narrowing(jaxpr: Any, depends: Sequence[bool] | None = None) -> str | None:
    """The narrower dtype that numbers depending on the inputs pass through, or `None`.

    `depends` says which inputs vary; all by default. Constants may be float32: they were given so.
    """
    return _Narrowing().scan(getattr(jaxpr, "jaxpr", jaxpr), depends)[0]


class _Narrowing:
    def scan(self, jaxpr: Any, depends: Sequence[bool] | None) -> tuple[str | None, list[bool]]:
        inner = getattr(jaxpr, "jaxpr", jaxpr)
        varying = {v for v, d in zip(inner.invars, depends or [True] * len(inner.invars)) if d}
        for eqn in inner.eqns:
            reads = [not isinstance(v, jex.Literal) and v in varying for v in eqn.invars]
            if not any(reads):
                continue
            wide = [v for v, r in zip(eqn.invars, reads) if r and _bits(v.aval) == 64]
            narrow = [v for v in eqn.outvars if 0 < _bits(v.aval) < 64]
            bodies = _bodies(eqn)
            if wide and narrow and not bodies:
                return str(narrow[0].aval.dtype), []
            if eqn.primitive.name == "reduce_precision" and wide and eqn.params["mantissa_bits"] < 52:
                return f"a format of {eqn.params['mantissa_bits']} bits", []
            for body in bodies:
                count = len(getattr(body, "jaxpr", body).invars)
                # Loops feed outputs back: what varies inside is not traced further there.
                same = eqn.primitive.name in ("jit", "pjit", "custom_jvp_call") and count == len(reads)
                found, _ = self.scan(body, reads if same else None)
                if found is not None:
                    return found, []
            varying.update(eqn.outvars)
        return None, []


def _bodies(eqn: Any) -> list[Any]:
    values = []
    for value in eqn.params.values():
        values += value if isinstance(value, tuple | list) else [value]
    return [v for v in values if hasattr(v, "eqns") or hasattr(v, "jaxpr")]


def _bits(aval: Any) -> int:
    """Bits of a real number, or of the parts of a complex one; 0 for what is no such number."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact):
        return 0
    return jnp.finfo(dtype).bits
