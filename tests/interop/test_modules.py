"""Modules of the frameworks themselves; skipped where a framework is not installed."""

import os

import numpy as np
import pytest

import rnndyn as rd

rng = np.random.default_rng(0)


def states_by_hand(cell, inputs):
    """(T, H), step by step."""
    state, outputs = cell.initial_state(), []
    for row in inputs:
        state = cell(state, row)
        outputs.append(np.asarray(cell.output(state)))
    return np.array(outputs)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def keras():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def nnx():
    return pytest.importorskip("flax.nnx")


INPUTS = rng.standard_normal((6, 3)).astype(np.float32)


def test_a_module_of_pytorch_tells_its_nonlinearity(torch):
    module = torch.nn.RNN(3, 4, nonlinearity="relu")
    found = rd.from_torch(module)
    assert (found.cell.activation, found.source.assumed) == ("relu", ())
    expected = module(torch.from_numpy(INPUTS)[:, None])[0][:, 0].detach().numpy()
    np.testing.assert_allclose(states_by_hand(found.cell, INPUTS), expected, atol=1e-6)
    with pytest.raises(ValueError, match="has 'relu', got 'tanh'"):
        rd.from_torch(module, activation="tanh")


def test_a_whole_module_of_pytorch(torch):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(7, 3)
            self.net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4, num_layers=2, batch_first=True, dropout=0.2)})
            self.norm = torch.nn.LayerNorm(4)
            self.head = torch.nn.Linear(4, 2)

    model = Model().eval()
    found = rd.from_torch(model)
    assert (found.name, found.source.not_used) == ("net.rnn", ("norm.weight", "norm.bias"))
    np.testing.assert_array_equal(found.readout.weight, model.head.weight.detach().numpy())
    np.testing.assert_array_equal(found.embedding.weight, model.words.weight.detach().numpy())
    expected = model.net["rnn"](torch.from_numpy(INPUTS)[None])[0][0].detach().numpy()
    np.testing.assert_allclose(states_by_hand(found.cell, INPUTS), expected, atol=1e-6)


def test_what_a_module_of_pytorch_has_and_a_cell_has_not(torch):
    normed = torch.nn.Module()
    normed.rnn = torch.nn.utils.parametrizations.weight_norm(torch.nn.GRU(3, 4), "weight_hh_l0")
    with pytest.raises(ValueError, match="remove_parametrizations"):
        rd.from_torch(normed)

    class Own(torch.nn.GRUCell):
        def forward(self, input, hidden=None):
            return -super().forward(input, hidden)

    with pytest.raises(ValueError, match=r"a Own, a subclass.*state_dict\(\)"):
        rd.from_torch(Own(3, 4))
    assert type(rd.from_torch(Own(3, 4).state_dict()).cell) is rd.GRUCell
    script = torch.jit.script(torch.nn.GRU(3, 4))
    with pytest.raises(ValueError, match=r"no layer of torch\.nn"):
        rd.from_torch(script)
    assert type(rd.from_torch(script.state_dict()).cell) is rd.GRUCell
    engines = [engine for engine in torch.backends.quantized.supported_engines if engine != "none"]
    if engines:
        torch.backends.quantized.engine = engines[0]
        model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.LSTM}, dtype=torch.qint8)
        with pytest.raises(ValueError, match="quantised LSTM"):
            rd.from_torch(quantised)
        with pytest.raises(ValueError, match=r"quantisation|no recurrent layer"):
            rd.from_torch(quantised.state_dict())


def test_the_way_back_is_a_module_of_pytorch(torch):
    for module in (
        torch.nn.RNN(3, 4, nonlinearity="relu"),
        torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2),
        torch.nn.GRU(3, 4, num_layers=2),
    ):
        again = rd.to_torch(rd.from_torch(module, dtype="float32"), as_module=True)
        assert type(again) is type(module)
        x = torch.from_numpy(INPUTS)[:, None]
        # bias_ih + bias_hh was rounded once more.
        assert (again(x)[0] - module(x)[0]).abs().max() < 1e-6


def test_models_of_keras(keras):
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((None, 3)),
            layers.GRU(4, reset_after=False, return_sequences=True, name="low"),
            layers.Bidirectional(layers.LSTM(5, return_sequences=True), name="both"),
            layers.RNN(layers.SimpleRNNCell(2, activation="relu"), return_sequences=True, name="top"),
        ]
    )
    model.set_weights([rng.standard_normal(w.shape) for w in model.get_weights()])
    found = rd.from_keras(model, "low")
    assert (found.cell.reset, found.source.assumed) == ("before", ())
    low = model.get_layer("low")(INPUTS[None])
    np.testing.assert_allclose(states_by_hand(found.cell, INPUTS), np.asarray(low)[0], atol=1e-6)
    both = np.asarray(model.get_layer("both")(low))
    found = rd.from_keras(model, "both")
    np.testing.assert_allclose(states_by_hand(found.cells["forward"], np.asarray(low)[0]), both[0, :, :5], atol=1e-6)
    found = rd.from_keras(model, "top")
    assert found.cell.activation == "relu"
    top = np.asarray(model.get_layer("top")(both))[0]
    scale = max(1, np.abs(top).max())
    np.testing.assert_allclose(states_by_hand(found.cell, both[0]), top, atol=1e-6 * scale)
    with pytest.raises(ValueError, match=r"low \(GRU, 3 -> 4\); both \(LSTM, 4 -> 10, bidirectional\); top"):
        rd.from_keras(model)


