"""The run-time type checker of the tests: beartype, with the rule of every static checker that an int is a float."""

import contextlib
import dataclasses
import functools
import inspect
import os
from collections.abc import Iterator

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeCallHintViolation

jaxtyped = jaxtyping.jaxtyped
RAISES = os.environ.get("RUNTIME_TYPES", "raise") != "tell"
"""Whether a call that does not fit fails its test. Else it is told at the end of the run, with the name of the test."""

_expected: list[str] | None = None
"""The calls that do not fit, where a test makes them on purpose."""

prepare = beartype(conf=BeartypeConf(is_pep484_tower=True))
misfits: dict[str, str] = {}
"""Of each argument, the first value that did not fit."""

MOST = 50
"""Calls of one function that are checked in one test. Some functions are called a million times, with the same shapes,
and a check takes longer than they do."""
rounds = 0
"""Tests so far."""
counts: dict[int, "Count"] = {}
"""Of each piece of code, which a function that is defined inside of another shares with all that were defined there."""


@dataclasses.dataclass
class Count:
    """How many calls were checked in which round; `code` is kept, so that its id is not used again."""

    code: object
    round: int = -1
    calls: int = 0


def install(package: str) -> None:
    """Check the functions of `package` as its modules are imported."""
    jaxtyping.install_import_hook(package, "runtime_types.check").__enter__()
    # What the hook writes above each function and class.
    jaxtyping.jaxtyped = sparingly


def sparingly(what=None, *, typechecker):
    """As `jaxtyping.jaxtyped`, for the first calls in each test."""
    if what is None:
        return functools.partial(sparingly, typechecker=typechecker)
    if inspect.isclass(what):
        if dataclasses.is_dataclass(what) and not hasattr(what.__init__, "is_checked_sparingly"):
            what.__init__ = sparingly(what.__init__, typechecker=typechecker)
        return what
    prepared = None
    code = getattr(what, "__code__", what)
    count = counts.setdefault(id(code), Count(code))

    @functools.wraps(what)
    def checked(*args, **kwargs):
        nonlocal prepared
        __tracebackhide__ = True
        if count.round != rounds:
            count.round, count.calls = rounds, 0
        if count.calls >= MOST:
            return what(*args, **kwargs)
        count.calls += 1
        if prepared is None:
            prepared = jaxtyped(what, typechecker=typechecker)
        return prepared(*args, **kwargs)

    checked.is_checked_sparingly = True
    return checked


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
    global rounds
    rounds += 1
    taken = list(misfits.values())
    misfits.clear()
    return taken
