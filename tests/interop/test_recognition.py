"""What is recognised in weights, what is refused, and what every answer says."""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd

FIXTURES = Path(__file__).parent / "fixtures"
DATA = Path(__file__).parent.parent / "data"
rng = np.random.default_rng(0)


def torch_weights(gates=3, size=4, inputs=2, prefix="rnn.", suffix="_l0"):
    shapes = {"weight_ih": (inputs,), "weight_hh": (size,), "bias_ih": (), "bias_hh": ()}
    return {
        f"{prefix}{name}{suffix}": rng.standard_normal((gates * size, *more)).astype(np.float32)
        for name, more in shapes.items()
    }


def refused(match, weights, *args, load=rd.from_torch, **kwargs):
    with pytest.raises(ValueError, match=match) as caught:
        load(weights, *args, **kwargs)
    assert "\n" not in str(caught.value)


def loaded(tmp_path, arrays, *args, **kwargs):
    np.savez(tmp_path / "w.npz", **arrays)
    return rd.load_network(tmp_path / "w.npz", *args, **kwargs)


def step(network, x, u):
    with jax.enable_x64(True):
        return np.asarray(network.cell(jnp.asarray(x), jnp.asarray(u)))


# ---- Which layer


def test_several_layers_are_listed_and_told_apart_by_name():
    weights = {**torch_weights(prefix="encoder."), **torch_weights(4, prefix="net.decoder.", inputs=5)}
    refused(r"2 recurrent layers: encoder \(GRU, 2 -> 4\); net\.decoder \(LSTM, 5 -> 4\).*Pass the name", weights)
    assert type(rd.from_torch(weights, "encoder").cell) is rd.GRUCell
    found = rd.from_torch(weights, "decoder")
    assert (type(found.cell), found.name) == (rd.LSTMCell, "net.decoder")
    assert "encoder.weight_ih_l0" in found.source.not_used
    refused(r"expected one of the recurrent layers.*got 'other'", weights, "other")
    refused("layer 1 cannot read", weights, ["encoder", "decoder"])
    refused("at least one name", weights, [])


def test_another_cell_than_the_file_holds():
    refused(r"'gru' was asked for, but rnn is another: LSTM, 2 -> 4", torch_weights(4), cell="gru")
    refused("expected one of 'vanilla'", torch_weights(4), cell="transformer")
    assert type(rd.from_torch(torch_weights(4), cell="LSTMCell").cell) is rd.LSTMCell
    assert type(rd.from_torch(torch_weights(1), cell="rnn").cell) is rd.VanillaCell


def test_another_architecture(tmp_path):
    attention = {"encoder.attn.in_proj_weight": np.ones((12, 4)), "encoder.norm.weight": np.ones(4)}
    refused(r"no recurrent layer.*in_proj_weight \[12, 4\].*as_map\(function", attention)
    with pytest.raises(ValueError, match=r"no recurrent layer.*2 tensors"):
        loaded(tmp_path, attention)
    contents = rd.inspect_checkpoint(tmp_path / "w.npz")
    assert contents.layers == ()
    assert contents.unused == tuple(attention)
    refused("expected a torch.nn.Module or a state dict, got a float", 1.0)


def test_a_readout_is_taken_only_where_one_fits():
    weights = torch_weights()
    head = {"head.weight": np.ones((3, 4)), "head.bias": np.ones(3)}
    assert rd.from_torch(weights).readout is None
    found = rd.from_torch({**weights, **head, "conv.weight": np.ones((3, 4, 1)), "norm.weight": np.ones(4)})
    assert found.readout.weight.shape == (3, 4)
    assert any("head" in text for text in found.source.assumed)
    assert found.source.not_used == ("conv.weight", "norm.weight")
    two = {**weights, **head, "value.weight": np.ones((1, 4))}
    found = rd.from_torch(two)
    assert found.readout is None
    assert any("head, value" in text for text in found.source.assumed)
    assert rd.from_torch(two, readout="value").readout.bias is None
    refused(r"reads 4 entries \(head, value\), got 'conv'", two, readout="conv")
    # The first layer of a decoder is no readout.
    deep = {**weights, "fc1.weight": np.ones((9, 4)), "fc2.weight": np.ones((3, 9))}
    found = rd.from_torch(deep)
    assert found.readout is None
    assert any("fc2 may read what fc1 puts out" in text for text in found.source.assumed)
    assert rd.from_torch(deep, readout="fc1").readout.weight.shape == (9, 4)


