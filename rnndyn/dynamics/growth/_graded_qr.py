"""QR decomposition with pivoting of a matrix whose columns have scales without bound."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def graded_qr(
    matrix: Float[Array, "N N"], log_scales: Float[Array, " N"]
) -> tuple[Float[Array, "N N"], Float[Array, " N"], Float[Array, "N N"]]:
    r"""$C\,\operatorname{diag}(e^s) = Q\, \operatorname{diag}(e^{d})\, T$ with Q orthogonal and the rows of T at most
    about 1.

    **Arguments:**

    - `matrix`: C.
    - `log_scales`: s, -inf for a column that is 0.

    **Returns:** Q, d (falling, but for a factor of N) and T, which is an upper triangle of columns in another order.
    $d_i$ is -inf and the row of T zero beyond the rank.

    Householder reflections, the column that is largest with its scale first. Without the exchange of columns a column
    of zeros, or one that depends on those before it, ends the row that the columns after it need. Reflections do not
    see the scales of columns, so these stay logarithms. With rows sorted by size the errors of small rows are small
    (Cox & Higham 1998, "Stability of Householder QR factorization for weighted least squares problems"); what is no
    more than the rounding error of its row, with its column at length 1, is 0.
    """
    size, dtype = matrix.shape[0], matrix.dtype
    largest = jnp.max(jnp.abs(matrix), axis=0)
    columns = jnp.where(largest > 0, largest, 1)
    columns = columns * jnp.linalg.norm(matrix / columns, axis=0)
    columns = jnp.where(columns > 0, columns, 1)
    work = matrix / columns
    log_scales = jnp.where(largest > 0, log_scales + jnp.log(columns), -jnp.inf)
    rows = jnp.max(jnp.abs(work), axis=1)
    order = jnp.argsort(-rows)
    work = work[order]
    rounding = 8 * size**0.5 * float(jnp.finfo(dtype).eps) * rows[order][:, None]
    places = jnp.arange(size)

    def reflect(j, carry):
        work, q, free, chosen = carry
        below = places >= j
        lengths = jnp.linalg.norm(jnp.where(below[:, None], work, 0), axis=0)
        ranking = jnp.where(free & (lengths > 0), jnp.log(jnp.where(lengths > 0, lengths, 1)) + log_scales, -jnp.inf)
        # Where nothing is left any free column will do.
        pivot = jnp.argmax(jnp.where(free, jnp.maximum(ranking, jnp.finfo(dtype).min), -jnp.inf))
        column = jnp.where(below, work[:, pivot], 0)
        length = lengths[pivot]
        sign = jnp.where(column[j] < 0, -1, 1).astype(dtype)
        v = column.at[j].add(sign * length)
        square = jnp.sum(v**2)
        v = v * jnp.where(square > 0, jnp.sqrt(2 / jnp.where(square > 0, square, 1)), 0)
        work = work - v[:, None] * (v @ work)[None, :]
        work = work.at[:, pivot].set(jnp.where(below, 0, work[:, pivot]).at[j].set(-sign * length))
        free = free.at[pivot].set(False)
        # Only what later reflections still see: the rows below, in the columns not chosen yet.
        noise = (jnp.abs(work) <= rounding) & (places > j)[:, None] & free[None, :]
        q = q - (q @ v)[:, None] * v[None, :]
        return jnp.where(noise, 0, work), q, free, chosen.at[j].set(pivot)

    start = (work, jnp.eye(size, dtype=dtype), jnp.ones(size, bool), jnp.zeros(size, int))
    r, q, _, chosen = jax.lax.fori_loop(0, size, reflect, start)
    q = jnp.zeros_like(q).at[order].set(q)
    logs = jnp.where(r == 0, -jnp.inf, jnp.log(jnp.abs(jnp.where(r == 0, 1, r)))) + log_scales
    d = logs[places, chosen]
    t = jnp.sign(r) * jnp.exp(logs - jnp.where(jnp.isneginf(d), 0, d)[:, None])
    return q, d, jnp.where(jnp.isneginf(d)[:, None], 0, t)
