"""The command line of the studies: what goes where, what is said in one line, and all of them in one run."""

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

import rnndyn as rd
from experiments import __main__ as command_line
from experiments import _study
from experiments._catalog import FOLDER, studies
from experiments._environment import compile_quickly

ROOT = FOLDER.parent

OLDER = ["--xla_cpu_use_fusion_emitters=false"] if metadata.version("jaxlib").startswith("0.10.") else []
"""What makes JAX 0.10 compile faster, and what JAX 0.12 does not know."""

FAKE = '''"""A title of {name}."""

import dataclasses
import os

import matplotlib.pyplot as plt

import rnndyn as rd
from experiments._settings import check

CAPTION = "What the figure of {name} shows."


@dataclasses.dataclass(frozen=True)
class Config:
    num_steps: int = 3

    def __post_init__(self) -> None:
        check(self)


SMOKE = Config(2)


class Told(rd.Result):
    threads: str
    flags: str
    num_steps: int


def compute(config):
    {first}
    threads = os.environ["OPENBLAS_NUM_THREADS"] + os.environ["NPROC"]
    return Told(threads, os.environ["XLA_FLAGS"], config.num_steps)


def report(result):
    return f"threads {{result.threads}}, {{result.flags}}, steps {{result.num_steps}}"


def plot(result):
    return plt.figure()
'''


@pytest.fixture
def checkout(tmp_path):
    """A folder with the runner and fake studies in it, where it can be run from."""

    def checkout(real_studies=False, **fakes):
        kept = lambda name: real_studies or name.startswith("_")
        (tmp_path / "experiments").mkdir()
        for path in FOLDER.glob("*.py"):
            if kept(path.name):
                shutil.copy(path, tmp_path / "experiments")
        if real_studies:
            # One of them looks at a network that is stored there.
            shutil.copytree(ROOT / "tests/data", tmp_path / "tests/data")
        for name, first in fakes.items():
            (tmp_path / f"experiments/{name}.py").write_text(FAKE.format(name=name, first=first))
        return tmp_path

    return checkout


def environment(folder):
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NPROC", "XLA_FLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"PYTHONPATH": os.pathsep.join([str(folder), str(Path(rd.__file__).parent.parent)])}


def run(folder, *arguments):
    command = [sys.executable, "-m", "experiments", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, check=False)


def test_all_in_processes_of_their_own_with_one_that_fails(checkout):
    folder = checkout(bad="raise RuntimeError('planted')", good="pass")
    done = run(folder, "all", "--jobs", "2")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RuntimeError: planted" in done.stdout
    for name, result in (("good", "done"), ("bad", "failed \\(exit code 1\\)")):
        assert re.search(rf"^{name} .*  {result}$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^together .*  1 done, 1 failed$", done.stdout, re.MULTILINE)
    flags = " ".join(["--xla_backend_optimization_level=1", *OLDER])
    assert f"threads 11, {flags}, steps 3" in (folder / "results/logs/good.log").read_text()
    assert [path.name for path in (folder / "figures").iterdir()] == ["good.png"]


@pytest.mark.studies
def test_all_studies_with_tiny_settings_and_one_that_fails(checkout):
    folder = checkout(real_studies=True, planted="raise RuntimeError('planted')")
    done = run(folder, "all", "--smoke")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "RuntimeError: planted" in done.stdout
    for name in studies():
        assert re.search(rf"^{name} .*  done$", done.stdout, re.MULTILINE), done.stdout
    assert re.search(r"^planted .*  failed \(exit code 1\)$", done.stdout, re.MULTILINE)
    assert re.search(rf"^together .*  {len(studies())} done, 1 failed$", done.stdout, re.MULTILINE)
    assert not (folder / "figures").exists()


