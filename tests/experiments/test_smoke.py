"""Every study runs from end to end with its tiny settings."""

import dataclasses
import inspect
import warnings

import jax
import matplotlib
import memory_maps
import pytest
from PIL import Image

from experiments import _study
from experiments._catalog import studies

matplotlib.use("Agg")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setattr(_study, "ROOT", tmp_path)
    monkeypatch.setattr(_study, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(_study, "FIGURES", tmp_path / "figures")
    return tmp_path


@pytest.fixture
def within_memory():
    """Studies share few programs besides single operations; all are let go before there are too many."""
    yield
    if memory_maps.too_many():
        jax.clear_caches()


def without_warnings(function):
    def call(*arguments, **options):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return function(*arguments, **options)

    return call


@pytest.mark.usefixtures("within_memory")
@pytest.mark.parametrize("name", studies())
def test_study(name, folders, capsys, monkeypatch):
    check_run(_study.load_study(name), {}, folders, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("within_memory")
@pytest.mark.parametrize(
    ("name", "options"),
    [("lorenz_reconstruction", {"with_sites": True, "num_networks": 2}), ("universality", {"num_bits": 2})],
)
def test_what_a_study_does_when_it_is_asked(name, options, folders, capsys, monkeypatch):
    check_run(_study.load_study(name), options, folders, capsys, monkeypatch)


def check_run(study, options, folders, capsys, monkeypatch):
    """The study with its tiny settings, but for `options`."""
    config, run_options = dataclasses.replace(study.SMOKE, **options), _study.Options(smoke=True)
    # Where tiny settings leave a panel empty it says so; matplotlib finds nothing odd in it.
    monkeypatch.setattr(study, "plot", without_warnings(study.plot))
    monkeypatch.setattr(_study, "save_figure", without_warnings(_study.save_figure))
    path = _study.figure_path(study, config, run_options)
    _study.run(study, config, run_options, path)
    with Image.open(path) as image:
        assert len(image.getcolors(maxcolors=256)) > 10
    out = capsys.readouterr().out
    assert "computed in" in out
    # A second run takes the result from the cache, and says the same.
    again = _study.obtain(study, config)
    assert "taken from" in capsys.readouterr().out
    assert f"\n{study.report(again)}\n" in out
    # A smoke run leaves the figures alone.
    assert not (folders / "figures").exists()


def test_the_hash_follows_the_configuration():
    study = _study.load_study("flip_flop")
    assert _study.config_hash(study, study.SMOKE) != _study.config_hash(study, study.Config())
    assert _study.config_hash(study, study.Config()) == _study.config_hash(study, study.Config())


def test_the_hash_follows_the_helpers_of_a_study(monkeypatch):
    study = _study.load_study("char_lm")
    before, source = _study.config_hash(study, study.SMOKE), inspect.getsource
    added = "_python_source"
    changed = lambda module: source(module) + ("\nadded = 1\n" if module.__name__.endswith(f".{added}") else "")
    monkeypatch.setattr(_study.inspect, "getsource", changed)
    assert _study.config_hash(study, study.SMOKE) != before
    # A helper may compute with another one.
    study, added = _study.load_study("universality"), ""
    before, added = _study.config_hash(study, study.SMOKE), "_training"
    assert _study.config_hash(study, study.SMOKE) != before
    study, added = _study.load_study("char_lm"), ""
    before = _study.config_hash(study, study.SMOKE)
    # What the checks of the settings say decides no result.
    added = "_settings"
    assert _study.config_hash(study, study.SMOKE) == before


def test_the_hash_follows_the_library_but_not_what_draws(tmp_path):
    (tmp_path / "plotting").mkdir()
    cell, lines = tmp_path / "cell.py", tmp_path / "plotting" / "lines.py"
    cell.write_text("gain = 1\n")
    lines.write_text("width = 1\n")
    digest = lambda: _study.library_digest.__wrapped__(tmp_path)
    before = digest()
    lines.write_text("width = 2\n")
    assert digest() == before
    cell.write_text("gain = 2\n")
    assert digest() != before


def test_drawing_alone_does_not_change_the_hash():
    source = "def compute(c):\n    return c\ndef plot(r):\n    return 1\ndef draw_it(r):\n    return 2\n"
    assert _study.computing_code(source) == _study.computing_code(source.replace("return 1", "return 3"))
    assert _study.computing_code(source) != _study.computing_code(source.replace("return c", "return 2 * c"))
