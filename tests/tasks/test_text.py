"""Text from files, its windows, and the models without a network: against counting by hand."""

import gzip
import lzma

import jax
import numpy as np
import pytest

import rnndyn as rd

SAMPLE = "abracadabra, said the wizard of Ωμέγα. " * 40


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "sample.txt"
    path.write_text(SAMPLE, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def text(file):
    return rd.tasks.read_text(file, validation=0.25)


def test_reads_back_what_was_written(text):
    split = len(SAMPLE) - round(0.25 * len(SAMPLE))
    assert text.train.text() == SAMPLE[:split]
    assert text.validation.text() == SAMPLE[split:]
    assert (len(text.train), len(text.validation)) == (split, len(SAMPLE) - split)
    assert text.vocabulary.characters == "".join(sorted(set(SAMPLE)))
    assert text.train.text(3, 9) == SAMPLE[3:9]


def test_parts_of_a_file_may_cut_through_a_character(file, monkeypatch):
    # Every cut of the bytes, so also the ones inside the two bytes of a Greek letter.
    for size in (1, 2, 3, 7):
        monkeypatch.setattr("rnndyn.tasks.text._CHUNK", size)
        text = rd.tasks.read_text(file, validation=0.25)
        assert text.train.text() + text.validation.text() == SAMPLE
        assert np.array_equal(np.concatenate(list(text.train.chunks())), text.train.ids())


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for name, content in (("b.py", "bbb"), ("a.py", "aaa"), ("c.txt", "ccc")):
        (tmp_path / name).write_text(content)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "d.py").write_text("ddd")
    whole = lambda text: text.train.text() + text.validation.text()
    assert whole(rd.tasks.read_text(tmp_path, validation=0.3)) == "aaabbbcccddd"
    assert whole(rd.tasks.read_text(tmp_path, pattern="*.py", validation=0.4)) == "aaabbb"


def test_rare_characters_are_replaced(file):
    text = rd.tasks.read_text(file, validation=0.25, min_count=41)
    # The sample has 40 of each Greek letter and of w, z, o, f and h... and more than 40 of the rest.
    counts = {character: SAMPLE.count(character) for character in set(SAMPLE)}
    kept = {character for character, count in counts.items() if count > 40}
    assert set(text.vocabulary.characters) == kept | {"\ufffd"}
    expected = "".join(character if character in kept else "\ufffd" for character in SAMPLE)
    assert text.train.text() + text.validation.text() == expected
    with pytest.raises(ValueError, match=r"1 characters are not in the vocabulary .*: 'Ω'"):
        text.vocabulary.encode("abΩ")


def test_a_given_vocabulary_must_have_the_characters(file, text):
    again = rd.tasks.read_text(file, validation=0.25, vocabulary=text.vocabulary)
    assert np.array_equal(again.train.ids(), text.train.ids())
    with pytest.raises(ValueError, match=r"text: \d+ characters are not in the vocabulary of 3: "):
        rd.tasks.read_text(file, vocabulary=rd.Vocabulary("abc"))


def test_the_standard_library_is_the_default():
    text = rd.tasks.read_text(min_count=20)
    assert len(text.train) + len(text.validation) > 1_000_000
    assert 90 < text.vocabulary.size < 130  # the printable ASCII characters, line ends, and a few more
    assert "import" in text.validation.text(0, 10_000)
    assert "def " in text.train.text(20_000, 120_000)


def test_stream_gives_every_place_its_text_in_order(text):
    stream = text.train.stream(3, 50)
    windows = list(stream)
    length = len(text.train) // 3
    assert len(windows) == stream.num_windows == (length - 1) // 50
    joined = np.concatenate([window.inputs for window in windows], axis=1)
    shifted = np.concatenate([window.targets for window in windows], axis=1)
    whole = text.train.ids()
    for row in range(3):
        start = row * length
        assert np.array_equal(joined[row], whole[start : start + joined.shape[1]])
        assert np.array_equal(shifted[row], whole[start + 1 : start + 1 + joined.shape[1]])
    assert [bool(window.is_start.all()) for window in windows] == [True] + [False] * (len(windows) - 1)


def test_places_of_a_stream_start_anew_one_after_the_other(text):
    starts = np.array([window.is_start for window in text.train.stream(3, 10, restart_every=6)])
    assert len(starts) > 12
    for place, turn in enumerate((0, 2, 4)):
        assert np.flatnonzero(starts[:, place]).tolist() == sorted({0, *range(turn, len(starts), 6)})
    with pytest.raises(ValueError, match="restart_every: expected at least 1"):
        text.train.stream(3, 10, restart_every=0)


