import pytest
import yaml

from care_accel.cli import main
from care_accel.curation.judges.store import FILE
from care_accel.curation.labels.candidates import FILE as CANDIDATES

from .conftest import truth_texts


def curate(capsys, *arguments):
    """Run a step, and return its exit code and what it printed."""
    try:
        code = main(["curate", *map(str, arguments)])
    except SystemExit as stop:
        code = stop.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.fixture
def place(workplace, serve):
    server = serve(truth=truth_texts())
    judges = [{"name": name, "base_url": server.url, "model": name, "key": "JUDGE_KEY"} for name in "abc"]
    return workplace(judges)


def test_a_small_run_from_candidates_to_a_repaired_set(place, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    printed = ""
    steps = (
        ["candidates"],
        ["judge", "--dry-run"],
        ["judge"],
        ["vote"],
        ["agreement"],
        ["sample"],
        ["false-negatives"],
    )
    for step, *flags in steps:
        code, out, err = curate(capsys, step, place.file, *flags)
        assert code == 0, err
        printed += out + err
    assert "all judges agree on the label: 100.0 %" in printed
    assert "sk-very-secret" not in printed
    names = {file.name for file in place.output.iterdir()}
    assert {
        "candidates.jsonl",
        FILE,
        "votes.jsonl",
        "qrels.tsv",
        "agreement.json",
        "agreement.svg",
        "sample.csv",
    } <= names
    assert all(file.stat().st_mode & 0o077 == 0 for file in place.output.iterdir())
    repaired = (place.data / "qrels" / "dev.repaired.tsv").read_text()
    assert "q2\td2\t1\n" in repaired
    code, out, _ = curate(capsys, "purge", place.file)
    assert (code, out.splitlines()[0][:16]) == (0, "answers deleted:")
    assert curate(capsys, "judge", place.file)[0] == 0  # nothing is left to ask
    assert curate(capsys, "purge", place.file, "--all")[0] == 0
    assert not {FILE, "sample.csv"} & {file.name for file in place.output.iterdir()}


def test_judgements_that_are_missing_end_with_1(place, capsys, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "x")
    place.values["judges"][0] |= {"base_url": "http://127.0.0.1:9/v1", "retries": 0}
    place.file.write_text(yaml.safe_dump(place.values))
    curate(capsys, "candidates", place.file)
    code, _, err = curate(capsys, "judge", place.file)
    assert code == 1
    assert "judgements are missing" in err


@pytest.mark.parametrize(
    ("step", "change", "words"),
    [
        ("judge", {"judges": []}, "no judge is configured"),
        (
            "judge",
            {"judges": [{"name": "a", "base_url": "https://8.8.8.8/v1", "model": "m"}]},
            "remote: true",
        ),
        ("judge", {"judging": {"prompt": "own"}}, "prompt 'own': no such prompt"),
        ("judge", {"judging": {"prompt": "sts-synonym-v1"}}, "lacks the placeholder $"),
        ("judge", {}, "JUDGE_KEY is not set"),
        ("candidates", {"data": "nowhere"}, "nowhere/corpus.jsonl: no such file"),
        ("candidates", {"data": None}, "data is not configured"),
        ("vote", {"votes": {}}, "unknown field 'votes', did you mean 'vote'?"),
        ("purge", {}, "run care-accel curate judge first"),
        ("train-data --dry-run", {}, "no train-data"),
        ("sts --dry-run", {}, "no sts"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(place, capsys, monkeypatch, step, change, words):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    curate(capsys, "candidates", place.file)
    place.file.write_text(yaml.safe_dump({**place.values, **change}))
    code, _, err = curate(capsys, *step.split(), place.file)
    assert code == 2
    assert words in err
    assert err.strip().startswith("error: ")
    assert "\n" not in err.strip()


def test_a_configuration_that_is_not_there_is_named(capsys, tmp_path):
    code, _, err = curate(capsys, "vote", tmp_path / "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml: cannot be read" in err


def test_a_step_that_fails_leaves_what_was_written_before(place, capsys):
    curate(capsys, "candidates", place.file)
    before = (place.output / CANDIDATES).read_bytes()
    (place.data / "corpus.jsonl").write_text("no json")
    assert curate(capsys, "candidates", place.file)[0] == 2
    assert (place.output / CANDIDATES).read_bytes() == before
