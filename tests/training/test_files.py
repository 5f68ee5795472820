"""Files that survive: kills at every stage of a write, a full disk, a second writer, flipped bytes."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnndyn as rd
from rnndyn.training import _files
from rnndyn.training._structure import check_structure, describe

KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
BATCHES = [np.zeros(2, np.float32)]


def distance(w, batch):
    return 0.5 * jnp.sum((w - batch) ** 2)


def fit(path=None, num_steps=6, loss=distance, model=None, batches=BATCHES, **options):
    model = jnp.ones(2) if model is None else model
    options = {"key": KEY, "checkpoint_every": 2, "progress": False, **options}
    return rd.fit(model, loss, batches, SGD, num_steps=num_steps, checkpoint=path, **options)


def content(folder):
    return sorted(path.name for path in folder.iterdir())


KILLED = r"""
import os, sys
import numpy as np
from rnndyn.training import _files, checkpoint
folder = sys.argv[1]
new = {"w": np.full(40000, 2.0)}
# Every call that reaches the disk is a stage; a child is killed before each, and after each.
names = ["open", "write", "flush", "fsync", "replace", "sync folder", "unlock"]
class File:
    def __init__(self, file, stage): self.file, self.stage = file, stage
    def __enter__(self): return self
    def __exit__(self, *what): self.file.close()
    def write(self, data):
        half = len(data) // 2
        self.file.write(data[:half]); self.file.flush(); self.stage("write"); self.file.write(data[half:])
    def flush(self): self.stage("flush"); self.file.flush()
    def fileno(self): return self.file.fileno()
for name in names:
    path = _files.Path(folder) / f"{name}.model"
    checkpoint.save_model(path, {"w": np.full(40000, 1.0)})
    child = os.fork()
    if child == 0:
        def stage(at):
            if at == name: os.kill(os.getpid(), 9)
        real_open, real_fsync, real_replace, real_sync = _files.Path.open, os.fsync, os.replace, _files._sync_folder
        def opened(self, mode="r", *rest):
            file = real_open(self, mode, *rest)
            if "w" not in mode: return file
            stage("open")
            return File(file, stage)
        _files.Path.open = opened
        os.fsync = lambda file: (stage("fsync"), real_fsync(file))
        os.replace = lambda a, b: (stage("replace"), real_replace(a, b))
        _files._sync_folder = lambda folder: (stage("sync folder"), real_sync(folder))
        real_unlink = _files.Path.unlink
        _files.Path.unlink = lambda self, *rest: (stage("unlock"), real_unlink(self, *rest))
        checkpoint.save_model(path, new)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 9, name
    loaded = checkpoint.load_model(path, {"w": np.zeros(40000)})["w"]
    assert loaded[0] == loaded[-1] == (2.0 if name in ("sync folder", "unlock") else 1.0), (name, loaded)
    # Whoever comes after finds neither a lock nor what was left.
    checkpoint.save_model(path, new)
    assert checkpoint.load_model(path, {"w": np.zeros(40000)})["w"][0] == 2.0
print(sorted(os.listdir(folder)))
"""


@pytest.mark.skipif(os.name != "posix", reason="kills by signal")
def test_a_kill_at_every_stage_of_a_write_leaves_the_old_file_or_the_new_one(tmp_path):
    run = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert content(tmp_path) == sorted(
        f"{name}.model" for name in ["open", "write", "flush", "fsync", "replace", "sync folder", "unlock"]
    )


class FullDisk:
    """A file on a disk with room for so many bytes more."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)


