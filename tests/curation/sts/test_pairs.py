import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from care_accel import CareError
from care_accel.curation.judges.judge import JudgeUnavailable
from care_accel.curation.labels.judging import LOCK, exclusive_lock
from care_accel.curation.steps import no_progress
from care_accel.curation.sts import pairs as sts
from care_accel.curation.sts.pairs import make_sts
from care_accel.curation.sts.sources import KINDS

from ..conftest import SENTENCES

SCHEMA = {"type": "object"}


class Form:
    """A prompt whose message is its texts."""

    schema = SCHEMA

    def __init__(self, version):
        self.version = version

    def messages(self, texts):
        return [{"role": "user", "content": json.dumps({"kind": self.version} | dict(texts))}]


REWRITING = {kind: Form(kind) for kind in KINDS}
CHECKING = Form("check")


class Writer:
    def __init__(self, rewrite=None, fail_after=None):
        self.asked, self.rewrite, self.fail_after = [], rewrite or self.good, fail_after

    @staticmethod
    def good(kind, sentence, term, synonym):
        new = {"synonym": synonym.split("、")[0], "changed": "低血糖症", "other": term}[kind]
        return sentence.replace(term, new).replace("能不能", "不可以" if kind == "other" else "能不能")

    async def complete(self, messages, schema):
        assert schema is SCHEMA
        texts = json.loads(messages[0]["content"])
        await asyncio.sleep(0)
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.append(texts)
        return {"sentence": self.rewrite(**texts)}


class Checker:
    """Grades by the words: a judge that knows which terms are synonyms."""

    def __init__(self, name="judge", harsh=0):
        self.config, self.harsh, self.asked = SimpleNamespace(name=name, model="m"), harsh, 0

    async def complete(self, messages, schema):
        self.asked += 1
        texts = json.loads(messages[0]["content"])
        same = "不可以" not in texts["second"] and "低血糖" not in texts["second"]
        return {"reason": "", "grade": (5 if same else 2) - self.harsh}


def make(sts_settings, output, writer=None, judges=None, **options):
    judges = judges if judges is not None else [Checker("a"), Checker("b", harsh=1)]
    return asyncio.run(
        make_sts(sts_settings, output, writer or Writer(), judges, REWRITING, CHECKING, **options)
    )


def read_pairs(folder):
    return [json.loads(line) for line in (folder / "sts.jsonl").read_text().splitlines()]


def test_kinds_are_as_many_and_scores_are_the_judges_mean_from_0_to_1(sts_settings, tmp_path):
    report = make(sts_settings, tmp_path)
    pairs = read_pairs(tmp_path)
    assert report["kinds"] == dict.fromkeys(KINDS, 3)
    assert len({pair["sentence1"] for pair in pairs}) == 9
    for pair in pairs:
        assert pair["score"] == (0.875 if pair["kind"] == "synonym" else 0.125)
        assert pair["sentence1"] in SENTENCES
    assert (tmp_path / "sts.jsonl").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "sts-work.jsonl").stat().st_mode & 0o777 == 0o600


def test_a_rewrite_that_one_judge_does_not_take_for_its_kind_is_thrown_away_for_another_kind(
    sts_settings, tmp_path
):
    report = make(sts_settings, tmp_path, judges=[Checker("a"), Checker("b", harsh=2)])
    assert set(report["kinds"]) == {"changed", "other"}
    assert report["thrown away"] == {"synonym: judges do not agree that it is one": 3}
    assert report["pairs"] == 9


def test_what_can_be_seen_to_be_no_rewrite_is_not_judged(sts_settings, tmp_path):
    judge = Checker()
    report = make(sts_settings, tmp_path, Writer(lambda kind, sentence, **_: sentence + "。"), [judge])
    assert report["pairs"] == judge.asked == 0
    assert report["sentences tried"] == len(SENTENCES)
    assert report["thrown away"] == {f"{kind}: unchanged": len(SENTENCES) for kind in KINDS}


def test_a_run_that_was_stopped_goes_on_and_asks_nothing_twice_that_was_kept(sts_settings, tmp_path):
    (whole := tmp_path / "whole").mkdir()
    make(sts_settings, whole)
    stopped = Writer(fail_after=4)
    with pytest.raises(KeyboardInterrupt):
        make(sts_settings, tmp_path, stopped)
    kept = (
        (tmp_path / "sts-work.jsonl").read_text().splitlines()
        if (tmp_path / "sts-work.jsonl").exists()
        else []
    )
    with (tmp_path / "sts-work.jsonl").open("a") as stream:
        stream.write('{"key": "half a li')
    writer = Writer()
    make(sts_settings, tmp_path, writer)
    assert read_pairs(tmp_path) == read_pairs(whole)
    assert len(writer.asked) == 9 - len(kept)
    again = Writer()
    make(sts_settings, tmp_path, again)
    assert again.asked == []