# ---- What cannot be represented exactly


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        ({"rnn.weight_hh_l0_g": np.ones((12, 1)), "rnn.weight_hh_l0_v": np.ones((12, 4))}, "remove_weight_norm"),
        ({"rnn.parametrizations.weight_hh_l0.original0": np.ones((12, 1))}, "remove_parametrizations"),
        ({"rnn.weight_hh_l0_orig": np.ones((12, 4)), "rnn.weight_hh_l0_mask": np.ones((12, 4))}, "prune.remove"),
        ({"rnn._all_weight_values.0.param": np.ones(3)}, "before torch.ao.quantization"),
        ({"rnn.weight_ci": np.ones(4)}, "peepholes"),
        ({"rnn.layer_norm.weight": np.ones(4)}, "rnn.layer_norm.weight lies among.*as_map"),
        ({"rnn.attention.weight": np.ones((4, 4))}, "attention"),
        ({"rnn.log_tau": np.ones(4)}, r"rnn.log_tau lies among.*leave it out"),
        ({"rnn.fc.weight": np.ones((4, 4))}, r"rnn.fc.weight lies among"),
        ({"rnn.weight_ih_l2": np.ones((12, 4)), "rnn.weight_hh_l2": np.ones((12, 4))}, r"layers \[0, 2\]"),
        ({"rnn.weight_ih_l1": np.ones((12, 5)), "rnn.weight_hh_l1": np.ones((12, 4))}, "expected 4 columns"),
        ({"rnn.weight_ih_l1": np.ones((16, 4)), "rnn.weight_hh_l1": np.ones((16, 4))}, "several kinds"),
        ({"rnn.weight_hh_l0_reverse": np.ones((12, 4))}, "lacks weight_ih"),
        ({"rnn.bias_hh_l0": np.ones(11)}, r"bias_hh_l0: expected shape \(12,\), got \(11,\)"),
        ({"rnn.weight_ih_l0": np.ones((8, 2))}, r"rows of no known cell"),
    ],
)
def test_what_is_not_exactly_a_cell_is_refused(extra, match):
    weights = torch_weights()
    refused(match, {**weights, **extra})


def test_a_module_of_its_own_class_is_not_taken_for_the_cell_whose_names_it_has():
    """A state dict of a normalised LSTM cell at the root of the file, and a leak beside a layer."""
    cell = torch_weights(4, prefix="", suffix="")
    refused(r"ln_ih\.weight lies among", {**cell, "ln_ih.weight": np.ones(16)})
    assert type(rd.from_torch({**cell, "fc.weight": np.ones((2, 4))}).cell) is rd.LSTMCell
    layer = torch_weights(3, prefix="")
    refused("alpha lies among.*cell='leaky'", {**layer, "alpha": np.ones(())})
    # Normalisation of the output of a numbered layer, beside it, is no part of its step; nor is where it starts.
    assert rd.from_torch({**layer, "norm.layer_norm.weight": np.ones(4)}).source.not_used
    assert rd.from_torch({**torch_weights(), "rnn.h0": np.ones(4)}).source.not_used == ("rnn.h0",)