def test_a_full_disk_costs_neither_the_run_nor_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run"
    real = _files.Path.open
    # What is tried before the first step, and the checkpoints after steps 2, 4 and 6.
    rooms = iter([10**6, 10**6, 700, 0])

    def opened(self, mode="r", *rest):
        file = real(self, mode, *rest)
        return FullDisk(file, next(rooms)) if self.name == "run.tmp" else file

    monkeypatch.setattr(_files.Path, "open", opened)
    with pytest.warns(UserWarning, match=r"checkpoint: .* after step (4|6) \(.*No space left on device\)") as caught:
        result = fit(path)
    assert len(caught) == 2
    # The run is whole: w = 0.9^6.
    np.testing.assert_allclose(result.model, 0.9**6, rtol=1e-5)
    assert content(tmp_path) == ["run"]
    assert json.loads(path.read_bytes().split(b"\n")[0])["step"] == 2
    monkeypatch.undo()
    np.testing.assert_allclose(fit(path, resume=True).model, result.model, rtol=0)
    rooms = iter([0])
    monkeypatch.setattr(_files.Path, "open", opened)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        rd.save_model(path, jnp.ones(2))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert content(tmp_path) == ["run"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 kB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system takes root")
    yield folder
    subprocess.run(["umount", str(folder)], capture_output=True, check=True)


def test_a_disk_that_is_full_for_a_while_costs_nothing(small_disk):
    path = small_disk / "run"
    page = os.statvfs(small_disk).f_frsize
    filler = small_disk / "filler"
    seen = []

    def others(event):
        if event.kind != "steps":
            return
        # Each event comes before the checkpoint of its step.
        if event.step == 4:
            # Somebody else takes all that is left.
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(page))
        elif event.step == 6:
            seen.append((content(small_disk), json.loads(path.read_bytes().split(b"\n")[0])["step"]))
            filler.unlink()

    with pytest.warns(UserWarning, match=r"checkpoint: .* after step 4 \(.*No space left on device\)") as caught:
        result = fit(path, callbacks=[others])
    assert len(caught) == 1
    # While it was full: the checkpoint of step 2, the lock of the run, and nothing half written beside them.
    assert seen == [(["filler", "run", "run.lock"], 2)]
    np.testing.assert_allclose(result.model, 0.9**6, rtol=1e-5)
    assert content(small_disk) == ["run"]
    assert json.loads(path.read_bytes().split(b"\n")[0])["step"] == 6
    np.testing.assert_array_equal(fit(path, resume=True).model, result.model)
    # A model that never fits: an error, and what was there stays.
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        rd.save_model(path, {"w": np.zeros(10**5)})
    assert path.read_bytes() == before
    assert content(small_disk) == ["run"]


def test_two_writers_on_one_path_are_refused(tmp_path):
    path = tmp_path / "run"
    seen = []

    def intruder(event):
        if event.kind == "steps" and not seen:
            for call in (lambda: fit(path, resume=True), lambda: rd.save_model(path, jnp.ones(2))):
                with pytest.raises(ValueError, match=rf"checkpoint: .* another run \(process {os.getpid()}\)"):
                    call()
                seen.append(event.step)

    fit(path, callbacks=[intruder])
    assert len(seen) == 2
    # Free again, and nothing is left of the lock.
    assert content(tmp_path) == ["run"]
    fit(path, num_steps=8, resume=True)


def test_any_flipped_byte_is_found(tmp_path):
    path = rd.save_model(tmp_path / "model", {"w": np.arange(5.0, dtype=np.float32)})
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"damaged|written by rnndyn|format|another structure"):
            rd.load_model(path, {"w": np.zeros(5, np.float32)})
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"damaged|something else"):
            rd.load_model(path, {"w": np.zeros(5, np.float32)})


def test_any_flipped_byte_of_a_result_is_found(tmp_path):
    history = fit().history
    path = history.save(tmp_path / "history")
    assert content(tmp_path) == ["history.npz"]
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            loaded = rd.load(path)
        except ValueError:
            continue
        # Some bytes of a zip file, its dates for one, say nothing of what it holds.
        for name, value in loaded.to_dict().items():
            np.testing.assert_array_equal(value, history.to_dict()[name])


def test_typed_keys_are_saved(tmp_path):
    noisy = lambda w, batch, key: (distance(w, batch + 0.1 * jax.random.normal(key, (2,))), jax.random.split(key)[0])
    options = {"loss": noisy, "carry": jax.random.key(5)}
    whole = fit(**options)
    fit(tmp_path / "run", num_steps=3, **options)
    resumed = fit(tmp_path / "run", resume=True, **options)
    assert np.array_equal(whole.history.losses, resumed.history.losses)
    model = {"w": jnp.ones(2), "key": jax.random.key(3)}
    loaded = rd.load_model(rd.save_model(tmp_path / "model", model), {"w": jnp.zeros(2), "key": jax.random.key(0)})
    assert jax.random.key_data(loaded["key"]).tolist() == jax.random.key_data(model["key"]).tolist()
    assert jax.random.normal(loaded["key"]) == jax.random.normal(model["key"])


def test_what_would_fail_at_the_first_checkpoint_fails_before_the_first_step(tmp_path):
    steps = []

    def counted(w, batch):
        steps.append(None)
        return distance(w, batch)

    (tmp_path / "file").write_text("")
    for path, message in [
        (tmp_path, "checkpoint: .* exists"),
        (tmp_path / "file" / "run", "checkpoint: .* cannot be written"),
        ("/proc/run", "checkpoint: /proc/run cannot be written"),
    ]:
        with pytest.raises(ValueError, match=message):
            fit(path, loss=counted)
    with pytest.raises(ValueError, match="is a folder"):
        fit(tmp_path, resume=True)
    assert content(tmp_path) == ["file"]


