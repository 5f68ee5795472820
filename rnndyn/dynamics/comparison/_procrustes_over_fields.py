"""How alike two linear vector fields can be made by an orthogonal change of basis."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_TRIAL_STEPS, _FINAL_STEPS = 30, 300
"""Steps from every start, and at most from the two best of them."""

_FLAT = 1e-7
"""Gradient at which a cosine is known to 1e-13."""


class Field(NamedTuple):
    """x' = A x + B u, scaled so that each part has norm 1 (or 0 where there is none)."""

    a: Any
    b: Any


def scaled(a: Any, b: Any) -> Field:
    """A field with its parts scaled."""
    unit = lambda m: m / jnp.maximum(jnp.linalg.norm(m), jnp.finfo(m.dtype).tiny)
    return Field(unit(a), unit(b) if b.size else b)


def random_turns(num: int, size: int, seed: int) -> np.ndarray:
    """Orthogonal matrices, determinants of both signs in turn, `(num, size, size)`."""
    rng = np.random.default_rng(seed)
    turns = np.empty((num, size, size))
    for k in range(num):
        q, r = np.linalg.qr(rng.standard_normal((size, size)))
        q = q * np.sign(np.diag(r))
        if np.sign(np.linalg.det(q)) != (-1) ** k:
            q[:, 0] *= -1
        turns[k] = q
    return turns


def angle(first: Field, second: Field, turns: Any) -> Any:
    r"""The angle $\min_C \arccos \langle F, C G \rangle$ over orthogonal C, radians.

    $\langle F, C G \rangle = \operatorname{tr}(A_1^T C A_2 C^T)$, or the mean of that and of
    $\operatorname{tr}(B_1^T C B_2)$ where there are inputs.

    The ascent goes along $C \to Q C$ with Q the Cayley transform of a multiple of the Riemannian gradient, by steps of
    Barzilai & Borwein that are taken back where the cosine falls below the least of the last five (Wen & Yin 2013). It
    starts from the given turns, from none, and from the turn between the eigenbases of the symmetric parts, with the
    signs that suit the antisymmetric parts best: the solution itself where the fields are conjugate and the
    eigenvalues distinct.
    """
    starts = jnp.concatenate([_spectral_turn(first, second)[None], jnp.eye(first.a.shape[0])[None], turns])
    tried = jax.vmap(lambda turn: _ascend(first, second, turn, _TRIAL_STEPS))(starts)
    best = jnp.argsort(-tried[1])[:2]
    turns, cosines = jax.vmap(lambda turn: _ascend(first, second, turn, _FINAL_STEPS))(tried[0][best])
    k = jnp.argmax(cosines)
    return _angle_of(first, second, turns[k])


@functools.partial(jax.jit, static_argnames="chunk")
def angles(first: Field, second: Field, turns: Any, chunk: int = 64) -> Any:
    """`angle` of each pair of two batches of fields."""
    return jax.lax.map(lambda pair: angle(*pair, turns), (first, second), batch_size=chunk)  # pyright: ignore[reportCallIssue]


def _turned(field: Field, turn: Any) -> Field:
    return Field(turn @ field.a @ turn.T, turn @ field.b)


def _cosine(first: Field, second: Field) -> Any:
    cosine = jnp.sum(first.a * second.a)
    return 0.5 * (cosine + jnp.sum(first.b * second.b)) if first.b.size else cosine


def _angle_of(first: Field, second: Field, turn: Any) -> Any:
    """From the difference, not the cosine: arccos loses half of the digits near 1."""
    turned = _turned(second, turn)
    squares = jnp.sum((first.a - turned.a) ** 2)
    if first.b.size:
        squares = 0.5 * (squares + jnp.sum((first.b - turned.b) ** 2))
    return 2 * jnp.arcsin(jnp.clip(jnp.sqrt(squares) / 2, 0, 1))


def _gradient(first: Field, second: Field) -> Any:
    """Of the cosine along C -> exp(X) C: the antisymmetric matrix X of steepest ascent."""
    g = first.a @ second.a.T - second.a.T @ first.a
    if first.b.size:
        g = 0.5 * (g + first.b @ second.b.T)
    return 0.5 * (g - g.T)


def _spectral_turn(first: Field, second: Field) -> Any:
    _, u = jnp.linalg.eigh(first.a + first.a.T)
    _, v = jnp.linalg.eigh(second.a + second.a.T)
    antisymmetric = lambda m, axes: axes.T @ (m - m.T) @ axes
    _, signs = jnp.linalg.eigh(antisymmetric(first.a, u) * antisymmetric(second.a, v))
    return u * jnp.where(signs[:, -1] >= 0, 1.0, -1.0) @ v.T


def _ascend(first: Field, second: Field, turn: Any, num_steps: int) -> tuple[Any, Any]:
    """The best turn met and its cosine."""
    one = jnp.eye(turn.shape[0], dtype=turn.dtype)

    class State(NamedTuple):
        turn: Any
        cosine: Any
        gradient: Any
        size: Any
        recent: Any
        best: Any
        best_cosine: Any
        count: Any

    def evaluate(turn: Any) -> tuple[Any, Any]:
        turned = _turned(second, turn)
        return _cosine(first, turned), _gradient(first, turned)

    def step(state: State) -> State:
        half = 0.5 * state.size * state.gradient
        turn = jnp.linalg.solve(one - half, (one + half) @ state.turn)
        cosine, gradient = evaluate(turn)
        taken = cosine >= jnp.min(state.recent) - 1e-12
        moved = state.size * state.gradient
        changed = jnp.abs(jnp.sum(moved * (state.gradient - gradient)))
        longer = jnp.sum(moved**2) / jnp.maximum(changed, jnp.finfo(turn.dtype).tiny)
        size = jnp.where(taken, jnp.clip(longer, 1e-2, 1e2), 0.25 * state.size)
        pick = lambda new, old: jnp.where(taken, new, old)
        better = taken & (cosine > state.best_cosine)
        return State(
            pick(turn, state.turn),
            pick(cosine, state.cosine),
            pick(gradient, state.gradient),
            size,
            pick(jnp.roll(state.recent, 1).at[0].set(cosine), state.recent),
            jnp.where(better, turn, state.best),
            jnp.where(better, cosine, state.best_cosine),
            state.count + 1,
        )

    def goes_on(state: State) -> Any:
        return (state.count < num_steps) & (jnp.linalg.norm(state.gradient) > _FLAT)

    cosine, gradient = evaluate(turn)
    first_state = State(turn, cosine, gradient, jnp.ones(()), jnp.full(5, cosine), turn, cosine, jnp.asarray(0))
    final = jax.lax.while_loop(goes_on, step, first_state)
    return final.best, final.best_cosine
