"""Verdicts have one form in all results: an enumeration with messages, one item for each item of the result."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd
from rnndyn.results import Judged, Result, first_verdict, is_verdict, join_verdicts, repeat_verdict, take_verdicts

OLD_FORMS = {"status", "kind_of_end", "converged", "stalled", "proved", "certified", "stop_reasons", "stabilities"}


def results(cls=Result):
    """All result classes of the dynamics wing."""
    for sub in cls.__subclasses__():
        if sub.__module__.startswith("rnndyn.dynamics"):
            yield sub
        yield from results(sub)


def test_no_result_keeps_a_verdict_in_another_form():
    classes = set(results())
    assert len(classes) > 30
    for cls in classes:
        names = {field.name for field in dataclasses.fields(cls)}
        assert not names & OLD_FORMS, cls
        if hasattr(cls, "result") or "result" in names:
            assert issubclass(cls, Judged), cls


@pytest.mark.parametrize("name", [name for name in vars(rd) if name.endswith("Verdict")])
def test_every_verdict_is_public_and_has_words_of_its_own(name):
    verdict = getattr(rd, name)
    items = verdict._name_to_item
    words = [verdict[item] for item in items.values()]
    assert len(items) > 1
    assert all(words)
    assert len(set(words)) == len(words)


def test_the_first_case_that_holds_is_the_verdict():
    verdict = rd.NewtonVerdict
    a, b = np.array([True, True, False]), np.array([False, True, True])
    found = first_verdict((a, verdict.stalled), (b, verdict.not_finite), otherwise=verdict.converged)
    assert is_verdict(found, verdict.stalled).tolist() == [True, True, False]
    assert is_verdict(found, verdict.stalled, verdict.not_finite).all()
    assert is_verdict(take_verdicts(found, 2), verdict.not_finite) is True
    with pytest.raises(ValueError, match="items of NewtonVerdict only"):
        is_verdict(found, rd.PointVerdict.regular)
    both = join_verdicts([found, repeat_verdict(verdict.converged, 2)])
    assert np.asarray(both == verdict.converged).tolist() == [False, False, False, True, True]
    assert is_verdict(first_verdict((False, verdict.stalled), otherwise=verdict.converged), verdict.converged) is True


# cos has one fixed point; |F(x) - x| of x^2 + 1 is least, 3/4, at 1/2; that of x + exp(-x) falls for ever, by e a step.
@pytest.mark.parametrize(
    ("f", "x0", "max_steps", "expected"),
    [
        (jnp.cos, 1.0, 20, "converged"),
        (lambda x: x**2 + 1, 2.0, 20, "stalled"),
        (lambda x: x + jnp.exp(-x), 1.0, 2, "out_of_steps"),
        (lambda x: jnp.log(x), -1.0, 20, "not_finite"),
    ],
)
def test_newton_says_how_it_ended(f, x0, max_steps, expected):
    found = rd.newton(f, jnp.array([x0]), max_steps=max_steps)
    assert is_verdict(found.result, getattr(rd.NewtonVerdict, expected))
    assert bool(found.converged) == (expected == "converged")
    assert bool(found.stalled) == (expected == "stalled")


def test_verdicts_of_a_batch_are_saved_and_selected(tmp_path):
    batch = jax.vmap(lambda x: rd.newton(jnp.cos, x))(jnp.array([[1.0], [np.nan]]))
    again = rd.load(batch.save(tmp_path / "newton"))
    assert np.asarray(again.converged).tolist() == [True, False]
    assert again.message.tolist() == batch.message.tolist()
    # x -> x^2 + 1 has no fixed point: every candidate is left over.
    none = rd.find_fixed_points(lambda x: x**2 + 1, np.linspace(-2, 2, 8)[:, None], progress=False)
    again = rd.load(none.save(tmp_path / "none"))
    assert len(again) == len(again.message) == 0
    assert again.unconverged.stalled.all()
    assert is_verdict(again.completeness, rd.CompletenessVerdict.unknown)