def test_a_tensor_too_many_makes_another_cell(tmp_path):
    keras = {"lstm/lstm_cell/kernel": np.ones((2, 16)), "lstm/lstm_cell/recurrent_kernel": np.ones((4, 16))}
    refused(r"gamma lies among", {**keras, "lstm/lstm_cell/norm/gamma": np.ones(16)}, load=rd.from_keras)
    seeds = {"lstm/lstm_cell/seed_generator/state": np.ones(2)}
    assert type(rd.from_keras({**keras, **seeds, "dense/kernel": np.ones((4, 2))}).cell) is rd.LSTMCell
    simple = {"i": {"kernel": np.ones((2, 4)), "lora_a": np.ones((2, 1))}, "h": {"kernel": np.ones((4, 4))}}
    refused("lora_a lies among", {"cell": simple}, load=rd.from_flax)
    lstm = {"lstm/linear": {"w": np.ones((6, 16)), "b": np.ones(16)}, "lstm/layer_norm": {"scale": np.ones(16)}}
    refused("layer_norm/scale lies among", lstm, load=rd.from_haiku)
    with pytest.raises(ValueError, match=r"b_in may be a bias, beside those that are read \(b_rec\)"):
        loaded(tmp_path, {**matrices(), "b_in": np.ones(4)}, cell="leaky", alpha=0.1)
    bare = {name: array for name, array in torch_weights(prefix="", suffix="").items() if "weight" in name}
    refused("b_rec may be the bias", {**bare, "b_rec": np.ones(12)})
    # An output bias of the same length is none.
    found = loaded(tmp_path, {**matrices(), "W_out": np.ones((4, 4)), "b_out": np.ones(4)}, cell="leaky", alpha=0.1)
    assert found.readout.bias.shape == (4,)


def test_an_option_that_the_layer_does_not_have_is_not_passed_over(tmp_path):
    for options, match in (
        ({"alpha": 0.1}, "alpha: belongs to leaky rate network, got 0.1 for rnn: GRU, 2 -> 4"),
        ({"activation": "relu"}, "activation: belongs to leaky rate network or vanilla RNN"),
        ({"dale": "abs"}, "dale: belongs to"),
    ):
        with pytest.raises(ValueError, match=match):
            loaded(tmp_path, torch_weights(), **options)
    with pytest.raises(ValueError, match="reset: belongs to GRU"):
        loaded(tmp_path, torch_weights(4), reset="after")
    refused("activation: belongs to", torch_weights(4), activation="relu")


def test_weights_that_are_no_numbers():
    for value, match in (
        (np.full((12, 4), np.nan), r"rnn\.weight_hh_l0: holds nan at \[0, 0\] \(48 of 48"),
        (np.where(np.arange(48).reshape(12, 4) == 30, np.inf, 1.0), r"weight_hh_l0: holds inf at \[7, 2\] \(1 of 48"),
        (np.ones((12, 4), np.int8), "weight_hh_l0: expected floating-point weights, got int8: quantised"),
        (np.ones((12, 4), complex), "complex128"),
    ):
        refused(match, {**torch_weights(), "rnn.weight_hh_l0": value})


def test_other_frameworks_refuse_as_well():
    gates = {name: {"kernel": np.ones((2, 4))} for name in ("if", "in", "hf", "hn")}
    refused("minimal gated unit", {"params": gates}, load=rd.from_flax)
    conv = {name: {"kernel": np.ones((3, 3, 2, 16))} for name in ("ih", "hh")}
    refused("convolutional", {"ConvLSTMCell_0": conv}, load=rd.from_flax)
    refused(r"an LSTM of Haiku has", {"lstm/linear": {"w": np.ones((7, 15)), "b": np.ones(15)}}, load=rd.from_haiku)
    keras = {"gru/gru_cell/kernel": np.ones((2, 12)), "gru/gru_cell/recurrent_kernel": np.ones((4, 12))}
    refused("reset_after; pass reset=", keras, load=rd.from_keras)
    assert rd.from_keras(keras, reset="before").cell.reset == "before"
    keras["gru/gru_cell/bias"] = np.ones((2, 12))
    refused("'before' was asked for", keras, load=rd.from_keras, reset="before")
    keras["gru/gru_cell/kernel"] = np.ones((3, 3, 2, 12))
    refused("convolutional", keras, load=rd.from_keras)
    for load in (rd.from_keras, rd.from_flax, rd.from_haiku):
        with pytest.raises(ValueError, match="got a float"):
            load(1.0)
        refused(
            "no recurrent layer",
            {"dense": {"kernel": np.ones((2, 2))}},
            load=load if load is not rd.from_keras else rd.from_flax,
        )


