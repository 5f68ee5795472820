"""`python tests/interop/make_fixtures.py` writes the fixtures, with the frameworks themselves; the tests need none.

Made with torch 2.13.0, keras 3.15.1 (jax backend), flax 0.12.8, dm-haiku 0.0.17, equinox 0.13.8 and jax 0.10.2, in a
virtual environment of their own. Every file holds the weights under the names that the framework gives them, and beside
them `inputs` (T, D) and `outputs` (T, H), what the framework makes of them in float32 from a zero state; for an LSTM
also the last `final_h` and `final_c`. All weights and biases are random: zero biases would hide mistakes.
"""

import os
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import keras
import numpy as np
import scipy.io
import torch
from flax import nnx
from flax.traverse_util import flatten_dict
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "fixtures"
T, D, H = 20, 3, 5
rng = np.random.default_rng(14)


def numbers(shape, scale=0.6):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


INPUTS = numbers((T, D), 1.0)


def write(name, weights, outputs, inputs=None, **more):
    arrays = {key: np.asarray(value) for key, value in weights.items()}
    arrays |= {key: np.asarray(value) for key, value in more.items()}
    arrays["inputs"] = INPUTS if inputs is None else inputs
    arrays["outputs"] = np.asarray(outputs)
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)


# ---- PyTorch


def fill(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.from_numpy(numbers(tuple(parameter.shape))))
    return module.eval()


def torch_layer(name, module, file=None):
    fill(module)
    with torch.no_grad():
        outputs, last = module(torch.from_numpy(INPUTS)[:, None])
    more = {"final_h": last[0][-1, 0], "final_c": last[1][-1, 0]} if isinstance(last, tuple) else {}
    write(name, module.state_dict(), outputs[:, 0], **more)
    return module


def torch_cell(name, module):
    fill(module)
    state, outputs = None, []
    with torch.no_grad():
        for row in torch.from_numpy(INPUTS):
            state = module(row[None], state)
            outputs.append((state[0] if isinstance(state, tuple) else state)[0])
    write(name, module.state_dict(), torch.stack(outputs))


