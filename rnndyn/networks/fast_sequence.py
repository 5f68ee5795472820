"""A sequence of a built-in cell as one operation, with its own derivative and its own rule for batches.

    states = sequence(cell, start, inputs)

Three primitives: the states; the tangent of the states, linear in tangents of weights, start and inputs; and its
transpose, the gradients. `jax.vmap` over sequences makes one batched operation of each, with the passes of
`rnndyn.networks.fast_steps`. Every other derivative is that of the plain scan: forward mode, and any second derivative,
differentiate the plain scan instead of the passes; a batch of weights maps the passes. (`jax.custom_vjp` would refuse
forward mode, and could not tell a batch of sequences, whose weight gradients add up inside one product, from any
other.)
"""

from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, PyTree

from rnndyn._programs.plain_forms import register_plain_form
from rnndyn.networks.fast_steps import Family, family, family_of


def sequence(cell: Any, start: PyTree, inputs: Array) -> PyTree:
    """The states of `cell` over `inputs` (T, I), leaves (T, H); `None` where the plain scan has to do.

    That is for cells without passes of their own, and where weights, state and inputs are not all of one dtype, float32
    or float64.
    """
    kind = family_of(cell)
    weights, structure = jax.tree.flatten(cell)
    operands = [*weights, *jax.tree.leaves(start), inputs]
    if kind is None or {jnp.result_type(x) for x in operands} not in ({jnp.dtype("float32")}, {jnp.dtype("float64")}):
        return None
    params = _Params(kind, structure, False)
    states = states_p.bind(*map(jnp.asarray, operands), params=params)[: params.num_states]
    return jax.tree.unflatten(jax.tree.structure(start), states)


class _Params:
    """What is static: the kind of cell, its structure without weights, and whether sequences are batched."""

    def __init__(self, kind: tuple, structure: Any, batched: bool) -> None:
        self.kind, self.structure, self.batched = kind, structure, batched
        self.num_weights = structure.num_leaves
        self.num_states = 2 if kind[0] == "lstm" else 1

    def __hash__(self) -> int:
        return hash((self.kind, self.structure, self.batched))

    def __eq__(self, other: object) -> bool:
        same = lambda a: (a.kind, a.structure, a.batched)
        return isinstance(other, _Params) and same(self) == same(other)

    def __repr__(self) -> str:
        return f"{self.kind}, batched={self.batched}"

    @property
    def passes(self) -> Family:
        """Forwards and backwards."""
        return family(self.kind)

    def in_batch(self) -> "_Params":
        """The same for a batch."""
        return _Params(self.kind, self.structure, True)

    def split(self, operands: Any) -> tuple[list, list, Any, list]:
        """Weights, start, inputs, and the rest."""
        operands = list(operands)
        a, b = self.num_weights, self.num_weights + self.num_states
        return operands[:a], operands[a:b], operands[b], operands[b + 1 :]

    def plain(self, *operands: Any) -> list[Array]:
        """The states by a scan of the cell, from weights, start and inputs."""
        weights, start, inputs, _ = self.split(operands)
        cell = jax.tree.unflatten(self.structure, weights)

        def run(start: Any, inputs: Array) -> list[Array]:
            def step(state: Any, u: Array) -> tuple[Any, Any]:
                state = cell(state, u)
                return state, state

            state = tuple(start) if self.num_states > 1 else start[0]
            return jax.tree.leaves(jax.lax.scan(step, state, inputs)[1])

        return (jax.vmap(run) if self.batched else run)(start, inputs)

    @property
    def num_primals(self) -> int:
        """Weights, start and inputs."""
        return self.num_weights + self.num_states + 1


# What the three compute. A single sequence is a batch of one.