def test_random_windows_are_of_the_text_and_fixed_by_the_key(text):
    draw = lambda seed: [batch for batch, _ in zip(text.train.windows(4, 20, key=jax.random.key(seed)), range(5))]
    whole = text.train.text()
    for inputs, targets in draw(0):
        assert np.array_equal(inputs[:, 1:], targets[:, :-1])
        assert all(text.vocabulary.decode(row) in whole for row in inputs)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(draw(0), draw(0)))
    assert not np.array_equal(draw(0)[0][0], draw(1)[0][0])
    inputs, targets = text.validation.batch(6, 30)
    ids = text.validation.ids()
    assert np.array_equal(inputs[0], ids[:30])
    assert np.array_equal(targets[-1], ids[-30:])


def test_baselines_by_hand(tmp_path):
    # Train on abababab..., hold out ab: after a comes b. Counts of 100 letters give 99 pairs.
    path = tmp_path / "ab.txt"
    path.write_text("ab" * 60)
    baselines = rd.tasks.text_baselines(rd.tasks.read_text(path, validation=1 / 6))
    p_a, p_b = (49 + 1) / (99 + 2), (50 + 1) / (99 + 2)
    # 20 held-out letters are 19 pairs: 10 times b after a, 9 times a after b.
    unigram = -(10 * np.log2(p_b) + 9 * np.log2(p_a)) / 19
    bigram = -(10 * np.log2((50 + p_b) / 51) + 9 * np.log2((49 + p_a) / 50)) / 19
    # Rounding of a few float64 operations.
    np.testing.assert_allclose([baselines.unigram, baselines.bigram], [unigram, bigram], rtol=1e-13)
    assert baselines.uniform == 1
    assert (baselines.num_train, baselines.num_validation) == (100, 20)


def test_baselines_of_independent_letters_are_their_entropy(tmp_path):
    # Letters with probabilities 1/2, 1/4, 1/8, 1/8: 1.75 bits each, and the one before says nothing.
    rng = np.random.default_rng(0)
    letters = "".join(rng.choice(list("abcd"), 40_000, p=[0.5, 0.25, 0.125, 0.125]))
    path = tmp_path / "letters.txt"
    path.write_text(letters)
    text = rd.tasks.read_text(path, validation=0.5)
    baselines = rd.tasks.text_baselines(text)
    # The mean of 20,000 code lengths of standard deviation 0.83: standard error 0.006, doubled for the fit.
    assert abs(baselines.unigram - 1.75) < 0.03
    assert abs(baselines.bigram - 1.75) < 0.03
    held_out = letters[20_000:].encode()
    assert abs(baselines.xz - 8 * len(lzma.compress(held_out, preset=9)) / 20_000) < 1e-9
    # The header of the file has the same length whatever it says.
    assert abs(baselines.gzip - 8 * len(gzip.compress(held_out, 9)) / 20_000) < 0.01
    assert "bigram" in str(baselines)


def test_bad_input_is_named(tmp_path, text):
    empty, latin, folder = tmp_path / "empty.txt", tmp_path / "latin.txt", tmp_path / "folder"
    empty.write_text("")
    latin.write_bytes("caf\xe9 au lait".encode("latin-1"))
    folder.mkdir()
    for call, message in [
        (lambda: rd.tasks.read_text(empty), "path: .*empty.txt holds an empty text"),
        (lambda: rd.tasks.read_text(latin), "path: .*latin.txt is not UTF-8: byte 3 cannot be decoded"),
        (lambda: rd.tasks.read_text(folder), "path: the folder .* has no files that match"),
        (lambda: rd.tasks.read_text(empty, validation=1.5), "validation: expected a share"),
        (lambda: rd.tasks.read_text(empty, min_count=0), "min_count: expected at least 1"),
        (lambda: text.train.stream(10, 500), "num_steps: expected a window of 1 to 116 characters"),
        (lambda: text.train.windows(2, 10_000, key=jax.random.key(0)), "num_steps: expected a window of 1 to 1169 "),
        (lambda: text.train.stream(0, 5), "batch_size: expected at least 1"),
        (lambda: rd.Vocabulary(""), "characters: expected at least one"),
        (lambda: rd.Vocabulary(["ab"]), "characters: expected a text or single characters"),
        (lambda: rd.Vocabulary("ab").decode([2]), "ids: expected numbers from 0 to 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
