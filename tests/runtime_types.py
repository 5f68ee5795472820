"""The run-time type checker of the tests: beartype, with the rule of every static checker that an int is a float."""

import functools

from beartype import BeartypeConf, beartype

prepare = beartype(conf=BeartypeConf(is_pep484_tower=True))


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
        return prepared(*args, **kwargs)

    return checked
