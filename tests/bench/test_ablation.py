"""The ablation of bench/: its runs, their budget and its table; tiny networks train one of them whole."""

import importlib.util
import json
from pathlib import Path

import pytest
import yaml

FILE = Path(__file__).parents[2] / "bench" / "ablation" / "ablation.py"
SECONDS = {"query-initialisation": 10.0, "document-initialisation": 40.0, "alignment": 20.0, "joint": 30.0}


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def recipe():
    return json.loads(json.dumps(yaml.safe_load((FILE.parent / "recipe.yaml").read_text(encoding="utf-8"))))


def test_every_run_of_the_paper_is_there_and_a_recipe_that_can_be_read(ablation, recipe, tmp_path):
    from care_accel.training import load_recipe

    runs = ablation.variants(recipe, SECONDS)
    assert {"full", *runs} == set(ablation.PUBLISHED)
    for name, values in runs.items():
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        stages = load_recipe(tmp_path / "recipe.yaml").stages
        assert values != recipe, name
        assert all(stage.data for stage in stages)


def test_what_a_run_without_a_stage_saves_its_other_stages_spend(ablation, recipe):
    before = {stage["name"]: stage["epochs"] for stage in recipe["stages"]}
    for name, values in ablation.variants(recipe, SECONDS).items():
        spent = sum(SECONDS[s["name"]] * s["epochs"] / before[s["name"]] for s in values["stages"])
        assert spent == pytest.approx(sum(SECONDS.values()), rel=0.02), name


def test_only_the_named_part_is_changed(ablation, recipe):
    changed = ablation.variants(recipe, SECONDS)["without MSE"]
    assert [s for s in changed["stages"] if s not in recipe["stages"]] == [
        next(s for s in recipe["stages"] if s["name"] == "alignment") | {"mse_weight": 0.0}
    ]


def test_the_table_shows_the_change_from_the_full_run_beside_the_paper_s(ablation):
    rows = [
        {"run": run, "scores": {"a": a, "b": b}, "intervals": {"a": [a - 0.03, a + 0.03], "b": [b - 0.04, b + 0.04]}}
        for run, a, b in (("full", 0.5, 0.3), ("without Stage I", 0.4, 0.3))
    ]  # fmt: skip
    lines = ablation.table(rows).splitlines()
    assert lines[2] == "| full | 50.0 ± 3.0 | 30.0 ± 4.0 | 40.0 ± 2.5 |  | 64.38 |"
    assert lines[3] == "| without Stage I | 40.0 ± 3.0 | 30.0 ± 4.0 | 35.0 ± 2.5 | -5.0 | 51.07 (-13.31) |"