def test_an_edited_prompt_is_asked_anew(sts_settings, tmp_path):
    make(sts_settings, tmp_path)
    writer, edited = Writer(), {kind: Form(kind) for kind in KINDS}
    edited["other"].version = "other@2"
    writer.rewrite = lambda kind, **texts: Writer.good(kind.split("@")[0], **texts)
    asyncio.run(
        make_sts(sts_settings, tmp_path, writer, [Checker("a"), Checker("b", harsh=1)], edited, CHECKING)
    )
    assert {texts["kind"] for texts in writer.asked} == {"other@2"}


class Broken(Checker):
    """Answers every other request, or none."""

    def __init__(self, every):
        super().__init__("b")
        self.every = every

    async def complete(self, messages, schema):
        answer = await super().complete(messages, schema)
        if self.asked % self.every == 0:
            raise CareError("judge 'b': HTTP 500")
        return answer


def test_an_answer_that_does_not_come_costs_its_rewrite_and_is_asked_for_again(sts_settings, tmp_path):
    report = make(sts_settings, tmp_path, judges=[Checker("a"), Broken(every=2)])
    assert report["last failure"] == "judge 'b': HTTP 500"
    assert sum(count for why, count in report["thrown away"].items() if "no answer" in why) > 0
    writer = Writer()
    again = make(sts_settings, tmp_path, writer, judges=[Checker("a"), Checker("b")])
    assert again["pairs"] == 9
    assert "no answer" not in str(again["thrown away"])
    assert writer.asked


def test_an_endpoint_that_is_down_is_not_asked_about_every_sentence(sts_settings, tmp_path):
    judge = Broken(every=1)
    with pytest.raises(JudgeUnavailable, match="consecutive requests failed, the last: judge 'b': HTTP 500"):
        make(sts_settings, tmp_path, judges=[judge])
    assert judge.asked < 3 * len(SENTENCES) / 2


def test_an_endpoint_that_refuses_everything_ends_the_run(sts_settings, tmp_path):
    class Closed(Checker):
        async def complete(self, messages, schema):
            raise JudgeUnavailable("judge 'a': wrong key")

    with pytest.raises(JudgeUnavailable):
        make(sts_settings, tmp_path, judges=[Closed("a")])


def test_personal_data_is_gone_before_anybody_is_asked(sts_settings, tmp_path):
    Path(sts_settings.sentences).write_text(json.dumps({"query": "我叫王小明有高血压能不能喝酒？"}) + "\n")
    writer = Writer()
    make(sts_settings, tmp_path, writer, redact=lambda text: text.replace("王小明", "【姓名】"))
    assert writer.asked
    assert all("王小明" not in texts["sentence"] for texts in writer.asked)
    assert "王小明" not in (tmp_path / "sts-work.jsonl").read_text()


def test_pairs_that_nobody_would_check_are_not_made(sts_settings, tmp_path):
    with pytest.raises(CareError, match="no judge"):
        make(sts_settings, tmp_path, judges=[])


class Spoken:
    """Stands for `Judge`: reads the real prompts, writes as the first judge and grades as the others."""

    asked = []  # noqa: RUF012

    def __init__(self, config):
        self.config = config

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass

    async def complete(self, messages, schema):
        told = messages[-1]["content"]
        texts = dict(re.findall(r"<(\S+) \w+>\n(.*?)\n</", told, re.DOTALL))
        Spoken.asked.append((self.config.name, tuple(texts)))
        if "sentence" in schema["properties"]:
            system = messages[0]["content"]
            kind = "other" if "保留指定" in system else "changed" if "字面上相近" in system else "synonym"
            return {"sentence": Writer.good(kind, texts["句子"], texts["术语"], texts["同义词"])}
        same = "不可以" not in texts["句子二"] and "低血糖" not in texts["句子二"]
        return {"reason": "", "grade": 5 if same else 1}


@pytest.mark.parametrize("count", [1, 3])
def test_the_first_judge_writes_and_the_others_check(sts_settings, workplace, monkeypatch, count):
    monkeypatch.setattr(sts, "Judge", Spoken)
    monkeypatch.setattr(Spoken, "asked", [])
    names = ["a", "b", "c"][:count]
    place = workplace(
        judges=[{"name": name, "base_url": "http://127.0.0.1:1/v1", "model": "m"} for name in names],
        sts={"synonyms": "synonyms.tsv", "sentences": "sentences.jsonl", "size": 6},
    )
    summary = sts.run(place.config, no_progress)
    assert summary.facts["pairs"] == "6 of 6"
    assert {pair["score"] for pair in read_pairs(place.output)} == {0.0, 1.0}
    writers = {name for name, texts in Spoken.asked if "术语" in texts}
    checkers = {name for name, texts in Spoken.asked if "句子一" in texts}
    assert writers == {"a"}
    assert checkers == ({"b", "c"} if count == 3 else {"a"})
    with exclusive_lock(place.output / LOCK), pytest.raises(CareError, match="another run"):
        sts.run(place.config, no_progress)
    more = replace(place.config, sts=replace(place.config.sts, size=99))
    assert "too few" in " ".join(sts.run(more, no_progress).warnings)
