import json

import pytest

from bench.gpu import hours
from care_accel.collection.estimate import estimate
from care_accel.errors import CareError


def row(name, mix, rate, ours=False, noisy=False, suite="gpu documents"):
    return {
        "suite": suite,
        "name": name,
        "ours": ours,
        "noisy": noisy,
        "rate": rate,
        "limit": {"name": "GPU bfloat16 rate", "share": 0.5},
        "parameters": {"network": "qwen3, 4B", "mix": mix},
    }


RUNS = [
    {"size": "full", "rows": [row("care_accel, packed", "300 tokens", 9.0, ours=True)]},
    {
        "size": "full",
        "rows": [
            row("transformers, padded", "300 tokens", 40_000.0),
            row("float8", "300 tokens", 90_000.0, noisy=True),
            row("care_accel, packed", "300 tokens", 60_000.0, ours=True),
            row("care_accel, packed", "30 to 512 tokens", 50_000.0, ours=True),
            row("other", "300 tokens", 1.0, suite="scan"),
        ],
    },
    {"size": "full", "rows": [row("other", "300 tokens", 1.0, suite="scan")]},
    {"size": "smoke", "rows": [row("care_accel, packed", "300 tokens", 1.0, ours=True)]},
]


def test_hours_are_those_of_the_newest_run_that_measured_documents():
    found = hours.hours_of(RUNS, documents=1e8, tokens_per_document=350, width=768)
    assert [(one.engine, one.mix) for one in found] == [
        ("care_accel, packed", "30 to 512 tokens"),
        ("care_accel, packed", "300 tokens"),
        ("float8", "300 tokens"),
        ("transformers, padded", "300 tokens"),
    ]
    # 35 billion tokens, and 307 GB of vectors at 135 MB/s.
    assert found[1].hours == pytest.approx(35e9 / 60_000 / 3600 + 307.2e9 / 135e6 / 3600)
    by_estimate = estimate(1e8, 768, tokens_per_document=350, model_tokens_per_second=60_000)
    assert found[1].hours == by_estimate.worker_hours


def test_the_table_says_what_was_noisy(tmp_path, capsys):
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"runs": RUNS}))
    assert hours.main([str(file), "--documents", "2e8", "--tokens-per-document", "100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "GPU-hours for 200 million documents of 100 tokens" in lines[0]
    assert [line for line in lines if "(noisy)" in line] == [
        f"| qwen3, 4B | 300 tokens | float8 | 90,000 (noisy) | 50% | {2e10 / 9e4 / 3600 + 614.4e9 / 135e6 / 3600:,.0f} |"
    ]


def test_results_without_documents_are_refused_in_a_line(tmp_path, capsys):
    with pytest.raises(CareError, match="no run measured gpu documents"):
        hours.hours_of(RUNS[2:], documents=1e8, tokens_per_document=350, width=768)
    file = tmp_path / "gpu.json"
    file.write_text(json.dumps({"runs": RUNS[2:]}))
    assert hours.main([str(file)]) == 2
    assert "test_gpu_documents.py" in capsys.readouterr().err


def test_a_file_of_something_else_is_refused_in_a_line(tmp_path, capsys):
    file = tmp_path / "other.json"
    for text in ('{"a": 1}', "[]"):
        file.write_text(text)
        assert hours.main([str(file)]) == 2
        assert f"{file}: " in capsys.readouterr().err
