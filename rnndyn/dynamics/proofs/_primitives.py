"""What the interval rules need to know of JAX's primitives: the one file that reads their names and parameters.

Parameters of primitives are no public interface of JAX and change between versions (0.10 to 0.12 are known here).
Whatever is not as expected raises, so that nothing is ever proved about a program that was read wrongly.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

# Calls, by the parameter that holds what is called. Entering anything else that carries a jaxpr would be wrong: the
# computation of a `reduce` or the condition of a `while` is not what the primitive computes.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
}


class Body(NamedTuple):
    """A jaxpr with the values of its constants."""

    jaxpr: Any
    consts: Sequence[Any]


class Scan(NamedTuple):
    """The parameters of a scan; operands come as constants, carry, sequences."""

    body: Body
    length: int
    num_consts: int
    num_carry: int
    reverse: bool


def called(eqn: Any) -> Body | None:
    """What an equation calls, if it is a call (`jit`, `checkpoint`, functions with derivative rules of their own)."""
    key = _CALLS.get(eqn.primitive.name)
    return None if key is None else _body(eqn, parameter(eqn, key))


def branches(eqn: Any) -> list[Body]:
    """The branches of a `cond`, in the order of its index."""
    return [_body(eqn, branch) for branch in parameter(eqn, "branches")]


def scan(eqn: Any) -> Scan:
    """The parameters of a `scan`."""
    if "num_consts" in eqn.params:  # up to jax 0.10
        num_consts, num_carry = parameter(eqn, "num_consts"), parameter(eqn, "num_carry")
    else:
        consts, carry, _ = parameter(eqn, "ft_in").unpack()
        num_consts, num_carry = len(consts), len(carry)
    body = _body(eqn, parameter(eqn, "jaxpr"))
    num_inputs, num_outputs = len(body.jaxpr.invars), len(body.jaxpr.outvars)
    if num_inputs != len(eqn.invars) or num_outputs != len(eqn.outvars) or num_consts + num_carry > num_inputs:
        raise _unknown(eqn, "its body does not take what it is given")
    return Scan(body, parameter(eqn, "length"), num_consts, num_carry, parameter(eqn, "reverse"))


def parameter(eqn: Any, key: str) -> Any:
    """One parameter of an equation."""
    if key not in eqn.params:
        raise _unknown(eqn, f"it has no parameter `{key}` among {sorted(eqn.params)}")
    return eqn.params[key]


def _body(eqn: Any, inner: Any) -> Body:
    # In jax 0.10 a ClosedJaxpr holds a Jaxpr and its constants; in 0.12 a Jaxpr holds them itself.
    jaxpr, consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
    if not hasattr(jaxpr, "eqns") or len(jaxpr.constvars) != len(consts):
        raise _unknown(eqn, "what it calls is no jaxpr with its constants")
    return Body(jaxpr, consts)


def _unknown(eqn: Any, what: str) -> NotImplementedError:
    return NotImplementedError(
        f"f: the operation `{eqn.primitive.name}` is not as interval arithmetic knows it from jax 0.10 to 0.12: {what} "
        f"(this is jax {jax.__version__}). Use one of those versions, or rewrite f without the operation."
    )
