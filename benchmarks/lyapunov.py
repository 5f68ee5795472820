"""Lyapunov spectra: against their own matrix products and QRs, against NumPy, and in batches.

Run as `python -m benchmarks.lyapunov`. Times are per step of the map.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import rnndyn as rd
from benchmarks._timing import Row, table, time_side_by_side
from rnndyn.dynamics.numerics.frames import _cholesky_qr_twice, householder_qr

_SIZES = (64, 128, 256, 512)
_REPEATS = 3


def rows(sizes: tuple[int, ...] = _SIZES) -> list[Row]:
    """All comparisons, in float64."""
    with jax.enable_x64(True):
        return [
            *(row for size in sizes for row in _full_spectrum(size)),
            *(row for size in sizes for row in _first_exponents(size)),
            *(row for size in sizes for row in _decompositions(size)),
            *_batch(),
        ]


def main() -> None:
    print(table(rows()))


def _cell_map(family: str, size: int) -> Callable:
    key = jax.random.key(0)
    cell = {"tanh": rd.VanillaCell, "GRU": rd.GRUCell, "LSTM": rd.LSTMCell}[family](1, size, key=key)
    f = rd.as_map(cell)
    return jax.tree.map(lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, f)


def _num_steps(size: int) -> int:
    # Long enough that what is done once (a random frame, the statistics, 64 exact QRs) counts little, short enough to
    # take minutes.
    return {64: 1000, 128: 400, 256: 200, 512: 100}.get(size, 1000)


def _full_spectrum(size: int) -> list[Row]:
    """All exponents, against products and Householder QR alone, every step, and against a NumPy loop."""
    out = []
    for family in ("tanh", "GRU", "LSTM"):
        if size == 512 and family == "LSTM":
            continue  # a frame of 1024 columns; the 256 unit LSTM is a frame of 512
        f = _cell_map(family, size)
        num_units, num_steps = f.state_size, _num_steps(size * (2 if family == "LSTM" else 1))
        x0 = 0.1 * jax.random.normal(jax.random.key(1), (num_units,), jnp.float64)
        weight, frame = f.cell.weight_hh, jnp.eye(num_units)
        matrix = np.asarray(jax.jit(jax.jacfwd(f))(x0))

        @jax.jit
        def products(weight, frame, num_steps=num_steps):
            """Every gate's product with the tangent vectors of h, and a QR of a matrix as large as the frame."""

            def step(_, q):
                pushed = weight @ q[: weight.shape[1]]
                return jnp.linalg.qr(pushed.reshape(-1, *q.shape).sum(0))[0]

            return jax.lax.fori_loop(0, num_steps, step, frame)

        timings = time_side_by_side(
            {
                "auto": lambda f=f, x0=x0, n=num_steps: rd.lyapunov_spectrum(f, x0, n),
                "every": lambda f=f, x0=x0, n=num_steps: rd.lyapunov_spectrum(f, x0, n, qr_every=1),
                "products": lambda w=weight, q=frame: products(w, q),
                "numpy": lambda j=matrix, n=num_steps: _numpy_benettin(j, n),
            },
            repeats=_REPEATS,
        )
        for name, label in (("every", "QR every step"), ("auto", "QR as needed")):
            case, seconds = f"{family}, {size} units, {label}", timings[name].median / num_steps
            for peer, text, goal in (
                ("products", "matrix products and Householder QR, every step", "<= 1.2"),
                ("numpy", "NumPy Benettin loop", "<= 1"),
            ):
                out.append(Row("Full spectrum", case, seconds, text, timings[peer].median / num_steps, goal))
    return out


def _first_exponents(size: int) -> list[Row]:
    """Ten exponents, against a NumPy loop that forms the Jacobian as such loops do."""
    f = _cell_map("tanh", size)
    num_steps = 1000
    x0 = 0.1 * jax.random.normal(jax.random.key(1), (size,), jnp.float64)
    weights, state = np.asarray(f.cell.weight_hh), np.asarray(x0)
    timings = time_side_by_side(
        {
            "ours": lambda: rd.lyapunov_spectrum(f, x0, num_steps, num_exponents=10),
            "numpy": lambda: _numpy_network(weights, state, num_steps, 10),
        },
        repeats=_REPEATS,
    )
    seconds, peer = timings["ours"].median / num_steps, timings["numpy"].median / num_steps
    return [Row("First 10 exponents", f"tanh, {size} units", seconds, "NumPy Benettin loop", peer, "<= 0.2")]


