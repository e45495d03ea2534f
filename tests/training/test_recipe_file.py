import gzip
from pathlib import Path

import pytest
import yaml

import care_accel
from care_accel import CareError
from care_accel.training import load_recipe, train

RECIPES = Path(care_accel.__file__).parent / "training" / "recipes"
SHIPPED = RECIPES / "care-mini.yaml"


def test_the_shipped_recipe_trains_on_sets_alone_whose_licence_allows_it():
    recipe = load_recipe(SHIPPED)
    files = {source.file for stage in recipe.stages for source in stage.data}
    files |= set(recipe.start.pretrained.files)
    allowed = ("train/permissive/", "unlabelled/", "sts/chip-sts/train")
    assert all(file.startswith(allowed) for file in files)


def test_what_is_left_out_is_the_paper_s_second_stage(values, write_recipe):
    values["stages"] = [{"name": "joint", "data": [{"file": "a"}]}]
    stage = load_recipe(write_recipe(values)).stages[0]
    assert (stage.temperature, stage.negatives, stage.epochs, stage.learning_rate) == (0.02, 7, 1.0, 1e-4)
    assert (stage.warmup_ratio, stage.weight_decay, stage.bf16) == (0.05, 0.05, True)


def set_at(values, path, value):
    *way, last = path
    for step in way:
        values = values[step]
    values[last] = value


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("colour",), "red", "unknown field 'colour'"),
        (
            ("stages", 0, "data", 2, "kind"),
            "poems",
            r"stages\[0\]: data\[2\]: kind: 'poems' is not one of triplets",
        ),
        (("stages", 0, "learning_rate"), "1e-4", "write 1.0e-4"),
        (("stages", 0, "batch_size"), 2.5, "batch_size: 2.5 is not an integer"),
        (("stages", 0, "epochs"), 0, "epochs must be a number above 0"),
        (("stages", 0, "epochs"), float("nan"), "epochs must be a number above 0"),
        (("stages", 0, "epochs"), "one", "epochs: 'one' is not a number$"),
        (("stages", 0, "max_document_tokens"), 0, "max_document_tokens must be a number above 0"),
        (("stages", 0, "save_steps"), 0, "save_steps must be a number above 0"),
        (("stages", 0, "warmup_ratio"), 2.0, "warmup_ratio must be from 0 to 1"),
        (("stages", 0, "negatives"), -1, "negatives must be from 0"),
        (("stages", 0, "mse_weight"), -1.0, "must not be below 0"),
        (("stages", 0, "start_weight"), 1.0, "start_weight is 1.0; it must be from 0"),
        (("stages", 0, "start_weight"), -0.1, "start_weight is -0.1; it must be from 0"),
        (("stages", 0, "start_weight"), float("nan"), "start_weight is nan; it must be from 0"),
        (("stages", 0, "widths"), [0], "widths must be above 0"),
        (("stages", 0, "mining"), {"depth": 0}, "mining needs a depth"),
        (("stages", 0, "layers"), [0], "layers is for method alignment, not joint"),
        (
            ("start", "pretrained"),
            {"name": "bert", "files": ["a"]},
            "'bert' is not one of multilingual-e5-small",
        ),
        (("stages", 0, "lora"), {"rank": 0}, "the rank of lora must be above 0"),
        (("stages", 0, "name"), "", "used as a folder name"),
        (("stages", 0, "name"), "../../evil", "used as a folder name"),
        (("name",), "..", "used as a folder name"),
        (("seed",), -1, "seed is -1"),
        (("start", "model"), "care-mini", "give one of them"),
        (("start", "tokenizer", "files"), [], "the tokenizer needs files"),
        (("start", "tokenizer", "vocab_size"), 3, "must not be below its alphabet"),
        (("stages",), [], "stages is empty"),
        (("stages", 0, "data"), [], "has no data"),
        (("start", "query"), None, "start needs a model"),
        (("seed",), True, "seed: True is not an integer"),
        (("stages",), "joint", "must be a list"),
        (("start",), 3, "must be a mapping"),
    ],
)
def test_a_field_that_is_wrong_is_named_by_its_place(values, write_recipe, path, value, words):
    set_at(values, path, value)
    with pytest.raises(CareError, match=words) as error:
        load_recipe(write_recipe(values))
    assert "recipe.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_field_and_two_stages_of_one_name_are_refused(values, write_recipe):
    values["stages"].append(values["stages"][0])
    with pytest.raises(CareError, match="two stages have the same name"):
        load_recipe(write_recipe(values))
    del values["name"]
    with pytest.raises(CareError, match="field 'name' is missing"):
        load_recipe(write_recipe(values))


@pytest.mark.parametrize("content", ["a: [", "\tx"])
def test_what_is_no_yaml_is_one_line(tmp_path, content):
    (tmp_path / "r.yaml").write_text(content)
    with pytest.raises(CareError, match="not YAML") as error:
        load_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(error.value)


def test_the_recipe_at_full_size_runs_with_tiny_networks_of_its_architectures(
    tiny_folders, data_dir, write_recipe, tmp_path
):
    values = yaml.safe_load((RECIPES / "care-0.3b-4b.yaml").read_text(encoding="utf-8"))
    for name in ("triplets", "texts"):
        text = (data_dir / f"{name}.jsonl").read_bytes()
        (data_dir / f"{name}.jsonl.gz").write_bytes(gzip.compress(text))
    values["start"] |= {
        "query_model": str(tiny_folders / "query_encoder"),
        "document_model": str(tiny_folders / "document_encoder"),
    }
    for stage in values["stages"]:
        stage |= {"batch_size": 4, "epochs": 1, "bf16": False}
        if "widths" in stage:
            stage["widths"] = [8, 16, 32]
    model = train(write_recipe(values), data_dir, tmp_path / "run")
    assert {p.name for p in (tmp_path / "run").iterdir()} == {s["name"] for s in values["stages"]}
    assert model.spec("document").pooling == "last"
    assert model.encode_query("头痛").shape == (32,)