def test_a_layer_and_a_stack_of_cells_of_keras(keras):
    layers = keras.layers
    layer = layers.RNN([layers.GRUCell(4), layers.LSTMCell(5)], return_sequences=True)
    layer(INPUTS[None])
    layer.set_weights([rng.standard_normal(w.shape) for w in layer.get_weights()])
    with pytest.raises(ValueError, match="2 recurrent layers") as caught:
        rd.from_keras(layer)
    names = [part.split(" ")[0] for part in str(caught.value).split(": ", 2)[2].split("; ")]
    found = rd.from_keras(layer, names)
    np.testing.assert_allclose(states_by_hand(found.cell, INPUTS), np.asarray(layer(INPUTS[None]))[0], atol=1e-6)


def test_a_readout_of_keras_with_a_nonlinearity(keras):
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((None, 3)), layers.GRU(4, name="gru"), layers.Dense(2, "softmax", name="out")]
    )
    found = rd.from_keras(model)
    assert found.readout is None
    assert any("out is followed by softmax" in text for text in found.source.assumed)
    found = rd.from_keras(model, readout="out")
    np.testing.assert_array_equal(found.readout.weight, np.asarray(model.get_layer("out").kernel).T)
    assert any("softmax" in text and "left out" in text for text in found.source.assumed)
    with pytest.raises(ValueError, match="reset: 'before' was asked for"):
        rd.from_keras(model, reset="before")


def test_what_keras_has_and_a_cell_has_not(keras):
    layers = keras.layers
    unbuilt = layers.GRU(4)
    with pytest.raises(ValueError, match="has no weights yet"):
        rd.from_keras(unbuilt)
    for options in ({"recurrent_activation": "hard_sigmoid"}, {"activation": "relu"}):
        layer = layers.LSTM(4, **options)
        layer(INPUTS[None])
        with pytest.raises(ValueError, match="only tanh with sigmoid"):
            rd.from_keras(layer)
    layer = layers.SimpleRNN(4, activation="selu")
    layer(INPUTS[None])
    with pytest.raises(ValueError, match="activation 'selu': known are"):
        rd.from_keras(layer)

    class OwnCell(layers.SimpleRNNCell):
        def call(self, sequence, states, training=False):
            output, states = super().call(sequence, states, training)
            return -output, states

    layer = layers.RNN(OwnCell(4))
    layer(INPUTS[None])
    with pytest.raises(ValueError, match=r"OwnCell.*no cell of Keras"):
        rd.from_keras(layer)


def test_modules_of_nnx(nnx):
    rngs = nnx.Rngs(0)

    class Model(nnx.Module):
        def __init__(self):
            self.rnn = nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs), rngs=rngs)
            self.head = nnx.Linear(4, 2, rngs=rngs)

    model = Model()
    found = rd.from_flax(model)
    assert (found.name, found.source.assumed) == (
        "rnn",
        ("the linear layer head is the readout: the only one that fits the output",),
    )
    expected = np.asarray(model.rnn(INPUTS[None]))[0]
    np.testing.assert_allclose(states_by_hand(found.cell, INPUTS), expected, atol=1e-6)
    state = rd.from_flax(nnx.state(model))
    np.testing.assert_array_equal(state.cell.weight_hh, found.cell.weight_hh)
    assert any("gate_fn" in text for text in state.source.assumed)
    with pytest.raises(ValueError, match=r"activation_fn 'relu' with gate_fn 'sigmoid'"):
        rd.from_flax(nnx.LSTMCell(3, 4, activation_fn=nnx.relu, rngs=rngs))
    simple = nnx.SimpleCell(3, 4, activation_fn=nnx.relu, rngs=rngs)
    assert rd.from_flax(simple).cell.activation == "relu"
    with pytest.raises(ValueError, match="residual=True"):
        rd.from_flax(nnx.SimpleCell(3, 4, residual=True, rngs=rngs))

    class Own(nnx.GRUCell):
        def __call__(self, carry, inputs):
            carry, output = super().__call__(carry, inputs)
            return -carry, -output

    model = {"own": Own(3, 4, rngs=rngs)}
    for name in (None, "own"):
        with pytest.raises(ValueError, match=r"Own.*no cell of Flax"):
            rd.from_flax(nnx.Dict(**model) if hasattr(nnx, "Dict") else Own(3, 4, rngs=rngs), name)
    with pytest.raises(ValueError, match="'tanh' was asked for, but the cell has 'relu'"):
        rd.from_flax(simple, activation="tanh")