class Model(torch.nn.Module):
    """Tokens in, logits out."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, D)
        self.rnn = torch.nn.LSTM(D, H, num_layers=2, dropout=0.1)
        self.head = torch.nn.Linear(H, 2)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])


class Two(torch.nn.Module):
    """An encoder and a decoder."""

    def __init__(self):
        super().__init__()
        self.encoder = torch.nn.GRU(D, H)
        self.decoder = torch.nn.GRU(H, H)

    def forward(self, x):
        return self.decoder(self.encoder(x)[0])


def make_torch():
    torch_layer("torch_rnn_tanh", torch.nn.RNN(D, H))
    torch_layer("torch_rnn_relu", torch.nn.RNN(D, H, nonlinearity="relu"))
    torch_layer("torch_lstm", torch.nn.LSTM(D, H))
    torch_layer("torch_lstm_projected", torch.nn.LSTM(D, H, proj_size=2))
    torch_layer("torch_gru", torch.nn.GRU(D, H))
    torch_layer("torch_gru_no_bias", torch.nn.GRU(D, H, bias=False))
    torch_layer("torch_gru_two_layers", torch.nn.GRU(D, H, num_layers=2))
    torch_layer("torch_lstm_projected_two_layers", torch.nn.LSTM(D, H, num_layers=2, proj_size=2))
    torch_layer("torch_gru_bidirectional", torch.nn.GRU(D, H, bidirectional=True))
    torch_layer("torch_lstm_bidirectional_two_layers", torch.nn.LSTM(D, H, num_layers=2, bidirectional=True))
    torch_cell("torch_rnn_cell", torch.nn.RNNCell(D, H))
    torch_cell("torch_lstm_cell", torch.nn.LSTMCell(D, H))
    torch_cell("torch_gru_cell", torch.nn.GRUCell(D, H))
    model, tokens = fill(Model()), rng.integers(0, 7, T)
    with torch.no_grad():
        outputs = model(torch.from_numpy(tokens)[:, None])[:, 0]
    write("torch_model", model.state_dict(), outputs, inputs=tokens)
    torch.save(model.state_dict(), FOLDER / "torch_model.pt")
    save_file(model.state_dict(), FOLDER / "torch_model.safetensors")
    two = fill(Two())
    with torch.no_grad():
        outputs = two(torch.from_numpy(INPUTS)[:, None])[0][:, 0]
    write("torch_two", two.state_dict(), outputs)
    half = {key: value.to(torch.bfloat16) for key, value in two.encoder.state_dict().items()}
    save_file(half, FOLDER / "bfloat16.safetensors")


# ---- Keras


def keras_layer(name, layer):
    layer(INPUTS[None])  # builds the weights
    layer.set_weights([numbers(weight.shape) for weight in layer.get_weights()])
    outputs = np.asarray(layer(INPUTS[None]))[0]
    write(name, {variable.path: np.asarray(variable) for variable in layer.trainable_variables}, outputs)


def make_keras():
    layers = keras.layers
    keras_layer("keras_simple_rnn", layers.SimpleRNN(H, return_sequences=True))
    keras_layer("keras_simple_rnn_relu", layers.SimpleRNN(H, activation="relu", return_sequences=True))
    keras_layer("keras_lstm", layers.LSTM(H, return_sequences=True))
    keras_layer("keras_gru_after", layers.GRU(H, return_sequences=True))
    keras_layer("keras_gru_before", layers.GRU(H, reset_after=False, return_sequences=True))
    keras_layer("keras_bidirectional", layers.Bidirectional(layers.LSTM(H, return_sequences=True)))
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(7, D),
            layers.GRU(H, return_sequences=True, name="gru"),
            layers.SimpleRNN(4, activation="relu", return_sequences=True, name="simple_rnn"),
            layers.Dense(2),
        ]
    )
    model.set_weights([numbers(weight.shape) for weight in model.get_weights()])
    tokens = rng.integers(0, 7, T)
    outputs = np.asarray(model(tokens[None]))[0]
    write("keras_model", {v.path: np.asarray(v) for v in model.trainable_variables}, outputs, inputs=tokens)
    model.save(FOLDER / "keras_model.keras")
    model.save_weights(FOLDER / "keras_model.weights.h5")


# ---- Flax


def linen_cell(name, cell):
    params = cell.init(jax.random.key(0), cell.initialize_carry(jax.random.key(0), (D,)), INPUTS[0])
    params = jax.tree.map(lambda leaf: jnp.asarray(numbers(leaf.shape)), params)
    carry, outputs = cell.initialize_carry(jax.random.key(0), (D,)), []
    for row in INPUTS:
        carry, output = cell.apply(params, carry, row)
        outputs.append(output)
    # Flax keeps the carry of an LSTM as (c, h).
    more = {"final_c": carry[0], "final_h": carry[1]} if isinstance(carry, tuple) else {}
    write(name, {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}, outputs, **more)


class LinenModel(nn.Module):
    """Tokens in, logits out."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(7, D)(tokens)
        return nn.Dense(2)(nn.RNN(nn.GRUCell(H))(x))


