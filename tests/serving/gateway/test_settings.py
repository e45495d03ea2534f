"""Limits and tokens that make no sense are refused before anything listens."""

import pytest

from care_accel.errors import CareError
from care_accel.serving.gateway import Settings
from care_accel.serving.gateway.settings import TOKEN_VARIABLE, WRITE_TOKEN_VARIABLE, read_tokens

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize(
    "options",
    [
        {"max_body": 0},
        {"max_inputs": -1},
        {"burst": 0},
        {"concurrency": True},
        {"rate": -1.0},
        {"rate": float("nan")},
        {"timeout": 0.0},
        {"timeout": float("inf")},
    ],
)
def test_a_limit_that_is_none_is_refused_by_its_name(options):
    (name,) = options
    with pytest.raises(CareError, match=name):
        Settings(**options)


@pytest.mark.parametrize("token", ["short", "0123456789abcdef 0", "0123456789abcdef\n", "0123456789abcdefé"])
def test_a_token_that_is_weak_or_fits_no_header_is_refused_and_not_repeated(token):
    for name in ("tokens", "write_tokens"):
        with pytest.raises(CareError) as error:
            Settings(**{name: (token,)})
        assert token not in str(error.value)


def test_a_token_is_for_reading_or_for_writing():
    with pytest.raises(CareError, match="one of its own for writing"):
        Settings(tokens=(TOKEN, TOKEN + "2"), write_tokens=(TOKEN,))


def test_a_token_is_not_shown():
    assert TOKEN not in repr(Settings(tokens=(TOKEN,), write_tokens=(TOKEN + "2",)))


def test_tokens_come_from_a_file_before_the_environment(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# the new one\n{TOKEN}1\n\n  {TOKEN}2  \n")
    assert read_tokens(file, {TOKEN_VARIABLE: TOKEN}) == (f"{TOKEN}1", f"{TOKEN}2")
    assert read_tokens(None, {TOKEN_VARIABLE: f" {TOKEN}\n"}) == (TOKEN,)
    assert read_tokens(None, {}) == ()


def test_a_source_of_tokens_without_one_is_refused(tmp_path):
    file = tmp_path / "tokens"
    file.write_text("# none yet\n")
    with pytest.raises(CareError, match="has no token"):
        read_tokens(file, {})
    with pytest.raises(CareError, match="No such file"):
        read_tokens(tmp_path / "absent", {})
    file.write_bytes(b"\xff")
    with pytest.raises(CareError, match="not UTF-8"):
        read_tokens(file, {})
    with pytest.raises(CareError, match="set but empty"):
        read_tokens(None, {TOKEN_VARIABLE: ""})
    with pytest.raises(CareError, match=f"{WRITE_TOKEN_VARIABLE} is set but empty"):
        read_tokens(None, {WRITE_TOKEN_VARIABLE: ""}, variable=WRITE_TOKEN_VARIABLE)
    with pytest.raises(CareError, match="--write-token-file"):
        read_tokens(tmp_path / "absent", option="--write-token-file")