def test_a_gru_with_one_bias_does_not_tell_where_its_reset_gate_acts(tmp_path):
    cell = rd.GRUCell(2, 4, reset="before", key=jax.random.key(0))
    weights = {name: np.asarray(getattr(cell, name)) for name in ("weight_ih", "weight_hh", "bias")}
    with pytest.raises(ValueError, match="Pass reset='before'"):
        loaded(tmp_path, weights)
    found = loaded(tmp_path, weights, reset="before")
    assert found.cell.reset == "before"
    np.testing.assert_array_equal(np.asarray(found.cell.bias, np.float32), cell.bias)
    assert not np.any(loaded(tmp_path, weights, reset="after").cell.bias_n)


# ---- Plain matrices


def matrices(size=4, inputs=2, **more):
    named = {"W_rec": (size, size), "W_in": (size, inputs), "b_rec": (size,), "W_out": (3, size), "b_out": (3,)}
    return {**{name: rng.standard_normal(shape) for name, shape in named.items()}, **more}


def test_a_leaky_network_of_plain_matrices(tmp_path):
    w, x, u = matrices(), rng.standard_normal(4), rng.standard_normal(2)
    drive = w["W_in"] @ u + w["b_rec"]
    relu = lambda a: np.maximum(a, 0)
    found = loaded(tmp_path, w, cell="leaky", alpha=0.1, activation="relu")
    np.testing.assert_allclose(step(found, x, u), 0.9 * x + 0.1 * (w["W_rec"] @ relu(x) + drive), rtol=1e-12)
    np.testing.assert_array_equal(found.readout.weight, w["W_out"])
    assert any("state_variable='rate'" in text for text in found.source.assumed)
    found = loaded(tmp_path, w, cell="leaky", dt=2, tau=10, activation="relu", state_variable="rate")
    np.testing.assert_allclose(step(found, x, u), 0.8 * x + 0.2 * relu(w["W_rec"] @ x + drive), rtol=1e-12)
    found = loaded(tmp_path, w, cell="vanilla")
    np.testing.assert_allclose(step(found, x, u), np.tanh(w["W_rec"] @ x + drive), rtol=1e-12)
    # The file tells the leak and the nonlinearity itself.
    told = {**w, "tau": np.array(20.0), "dt": np.array(5), "activation": np.array("softplus")}
    found = loaded(tmp_path, told)
    soft = np.log1p(np.exp(x))
    np.testing.assert_allclose(step(found, x, u), 0.75 * x + 0.25 * (w["W_rec"] @ soft + drive), rtol=1e-12)
    taus = np.array([5.0, 10, 20, 40])
    found = loaded(tmp_path, {**w, "tau": taus, "dt": np.array(5.0)}, activation="relu")
    a = 5 / taus
    np.testing.assert_allclose(step(found, x, u), (1 - a) * x + a * (w["W_rec"] @ relu(x) + drive), rtol=1e-12)


