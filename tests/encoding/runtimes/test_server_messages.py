"""Which model of a server describes its search."""

import json

import pytest

from care_accel import CareError
from care_accel.encoding.runtimes.server_descriptions import read_search, search_describer
from care_accel.encoding.runtimes.transports import Configuration


def config(name, **care):
    return Configuration(name, 4, {"care": json.dumps(care)} if care else {})


def test_a_search_is_described_by_itself_and_an_ensemble_by_its_scan():
    care = {"width": 3, "revision": "sha256:one", "most_k": 7}
    assert search_describer(config("search", **care)) == "search"
    assert search_describer(config("search")) == "scan"
    served = read_search(config("search"), config("scan", **care), "localhost:1")
    assert (served.width, served.revision, served.max_k, served.max_batch_size) == (3, "sha256:one", 7, 4)


def test_a_search_of_somebody_else_is_refused_by_name():
    with pytest.raises(CareError, match=r"localhost:1: the configuration of scan has no parameter 'care'"):
        read_search(config("search"), config("scan"), "localhost:1")
    with pytest.raises(CareError, match="most_k' is missing"):
        read_search(config("search"), config("search", width=3, revision="r"), "localhost:1")
