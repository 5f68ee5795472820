"""Files of results as they come back from disks, other people and other versions."""

import json
import zipfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnndyn as rd


class Kept(rd.Result):
    values: np.ndarray
    verdict: object = None


class Verdict(eqx.Enumeration):
    fine = "all is well"
    lost = "nothing is"


def saved(tmp_path):
    return Kept(np.arange(12.0).reshape(3, 4)).save(tmp_path / "kept")


def test_a_truncated_file_is_a_value_error_at_every_length(tmp_path):
    whole = saved(tmp_path).read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cut\.npz"):
            rd.load(tmp_path / "cut.npz")


def test_a_flipped_byte_is_refused_or_harmless(tmp_path):
    """Names and times inside a zip file are kept twice, so a flip in the copy that nobody reads changes nothing."""
    path = saved(tmp_path)
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 0x41
        path.write_bytes(damaged)
        try:
            loaded = rd.load(path)
        except ValueError:
            refused += 1
        else:
            assert loaded.values.tolist() == np.arange(12.0).reshape(3, 4).tolist()
            assert "Kept" in str(loaded)
    assert refused > 0.7 * len(whole)


def test_a_changed_number_is_refused_although_the_zip_file_is_whole(tmp_path):
    path = saved(tmp_path)
    with np.load(path) as archive:
        members = {name: archive[name] for name in archive.files}
    members["array_0"] = members["array_0"] + 1e-9
    np.savez(path, **members)
    with pytest.raises(ValueError, match="checksum"):
        rd.load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello", b"\x93NUMPY\x01\x00", b"\x80\x04K\x01."])
def test_a_foreign_file_is_a_value_error(tmp_path, content):
    (tmp_path / "foreign.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign\.npz"):
        rd.load(tmp_path / "foreign.npz")
    with pytest.raises(ValueError, match=r"foreign\.npz"):
        rd.lyapunov_sweep(lambda a: (lambda x: a * x, jnp.ones(1)), {"a": [0.5]}, 10, path=tmp_path / "foreign.npz")


def test_foreign_archives_are_value_errors(tmp_path):
    path = tmp_path / "foreign.npz"
    np.save(tmp_path / "alone.npy", np.zeros(3))
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("__rnndyn__.npy", b"not an array")
    for header in ('{"format": 1, "body": {}}', "[1]", "{", '{"checksum": 1, "header": [], "dtypes": {}}'):
        np.savez(path, __rnndyn__=np.array(header))
        with pytest.raises(ValueError, match="path"):
            rd.load(path)
    for name in ("alone.npy", "zip.npz"):
        with pytest.raises(ValueError, match="path"):
            rd.load(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        rd.load(tmp_path / "nowhere.npz")


def test_a_class_of_mine_does_not_take_over_the_files_of_the_library(tmp_path):
    series = np.sin(np.arange(200.0))
    path = rd.zero_one_test(series, num_frequencies=2).save(tmp_path / "test")

    class ZeroOneTest(rd.Result):
        mine: int

    assert type(rd.load(path)) is rd.ZeroOneTest
    assert type(rd.load(ZeroOneTest(3).save(tmp_path / "mine"))) is ZeroOneTest


def test_a_result_of_another_version_is_refused_when_read_not_when_printed(tmp_path):
    path = saved(tmp_path)
    with np.load(path) as archive:
        text = json.loads(str(archive["__rnndyn__"]))
    del text["header"]["body"]["fields"]["values"]
    from rnndyn._archive import write_archive

    write_archive(path, text["header"], {})
    with pytest.raises(ValueError, match=r"lacks the fields \['values'\]"):
        rd.load(path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float16", "int8", "complex64", "bool", "uint32"])
def test_every_dtype_returns_as_itself(tmp_path, dtype):
    values = jnp.array([[0, 1], [1, 0]]).astype(dtype)
    back = rd.load(Kept(values).save(tmp_path / "kept")).values
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back.astype(np.complex64), np.asarray(values).astype(np.complex64))


def test_verdicts_return_as_verdicts(tmp_path):
    batch = jax.vmap(lambda good: Verdict.where(good, Verdict.fine, Verdict.lost))(jnp.array([True, False]))
    one = rd.load(Kept(np.zeros(1), Verdict.lost).save(tmp_path / "one"))
    assert bool(one.verdict == Verdict.lost)
    assert "nothing is" in str(one)
    several = rd.load(Kept(np.zeros(1), batch).save(tmp_path / "several"))
    assert np.asarray(several.verdict == Verdict.fine).tolist() == [True, False]
    assert several.to_dict()["verdict"].tolist() == ["all is well", "nothing is"]


@pytest.mark.parametrize("value", [jax.random.key(0), np.array([object()])], ids=["typed key", "objects"])
def test_what_needs_pickle_is_refused_by_name(tmp_path, value):
    with pytest.raises(ValueError, match=r"Kept\.values"):
        Kept(value).save(tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path)

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        Kept(np.zeros(2)).save(path)
    assert rd.load(path).values.shape == (3, 4)
    assert [p.name for p in tmp_path.iterdir()] == ["kept.npz"]
