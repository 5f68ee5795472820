"""The run-time type checker of the tests: beartype, with the rule of every static checker that an int is a float."""

import contextlib
import functools
import os
from collections.abc import Iterator

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

RAISES = os.environ.get("RUNTIME_TYPES", "raise") != "tell"
"""Whether a call that does not fit fails its test. Else it is told at the end of the run, with the name of the test."""

_expected: list[str] | None = None
"""The calls that do not fit, where a test makes them on purpose."""

prepare = beartype(conf=BeartypeConf(is_pep484_tower=True))
misfits: dict[str, str] = {}
"""Of each argument, the first value that did not fit."""


def check(function):
    """`function`, whose arguments are checked.

    The check is prepared at the first call: to prepare those of all functions of the library takes seconds in each
    process, and most tests need few of them.
    """
    prepared = None

    @functools.wraps(function)
    def checked(*args, **kwargs):
        nonlocal prepared
        __tracebackhide__ = True
        if prepared is None:
            prepared = prepare(function)
        try:
            return prepared(*args, **kwargs)
        except BeartypeCallHintViolation as violation:
            misfit = f"{function.__module__}: {' '.join(str(violation).split())[:240]}"
            if _expected is not None:
                _expected.append(misfit)
            elif RAISES:
                raise
            else:
                misfits.setdefault(place(misfit), misfit)

    return checked


@contextlib.contextmanager
def wrong_on_purpose() -> Iterator[None]:
    """Here a test hands what does not fit, to see what the function itself says of it."""
    global _expected
    _expected, before = [], _expected
    try:
        yield
        assert _expected, "all calls fit what the functions announce: nothing wrong was handed"
    finally:
        _expected = before


def place(misfit: str) -> str:
    """The function and its argument: what is told up to the value."""
    return misfit.partition('="')[0]


def take() -> list[str]:
    """The calls that did not fit since this was asked last, one of each argument."""
    taken = list(misfits.values())
    misfits.clear()
    return taken
