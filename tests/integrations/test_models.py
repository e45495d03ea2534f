"""Which model an adapter takes, and how it is written to settings."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import care_accel
from care_accel import CareError, DualEncoder
from care_accel.encoding import ServedDualEncoder
from care_accel.integrations.models import describe_model, open_model

FOLDER = Path(care_accel.__file__).parent / "assets" / "care-mini"
PAIR = {"query": FOLDER / "query_encoder", "document": FOLDER / "document_encoder", "preset": "care"}


def served(address):
    """Return a served model without a server behind it."""
    model = object.__new__(ServedDualEncoder)
    model.client = SimpleNamespace(address=address)
    return model


def test_a_model_is_taken_as_it_is(embedded_model):
    assert open_model(embedded_model) is embedded_model


@pytest.mark.parametrize("place", ["care-mini", FOLDER, str(FOLDER)])
def test_a_name_and_a_folder_are_opened(place, embedded_model):
    assert open_model(place).revision("document") == embedded_model.revision("document")


def test_arguments_are_those_of_from_pretrained():
    arguments = PAIR | {"width": 16}
    assert open_model(arguments).width == 16
    assert arguments == PAIR | {"width": 16}


def test_a_server_s_address_goes_to_from_server_with_its_options(monkeypatch):
    monkeypatch.setattr(DualEncoder, "from_server", lambda address, **options: (address, options))
    assert open_model({"server": "host:8001", "timeout": 5.0}) == ("host:8001", {"timeout": 5.0})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "the model is a int; give a DualEncoder"),
        (None, "the model is a NoneType"),
        ({"modle": "care-mini"}, "modle"),
        ("no-such-folder/no-such-name/x", "no-such-folder"),
    ],
)
def test_what_is_no_model_is_told(given, words):
    with pytest.raises(CareError, match=words):
        open_model(given)


@pytest.mark.parametrize(
    ("model", "described"),
    [
        ("care-mini", "care-mini"),
        (Path("a") / "b", "a/b"),
        ({"model": Path("a"), "width": 64}, {"model": "a", "width": 64}),
        (served("host:8001"), {"server": "host:8001"}),
    ],
)
def test_settings_hold_json_values_that_name_the_model(model, described):
    assert describe_model(model) == described
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize(
    "arguments", [{}, {"model": "care-mini"}, {"width": 64}, {"model": FOLDER, "max_tokens": 8}, PAIR]
)
def test_what_settings_say_is_opened_as_the_same_model(arguments):
    model = DualEncoder.from_pretrained(**arguments)
    again = open_model(json.loads(json.dumps(describe_model(model))))
    assert again.width == model.width
    assert again.revision("document") == model.revision("document")
    assert again.spec("query") == model.spec("query")


def test_a_model_that_no_name_loads_cannot_be_written(embedded_model):
    with pytest.raises(CareError, match="save it with save_pretrained"):
        describe_model(embedded_model.twin())
