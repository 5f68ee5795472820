"""What a setting may be: every field of every study refuses nonsense, in words that help."""

import dataclasses
from typing import Annotated

import pytest

from experiments import _study
from experiments._catalog import studies
from experiments._settings import (
    Fraction,
    Real,
    Seed,
    at_least,
    check,
    check_increasing,
    check_order,
    check_same_length,
    one_of,
)

MAY_BE_NEGATIVE = {
    ("cliffs", "biases"),
    ("cliffs", "initial_state"),
    ("cliffs", "start"),
    ("counting", "forget_bias"),
    ("gru_portraits", "turn"),
}


@dataclasses.dataclass(frozen=True)
class Config:
    cells: tuple[Annotated[str, one_of(("LSTM", "GRU"))], ...] = ("GRU",)
    num_steps: int = 10
    resolution: Annotated[int, at_least(2)] = 4
    window: tuple[Real, Real] = (-1.0, 1.0)
    rate: float | None = None
    share: Fraction = 0.0
    sizes: tuple[int, ...] = (3,)
    draw: bool = True
    path: str | None = None
    seed: Seed = 0

    def __post_init__(self):
        check(self)
        check_same_length(self, "cells", "sizes")
        check_order(self, "sizes", "num_steps")
        check_order(self, "resolution", "num_steps", strict=True)
        check_increasing(self, "window")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps: got 0; allowed is a whole number, 1 or more."),
        ({"num_steps": 2.5}, "num_steps: got 2.5; allowed is a whole number, 1 or more."),
        ({"num_steps": True}, "num_steps: got True; allowed is a whole number, 1 or more."),
        ({"resolution": -3}, "resolution: got -3; allowed is a whole number, 2 or more."),
        ({"cells": ("foo",)}, "cells: got foo; allowed is one of LSTM, GRU."),
        ({"cells": ()}, "cells: got nothing; allowed are one or more entries."),
        ({"window": (1.0,)}, "window: got 1.0; allowed are 2 entries."),
        ({"window": (1.0, float("inf"))}, "window: got inf; allowed is a finite number."),
        ({"window": (1.0, 1.0)}, "window: got 1.0 1.0; allowed are numbers that increase."),
        ({"rate": 0.0}, "rate: got 0.0; allowed is a number above 0."),
        ({"share": 1.5}, "share: got 1.5; allowed is a number from 0 to 1."),
        ({"sizes": (3, 0)}, "sizes: got 0; allowed is a whole number, 1 or more."),
        ({"sizes": (3, 4)}, "cells and sizes: allowed are equal numbers of entries; cells has 1, sizes has 2."),
        ({"sizes": (11,)}, "sizes: got 11; allowed is at most num_steps, which is 10."),
        ({"resolution": 10}, "resolution: got 10; allowed is less than num_steps, which is 10."),
        ({"draw": 1}, "draw: got 1; allowed is true or false."),
        ({"path": ""}, "path: got ''; allowed is a text that is not empty."),
        ({"seed": -1}, "seed: got -1; allowed is a whole number from 0 to 4294967295."),
    ],
)
def test_what_is_wrong_is_named(change, message):
    with pytest.raises(ValueError) as error:
        Config(**change)
    assert str(error.value) == message


def test_what_is_allowed_passes():
    Config(
        cells=("LSTM", "GRU"), sizes=(1, 10), resolution=9, rate=1e-3, share=1.0, draw=False, path="a", seed=2**32 - 1
    )


@pytest.mark.parametrize("name", studies())
def test_every_study_checks_every_field(name):
    config = _study.load_study(name).Config()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        wrong = [float("nan")] if (name, field.name) in MAY_BE_NEGATIVE else [float("nan"), -3]
        for bad in wrong:
            # A setting of several entries may be left out.
            bad = (bad, *(value or ())[1:]) if "tuple" in str(field.type) else bad
            with pytest.raises(ValueError, match=rf"^{field.name}: got .*; allowed is "):
                dataclasses.replace(config, **{field.name: bad})
