import xml.etree.ElementTree as ElementTree

import pytest

from bench.harness import front
from care_accel.errors import CareError
from care_accel.report.results.benchmarks import read_machines

from .test_readme import machine, row

CARD = "The query encoder keeps 98.6,\n97.5 and 98.1 % of its twin's nDCG on the sets.\n| retrieval/cmedir | 80.1 (78.4) |\n"


def scan(vectors, ratio, ms, share, suite="scan", peer="NumPy", **fields):
    parameters = {"kind": "gaussian", "vectors": vectors, "queries": 1}
    common = {"suite": suite, "parameters": parameters, "ratios": [1.0, 1.0, 1.0]}
    limit = {"name": "read bandwidth", "share": share}
    other = {**common, "ratios": [ratio] * 3}
    return [
        row("care_accel", 1.0, ms, **common, limit=limit, **fields),
        row(peer, ratio, ratio * ms, **other),
    ]


def results():
    slow, fast = machine(scan(100_000, 4.5, 1.7, 1.0)), machine(scan(100_000, 6.5, 1.2, 1.0))
    gpu = machine(scan(10_000_000, 2.0, 2.6, 0.964, "cuda scan", "torch float16"), gpu="H100")
    return [fast, slow, gpu]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_figures_are_the_smallest_that_were_measured(language):
    accuracy, speed, share = front.figures(language, results(), CARD).splitlines()
    assert "97 %" in accuracy
    assert "**4.5 " in speed
    assert "1.7" in speed
    assert "NumPy" in speed
    assert "2026-01-02" in speed
    assert "**96 %" in share
    assert "H100" in share


def test_a_noisy_row_is_no_figure():
    noisy = [machine(scan(100_000, 4.5, 1.7, 1.0, noisy=True)), *results()[2:]]
    with pytest.raises(CareError, match="no machine has a quotable row of scan"):
        front.figures("en", noisy, CARD)


def test_a_card_that_says_nothing_of_the_twin_is_refused():
    with pytest.raises(CareError, match="does not say how much"):
        front.figures("en", results(), "a card")


def machines(tmp_path, *runs):
    import json

    (tmp_path / "m.json").write_text(json.dumps(machine(*runs)))
    return read_machines(tmp_path)


def tradeoff(score, ms, name="care_accel", **fields):
    quality = {"metric": "nDCG@10", "task": "retrieval/cmedir", "score": score, "queries": 9}
    parameters = {"documents": 29_037, "queries": 1, "family": fields.pop("family", "asymmetric")}
    return row(name, ms, ms, suite="tradeoff", parameters=parameters, quality=quality, **fields)


def test_the_picture_shows_every_configuration_and_where_it_is_from(tmp_path):
    rows = [tradeoff(0.801, 1.0), tradeoff(0.811, 4.0, "twin & more", family="symmetric")]
    picture = front.picture(machines(tmp_path, rows), CARD)
    texts = [one.text for one in ElementTree.fromstring(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert {"care_accel", "twin & more"} <= set(texts)
    assert texts[-1] == "retrieval/cmedir, 29,037 documents; 2 cores of an EPYC, 2026-01-02"
    assert "http" not in picture.replace("http://www.w3.org/2000/svg", "")


def test_the_picture_says_that_the_model_is_an_earlier_one(tmp_path):
    picture = front.picture(machines(tmp_path, [tradeoff(0.7088, 1.0)]), CARD)
    assert "An earlier care-mini was measured, with 70.9 percent; the one in the package has 80.1." in picture


def test_a_run_that_was_disturbed_is_no_picture(tmp_path):
    with pytest.raises(CareError, match="no quiet run"):
        front.picture(machines(tmp_path, [tradeoff(0.801, 1.0, noisy=True)]), CARD)