def test_plain_matrices_do_not_tell_their_equation(tmp_path):
    for kwargs, match in (
        ({}, "cell='leaky' with alpha="),
        ({"cell": "leaky"}, "leak is not known"),
        ({"cell": "leaky", "alpha": 0.1, "dt": 1.0}, "not all of them"),
        ({"cell": "leaky", "alpha": 1.5}, r"leak in \(0, 1\], got 1.5"),
        ({"cell": "leaky", "alpha": 0.1, "state_variable": "voltage"}, "'rate' or 'current'"),
        ({"cell": "leaky", "alpha": 0.1, "activation": "elu"}, "expected one of tanh"),
        ({"cell": "leaky", "alpha": 0.1, "dale": "law"}, "'abs', 'rectify' or 'none'"),
        ({"cell": "gru"}, "'gru' was asked for|cell='leaky'"),
    ):
        with pytest.raises(ValueError, match=match):
            loaded(tmp_path, matrices(), **kwargs)
    with pytest.raises(ValueError, match=r"W_in: expected shape \(4, I\).*u @ W"):
        loaded(tmp_path, {**matrices(), "W_in": np.ones((2, 4))}, cell="leaky", alpha=0.1)
    both = {"W": np.ones((4, 4)), "U": np.ones((4, 4))}
    with pytest.raises(ValueError, match="rename the recurrent one W_rec"):
        loaded(tmp_path, both, cell="vanilla")


def test_masks_and_signs_are_multiplied_in(tmp_path):
    w, x, u = matrices(), rng.standard_normal(4), rng.standard_normal(2)
    mask, input_mask = rng.random((4, 4)) < 0.5, rng.random((4, 2)) < 0.5
    signs = np.array([1, 1, -1, 1])
    options = {"cell": "leaky", "alpha": 0.1, "activation": "relu"}
    relu = lambda a: np.maximum(a, 0)
    expected = lambda rec, inp: 0.9 * x + 0.1 * (rec @ relu(x) + inp @ u + w["b_rec"])
    found = loaded(tmp_path, {**w, "mask": mask, "mask_in": input_mask}, **options)
    np.testing.assert_allclose(step(found, x, u), expected(w["W_rec"] * mask, w["W_in"] * input_mask), rtol=1e-12)
    dale = {**w, "ei": signs}
    with pytest.raises(ValueError, match=r"ei: the stored weights do not have these signs.*dale='abs'"):
        loaded(tmp_path, dale, **options)
    found = loaded(tmp_path, dale, dale="abs", **options)
    np.testing.assert_allclose(step(found, x, u), expected(np.abs(w["W_rec"]) * signs, w["W_in"]), rtol=1e-12)
    found = loaded(tmp_path, dale, dale="rectify", **options)
    np.testing.assert_allclose(step(found, x, u), expected(relu(w["W_rec"]) * signs, w["W_in"]), rtol=1e-12)
    found = loaded(tmp_path, dale, dale="none", **options)
    np.testing.assert_allclose(step(found, x, u), expected(w["W_rec"], w["W_in"]), rtol=1e-12)
    # PsychRNN: |W| D, positive input weights, |W_out| D, under its names.
    psych = {**w, "Dale_rec": np.diag(signs), "Dale_out": np.diag(signs), "output_connectivity": np.ones((3, 4))}
    found = loaded(tmp_path, psych, **options)
    np.testing.assert_allclose(step(found, x, u), expected(np.abs(w["W_rec"]) * signs, np.abs(w["W_in"])), rtol=1e-12)
    np.testing.assert_allclose(found.readout.weight, np.abs(w["W_out"]) * signs, rtol=1e-12)
    with pytest.raises(ValueError, match=r"ei: expected \+1 or -1"):
        loaded(tmp_path, {**w, "ei": np.array([1, 2, 1, 1])}, **options)


# ---- Networks that other people trained and published (tests/data/README.md)


def test_published_networks():
    found = rd.load_network(DATA / "psychrnn_pd_relu50.npz", cell="leaky", alpha=0.1, activation="relu")
    assert (found.cell.input_size, found.cell.hidden_size, found.cell.state_variable) == (2, 50, "current")
    found = rd.load_network(DATA / "flipflop_gru16.npz")
    assert type(found.cell) is rd.GRUCell
    assert found.readout.weight.shape == (3, 16)
    found = rd.load_network(DATA / "phase_code_100.npz")
    assert type(found.cell) is rd.VanillaCell
    found = rd.load_network(DATA / "lyapunov_lstm_64.npz")
    assert (found.name, found.cell.hidden_size, found.source.biases) == ("driven", 64, "none in the weights: zeros")


