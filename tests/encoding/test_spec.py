import dataclasses

import pytest

from care_accel import CareError, EncoderSpec
from care_accel.encoding import ROLES, TASKS, preset

SPEC = EncoderSpec("first", "normalize-then-slice", 24)


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.width = 3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pooling", "max"),
        ("order", "none"),
        ("padding_side", "both"),
        ("dtype", "int4"),
        ("width", 0),
        ("width", True),
        ("max_tokens", 2.5),
        ("prompts", {"retrieval": "no place for the text"}),
        ("prompts", {"dance": "{text}"}),
        ("prompts", {"sts": "{text}{text}"}),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_its_field(field, value):
    with pytest.raises(CareError, match=field.removesuffix("s")) as error:
        dataclasses.replace(SPEC, **{field: value})
    assert "\n" not in str(error.value)


def test_a_spec_survives_care_json():
    spec = dataclasses.replace(
        SPEC, prompts={"sts": "比较：{text}", "default": "{text}？"}, padding_side="left"
    )
    assert EncoderSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"width": None}, "width"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_a_wrong_manifest_is_named(change, words):
    values = SPEC.to_dict() | change
    with pytest.raises(CareError, match=words) as error:
        EncoderSpec.from_dict(values, "care.json, query")
    assert str(error.value).startswith("care.json, query")


def test_a_manifest_without_a_field_is_named():
    values = SPEC.to_dict()
    del values["pooling"]
    with pytest.raises(CareError, match=r"care.json.*pooling"):
        EncoderSpec.from_dict(values, "care.json")


def test_identity_follows_what_decides_a_vector_and_not_what_rounds_it():
    for same in ({"dtype": "bfloat16"}, {"device": "cpu"}, {"padding_side": "left"}):
        assert dataclasses.replace(SPEC, **same).identity == SPEC.identity
    others = [
        {"pooling": "mean"},
        {"order": "slice-then-normalize"},
        {"width": 23},
        {"max_tokens": 511},
        {"prompts": {"sts": "a{text}"}},
    ]
    assert len({dataclasses.replace(SPEC, **o).identity for o in others} | {SPEC.identity}) == 6


def test_the_prompt_is_that_of_the_task_then_the_default_then_the_plain_text():
    spec = dataclasses.replace(SPEC, prompts={"sts": "比较{text}", "default": "问{text}"})
    assert [spec.format("甲", task) for task in TASKS] == ["问甲", "问甲", "比较甲"]
    assert SPEC.format("甲{text}", "sts") == "甲{text}"
    with pytest.raises(CareError, match="unknown prompt task 'dance'"):
        spec.prompt("dance")


def test_the_care_preset_is_the_paper_s():
    query, document = (preset("care", role, hidden_size=1024, causal=role == "document") for role in ROLES)
    assert (query.pooling, query.padding_side, document.pooling, document.padding_side) == (
        "first",
        "right",
        "last",
        "left",
    )
    assert {s.width for s in (query, document)} == {768}
    assert {s.order for s in (query, document)} == {"normalize-then-slice"}
    for task in TASKS:
        assert query.prompt(task).startswith("<instruct>")
        assert query.prompt(task).endswith("\n<query>{text}")
    assert document.prompt("retrieval") == document.prompt("reranking") == "{text}"
    assert document.prompt("sts") == query.prompt("sts")


def test_the_sentence_transformers_preset_slices_first():
    spec = preset("sentence-transformers", "query", hidden_size=64, causal=False)
    assert (spec.pooling, spec.order, spec.width) == ("mean", "slice-then-normalize", 64)
    assert preset("sentence-transformers", "query", hidden_size=64, causal=True).pooling == "last"


def test_an_unknown_preset_is_refused():
    with pytest.raises(CareError, match="unknown preset 'bert'"):
        preset("bert", "query", hidden_size=8, causal=False)
