"""How approximate indexes were chosen, on the page: what was tried, and the choice."""

import json

import pytest

from care_accel import CareError
from care_accel.index.approximate.choice import Choice, Measured, Tried

CHOICE = Choice(
    name="IVF32,SQ8",
    why="IVF32,SQ8 is the fastest that proves recall 0.95",
    asked=0.95,
    k=10,
    queries="900 given",
    vectors=3000,
    width=16,
    faiss="1.15.1",
    data="0" * 40,
    seed=0,
    value=5,
    candidates=12,
    held_out=Measured(0.97, 0.955, 0.98, 600),
    exact_us=400.0,
    chosen_us=100.0,
    tried=[
        Tried("exact", p50_us=400.0, note="the truth"),
        Tried("HNSW32,Flat", "efSearch 20", Measured(0.96, 0.94, 0.97, 300), 150.0, 4_000_000, 1.5),
        Tried("IVF32,SQ8", "nprobe 5", Measured(0.968, 0.95, 0.98, 300), 99.0, 1_000_000, 0.5),
        Tried("IVF32,PQ", note="does not fit"),
    ],
)


def write(folder, choice):
    folder.mkdir(parents=True)
    values = choice if isinstance(choice, dict) else choice.to_json()
    (folder / "approximate.json").write_text(json.dumps({"format": 1, "choice": values}), encoding="utf-8")


def test_what_was_tried_and_the_choice_are_on_the_page(page, tmp_path):
    write(tmp_path / "saved", CHOICE)
    found = page(tmp_path / "no", tmp_path / "no", indexes=[tmp_path / "saved"])
    rows = found.rows("3,000 vectors of width 16, asked for recall@10 of 0.95", column="recall")
    assert {name: row["recall"][1] for name, row in rows.items()} == {
        "exact": 1,
        "HNSW32,Flat efSearch 20": 0.96,
        "IVF32,SQ8 nprobe 5": 0.968,
        "IVF32,SQ8 5, 12 rescored": 0.97,
    }
    assert rows["IVF32,SQ8 5, 12 rescored"]["ms per query, p50"] == ("0.100", 0.1)
    assert "chosen; recall on 600 queries kept apart" in found.text
    assert "IVF32,SQ8 is the fastest that proves recall 0.95." in found.text
    assert "Left out: IVF32,PQ (does not fit)." in found.text
    assert "900 given" in found.text
    assert "<svg" in found.html


def test_a_collection_is_found_by_its_folder_and_may_be_searched_exactly(page, tmp_path, everything):
    exact = Choice(
        **vars(CHOICE) | {"name": "exact", "held_out": None, "why": "the exact scan takes 3 us"},
    )
    write(tmp_path / "c" / "index" / "approximate", exact)
    found = page(*everything, indexes=[tmp_path / "c"])
    assert "the exact scan takes 3 us." in found.text
    assert "chosen" in found.text
    assert "the truth" not in found.text
    few = Choice(**vars(exact) | {"tried": [], "why": "too few"})
    write(tmp_path / "few", few)
    assert "too few." in page(*everything, indexes=[tmp_path / "few"]).text


def test_a_folder_without_an_approximate_index_or_with_a_damaged_one_is_refused(page, tmp_path, everything):
    with pytest.raises(CareError, match="has no approximate"):
        page(*everything, indexes=[tmp_path])
    write(tmp_path / "damaged", {"tried": [{}]})
    with pytest.raises(CareError, match="damaged"):
        page(*everything, indexes=[tmp_path / "damaged"])