def _decompositions(size: int) -> list[Row]:
    """Cholesky QR twice against Householder QR: what decides `_CHOLESKY_ON_CPU`."""
    num_steps = _num_steps(size)
    weights = jax.random.normal(jax.random.key(0), (size, size), jnp.float64) / jnp.sqrt(size)

    def repeated(decompose):
        step = lambda _, q: decompose(weights @ q)[0]
        return jax.jit(lambda q: jax.lax.fori_loop(0, num_steps, step, q))

    cholesky, householder = repeated(_cholesky_qr_twice), repeated(householder_qr)
    # Columns in the order of their growth, as the frames of a spectrum have them.
    frame = jax.block_until_ready(householder(jnp.eye(size)))
    timings = time_side_by_side(
        {"cholesky": lambda: cholesky(frame), "householder": lambda: householder(frame)}, repeats=_REPEATS
    )
    seconds, peer = (timings[name].median / num_steps for name in ("cholesky", "householder"))
    return [Row("QR of a frame, product included", f"{size} columns, Cholesky twice", seconds, "Householder", peer)]


def _batch() -> list[Row]:
    """A thousand small networks at once, against one after the other (a tenth of them, times ten)."""
    num_networks, num_units, num_steps = 1000, 32, 50
    weights = jax.random.normal(jax.random.key(0), (num_networks, num_units, num_units), jnp.float64)
    weights = 1.5 * weights / jnp.sqrt(num_units)
    x0 = jnp.ones(num_units)

    def spectrum(weight):
        return rd.lyapunov_spectrum(_Tanh(weight), x0, num_steps, qr_every=1).exponents

    # The chunks that `lyapunov_sweep` takes: what fits into the cache of a CPU, all at once on an accelerator.
    chunk = 16 if jax.default_backend() == "cpu" else num_networks
    batch = jax.jit(lambda weights: jax.lax.map(spectrum, weights, batch_size=chunk))
    single = jax.jit(spectrum)
    some = list(weights[: num_networks // 10])
    timings = time_side_by_side(
        {"batch": lambda: batch(weights), "one": lambda: [jax.block_until_ready(single(w)) for w in some]},
        repeats=_REPEATS,
    )
    goal = "<= 1/3 on a CPU, <= 1/50 on a GPU"
    seconds, peer = timings["batch"].median / num_steps, 10 * timings["one"].median / num_steps
    return [Row("Batches", f"{num_networks} networks of {num_units} units", seconds, "one by one", peer, goal)]


class _Tanh(eqx.Module):
    weight: jax.Array

    def __call__(self, x):
        return jnp.tanh(self.weight @ x)


def _numpy_benettin(jacobian: np.ndarray, num_steps: int) -> np.ndarray:
    """The bare loop with a Jacobian that is given: the least that any NumPy program has to do."""
    q = np.eye(len(jacobian))
    total = np.zeros(len(jacobian))
    for _ in range(num_steps):
        q, r = np.linalg.qr(jacobian @ q)
        total += np.log(np.abs(np.diagonal(r)))
    return total / num_steps


def _numpy_network(weights: np.ndarray, x: np.ndarray, num_steps: int, num_exponents: int) -> np.ndarray:
    """x <- tanh(W x), its Jacobian formed and multiplied with the frame."""
    q = np.eye(len(x), num_exponents)
    total = np.zeros(num_exponents)
    for _ in range(num_steps):
        x = np.tanh(weights @ x)
        q, r = np.linalg.qr(((1 - x**2)[:, None] * weights) @ q)
        total += np.log(np.abs(np.diagonal(r)))
    return total / num_steps


if __name__ == "__main__":
    main()
