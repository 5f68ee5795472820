"""What the settings of a study may be: checked when a `Config` is made, each rule at the field that it is for.

Without a rule of its own a whole number is a count, 1 or more, and another number is finite and above 0.
"""

import dataclasses
import itertools
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Rule:
    """Which values a setting may have, and how that is said."""

    allows: Callable[[Any], bool]
    says: str


def at_least(least: int) -> Rule:
    """Whole numbers from `least` on."""
    return Rule(lambda value: value >= least, f"a whole number, {least} or more")


def one_of(values: Iterable[Any]) -> Rule:
    """Some names, or numbers."""
    allowed = tuple(values)
    return Rule(lambda value: value in allowed, "one of " + ", ".join(map(str, allowed)))


POSITIVE = Rule(lambda value: 0 < value < math.inf, "a number above 0")

# Annotations of fields to which the rules without a name do not apply.
Seed = Annotated[int, Rule(lambda value: 0 <= value < 2**32, "a whole number from 0 to 4294967295")]
CountOrZero = Annotated[int, at_least(0)]
Real = Annotated[float, Rule(math.isfinite, "a finite number")]
NotNegative = Annotated[float, Rule(lambda value: 0 <= value < math.inf, "a number, 0 or more")]
PositiveOrInf = Annotated[float, Rule(lambda value: value > 0, "a number above 0, inf among them")]
Fraction = Annotated[float, Rule(lambda value: 0 <= value <= 1, "a number from 0 to 1")]
PositiveFraction = Annotated[float, Rule(lambda value: 0 < value <= 1, "a number above 0, 1 at most")]
Inside = Annotated[float, Rule(lambda value: 0 < value < 1, "a number between 0 and 1")]


def check(config: Any) -> None:
    """Check every field of a `Config`; for its `__post_init__`.

    **Raises:** `ValueError` that names the field, what came, and what is allowed.
    """
    for name, hint in typing.get_type_hints(type(config), include_extras=True).items():
        _check_value(name, getattr(config, name), hint)


def check_same_length(config: Any, *names: str) -> None:
    """Check that some fields, tuples with one entry each for the same things, have one length.

    **Raises:** `ValueError` that tells their lengths.
    """
    lengths = [len(getattr(config, name)) for name in names]
    if len(set(lengths)) > 1:
        told = ", ".join(f"{name} has {length}" for name, length in zip(names, lengths))
        raise ValueError(f"{' and '.join(names)}: allowed are equal numbers of entries; {told}.")


def check_order(config: Any, smaller: str, larger: str, *, strict: bool = False) -> None:
    """Check that one setting (the largest of its entries) is not above another, or is below it.

    **Raises:** `ValueError` that tells both.
    """
    value, bound = getattr(config, smaller), getattr(config, larger)
    value = max(value) if isinstance(value, tuple) else value
    if value > bound or (strict and value == bound):
        raise ValueError(
            f"{smaller}: got {value}; allowed is {'less than' if strict else 'at most'} {larger}, which is {bound}."
        )


def check_increasing(config: Any, *names: str) -> None:
    """Check that the entries of these fields increase, as the two ends of a range do.

    **Raises:** `ValueError` that names the field.
    """
    for name in names:
        values = getattr(config, name)
        if any(after <= before for before, after in itertools.pairwise(values)):
            raise ValueError(f"{name}: got {_shown(values)}; allowed are numbers that increase.")


def _check_value(name: str, value: Any, hint: Any) -> None:
    """Check one value against the type, and the rule in it, that its field is annotated with."""
    kind, *rules = typing.get_args(hint) if typing.get_origin(hint) is Annotated else (hint,)
    if typing.get_origin(kind) is types.UnionType:
        if value is None:
            return None
        (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
        return _check_value(name, value, kind)
    if typing.get_origin(kind) is tuple:
        entry, *others = typing.get_args(kind)
        length = None if others == [...] else 1 + len(others)
        if not isinstance(value, tuple) or not value or (length is not None and len(value) != length):
            raise ValueError(f"{name}: got {_shown(value)}; allowed are {length or 'one or more'} entries.")
        for part in value:
            _check_value(name, part, entry)
        return None
    usual = {
        bool: (bool, Rule(lambda value: True, "true or false")),
        int: (numbers.Integral, at_least(1)),
        float: (numbers.Real, POSITIVE),
        str: (str, Rule(bool, "a text that is not empty")),
    }
    if kind not in usual:
        raise TypeError(f"no rule for a setting of type {kind}; add one to `{__name__}`.")
    accepted, rule = usual[kind]
    rule = rules[0] if rules else rule
    right_type = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if not right_type or not rule.allows(value):
        raise ValueError(f"{name}: got {_shown(value)}; allowed is {rule.says}.")
    return None


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_shown, value)) or "nothing"
    return value if isinstance(value, str) and value else repr(value)
