import dataclasses
import json

import pytest

from care_accel import CareError, EncoderSpec
from care_accel.encoding import ROLES, TASKS, Dense, preset

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
        ("include_prompt", 1),
        ("dense", {"width": 24}),
        ("dense", [24]),
        ("dense", [{"activation": "tanh"}]),
        ("dense", [{"width": 24, "dropout": 0.1}]),
        ("dense", [{"width": 0}]),
        ("dense", [{"width": 24, "activation": "os.system"}]),
        ("dense", [{"width": 24, "bias": "yes"}]),
        ("dense", [{"width": 23}]),  # narrower than the spec
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


def test_dense_layers_and_a_prompt_left_out_survive_care_json(tmp_path):
    spec = dataclasses.replace(
        SPEC, dense=[Dense(64, "gelu", bias=False), Dense(24, normalize=True)], include_prompt=False
    )
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.compiled["dense"][1] == {
        "width": 24,
        "activation": "identity",
        "bias": True,
        "normalize": True,
    }


def test_a_spec_without_them_is_written_as_before_and_keeps_its_identity():
    assert {"dense", "include_prompt"}.isdisjoint(SPEC.to_dict() | SPEC.compiled)
    # Indexes hold revisions that were made of this.
    assert SPEC.identity == "9e5cd6b55b359b2cd0a5e040cbdd321853996da1f82caa0d3eed5d2d61b2dad6"


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
        {"include_prompt": False},
        {"dense": [Dense(24)]},
        {"dense": [Dense(24, "tanh")]},
        {"dense": [Dense(24, normalize=True)]},
    ]
    identities = {dataclasses.replace(SPEC, **o).identity for o in others}
    assert len(identities | {SPEC.identity}) == len(others) + 1


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