def nnx_outputs(name, module, call, inputs=None):
    state = nnx.state(module, nnx.Param)
    state = jax.tree.map(lambda leaf: jnp.asarray(numbers(leaf.shape)), state)
    nnx.update(module, state)
    outputs, more = call(module)
    pure = flatten_dict(nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    write(name, {"/".join(map(str, path)): leaf for path, leaf in pure.items()}, outputs, inputs, **more)


def nnx_steps(module):
    carry, outputs = module.initialize_carry((D,), nnx.Rngs(0)), []
    for row in INPUTS:
        carry, output = module(carry, row)
        outputs.append(output)
    return outputs, {"final_c": carry[0], "final_h": carry[1]} if isinstance(carry, tuple) else {}


def make_flax():
    linen_cell("linen_simple", nn.SimpleCell(H))
    linen_cell("linen_lstm", nn.LSTMCell(H))
    linen_cell("linen_optimized_lstm", nn.OptimizedLSTMCell(H))
    linen_cell("linen_gru", nn.GRUCell(H))
    model, tokens = LinenModel(), rng.integers(0, 7, T)
    params = jax.tree.map(lambda leaf: jnp.asarray(numbers(leaf.shape)), model.init(jax.random.key(0), tokens))
    flat = {"/".join(path): leaf for path, leaf in flatten_dict(params).items()}
    write("linen_model", flat, model.apply(params, tokens), inputs=tokens)
    rngs = nnx.Rngs(0)
    nnx_outputs("nnx_simple", nnx.SimpleCell(D, H, rngs=rngs), nnx_steps)
    nnx_outputs("nnx_lstm", nnx.LSTMCell(D, H, rngs=rngs), nnx_steps)
    nnx_outputs("nnx_optimized_lstm", nnx.OptimizedLSTMCell(D, H, rngs=rngs), nnx_steps)
    nnx_outputs("nnx_gru", nnx.GRUCell(D, H, rngs=rngs), nnx_steps)
    both = nnx.Bidirectional(
        nnx.RNN(nnx.GRUCell(D, H, rngs=rngs), rngs=rngs), nnx.RNN(nnx.GRUCell(D, H, rngs=rngs), rngs=rngs), rngs=rngs
    )
    nnx_outputs("nnx_bidirectional", both, lambda module: (module(jnp.asarray(INPUTS)[None])[0], {}))


# ---- Haiku


def haiku_core(name, make, size=H):
    def run(x):
        core = make()
        return hk.dynamic_unroll(core, x, core.initial_state(None))

    transformed = hk.without_apply_rng(hk.transform(run))
    params = transformed.init(jax.random.key(0), jnp.asarray(INPUTS))
    params = jax.tree.map(lambda leaf: jnp.asarray(numbers(leaf.shape)), params)
    outputs, state = transformed.apply(params, jnp.asarray(INPUTS))
    more = {"final_h": state.hidden, "final_c": state.cell} if hasattr(state, "cell") else {}
    weights = {f"{module}/{leaf}": array for module, leaves in params.items() for leaf, array in leaves.items()}
    write(name, weights, outputs, **more)


def make_haiku():
    haiku_core("haiku_vanilla", lambda: hk.VanillaRNN(H))
    haiku_core("haiku_lstm", lambda: hk.LSTM(H))
    haiku_core("haiku_gru", lambda: hk.GRU(H))
    haiku_core("haiku_deep", lambda: hk.DeepRNN([hk.GRU(H), hk.LSTM(4)]))


# ---- Equinox


def equinox_cell(name, cell):
    cell = jax.tree.map(lambda leaf: jnp.asarray(numbers(leaf.shape)) if eqx.is_array(leaf) else leaf, cell)
    zero = jnp.zeros(H)
    state = (zero, zero) if isinstance(cell, eqx.nn.LSTMCell) else zero
    outputs = []
    for row in INPUTS:
        state = cell(row, state)
        outputs.append(state[0] if isinstance(state, tuple) else state)
    names = ("weight_ih", "weight_hh", "bias", "bias_n")
    weights = {n: getattr(cell, n) for n in names if getattr(cell, n, None) is not None}
    write(name, weights, outputs)


def make_equinox():
    equinox_cell("equinox_lstm", eqx.nn.LSTMCell(D, H, key=jax.random.key(0)))
    equinox_cell("equinox_gru", eqx.nn.GRUCell(D, H, key=jax.random.key(0)))
    equinox_cell("equinox_gru_no_bias", eqx.nn.GRUCell(D, H, use_bias=False, key=jax.random.key(0)))


# ---- MATLAB


def make_matlab():
    weights = {"W_rec": numbers((H, H)), "W_in": numbers((H, D)), "b_rec": numbers((H, 1)), "W_out": numbers((1, H))}
    scipy.io.savemat(FOLDER / "leaky.mat", {**weights, "dt": 1.0, "tau": 10.0, "trained": {"W_rec": numbers((H, H))}})


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for make in (make_torch, make_keras, make_flax, make_haiku, make_equinox, make_matlab):
        make()
    print(f"wrote {len(list(FOLDER.iterdir()))} files, {sum(p.stat().st_size for p in FOLDER.iterdir())} bytes")