# ---- What comes back


def test_the_network_is_a_cell_for_everything():
    found = rd.load_network(FIXTURES / "torch_gru.npz")
    u = np.array([0.1, -0.2, 0.3])
    f, g = rd.as_map(found, u), rd.as_map(found.cell, u)
    x = jnp.full(5, 0.1)
    np.testing.assert_array_equal(f(x), g(x))
    np.testing.assert_array_equal(f.region[0], g.region[0])
    inputs = np.zeros((3, 3), np.float32)
    np.testing.assert_array_equal(rd.unroll(found, inputs), rd.unroll(found.cell, inputs))
    np.testing.assert_array_equal(found(x, u), found.cell(x, u))
    model = rd.RNN(found, eqx.nn.Linear(5, 2, key=jax.random.key(0)))
    assert model(inputs).shape == (3, 2)


def test_print_says_what_was_understood():
    text = str(rd.load_network(FIXTURES / "keras_gru_after.npz"))
    for part in ("GRU, 3 -> 5", "z, r, n in the source", "reset gate after", "kept apart as bias_n", "not used"):
        assert part in text
    text = str(rd.inspect_checkpoint(FIXTURES / "torch_model.npz"))
    for part in ("rnn.weight_ih_l1", "float32 [20, 5]", "rnn: LSTM, 3 -> 5, 2 layers (PyTorch)", "i, f, g, o"):
        assert part in text


def test_the_contents_of_a_file_are_a_result(tmp_path):
    contents = rd.inspect_checkpoint(FIXTURES / "torch_two.npz")
    assert [layer.name for layer in contents.layers] == ["encoder", "decoder"]
    assert contents.tensors["encoder.weight_ih_l0"] == ("float32", [15, 3])
    assert rd.load(contents.save(tmp_path / "contents")).layers[1].kind == "GRU, 5 -> 5"
    np.savez(tmp_path / "w.npz", **torch_weights(), **{"rnn.weight_ci": np.ones(4)})
    (layer,) = rd.inspect_checkpoint(tmp_path / "w.npz").layers
    assert "peepholes" in layer.refusal
    (layer,) = rd.inspect_checkpoint(FIXTURES / "leaky.mat").layers[:1]
    assert layer.refusal is not None or layer.kind.startswith("leaky")


def test_modules_of_equinox():
    keys = jax.random.split(jax.random.key(0), 4)
    model = {
        "words": eqx.nn.Embedding(7, 3, key=keys[0]),
        "rnn": eqx.nn.GRUCell(3, 5, key=keys[1]),
        "head": eqx.nn.Linear(5, 2, key=keys[2]),
    }
    found = rd.from_equinox(model)
    assert type(found.cell) is rd.GRUCell
    np.testing.assert_array_equal(np.asarray(found.cell.bias_n, np.float32), model["rnn"].bias_n)
    np.testing.assert_array_equal(np.asarray(found.readout.weight, np.float32), model["head"].weight)
    assert found.embedding.weight.shape == (7, 3)
    own = rd.RNN(rd.LeakyCell(3, 5, key=keys[3]), model["head"])
    found = rd.from_equinox(own)
    assert (type(found.cell), found.name) == (rd.LeakyCell, "cell")

    class Twisted(eqx.nn.GRUCell):
        def __call__(self, input, hidden, *, key=None):
            return -super().__call__(input, hidden)

    twisted = Twisted(3, 5, key=keys[1])
    u, h = jnp.ones(3), jnp.ones(5)
    np.testing.assert_array_equal(rd.from_equinox(twisted).cell(h, u), twisted(u, h))
    with pytest.raises(ValueError, match=r"no equinox\.nn\.GRUCell"):
        rd.from_equinox(model["head"])
