"""Whether a function is being traced to be looked at, equation by equation, rather than to be run."""

import contextlib
import contextvars
from collections.abc import Iterator

_is_read = contextvars.ContextVar("rnndyn_trace_is_read", default=False)


@contextlib.contextmanager
def read_by_analyses() -> Iterator[None]:
    """What is traced here is evaluated on intervals, along kinks, with one-sided slopes, or compared: it holds nothing
    but JAX's own primitives."""
    token = _is_read.set(True)
    try:
        yield
    finally:
        _is_read.reset(token)


def is_read_by_analyses() -> bool:
    """Whether we are within `read_by_analyses`."""
    return _is_read.get()
