import re

import pytest

from care_accel import CareError
from care_accel.curation.config import Sts
from care_accel.curation.sts.sources import Source, find_sources, read_synonyms, rewrite_rejection_reason

from ..conftest import SENTENCES


def test_sentences_are_taken_with_their_longest_term_and_not_too_often(sts_settings):
    sources = find_sources(sts_settings)
    assert {source.term for source in sources} == {"高血压", "糖尿病"}
    assert sorted(source.sentence for source in sources) == sorted(SENTENCES)
    few = find_sources(Sts(sts_settings.synonyms, sts_settings.sentences, a_term=2))
    assert len(few) == 4
    assert find_sources(sts_settings) == sources
    assert find_sources(Sts(sts_settings.synonyms, sts_settings.sentences, seed=1)) != sources


SOURCE = Source("糖尿病患者能喝酒吗", "糖尿病", ("消渴症", "糖尿病症"))


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("synonym", "消渴症患者能喝酒吗", None),
        ("synonym", "糖尿病症患者能喝酒吗", None),
        ("synonym", "高血糖患者能喝酒吗", "without a synonym"),
        ("synonym", "消渴症糖尿病患者能喝酒吗", "with its term"),
        ("changed", "尿崩症患者能喝酒吗", None),
        ("changed", "消渴症患者能喝酒吗", "with a synonym"),
        ("changed", "糖尿病患者能吸烟吗", "with its term"),
        ("other", "糖尿病患者能吸烟吗", None),
        ("other", "尿崩症患者能吸烟吗", "without its term"),
        ("other", "糖尿病患者能喝酒吗？", "unchanged"),
        ("other", "糖尿病", "of another length"),
        ("other", "糖尿病患者能吸烟吗\n好的", "of another length"),
    ],
)
def test_each_kind_of_rewrite_shows_what_it_must(kind, text, why):
    assert rewrite_rejection_reason(kind, SOURCE, text) == why


def test_mistakes_in_the_files_are_named(sts_settings, tmp_path):
    table = tmp_path / "t.tsv"
    table.write_text("高血压\n")
    with pytest.raises(CareError, match=re.escape("t.tsv, line 1: needs a term, a tab and a synonym")):
        read_synonyms(table)
    table.write_text("# 空\n")
    with pytest.raises(CareError, match="contains no term"):
        read_synonyms(table)
    table.write_text("肾结石\t尿路结石\n")
    with pytest.raises(CareError, match="no sentence contains a term"):
        find_sources(Sts(str(table), sts_settings.sentences))
