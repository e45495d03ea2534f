import math
import re

import pytest
import samples


def test_where_exact_search_loses_is_said_between_measured_sizes(page, everything):
    found = page(*everything)
    assert "Recall 0.99: exact search loses from between 100,000 and 1,000,000 vectors on" in found.text
    case = "width 768, queries 1, k 10, threads 2"
    rows = found.rows(f"Where exact search loses at recall 0.99 ({case})", column="exact search loses from")
    column = "exact search loses from"
    assert rows["faiss HNSW"][column] == rows["the fastest of them"][column]
    text, about = rows["faiss HNSW"][column]
    assert text == "about 190k"
    assert 100_000 < about < 1_000_000
    assert "interpolated between 100,000 and 1,000,000" in found.html
    # Between 3.08 and 0.88 times ours, on a line between logarithms.
    share = math.log(3.08) / math.log(3.08 / 0.88)
    assert rows["faiss IVF"][column] == ("about 790k", pytest.approx(1e5 * 10**share, rel=1e-3))


def test_noise_and_what_was_not_reached_is_said_where_exact_search_loses(page, tmp_path):
    rows = [
        row | {"noisy": row["parameters"]["vectors"] == 10_000 and not row["ours"]}
        for row in samples.approximate_rows()
        if (row.get("recall"), row["parameters"]["vectors"]) != (0.9991, 1_000_000)
    ]
    samples.write_machine(tmp_path, samples.machine(), samples.run(rows))
    found = page(tmp_path, tmp_path)
    title = "Where exact search loses at recall 0.999 (width 768, queries 1, k 10, threads 2)"
    line = found.rows(title, column="exact search loses from")["faiss IVF"]
    assert line["exact search loses from"] == ("not reached", None)
    assert line[""][0] == "noisy at 10,000: do not quote; no row at 1,000,000"
    text = found.text
    assert "(about 190k, interpolated). At 10,000 vectors the fastest row is noisy: do not quote it." in text
    assert re.search(
        r"Recall 0.999: exact search does not lose up to 100,000 vectors, .*"
        "At 1,000,000 vectors no approximate row reaches it",
        text,
    )
