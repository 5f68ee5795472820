"""docs/api.md lists what the package exports."""

import importlib.util
from pathlib import Path

import rnndyn as rd

spec = importlib.util.spec_from_file_location("make_api", Path(__file__).parent.parent / "docs" / "make_api.py")
assert spec is not None
assert spec.loader is not None
make_api = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_api)


def test_the_page_is_up_to_date():
    assert make_api.PAGE.read_text() == make_api.page(), "run `make api`"


def test_every_public_name_says_what_it_is():
    for name, value in make_api.public_names(rd).items():
        assert len(make_api.first_sentence(value)) > 15, name


def test_sentences():
    def sample():
        """Rows t = 0 ... T of it. More.

        Not this.
        """

    assert make_api.first_sentence(sample) == "Rows t = 0 ... T of it."
