"""care-accel index, search, delete and collection."""

import io
import json
import signal
import subprocess
import sys

import pytest

from care_accel.cli import main
from care_accel.collection import Collection, writing

ROWS = [
    {"_id": "a", "title": "饮食", "text": "高血压患者应低盐饮食", "year": 2020},
    {"_id": "b", "text": "骨折后应固定", "year": 2021},
    {"_id": "c", "text": "感冒多喝水", "year": 2022},
]


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "rows.jsonl"
    made.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return str(made)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and returns what it printed."""

    def command(*arguments, code=0):
        assert main([str(argument) for argument in arguments]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return command


@pytest.fixture
def folder(tmp_path, file, run):
    run("index", file, "--collection", tmp_path / "c", "--fields", "*")
    return tmp_path / "c"


def test_indexing_again_takes_what_has_changed(folder, file, run, tmp_path):
    assert run("index", file, "--collection", folder, "--fields", "*").startswith(
        "0 new, 0 changed, 3 the same"
    )
    other = tmp_path / "other.csv"
    other.write_text("id,text\na,高血压\nd,失眠\n", encoding="utf-8")
    assert "1 new, 1 changed, 0 the same;" in run("index", other, "--collection", folder)
    assert "2 the same, 2 deleted; 0 would be encoded" in run(
        "index", other, "--collection", folder, "--replace", "--dry-run"
    )
    assert "2 documents" in run("index", other, "--collection", folder, "--replace")
    header = tmp_path / "header.csv"
    header.write_text("_id,text\n")
    assert "would delete all" in run("index", header, "--collection", folder, "--replace", code=2)
    assert "2 documents" in run("index", header, "--collection", folder)
    assert sorted(Collection.open(folder).ids()) == ["a", "d"]


def test_a_dry_run_writes_nothing(folder, tmp_path, run):
    other = tmp_path / "other.csv"
    other.write_text("id,text\na,高血压\nd,失眠\n", encoding="utf-8")
    version = Collection.open(folder).version
    assert "1 new, 1 changed, 0 the same; 2 would be encoded" in run(
        "index", other, "--collection", folder, "--dry-run"
    )
    assert Collection.open(folder).version == version


def test_a_dry_run_estimates_a_collection_that_is_not_there_yet(file, tmp_path, run):
    place = tmp_path / "new" / "c"
    printed = run("index", file, "--collection", place, "--dry-run", "--index-dir", tmp_path / "index")
    assert printed.startswith("3 new, 0 changed, 0 the same; 3 would be encoded, in about ")
    assert not place.parent.exists()
    assert not (tmp_path / "index").exists()
    assert "chunk_overlap needs chunk_tokens" in run(
        "index", file, "--collection", place, "--dry-run", "--chunk-overlap", 5, code=2
    )
    (tmp_path / "no.jsonl").write_text("{", encoding="utf-8")
    assert "line 1: not JSON" in run(
        "index", tmp_path / "no.jsonl", "--collection", place, "--dry-run", code=2
    )


def test_fields_that_are_forgotten_are_told(folder, file, capsys):
    def told(*fields):
        assert main(["index", file, "--collection", str(folder), *fields, "--dry-run"]) == 0
        return capsys.readouterr().err

    assert "--fields does not name year: " in told()
    for fields in ("year", "year:int", "*"):
        assert "--fields" not in told("--fields", fields)


def test_a_bad_row_stops_with_its_line_and_keeps_what_came_before(folder, tmp_path, run):
    bad = tmp_path / "bad.jsonl"
    rows = [
        '{"id": "x", "text": "好"}',
        '{"id": "y", "text": "年", "year": "2020"}',
        '{"id": "z", "text": "后"}',
        "{",
    ]
    bad.write_text("\n".join(rows), encoding="utf-8")
    problem = run("index", bad, "--collection", folder, "--fields", "year", code=2)
    assert "bad.jsonl, line 2 (id 'y'): field 'year' is a text" in problem
    assert "z" not in Collection.open(folder).ids()
    assert "x" in Collection.open(folder).ids()
    printed = run(
        "index", bad, "--collection", folder, "--fields", "year", "--skip-bad", tmp_path / "left.jsonl"
    )
    assert "2 bad rows left out" in printed
    left = [json.loads(line) for line in (tmp_path / "left.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["place"].rpartition("line ")[2] for row in left] == ["2", "4"]
    printed = run(
        "index", bad, "--collection", folder, "--fields", "year", "--skip-bad", tmp_path / "l", "--replace"
    )
    assert len(Collection.open(folder)) == 5  # what bad rows may have named is not deleted


def test_nothing_is_created_of_a_source_that_cannot_be_read(tmp_path, run):
    (tmp_path / "latin.csv").write_bytes(b"id,text\n1,caf\xe9 fi\xe8vre\n")
    assert "line 2: is not UTF-8" in run(
        "index", tmp_path / "latin.csv", "--collection", tmp_path / "c", code=2
    )
    assert not (tmp_path / "c").exists()


def test_options_of_an_existing_collection_must_be_its_own(folder, file, run):
    for options in (["--chunk-tokens", 20], ["--lexical"]):
        assert "was created with" in run("index", file, "--collection", folder, *options, code=2)


def test_int8_encodes_with_the_same_model(tmp_path, file, run):
    run("index", file, "--collection", tmp_path / "c8", "--dtype", "int8")
    opened = Collection.open(tmp_path / "c8")
    assert opened.manifest.load["dtype"] == "int8"
    assert opened.search("高血压", k=1)[0].id == "a"
    run("index", file, "--collection", tmp_path / "c8", "--dtype", "float32")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_commits_says_how_to_go_on_and_is_the_exit_code(tmp_path, file, run, monkeypatch, number):
    monkeypatch.setattr(writing, "_PIECE", 1)
    raised = []
    add = writing.Writer._add

    def interrupted(self, *arguments):
        add(self, *arguments)
        if not raised:
            raised.append(True)
            signal.raise_signal(number)

    monkeypatch.setattr(writing.Writer, "_add", interrupted)
    before = signal.getsignal(number)
    printed = run("index", file, "--collection", tmp_path / "c", code=128 + number)
    assert "run the same command again to resume" in printed
    assert len(Collection.open(tmp_path / "c")) == 1
    assert signal.getsignal(number) is before
    assert "2 new, 0 changed, 1 the same" in run("index", file, "--collection", tmp_path / "c")


def test_hits_are_shown_with_what_matched(folder, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = run("search", "--collection", folder, "高血压", "-k", 1)
    assert "\x1b[1;33m高血压" in shown.replace(
        "\x1b[1;33m高\x1b[0m\x1b[1;33m血\x1b[0m\x1b[1;33m压", "\x1b[1;33m高血压"
    )
    assert "year: 2020" in shown


def test_json_is_for_programs(folder, run):
    found = json.loads(run("search", "--collection", folder, "高血压", "-k", 1, "--json"))
    assert found["query"] == "高血压"
    assert found["hits"][0]["id"] == "a"
    assert found["hits"][0]["document"] == {
        "id": "a",
        "title": "饮食",
        "text": "高血压患者应低盐饮食",
        "year": 2020,
    }


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "utf-8"])
def test_any_encoding_of_standard_output_will_do(folder, monkeypatch, encoding):
    for more in ([], ["--json"]):
        raw = io.BytesIO()
        monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
        assert main(["search", "--collection", str(folder), "高血压", "-k", "1", *more]) == 0
        shown = raw.getvalue().decode(encoding)
        if more:
            assert json.loads(shown)["hits"][0]["document"]["title"] == "饮食"
        else:
            assert ("饮食" if encoding != "ascii" else r"\u996e\u98df") in shown


def test_ids_and_queries_are_shown_in_one_line_without_what_a_terminal_would_obey(run, tmp_path):
    rows = tmp_path / "odd.jsonl"
    rows.write_text(json.dumps({"id": "two\nlines\x1b[2J", "title": "\x1bc", "text": "x"}) + "\n")
    run("index", rows, "--collection", tmp_path / "odd")
    shown = run("search", "\x1b[31mred", "x", "--collection", tmp_path / "odd")
    assert "\x1b" not in shown
    assert "two lines\ufffd[2J" in shown


def test_queries_come_from_standard_input(folder, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("高血压\n\n骨折\n"))
    lines = run("search", "--collection", folder, "-k", 1, "--json").splitlines()
    assert [json.loads(line)["hits"][0]["id"] for line in lines] == ["a", "b"]


def test_filters_and_versions(folder, run):
    version = Collection.open(folder).version
    assert "2 documents deleted" in run("delete", "--collection", folder, "--filter", "year > 2020")
    assert "no documents" in run("search", "--collection", folder, "x", "--filter", "year > 2020")
    assert "骨折" in run("search", "--collection", folder, "骨折", "--version", version, "-k", 1)
    assert "No field named nothing" in run(
        "search", "--collection", folder, "x", "--filter", "nothing = 1", code=2
    )


def test_ids_are_deleted_from_a_file(folder, run, tmp_path):
    (tmp_path / "ids.txt").write_text("a\nunknown\n", encoding="utf-8")
    dry = run("delete", "--collection", folder, "--ids", tmp_path / "ids.txt", "--dry-run")
    assert dry.startswith("1 of 3 documents would")
    assert "1 of 3" in run("delete", "--collection", folder, "--filter", "year = 2020", "--dry-run")
    assert "1 documents deleted; 2 are left" in run(
        "delete", "--collection", folder, "--ids", tmp_path / "ids.txt"
    )
    assert "give one of these" in run("delete", "--collection", folder, code=2)


def test_a_collection_is_described_checked_and_compacted(folder, run):
    described = run("collection", "info", folder)
    assert "documents        3" in described
    assert "year (an integer)" in described
    assert json.loads(run("collection", "info", folder, "--json"))["documents"] == 3
    assert len(json.loads(run("collection", "versions", folder, "--json"))) == len(
        run("collection", "versions", folder).splitlines()
    )
    assert run("collection", "verify", folder, "--encode", 2).startswith("3 documents, 3 chunks, version")
    assert "1 versions are left" in run("collection", "compact", folder, "--keep-days", 0)


def test_verify_finds_damage(folder, run):
    import lance

    table = lance.dataset(f"{folder}/documents.lance")
    table.update({"text": "'别的'"}, where="id = 'b'")
    problem = run("collection", "verify", folder, code=2)
    assert "document 'b': title or text differ from what was encoded" in problem


@pytest.mark.parametrize("verb", [["search", "x"], ["delete", "x"], ["collection", "info"]])
def test_what_is_no_collection_is_one_line(verb, tmp_path, run):
    where = [tmp_path / "none"] if verb[0] == "collection" else ["--collection", tmp_path / "none"]
    problem = run(*verb, *where, code=2)
    assert "no such folder" in problem
    assert problem.count("\n") == 1


def test_how_a_collection_is_searched_is_chosen_shown_and_forgotten(folder, run, tmp_path):
    assert "nothing else was chosen" in run("collection", "index", folder)
    queries = tmp_path / "queries.txt"
    queries.write_text("血压高\n\n" + "骨头断了\n" * 20, encoding="utf-8")
    shown = run("collection", "index", folder, "--recall", "0.9", "-k", "2", "--queries", queries)
    assert "3 vectors are too few for anything but an exact scan" in shown
    assert "structure" not in shown  # a table of nothing
    assert "asked for recall@2 of 0.9" in shown
    assert "21 given" in shown
    assert run("collection", "index", folder) == shown
    again = run("collection", "index", folder, "--again")
    assert "asked for recall@2 of 0.9" in again
    assert "queries: none were needed" in again
    for more in ([], ["--exact"]):
        assert "  a  " in run("search", "高血压", "--collection", folder, "-k", "1", *more)
    assert "every search is an exact scan" in run("collection", "index", folder, "--recall", "exact")
    assert "nothing else was chosen" in run("collection", "index", folder)


def test_a_recall_that_is_none_is_refused(folder, run, capsys):
    assert "nothing was chosen so far" in run("collection", "index", folder, "--again", code=2)
    for given in (
        ["--recall", "0.9"],
        ["--recall", "exact"],
        ["-k", "3"],
        ["--budget", "9"],
        ["--memory", "1 GB"],
    ):
        assert "asked for before" in run("collection", "index", folder, "--again", *given, code=2)
    for wrong in ("0", "1.5"):
        assert f"recall is {float(wrong)}" in run("collection", "index", folder, "--recall", wrong, code=2)
    assert "budget is 'soon'" in run(
        "collection", "index", folder, "--recall", "0.9", "--budget", "soon", code=2
    )
    empty = folder.parent / "queries.txt"
    empty.write_text("\n")
    assert "there are no queries" in run(
        "collection", "index", folder, "--recall", "0.9", "--queries", empty, code=2
    )
    for given in (["--queries", empty], ["-k", "3"], ["--budget", "9"], ["--memory", "1 GB"]):
        for recall in ([], ["--recall", "exact"]):
            assert "need --recall with a number" in run(
                "collection", "index", folder, *recall, *given, code=2
            )
    empty.write_text('{"_id": "q1", "text": "x"}\n')
    assert "has objects of JSON, not queries" in run(
        "collection", "index", folder, "--recall", "0.9", "--queries", empty, code=2
    )
    assert "it is a folder" in run(
        "collection", "index", folder, "--recall", "0.9", "--queries", folder, code=2
    )
    with pytest.raises(SystemExit):
        main(["collection", "index", str(folder), "--recall", "high"])
    assert "neither a number, such as 0.99, nor exact" in capsys.readouterr().err


UNREAD = """
import json, os, sys
from care_accel.cli import main
codes = {}
for line in sys.stdin:
    arguments = json.loads(line)
    reading, writing = os.pipe()
    os.close(reading)
    sys.stdout = os.fdopen(writing, "w", encoding="utf-8")
    try:
        codes[" ".join(arguments)] = main(arguments)
    except SystemExit as ended:
        codes[" ".join(arguments)] = f"exit {ended.code}"
json.dump(codes, sys.stderr)
"""


def test_where_nobody_reads_what_a_command_prints_it_ends_without_a_word(folder, file):
    """As under ``| head -1``: each command gets a pipe whose reader has gone."""
    there = str(folder)
    commands = [
        ["search", "--collection", there, "高血压", "骨折", "--json"],
        ["search", "--collection", there, "高血压", "骨折"],
        ["collection", "info", there],
        ["collection", "info", there, "--json"],
        ["collection", "versions", there],
        ["collection", "verify", there],
        ["collection", "estimate", "--documents", "1000", "--width", "256", "--model-parameters", "1e8"],
        ["index", file, "--collection", there, "--fields", "*", "--dry-run"],
        ["index", file, "--collection", there, "--fields", "*"],
        ["delete", "--collection", there, "nothing", "--dry-run"],
        ["--version"],
        ["index", "--help"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", UNREAD],
        input="".join(json.dumps(arguments) + "\n" for arguments in commands),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("{"), done.stderr
    assert json.loads(done.stderr) == {" ".join(arguments): 141 for arguments in commands}