def test_the_list_imports_no_jax():
    code = (
        "import sys; from experiments.__main__ import entry; entry([]); "
        "sys.exit(', '.join({'jax', 'numpy', 'matplotlib'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("^  flip_flop  +The fixed points", done.stdout, re.MULTILINE)


def test_a_level_of_optimisation_of_ones_own_is_kept():
    for before, after in (
        ("--xla_dump_to=here", ["--xla_dump_to=here", "--xla_backend_optimization_level=1", *OLDER]),
        ("--xla_backend_optimization_level=3", ["--xla_backend_optimization_level=3", *OLDER]),
        (
            "--xla_cpu_use_fusion_emitters=true",
            ["--xla_cpu_use_fusion_emitters=true", "--xla_backend_optimization_level=1"],
        ),
    ):
        told = {"XLA_FLAGS": before}
        compile_quickly(told)
        assert told == {"XLA_FLAGS": " ".join(after)}


@pytest.mark.parametrize(("version", "known"), [("0.10.2", True), ("0.11.0", False), ("0.12.0", False)])
def test_a_release_that_may_not_know_the_older_emitters_is_not_given_their_flag(version, known, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: version)
    told = {}
    compile_quickly(told)
    assert ("emitters" in told["XLA_FLAGS"]) == known


def test_what_starts_first_exists():
    assert set(command_line.LONGEST) <= set(studies())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "no study is called 'nothing'; `python -m experiments` lists them."),
        (["cliffs", "--resolution", "-3"], "resolution: got -3; allowed is a whole number, 2 or more."),
        (["char_lm", "--cells", "foo"], "cells: got foo; allowed is one of vanilla, GRU, LSTM."),
        (["piecewise_linear_cycles", "--planar-periods", "5"], "planar_periods: got 5; allowed is one of 16, 27."),
        (["long_memory", "--lengths", "3"], "lengths: got 3; allowed is twice copied"),
        (["char_lm", "--path", "no.txt"], "path: got no.txt; allowed is a file or a folder that exists."),
        (["lyapunov_spectra", "--euler-dt", "1"], "euler_dt: got 1.0; allowed is a number between 0 and 1."),
        (["context_integration", "--lengths", "8", "80"], "lengths: got 8; allowed is twice num_bins at least"),
        (["gradient_flossing", "--delay", "100"], "delay: got 100; allowed is less than num_steps, which is 100."),
        (["flip_flop", "--num-bits", "three"], "--num-bits: invalid literal for int() with base 10: 'three'"),
        (["flip_flop", "--nothing"], "Unrecognized options: --nothing"),
        (["flip_flop", "--smoke", "--figures", "figures"], "figures: figures/ holds the figures of the default"),
        (["all", "--jobs", "0"], "jobs: got 0; allowed is a whole number, 1 or more."),
        (["all", "--num-bits", "2"], "Unrecognized options: --num-bits"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    try:
        code = command_line.entry(arguments)
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_an_interruption_is_one_line(capsys, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_line, "one_study", interrupted)
    assert command_line.entry(["flip_flop"]) == 130
    assert capsys.readouterr().err == "interrupted; no figure is written\n"


TRAINS = """
    import pathlib, signal
    import equinox as eqx, jax, numpy as np, optax

    class Lost:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def batches():
        while True:
            {at_each}
            yield np.ones((1, 1), np.float32)

    model = eqx.nn.Linear(1, 1, key=jax.random.key(0))
    loss = lambda model, batch: (model(batch[0]) ** 2).sum()
    rd.fit(model, loss, batches(), optax.sgd(0.1), num_steps=10**9, key=jax.random.key(0), progress=False)
"""


def trains(checkout, at_each):
    """A study that trains until it is interrupted, and what happens at each step."""
    folder = checkout(trains=TRAINS.strip().format(at_each=at_each))
    # A shell in the background starts its commands with interruptions ignored; a terminal does not.
    start = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); sys.argv[1:] = ['trains']; "
    start += "import runpy; runpy.run_module('experiments', run_name='__main__', alter_sys=True)"
    command, pipe = [sys.executable, "-c", start], subprocess.PIPE
    return folder, subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=pipe, stderr=pipe)


def ended_as_interrupted(folder, study):
    out, err = study.communicate(timeout=120)
    assert (study.returncode, out, err) == (130, b"", b"interrupted; no figure is written\n")
    # `rnndyn.fit` gives what is trained so far: it is not the result of these settings, and is not kept as such.
    assert not (folder / "results").exists()
    assert not (folder / "figures").exists()


def test_an_interrupted_training_ends_the_study(checkout):
    folder, study = trains(checkout, 'pathlib.Path("training").touch()')
    deadline = time.monotonic() + 120
    while not (folder / "training").exists():
        assert study.poll() is None, study.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    study.send_signal(signal.SIGINT)
    ended_as_interrupted(folder, study)


def test_an_interruption_that_python_drops_ends_the_study_too(checkout):
    """Nobody is there to take what is raised in a finaliser, or in what JAX does during garbage collection."""
    ended_as_interrupted(
        *trains(checkout, "if not pathlib.Path('training').exists(): pathlib.Path('training').touch(); Lost()")
    )


@pytest.fixture
def asked(monkeypatch):
    """What a command line asks for: the settings, and where the figure goes."""
    calls = []
    monkeypatch.setattr(_study, "run", lambda study, config, options, path: calls.append((config, path)))

    def asked(*arguments):
        _study.main(_study.load_study("cliffs"), list(arguments))
        return calls.pop()

    return asked


def test_tiny_settings_and_others_together(asked):
    study = _study.load_study("cliffs")
    config, _ = asked("--smoke", "--num-updates", "7")
    assert config == dataclasses.replace(study.SMOKE, num_updates=7)
    config, _ = asked("--num-updates", "7")
    assert config == study.Config(num_updates=7)


def test_only_the_default_settings_draw_into_figures(asked, tmp_path):
    assert asked()[1] == ROOT / "figures/cliffs.png"
    # Settings that are the default, said again, are no change.
    assert asked("--num-updates", str(_study.load_study("cliffs").Config().num_updates))[1] == asked()[1]
    paths = [asked(*arguments)[1] for arguments in (["--smoke"], ["--num-updates", "7"], ["--num-updates", "8"])]
    assert all(path.parent == ROOT / "results" for path in paths)
    # Two settings do not overwrite each other's figure.
    assert len(set(paths)) == 3
    for arguments in ([], ["--num-updates", "7"]):
        assert asked("--figures", str(tmp_path), *arguments)[1] == tmp_path / "cliffs.png"


def test_figures_carry_their_provenance():
    data = _study.provenance("flip_flop", "abc")
    assert "configuration abc" in data["Source"]
    assert rd.__version__ in data["Software"]


def test_a_new_figure_makes_no_dirty_tree(tmp_path, monkeypatch):
    monkeypatch.setattr(_study, "ROOT", tmp_path)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    git = lambda *arguments: subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "figures").mkdir()
    for name in ("figures/a.png", "code.py"):
        (tmp_path / name).write_text("before")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = _study._commit()
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "figures/a.png").write_text("after")
    assert _study._commit() == clean
    (tmp_path / "code.py").write_text("after")
    assert _study._commit() == f"{clean}-dirty"
    monkeypatch.setattr(_study, "ROOT", tmp_path.parent)
    assert _study._commit() == "unknown"