def _forward(*operands: Any, params: _Params) -> list[Array]:
    weights, start, inputs, _ = params.split(operands)
    if not params.batched:
        start, inputs = [s[None] for s in start], inputs[None]
    states, kept = params.passes.forward(weights, tuple(s.T for s in start), jnp.transpose(inputs, (1, 2, 0)))
    states = [jnp.transpose(s, (2, 0, 1)) for s in states]
    if not params.batched:
        states, kept = [s[0] for s in states], [k[..., 0] for k in kept]
    return [*states, *kept]


def _tangent(*operands: Any, params: _Params) -> list[Array]:
    # The states and what was kept are for the transpose; in forward mode the plain scan is as good.
    primals, tangents = operands[: params.num_primals], operands[-params.num_primals :]
    return jax.jvp(params.plain, primals, tangents)[1]


def _gradients(*operands: Any, params: _Params) -> list[Array]:
    weights, start, inputs, rest = params.split(operands)
    num = params.num_states
    states, kept, cotangents = rest[:num], rest[num:-num], rest[-num:]
    if not params.batched:
        start, inputs = [s[None] for s in start], inputs[None]
        states, cotangents = [s[None] for s in states], [c[None] for c in cotangents]
        kept = [k[..., None] for k in kept]
    of_weights, of_start, of_inputs = params.passes.backward(
        weights,
        tuple(s.T for s in start),
        jnp.swapaxes(inputs, 0, 1),
        tuple(jnp.swapaxes(s, 0, 1) for s in states),
        tuple(kept),
        tuple(jnp.transpose(c, (1, 2, 0)) for c in cotangents),
    )
    of_start, of_inputs = [s.T for s in of_start], jnp.transpose(of_inputs, (2, 0, 1))
    if not params.batched:
        of_start, of_inputs = [s[0] for s in of_start], of_inputs[0]
    return [*of_weights, *of_start, of_inputs]


def _new_primitive(name: str, compute: Any) -> Any:
    primitive = jex.Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(compute)
    primitive.def_abstract_eval(
        lambda *avals, params: [
            ShapedArray(out.shape, out.dtype)
            for out in jax.eval_shape(
                lambda *args: compute(*args, params=params),
                *(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals),
            )
        ]
    )
    mlir.register_lowering(primitive, mlir.lower_fun(compute, multiple_results=True))
    return primitive


states_p = _new_primitive("rnndyn_states", _forward)
tangent_p = _new_primitive("rnndyn_states_tangent", _tangent)
gradients_p = _new_primitive("rnndyn_states_gradients", _gradients)


# What analyses read instead: the scan and its derivatives. Gradients need nothing that was kept there.


def _plain_states(*operands: Any, params: _Params) -> list[Array]:
    shapes = jax.eval_shape(lambda *args: _forward(*args, params=params), *operands)[params.num_states :]
    return [*params.plain(*operands), *(jnp.zeros(kept.shape, kept.dtype) for kept in shapes)]


def _plain_gradients(*operands: Any, params: _Params) -> list[Array]:
    primals, cotangents = operands[: params.num_primals], operands[-params.num_states :]
    return list(jax.vjp(params.plain, *primals)[1](list(cotangents)))


register_plain_form(states_p, _plain_states)
register_plain_form(tangent_p, _tangent)
register_plain_form(gradients_p, _plain_gradients)


# Derivatives.


def _zeros_filled(tangents: Any) -> list[Array]:
    return [ad.instantiate_zeros(t) for t in tangents]


def _states_jvp(primals: Any, tangents: Any, *, params: _Params) -> Any:
    out = states_p.bind(*primals, params=params)
    pushed = tangent_p.bind(*primals, *out, *_zeros_filled(tangents), params=params)
    # Whoever uses what was kept does not differentiate it, see below.
    kept = [jnp.zeros_like(k) for k in out[params.num_states :]]
    return out, [*pushed, *kept]


