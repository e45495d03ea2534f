import pytest
import yaml

from care_accel import CareError
from care_accel.curation.loading import load_config

JUDGE = {"name": "a", "base_url": "http://127.0.0.1:8000/v1", "model": "x"}


def write(folder, **fields):
    file = folder / "config.yaml"
    file.write_text(yaml.safe_dump({"output": "work", **fields}), encoding="utf-8")
    return file


def test_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "model").mkdir()
    fields = {
        "data": "set",
        "candidates": {"retrievers": ["bm25", "model", "care-mini"]},
        "leak-check": {"train": ["a.jsonl"], "evaluation": ["/abroad"]},
        "judging": {"prompt": "own.yaml"},
    }
    config = load_config(write(tmp_path, **fields))
    assert (config.output, config.data) == (str(tmp_path / "work"), str(tmp_path / "set"))
    assert config.candidates.retrievers == ["bm25", str(tmp_path / "model"), "care-mini"]
    assert (config.leak_check.train, config.leak_check.evaluation) == (
        [str(tmp_path / "a.jsonl")],
        ["/abroad"],
    )
    assert config.judging.prompt == str(tmp_path / "own.yaml")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"jugdes": []}, "unknown field 'jugdes', did you mean 'judges'?"),
        ({"train_data": {}}, "unknown field 'train_data', did you mean 'train-data'?"),
        ({"vote": {"rule": "all"}}, "vote: rule: 'all' is not one of unanimous, majority, mean"),
        ({"vote": {"cutoff": 3.5}}, "cutoff must be an integer for rule unanimous"),
        ({"vote": {"cutoff": 1}}, "cutoff must be above 1"),
        ({"vote": {"cutoff": 6, "rule": "mean"}}, "cutoff must be above 1 and at most 5"),
        ({"candidates": {"depth": 0}}, "candidates: depth must be a number above 0"),
        ({"candidates": {"retrievers": []}}, "retrievers is empty"),
        ({"candidates": {"retrievers": ["bm25", "bm25"]}}, "retrievers has a duplicate"),
        ({"judges": [JUDGE, JUDGE]}, "two judges have the same name"),
        ({"judges": [{**JUDGE, "base_url": "127.0.0.1:8000"}]}, "is not an HTTP URL"),
        ({"judges": [{**JUDGE, "base_url": "http://me:secret@host/v1"}]}, "base_url contains credentials"),
        ({"judges": [{**JUDGE, "at_once": 0}]}, "judge 'a': at_once must be a number above 0"),
        ({"judges": [{**JUDGE, "name": "../a"}]}, "use letters, digits"),
        ({"judges": [{"name": "a", "model": "x"}]}, "judges[0]: field 'base_url' is missing"),
        ({"sts": {"synonyms": "s.tsv", "sentences": "t.jsonl", "writer": "b"}}, "writer 'b' is not a judge"),
        ({"leak-check": {"train": ["a"]}}, "leak-check needs both train and evaluation"),
        (
            {"leak-check": {"train": ["a"], "evaluation": ["b"], "contained": -1}},
            "leak-check: contained must not be below 0",
        ),
        ({"train-data": {"texts": ["a"], "margin": 1.5}}, "train-data: margin must be from 0 to 1"),
        ({"sample": {"size": 0}}, "sample: size must be a number above 0"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, fields, words):
    with pytest.raises(CareError) as mistake:
        load_config(write(tmp_path, **fields))
    assert words in str(mistake.value)
    assert str(tmp_path / "config.yaml") in str(mistake.value)


def test_a_key_in_place_of_its_name_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(CareError, match="NAME of an environment variable") as mistake:
        load_config(write(tmp_path, judges=[{**JUDGE, "key": "sk-abc-123"}]))
    assert "sk-abc-123" not in str(mistake.value)


@pytest.mark.parametrize(
    ("text", "words"), [("output: [", "not YAML"), ("- a", "must be a mapping"), ("", "must be a mapping")]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text, words):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(CareError, match=words):
        load_config(file)


def test_the_output_folder_is_its_owner_s_alone(tmp_path):
    config = load_config(write(tmp_path))
    assert config.output_file("x").parent.stat().st_mode & 0o777 == 0o700
