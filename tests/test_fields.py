from dataclasses import dataclass, field
from typing import Literal

import pytest

from care_accel import CareError
from care_accel.fields import build, read_yaml


@dataclass(frozen=True)
class Inner:
    count: int
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: list[Inner] = field(default_factory=list)
    kind: Literal["a", "b"] = "a"
    two_words: Inner | None = field(default=None, metadata={"name": "two-words"})


def test_nested_values_become_dataclasses():
    values = {"name": "x", "inner": [{"count": 1, "share": 1}], "two-words": {"count": 2}}
    assert build(Outer, values, "f") == Outer("x", [Inner(1, 1.0)], "a", Inner(2))
    assert build(Outer, {"name": "x", "two-words": None}, "f") == Outer("x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "f: must be a mapping of fields"),
        ({}, "f: field 'name' is missing"),
        ({"name": 1}, "f: name: 1 is not a string"),
        ({"name": "x", "kind": "c"}, "f: kind: 'c' is not one of a, b"),
        ({"name": "x", "inner": {}}, "f: inner: must be a list"),
        ({"name": "x", "inner": [{"count": True}]}, "f: inner[0]: count: True is not an integer"),
        ({"name": "x", "inner": [{"count": 1, "share": "1e-4"}]}, "f: inner[0]: share: '1e-4' is not a number; write 1.0e-4 for 1e-4"),
        ({"name": "x", "two_words": {}}, "f: unknown field 'two_words', did you mean 'two-words'? known fields: name, inner, kind, two-words"),
        ({"name": "x", "zzz": 1}, "f: unknown field 'zzz'; known fields: name, inner, kind, two-words"),
        ({"name": "x", 1: 1}, "f: unknown field 1; known fields: name, inner, kind, two-words"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_place_and_the_nearest_known_name(values, message):
    with pytest.raises(CareError) as mistake:
        build(Outer, values, "f")
    assert str(mistake.value) == message


def test_yaml_is_read_without_making_objects(tmp_path):
    file = tmp_path / "f.yaml"
    file.write_text("a: [1, 二]")
    assert read_yaml(file) == {"a": [1, "二"]}
    file.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(CareError, match="not YAML"):
        read_yaml(file)
    file.write_bytes("a: 高血压".encode("gb18030"))
    with pytest.raises(CareError, match=r"f\.yaml: is not UTF-8; save it as UTF-8$"):
        read_yaml(file)
    with pytest.raises(CareError, match="cannot be read"):
        read_yaml(tmp_path / "nowhere.yaml")