def _tangent_jvp(primals: Any, tangents: Any, *, params: _Params) -> Any:
    out = tangent_p.bind(*primals, params=params)
    num = params.num_primals
    ends = lambda operands: [*operands[:num], *operands[-num:]]

    def plain(*operands: Any) -> list[Array]:
        return jax.jvp(params.plain, operands[:num], operands[num:])[1]

    return out, jax.jvp(plain, ends(primals), ends(_zeros_filled(tangents)))[1]


def _tangent_transpose(cotangents: Any, *operands: Any, params: _Params) -> list[Any]:
    num = params.num_primals
    known, linear = operands[:-num], operands[-num:]
    gradients = gradients_p.bind(*known, *_zeros_filled(cotangents), params=params)
    wanted = [g if ad.is_undefined_primal(x) else None for g, x in zip(gradients, linear)]
    return [None] * len(known) + wanted


def _gradients_jvp(primals: Any, tangents: Any, *, params: _Params) -> Any:
    out = gradients_p.bind(*primals, params=params)
    num = params.num_primals
    ends = lambda operands: [*operands[:num], *operands[-params.num_states :]]

    def plain(*operands: Any) -> tuple[Array, ...]:
        return jax.vjp(params.plain, *operands[:num])[1](list(operands[num:]))

    return out, list(jax.jvp(plain, ends(primals), ends(_zeros_filled(tangents)))[1])


ad.primitive_jvps[states_p] = _states_jvp
ad.primitive_jvps[tangent_p] = _tangent_jvp
ad.primitive_jvps[gradients_p] = _gradients_jvp
ad.primitive_transposes[tangent_p] = _tangent_transpose


# Batches.


def _mapped(compute: Any, operands: Any, axes: Any, params: _Params) -> Any:
    """Whatever else is mapped: the operation as it is, for each."""
    out = jax.vmap(lambda *args: compute(*args, params=params), in_axes=tuple(axes))(*operands)
    return out, [0] * len(out)


def _in_front(operands: Any, axes: Any, size: int) -> list[Array]:
    return [
        jnp.broadcast_to(x, (size, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes)
    ]


def _at_end(operands: Any, axes: Any, size: int) -> list[Array]:
    return [
        jnp.broadcast_to(x[..., None], (*x.shape, size)) if axis is None else jnp.moveaxis(x, axis, -1)
        for x, axis in zip(operands, axes)
    ]


def _size(operands: Any, axes: Any) -> int:
    return next(x.shape[axis] for x, axis in zip(operands, axes) if axis is not None)


def _states_batched(operands: Any, axes: Any, *, params: _Params) -> Any:
    num = params.num_weights
    if params.batched or any(axis is not None for axis in axes[:num]):
        return _mapped(_forward, operands, axes, params)
    size = _size(operands, axes)
    out = states_p.bind(*operands[:num], *_in_front(operands[num:], axes[num:], size), params=params.in_batch())
    return out, [0] * params.num_states + [out[k].ndim - 1 for k in range(params.num_states, len(out))]


def _tangent_batched(operands: Any, axes: Any, *, params: _Params) -> Any:
    num, count = params.num_weights, params.num_primals
    weights = [*axes[:num], *axes[-count : len(axes) - count + num]]
    if params.batched or any(axis is not None for axis in weights):
        return _mapped(_tangent, operands, axes, params)
    size = _size(operands, axes)
    first_kept, end = count + params.num_states, len(operands) - count
    front = lambda a, b: _in_front(operands[a:b], axes[a:b], size)
    out = tangent_p.bind(
        *operands[:num],
        *front(num, first_kept),
        *_at_end(operands[first_kept:end], axes[first_kept:end], size),
        *operands[end : end + num],
        *front(end + num, len(operands)),
        params=params.in_batch(),
    )
    return out, [0] * len(out)


batching.primitive_batchers[states_p] = _states_batched
batching.primitive_batchers[tangent_p] = _tangent_batched
# A gradient of each sequence alone, not of their sum.
batching.primitive_batchers[gradients_p] = lambda operands, axes, *, params: _mapped(_gradients, operands, axes, params)
