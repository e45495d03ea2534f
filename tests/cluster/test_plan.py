"""Plans: what is read together, and that the same input gives the same plan."""

import gzip
import json
import os
from pathlib import Path

import pytest
from cluster_corpus import document, write_lines, write_parquet
from hypothesis import given
from hypothesis import strategies as st

from care_accel import CareError
from care_accel.cluster.plan import Part, Plan, Reading, make_plan
from care_accel.collection.sources import DocumentReader, read_documents
from care_accel.collection.sources.ranges import open_piece
from care_accel.collection.storage.manifest import Manifest

MANIFEST = Manifest("u", "m", "sha256:0", 4, "normalize-then-slice", "2026-01-01")


def read_parts(plan, reading):
    found = []
    for part in plan.parts:
        sources = [open_piece(piece) for piece in part.pieces]
        found.append(list(DocumentReader(sources, reading.selection(), "utf-8", None).located()))
    return found


@pytest.mark.parametrize("part_tokens", [1, 40, 300, 10**9])
def test_the_parts_together_are_the_sources_in_their_order_and_with_their_places(corpus, part_tokens):
    reading = Reading(fields=("year",))
    parts = read_parts(make_plan(corpus, reading, MANIFEST, part_tokens=part_tokens), reading)
    assert [row for part in parts for row in part] == list(read_documents(corpus, fields=["year"]).located())
    assert (len(parts) > 1) == (part_tokens < 1000)


@given(
    st.lists(
        st.sampled_from(["{}", "", "   ", '{"id": "é"}', '{"id": 1, "text": "' + "x" * 50 + '"}']),
        max_size=30,
    ),
    st.integers(1, 200),
    st.booleans(),
)
def test_every_line_is_in_one_piece_wherever_a_file_is_cut(tmp_path_factory, lines, tokens, ends):
    file = tmp_path_factory.mktemp("cut") / "a.jsonl"
    text = '{"id": 0}\n' + "\n".join(lines) + ("\n" if ends else "")
    file.write_text(text, encoding="utf-8")
    raw = file.read_bytes()
    pieces = [
        piece
        for part in make_plan([file], Reading(), MANIFEST, part_tokens=tokens).parts
        for piece in part.pieces
    ]
    assert b"".join(raw[piece.start : piece.stop] for piece in pieces) == raw
    assert [piece.before for piece in pieces] == [raw[: piece.start].count(b"\n") for piece in pieces]
    assert all(raw[piece.start - 1 : piece.start] in (b"", b"\n") for piece in pieces)


def test_the_same_input_gives_the_same_plan_and_other_input_another(corpus):
    plan = make_plan(corpus, Reading(), MANIFEST, part_tokens=50)
    assert make_plan(corpus, Reading(), MANIFEST, part_tokens=50) == plan
    assert Plan.read(json.loads(json.dumps(plan.write())), Path("plan.json")) == plan
    others = [
        make_plan(corpus[::-1], Reading(), MANIFEST, part_tokens=50),
        make_plan(corpus, Reading(text="title"), MANIFEST, part_tokens=50),
        make_plan(corpus, Reading(), MANIFEST, part_tokens=60),
        make_plan(corpus, Reading(), Manifest(**vars(MANIFEST) | {"chunk_tokens": 8}), part_tokens=50),
        make_plan(corpus, Reading(), Manifest(**vars(MANIFEST) | {"revision": "sha256:1"}), part_tokens=50),
    ]
    os.utime(corpus[0], ns=(0, 0))
    others.append(make_plan(corpus, Reading(), MANIFEST, part_tokens=50))
    assert len({plan.hash, *(other.hash for other in others)}) == 7


def test_a_plan_that_was_changed_by_hand_is_refused(corpus):
    values = make_plan(corpus, Reading(), MANIFEST).write()
    values["settings"]["width"] = 5
    with pytest.raises(CareError, match=r"plan\.json: was changed"):
        Plan.read(values, Path("plan.json"))


def test_parts_are_of_whole_row_groups_and_small_files_share_one(tmp_path):
    rows = [document(number) for number in range(20)]
    files = [write_parquet(tmp_path / "a.parquet", rows, 5)]
    files += [write_lines(tmp_path / f"{n}.jsonl", rows[n : n + 1]) for n in range(3)]
    plan = make_plan(files, Reading(), MANIFEST, part_tokens=1000)
    assert [len(part.pieces) for part in plan.parts] == [4]
    plan = make_plan(files, Reading(), MANIFEST, part_tokens=1)
    assert [part.pieces[0].kind for part in plan.parts] == ["groups"] * 4 + ["lines"] * 3


def test_a_compressed_file_is_one_piece(tmp_path):
    file = tmp_path / "a.jsonl.gz"
    with gzip.open(file, "wt", encoding="utf-8") as stream:
        stream.writelines(json.dumps(document(number)) + "\n" for number in range(9))
    (part,) = make_plan([file], Reading(), MANIFEST, part_tokens=1).parts
    assert len(read_parts(Plan((part,), {}), Reading())[0]) == 9


def test_the_largest_of_few_parts_are_handed_out_first(tmp_path):
    files = [write_lines(tmp_path / f"{n}.jsonl", [document(0)] * n) for n in (1, 5, 3)]
    plan = make_plan(files, Reading(), MANIFEST, part_tokens=1)
    tokens = [part.tokens for part in plan.work_order()]
    assert tokens == sorted(tokens, reverse=True)


@given(st.lists(st.integers(1, 100) | st.just(1000), max_size=200))
def test_of_many_parts_the_order_of_the_plan_is_kept_but_for_large_and_last_ones(sizes):
    """Commits follow the plan: they can go on while parts are handed out in its order."""
    parts = tuple(Part(number, (), tokens) for number, tokens in enumerate(sizes))
    order = Plan(parts, {}).work_order()
    assert sorted(part.number for part in order) == list(range(len(parts)))
    usual = sorted(sizes)[len(sizes) // 2] if sizes else 0
    large = sum(tokens > 2 * usual for tokens in sizes)
    first, last = order[:large], order[large:][-64:]
    between = order[large : len(order) - len(last)]
    assert all(part.tokens > 2 * usual for part in first)
    for some in (first, last):
        assert some == sorted(some, key=lambda part: (-part.tokens, part.number))
    numbers = [part.number for part in between]
    assert numbers == sorted(numbers)
    assert not between or max(numbers) < min(part.number for part in last)


def test_a_source_that_changed_since_is_refused(corpus):
    plan = make_plan(corpus, Reading(), MANIFEST)
    write_lines(corpus[0], [document(1)])
    with pytest.raises(CareError, match=r"a\.jsonl: has changed since the plan was made"):
        read_parts(plan, Reading())


def test_standard_input_is_refused():
    with pytest.raises(CareError, match="cannot be read by several machines"):
        make_plan(["-"], Reading(), MANIFEST)
