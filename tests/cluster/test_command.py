"""``care-accel index --cluster``: what a user is told, and the exit code."""

import signal

import pytest
from cluster_corpus import document, write_lines

from care_accel import Collection
from care_accel.cli import main
from care_accel.cluster.part import PartEncoder


@pytest.fixture
def file(tmp_path):
    return write_lines(tmp_path / "rows.jsonl", [document(number) for number in range(12)])


@pytest.fixture
def index(file, tmp_path, capsys):
    def run(*options):
        code = main(["index", str(file), "--collection", str(tmp_path / "made"), *options])
        return code, capsys.readouterr()

    return run


def test_parts_that_are_set_aside_are_named_and_the_exit_code_says_so(index, model, tmp_path, monkeypatch):
    encoder = type(model.encoder("document"))
    whole = encoder.encode

    def broken(self, texts, **options):
        vectors = whole(self, texts, **options)
        if not isinstance(texts, str):
            vectors[[i for i, text in enumerate(texts) if "第7条" in text]] = 0
        return vectors

    monkeypatch.setattr(encoder, "encode", broken)
    code, printed = index("--cluster", "none", "--part-tokens", "100", "--batch-tokens", "32")
    assert code == 2
    last = printed.err.splitlines()[-1]
    assert "1 of " in last
    assert "rows.jsonl, bytes" in last
    assert "the vector of document 'd7' is zero or not finite" in last
    assert last.endswith("the same command tries them again")
    there = set(Collection.open(tmp_path / "made").ids())
    assert "d7" not in there
    assert there
    monkeypatch.undo()
    code, printed = index("--cluster", "none", "--part-tokens", "100")
    assert code == 0
    assert "12 documents" in printed.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch-tokens", "64"], "--batch-tokens needs --cluster"),
        (["--cluster", "none", "--batch-tokens", "0"], "batch_tokens is 0; it must be"),
        (["--cluster", "none", "--part-tokens", "0"], "part_tokens is 0; it must be 1 or more"),
        (["--cluster", "none", "--dry-run"], "--dry-run works without --cluster only"),
    ],
)
def test_options_that_have_no_meaning_are_refused_in_one_line(index, options, said):
    code, printed = index(*options)
    assert code == 2
    assert said in printed.err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_is_done_and_is_the_exit_code(index, tmp_path, monkeypatch, number):
    encode = PartEncoder.encode

    def interrupted(self, part):
        signal.raise_signal(number)
        return encode(self, part)

    monkeypatch.setattr(PartEncoder, "encode", interrupted)
    code, printed = index("--cluster", "none", "--part-tokens", "100")
    assert code == 128 + number
    assert printed.err.splitlines()[-1].endswith("run the same command again to resume")
    monkeypatch.undo()
    assert len(Collection.open(tmp_path / "made")) < 12
    code, printed = index("--cluster", "none", "--part-tokens", "100")
    assert code == 0
    assert ", 1 of them done before" in printed.out
    assert len(Collection.open(tmp_path / "made")) == 12
