"""Bad input is refused in words."""

import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


def f(x):
    return 0.5 * x


def driven(x, u):
    return 0.5 * x + u


X0 = np.ones(3, np.float32)

BAD = [
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, num_exponents=4), "num_exponents", id="too many exponents"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, num_exponents=0), "num_exponents", id="no exponents"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 0), "num_steps", id="no steps"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, num_transient=-1), "num_transient", id="negative transient"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, qr_every=11), "qr_every", id="interval beyond the window"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, qr_every=0), "qr_every", id="no interval"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, history_every=11), "history_every", id="block too long"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, remat_every=0), "remat_every", id="no segment"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, dt=0.0), "dt", id="no time"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, frame=np.eye(3)[:, :2]), "frame", id="frame too narrow"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, np.ones((2, 3)), 10), "x0", id="two states"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, np.arange(3), 10), "x0", id="integer state"),
    pytest.param(lambda: rd.lyapunov_spectrum(lambda x: x[:2], X0, 10), "f:", id="map that changes shape"),
    pytest.param(lambda: rd.lyapunov_spectrum(f, X0, 10, inputs=X0[None]), "inputs", id="inputs too short"),
    pytest.param(
        lambda: rd.lyapunov_spectrum(driven, X0, 10, inputs=np.ones((10, 3), np.float32), num_transient=5),
        "inputs",
        id="inputs without the transient's",
    ),
    pytest.param(lambda: rd.max_lyapunov_exponent(f, X0, 10, separation=-1.0), "separation", id="negative distance"),
    pytest.param(lambda: rd.covariant_lyapunov_vectors(f, X0, 10, num_backward=-1), "num_backward", id="backward"),
    pytest.param(lambda: rd.zero_one_test(np.ones(50)), "signal", id="signal too short"),
    pytest.param(lambda: rd.zero_one_test(np.ones((200, 2))), "signal", id="signal of vectors"),
    pytest.param(lambda: rd.time_map(f, 0.0), "dt", id="no sampling time"),
    pytest.param(lambda: rd.adjoints(f, X0, None, jnp.sum), "num_steps", id="no length"),
    pytest.param(lambda: rd.adjoints(f, X0, None, lambda xs: xs[0], num_steps=5), "loss", id="loss of vectors"),
    pytest.param(lambda: rd.jacobian_product_spectrum(f, X0, [0, 1]), "lags", id="lag of zero"),
    pytest.param(lambda: rd.jacobian_product_spectrum(f, X0, []), "lags", id="no lags"),
    pytest.param(lambda: rd.flossing_loss(f, X0, 10, 2, target=np.zeros(3)), "target", id="target of another length"),
    pytest.param(lambda: rd.lyapunov_sweep(lambda: (f, X0), {}, 10), "axes", id="no axes"),
    pytest.param(lambda: rd.lyapunov_sweep(lambda g: (f, X0), {"g": []}, 10), "axes", id="empty axis"),
]


@pytest.mark.parametrize(("call", "named"), BAD)
def test_bad_input_names_the_argument(call, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        call()


def test_confidence_level():
    with pytest.raises(ValueError, match="level"):
        rd.lyapunov_spectrum(f, X0, 10).confidence_interval(95)


def test_a_window_of_one_step_has_no_error_bar():
    spectrum = rd.lyapunov_spectrum(f, X0, 1)
    np.testing.assert_allclose(spectrum.exponents, np.full(3, np.log(0.5)), rtol=1e-6)
    assert np.isnan(spectrum.stderr).all()
    assert not spectrum.converged
