import json

import pytest

from care_accel.curation.steps import no_progress
from care_accel.curation.sts import pairs as sts
from care_accel.curation.sts.attempts import FILE

from ..conftest import SENTENCES


@pytest.fixture
def place(sts_settings, workplace):
    judges = [
        {
            "name": name,
            "base_url": "http://127.0.0.1:1/v1",
            "model": "m",
            "price": {"input": 1.0, "output": 2.0},
        }
        for name in "abc"
    ]
    return workplace(judges, sts={"synonyms": "synonyms.tsv", "sentences": "sentences.jsonl", "size": 6})


class Answers:
    """Stands for `Judge`: rewrites of one kind pass, and it counts its requests."""

    asked = []  # noqa: RUF012

    def __init__(self, config):
        self.config = config

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def complete(self, messages, schema):
        Answers.asked.append(self.config.name)
        if "sentence" not in schema["properties"]:
            return {"reason": "", "grade": 1}
        told = messages[-1]["content"]
        sentence = next(line for line in told.splitlines() if line in SENTENCES)
        # Passes for a rewrite that keeps the term, and for no other.
        return {"sentence": sentence.replace("能不能", "不可以")}


def requests(plan):
    return {(name, does): int(count) for name, does, count, *_ in plan.table[1:]}


def test_a_dry_run_asks_nobody_and_tells_the_fewest_requests_and_the_most(place, monkeypatch):
    monkeypatch.setattr(sts, "Judge", Answers)
    monkeypatch.setattr(Answers, "asked", [])
    plan = sts.run(place.config, no_progress, dry_run=True)
    assert Answers.asked == []
    assert not list(place.output.iterdir())
    assert requests(plan) == {("a", "writes"): 6, ("b", "checks"): 6, ("c", "checks"): 6}
    assert plan.facts["pairs"] == "6 of 6"
    assert plan.facts["rewrites at most"].startswith(f"{3 * len(SENTENCES)},")
    cost = sum(float(row[5]) for row in plan.table[1:])
    assert float(plan.facts["total cost"]) == pytest.approx(cost, abs=0.02)


def test_what_was_paid_for_is_not_counted_again(place, monkeypatch):
    monkeypatch.setattr(sts, "Judge", Answers)
    monkeypatch.setattr(Answers, "asked", [])
    sts.run(place.config, no_progress)
    assert Answers.asked.count("a") > 6
    assert requests(sts.run(place.config, no_progress, dry_run=True)) == {
        ("a", "writes"): 0,
        ("b", "checks"): 0,
        ("c", "checks"): 0,
    }
    # What is lost of the table of attempts is to be paid again.
    file = place.output / FILE
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines if line["why"] is not None))
    assert requests(sts.run(place.config, no_progress, dry_run=True))["a", "writes"] == 6


def test_one_judge_alone_writes_and_checks(sts_settings, workplace):
    place = workplace(
        [{"name": "a", "base_url": "http://127.0.0.1:1/v1", "model": "m"}],
        sts={"synonyms": "synonyms.tsv", "sentences": "sentences.jsonl", "size": 99},
    )
    plan = sts.run(place.config, no_progress, dry_run=True)
    assert requests(plan) == {("a", "writes"): len(SENTENCES), ("a", "checks"): len(SENTENCES)}
    assert plan.facts["pairs"] == f"{len(SENTENCES)} of 99"
