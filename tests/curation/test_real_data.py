"""Three judges of known error rates over real labels: what the pipeline says equals what the answers say."""

import json
import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import yaml
from sklearn.metrics import cohen_kappa_score, precision_score, recall_score
from statsmodels.stats.inter_rater import fleiss_kappa

from care_accel.curation.data import read_data, write_rows
from care_accel.curation.labels import agreement, judging, vote
from care_accel.curation.labels.candidates import FILE as CANDIDATES
from care_accel.curation.labels.candidates import Pool
from care_accel.curation.loading import load_config
from care_accel.curation.steps import no_progress
from care_accel.curation.texts.redact import redact

# Absolute: a configuration reads its paths from its own folder.
SET = Path(os.environ.get("CARE_DATA", "nowhere")).resolve() / "retrieval" / "cmedir"
# How often a positive pair is missed, and how often a negative one is found positive.
RATES = {"a": (0.10, 0.20), "b": (0.15, 0.10), "c": (0.05, 0.30)}
QUERIES = int(os.environ.get("CARE_CURATE_QUERIES", "120"))


@pytest.mark.skipif(not SET.is_dir(), reason="CARE_DATA holds no retrieval/cmedir")
def test_unanimous_voting_and_one_judge_are_measured_as_the_answers_say(tmp_path, serve):
    values = {"output": "work", "data": str(SET), "split": "dev"}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(values))
    data = read_data(load_config(file))
    labels = dict(list(data.labels.items())[:QUERIES])
    # Two documents of a query may have one text and two grades: a judge sees texts.
    truth = defaultdict(int)
    for query, row in labels.items():
        for document, grade in row.items():
            key = f"{redact(data.queries[query])}\n{redact(data.documents[document])}"
            truth[key] = max(truth[key], grade)
    judges = {name: {"miss": miss, "false_alarm": alarm} for name, (miss, alarm) in RATES.items()}
    server = serve(truth=truth, judges=judges)
    values["judges"] = [
        {"name": name, "base_url": server.url, "model": name, "at_once": 16} for name in RATES
    ]
    file.write_text(yaml.safe_dump(values))
    config = load_config(file)
    write_rows(
        config.output_file(CANDIDATES), [vars(Pool(query, list(row))) for query, row in labels.items()]
    )
    assert not judging.run(config, no_progress).failed
    vote.run(config, no_progress)
    agreement.run(config, no_progress)
    said = json.loads((tmp_path / "work" / vote.LABEL_METRICS).read_text())["figures"]
    agreed = json.loads((tmp_path / "work" / agreement.FILE).read_text())["figures"]
    if print_to := os.environ.get("CARE_CURATE_PRINT"):
        Path(print_to).write_text(json.dumps([said, agreed], indent=1))

    # From the server's own account of what it answered.
    pairs = [(query, document) for query, row in labels.items() for document in row]
    given = {(row["judge"], row["query"], row["document"]): row["grade"] for row in server.events("answered")}
    grades = np.array(
        [[given[j, redact(data.queries[q]), redact(data.documents[d])] for j in RATES] for q, d in pairs]
    )
    positive = np.array([labels[query][document] > 0 for query, document in pairs])
    found = {name: grades[:, i] >= 4 for i, name in enumerate(RATES)} | {vote.VOTE: (grades >= 4).all(axis=1)}
    for name, one in found.items():
        assert said[name]["pairs"] == len(pairs)
        assert said[name]["precision"] == pytest.approx(precision_score(positive, one))
        assert said[name]["recall"] == pytest.approx(recall_score(positive, one))
        assert said[name]["kappa"] == pytest.approx(cohen_kappa_score(positive, one))
    table = np.stack([(grades == grade).sum(axis=1) for grade in range(1, 6)], axis=1)
    by_name = {(one["name"], one["of"], *one["judges"]): one["value"] for one in agreed}
    assert by_name["Fleiss' kappa", "grades", *RATES] == pytest.approx(fleiss_kappa(table))
    binary = np.stack([(grades < 4).sum(axis=1), (grades >= 4).sum(axis=1)], axis=1)
    assert by_name["Fleiss' kappa", "labels", *RATES] == pytest.approx(fleiss_kappa(binary))
    assert by_name["Cohen's kappa", "labels", "a", "b"] == pytest.approx(
        cohen_kappa_score(found["a"], found["b"])
    )

    # The paper's reason to vote: what three agree on is right more often, and less of it is found.
    assert said[vote.VOTE]["precision"] > max(said[name]["precision"] for name in RATES)
    assert said[vote.VOTE]["recall"] < min(said[name]["recall"] for name in RATES)