def test_structures_are_compared_by_what_they_hold(tmp_path):
    class Linear(eqx.Module):
        weight: jax.Array
        use_bias: bool = eqx.field(static=True)
        new_in_a_later_release: str = eqx.field(static=True, default="what")

    saved = describe(eqx.nn.Linear(2, 2, use_bias=True, key=KEY))
    # A field without arrays that only one side knows is no difference; one that both know is, and so is every array.
    del saved["fields"]["in_features"], saved["fields"]["bias"]
    model = Linear(jnp.ones((2, 2)), True)
    check_structure(tmp_path, saved, model, "like")
    for other, message in [
        (Linear(jnp.ones((2, 2)), False), "- use_bias: true\n\\+ use_bias: false"),
        (Linear(jnp.ones((2, 3)), True), r"- weight: f32\[2,2\]\n\+ weight: f32\[2,3\]"),
        (Linear(jnp.ones((2, 2), jnp.float16), True), r"\+ weight: f16\[2,2\]"),
        (eqx.nn.Linear(2, 2, key=KEY), r"\+ bias: f32\[2\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_structure(tmp_path, saved, other, "like")


def test_a_model_of_the_first_format_is_still_read(tmp_path):
    model = {"w": jnp.arange(3.0)}
    path = tmp_path / "old"
    with path.open("wb") as file:
        header = {"rnndyn": "model", "format": 1, "structure": eqx.tree_pformat(model)}
        file.write(json.dumps(header).encode() + b"\n")
        eqx.tree_serialise_leaves(file, model)
    assert rd.load_model(path, {"w": jnp.zeros(3)})["w"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match=r"another structure(.|\n)*f32\[3\](.|\n)*f32\[4\]"):
        rd.load_model(path, {"w": jnp.zeros(4)})


@pytest.mark.skipif(os.name != "posix", reason="sends itself a signal")
def test_ctrl_c_ends_the_run_as_if_it_had_come_to_its_end(tmp_path):
    # A shell that starts the tests in the background has interruptions ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    path = tmp_path / "run"
    # To this thread, and at once: what is sent to the process may come through another thread, some steps later.
    after = lambda event: signal.raise_signal(signal.SIGINT) if event.kind == "steps" and event.step >= 3 else None
    part = fit(path, num_steps=50, checkpoint_every=1, callbacks=[after])
    assert part.history.stopped == "interrupted"
    assert len(part.history.losses) == 3
    np.testing.assert_allclose(part.model, 0.9**3, rtol=1e-6)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    resumed, whole = fit(path, num_steps=50, checkpoint_every=1, resume=True), fit(num_steps=50)
    assert resumed.history.stopped == "num_steps"
    assert np.array_equal(resumed.history.losses, whole.history.losses)
    # In a thread there are no signals, and training goes on.
    done = []
    thread = threading.Thread(target=lambda: done.append(fit()))
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, before)
    assert done[0].history.stopped == "num_steps"


def test_a_loss_curve_can_be_followed(tmp_path):
    path, run = tmp_path / "curve.csv", tmp_path / "run"
    halves = []
    follow = lambda event: halves.append(rd.training.read_loss_curve(path)) if event.kind == "steps" else None
    options = {"validation": np.zeros(2, np.float32), "validate_every": 2}
    curve = lambda: rd.training.LossCurve(path)
    part = fit(run, num_steps=4, callbacks=[curve(), follow], **options)
    read = rd.training.read_loss_curve(path)
    for name in ("losses", "grad_norms", "validation_steps", "validation_losses", "best_step"):
        assert np.array_equal(getattr(read, name), getattr(part.history, name)), name
    assert [len(half.losses) for half in halves] == sorted({len(half.losses) for half in halves})
    # A line that is still being written is left out.
    with path.open("a") as file:
        file.write("5,0,0.1")
    assert np.array_equal(rd.training.read_loss_curve(path).losses, read.losses)
    whole = fit(run, num_steps=8, resume=True, callbacks=[curve()], **options)
    assert np.array_equal(rd.training.read_loss_curve(path).losses, whole.history.losses)
    with pytest.raises(ValueError, match=r"LossCurve: .* exists"):
        fit(callbacks=[curve()])
    with pytest.raises(ValueError, match="is no loss curve"):
        rd.training.read_loss_curve(run.with_name("run"), 0) if run.write_text("a,b\n") else None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(callbacks=[rd.training.LossCurve(tmp_path / "folder" / "other.csv")])
