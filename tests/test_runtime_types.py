"""That the tests check shapes at run time: nothing else would tell that they have ceased to."""

import jax
import jax.numpy as jnp
import pytest
import runtime_types
from jaxtyping import Array, Float, TypeCheckError, jaxtyped

import rnndyn as rd


@pytest.fixture(autouse=True)
def raising(monkeypatch):
    monkeypatch.setattr(runtime_types, "RAISES", True)


def test_a_wrong_shape_in_the_library_is_seen():
    with pytest.raises(TypeCheckError, match="subspace_angle"):
        rd.subspace_angle(jnp.ones((4, 2)), jnp.ones((5, 2)))


def test_a_wrong_shape_of_what_is_returned_is_seen():
    @jaxtyped(typechecker=runtime_types.check)
    def first(x: Float[Array, "N M"]) -> Float[Array, " N"]:
        return x[0]

    assert first(jnp.ones((3, 3))).shape == (3,)
    with pytest.raises(TypeCheckError, match="return value"):
        first(jnp.ones((2, 3)))


def test_an_int_is_a_float_and_no_string():
    @jaxtyped(typechecker=runtime_types.check)
    def half(x: float) -> float:
        return x / 2

    assert half(3) == 1.5
    with pytest.raises(TypeCheckError):
        half("3")


def test_functions_of_the_library_are_checked_before_they_are_compiled():
    """The check lies inside `jit`: what is traced is the checked function."""
    with pytest.raises(TypeCheckError):
        jax.eval_shape(rd.subspace_angle, jnp.ones((4, 2)), jnp.ones((5, 2)))


def test_a_call_that_does_not_fit_is_told(monkeypatch):
    @jaxtyped(typechecker=runtime_types.check)
    def half(x: float) -> float:
        return len(x) / 2

    monkeypatch.setattr(runtime_types, "RAISES", False)
    runtime_types.take()
    assert half("three") == 2.5
    (misfit,) = set(runtime_types.take())
    assert "half() parameter x=" in misfit
    assert runtime_types.take() == []


def test_only_the_first_calls_in_a_test_are_checked(monkeypatch):
    @runtime_types.sparingly(typechecker=runtime_types.check)
    def double(x: float) -> float:
        return 2 * x

    for _ in range(runtime_types.MOST):
        with pytest.raises(TypeCheckError):
            double("a")
    assert double("a") == "aa"
    runtime_types.take()  # as at the end of each test
    with pytest.raises(TypeCheckError):
        double("a")


def test_a_record_of_the_library_is_checked():
    with pytest.raises(TypeCheckError):
        rd.VanillaCell(2, 3, activation=4, key=jax.random.key(0))


def test_a_function_that_is_defined_again_and_again_is_one():
    def made():
        @runtime_types.sparingly(typechecker=runtime_types.check)
        def double(x: float) -> float:
            return 2 * x

        return double

    for _ in range(runtime_types.MOST):
        with pytest.raises(TypeCheckError):
            made()("a")
    assert made()("a") == "aa"
