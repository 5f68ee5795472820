"""Checkpoints: a resumed run has the numbers of an uninterrupted one, and nothing else can be resumed by accident."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd

KEY = jax.random.key(3)


def make(width, key=KEY):
    return eqx.nn.MLP(2, 1, width, 1, key=key)


class Draw(eqx.Module):
    size: int = eqx.field(static=True)

    def __call__(self, key):
        return jax.random.normal(key, (self.size, 2))


def loss(model, batch):
    return jnp.mean((jax.vmap(model)(batch)[:, 0] - batch[:, 0] * batch[:, 1]) ** 2)


def other_loss(model, batch):
    return 2 * loss(model, batch)


MODEL, BATCHES, ADAM = make(4), Draw(8), optax.adam(1e-2)
OPTIONS = {
    "key": KEY,
    "max_grad_norm": 1.0,
    "validation": BATCHES,
    "validate_every": 10,
    "snapshots_every": 15,
    "checkpoint_every": 20,
}


def same(a, b):
    """Equal to the last bit."""
    leaves = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(np.asarray(x), np.asarray(y), equal_nan=True) for x, y in leaves)


def arrays(result):
    parts = (result.model, result.last_model, result.snapshots)
    record = result.history.to_dict()
    return eqx.filter(parts, eqx.is_array), {name: value for name, value in record.items() if name != "stopped"}


MINIBATCHES = rd.training.Minibatches(BATCHES(jax.random.key(8)), 3, key=KEY)


@pytest.mark.parametrize("batches", [BATCHES, MINIBATCHES], ids=["made on the device", "from the host"])
def test_resumed_run_equals_an_uninterrupted_one(tmp_path, batches):
    path = tmp_path / "run.ckpt"
    # A schedule and Adam's moments depend on the step, so a resumed run that restarted either would show.
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 60))
    whole = rd.fit(MODEL, loss, batches, optimizer, num_steps=60, **OPTIONS)
    part = rd.fit(MODEL, loss, batches, optimizer, num_steps=30, checkpoint=path, **OPTIONS)
    resumed = rd.fit(MODEL, loss, batches, optimizer, num_steps=60, checkpoint=path, resume=True, **OPTIONS)
    assert same(arrays(resumed), arrays(whole))
    assert not same(part.model, whole.model)


def test_interrupted_run_continues_where_it_stood(tmp_path):
    path = tmp_path / "run.ckpt"
    data = [BATCHES(jax.random.fold_in(KEY, i)) for i in range(60)]

    class Interrupted:
        def __iter__(self):
            yield from data[:47]
            raise KeyboardInterrupt

    class Whole:
        def __iter__(self):
            return iter(data)

    # A resumed run is recognised by the names of what it is given.
    Whole.__name__ = Interrupted.__name__
    part = rd.fit(MODEL, loss, Interrupted(), ADAM, num_steps=60, checkpoint=path, **OPTIONS)
    assert part.history.stopped == "interrupted"
    # Up to 7 batches had been drawn for a block that was not made.
    assert 40 <= json.loads(path.read_bytes().split(b"\n")[0])["step"] <= 47
    assert len(part.history.losses) == json.loads(path.read_bytes().split(b"\n")[0])["step"]
    resumed = rd.fit(MODEL, loss, Whole(), ADAM, num_steps=60, checkpoint=path, resume=True, **OPTIONS)
    whole = rd.fit(MODEL, loss, Whole(), ADAM, num_steps=60, **OPTIONS)
    assert same(arrays(resumed), arrays(whole))


def test_resumed_ensemble_equals_an_uninterrupted_one(tmp_path):
    path = tmp_path / "run.ckpt"
    models = eqx.filter_vmap(lambda key: make(4, key))(jax.random.split(KEY, 3))
    options = {**OPTIONS, "validation": BATCHES(jax.random.key(5)), "target": 0.9}
    whole = rd.fit_ensemble(models, loss, BATCHES, ADAM, num_steps=60, **options)
    rd.fit_ensemble(models, loss, BATCHES, ADAM, num_steps=30, checkpoint=path, **options)
    resumed = rd.fit_ensemble(models, loss, BATCHES, ADAM, num_steps=60, checkpoint=path, resume=True, **options)
    for i in range(3):
        assert same(arrays(resumed.member(i)), arrays(whole.member(i)))


def test_how_a_run_is_cut_into_blocks_does_not_change_its_numbers():
    options = {"num_steps": 60, "key": KEY}
    together = rd.fit(MODEL, loss, BATCHES, ADAM, **options)
    one_by_one = rd.fit(MODEL, loss, BATCHES, ADAM, snapshots_every=1, **options)
    assert same(eqx.filter(together.model, eqx.is_array), eqx.filter(one_by_one.model, eqx.is_array))
    assert np.array_equal(together.history.losses, one_by_one.history.losses)


def test_resume_starts_from_the_beginning_without_a_file_and_returns_at_once_at_the_end(tmp_path):
    path = tmp_path / "run.ckpt"
    options = {**OPTIONS, "num_steps": 20, "checkpoint": path, "resume": True}
    first = rd.fit(MODEL, loss, BATCHES, ADAM, **options)
    again = rd.fit(MODEL, loss, BATCHES, ADAM, **options)
    assert same(arrays(first), arrays(again))


def test_a_run_that_diverges_keeps_the_checkpoint_from_before(tmp_path):
    path = tmp_path / "run.ckpt"
    data = [BATCHES(jax.random.fold_in(KEY, i)) for i in range(60)]
    data[44] = data[44] * jnp.nan
    with pytest.raises(rd.training.DivergenceError, match="step 45"):
        rd.fit(MODEL, loss, data, ADAM, num_steps=60, checkpoint=path, **OPTIONS)
    assert json.loads(path.read_bytes().split(b"\n")[0])["step"] == 40


class TestRefuses:
    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / "run.ckpt"
        self.fit(path, resume=False)
        return path

    def fit(self, path, model=MODEL, loss=loss, batches=BATCHES, optimizer=None, **options):
        optimizer = ADAM if optimizer is None else optimizer
        options = {**OPTIONS, "num_steps": 20, "resume": True, **options}
        return rd.fit(model, loss, batches, optimizer, checkpoint=path, **options)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"key": jax.random.key(4)}, "key: saved"),
            ({"optimizer": optax.adam(2e-2)}, "optimizer_response: saved"),
            ({"max_grad_norm": 2.0}, "max_grad_norm: saved 1.0, now 2.0"),
            ({"validate_every": 5}, "validate_every: saved 10, now 5"),
            ({"batches": Draw(9)}, "batches: saved"),
            ({"loss": other_loss}, "loss: saved"),
            ({"model": make(5)}, r"resume: .* another structure(.|\n)*weight: f32\[5,2\]"),
            ({"optimizer": optax.sgd(1e-2)}, "resume: .* another structure"),
        ],
    )
    def test_another_configuration(self, path, change, message):
        before = path.read_bytes()
        with pytest.raises(ValueError, match=message):
            self.fit(path, **change)
        assert path.read_bytes() == before

    def test_another_schedule(self, tmp_path):
        schedule = lambda end: optax.linear_schedule(1e-2, end, 20)
        options = {"key": KEY, "checkpoint": tmp_path / "run.ckpt", "resume": True}
        fit = lambda **changed: rd.fit(jnp.ones(2), jnp.dot, [np.ones(2)], optax.adam, **{**options, **changed})
        fit(learning_rate=schedule(0.0), num_steps=20)
        with pytest.raises(ValueError, match="learning_rate: saved"):
            fit(learning_rate=schedule(1e-3), num_steps=40)

    def test_to_overwrite_an_earlier_run(self, path):
        with pytest.raises(ValueError, match=r"checkpoint: .* exists\. Continue it with resume=True"):
            self.fit(path, resume=False)

    @pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"[1]\n", b"{}\n", np.arange(9.0).tobytes()])
    def test_a_foreign_file(self, tmp_path, content):
        (tmp_path / "foreign").write_bytes(content)
        with pytest.raises(ValueError, match="expected a training run written by rnndyn, found something else"):
            self.fit(tmp_path / "foreign")

    def test_a_damaged_file(self, path):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ValueError, match="its arrays could not be read; the file is damaged"):
            self.fit(path)

    def test_a_model_in_place_of_a_run(self, path):
        rd.save_model(path, MODEL)
        with pytest.raises(ValueError, match="expected a training run written by rnndyn, found a model"):
            self.fit(path)

    def test_a_newer_format(self, path):
        header, arrays = path.read_bytes().split(b"\n", 1)
        path.write_bytes(json.dumps({**json.loads(header), "format": 99}).encode() + b"\n" + arrays)
        with pytest.raises(ValueError, match="format 99; this version of rnndyn reads up to 2"):
            self.fit(path)


def test_saved_model_comes_back_to_the_last_bit(tmp_path):
    path = rd.save_model(tmp_path / "folder" / "model", MODEL)
    loaded = rd.load_model(path, make(4, jax.random.key(99)))
    assert same(eqx.filter(loaded, eqx.is_array), eqx.filter(MODEL, eqx.is_array))
    assert np.array_equal(loaded(jnp.ones(2)), MODEL(jnp.ones(2)))


def test_model_of_another_structure_is_refused(tmp_path):
    path = rd.save_model(tmp_path / "model", MODEL)
    with pytest.raises(ValueError, match=r"like: .* another structure(.|\n)*- .*f32\[4,2\](.|\n)*\+ .*f32\[5,2\]"):
        rd.load_model(path, make(5))
    with pytest.raises(ValueError, match=r"like: .* another structure"):
        rd.load_model(path, eqx.nn.MLP(1, 1, 1, 1, key=KEY))


def test_activation_is_part_of_the_structure(tmp_path):
    with_activation = lambda activation: eqx.nn.MLP(1, 1, 2, 1, activation=activation, key=KEY)
    path = rd.save_model(tmp_path / "model", with_activation(jnp.tanh))
    rd.load_model(path, with_activation(jnp.tanh))
    with pytest.raises(ValueError, match=r"another structure(.|\n)*tanh(.|\n)*sin"):
        rd.load_model(path, with_activation(jnp.sin))
