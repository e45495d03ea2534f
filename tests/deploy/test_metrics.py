"""The board and the alerts of deploy/: that they use metrics which the gateway and the served models show."""

import ast
import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import yaml

from care_accel.serving.gateway.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def expressions():
    """Return the expressions of the board and of the alerts."""
    board = json.loads((DEPLOY / "grafana/boards/care.json").read_text(encoding="utf-8"))
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def used_metrics(*prefixes):
    return {
        one
        for expression in expressions()
        for one in re.findall(r"\b(?:care|nv)_\w+", expression)
        if one.startswith(prefixes)
    }


def gateway_metrics():
    """Return what the gateway's page shows, and the labels of each."""
    metrics = Metrics()
    for one in (
        metrics.requests,
        metrics.rejected,
        metrics.texts,
        metrics.tokens,
        metrics.documents,
        metrics.seconds,
    ):
        one.labels(*(["x"] * len(one._labelnames)))
    samples = re.findall(r"^(\w+)(?:\{(.*)\})? ", metrics.exposition().decode(), re.MULTILINE)
    return {sample: set(re.findall(r'(\w+)="', labels)) for sample, labels in samples if sample != "#"}


def model_metrics():
    """Return the names that the served models give to ``Backend.counter`` and ``Backend.gauge``, as they are shown."""
    found = set()
    for file in (ROOT / "care_accel/serving").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and (kind := getattr(node.func, "attr", "")) in ("counter", "gauge")
                and isinstance(node.args[0], ast.Constant)
            ):
                found.add(f"care_{node.args[0].value}{'_total' if kind == 'counter' else ''}")
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_COUNTERS":
                found |= {f"care_{one}_total" for one in ast.literal_eval(node.value)}
    return found


def test_the_board_and_the_alerts_use_metrics_of_the_gateway_that_exist():
    used, known = used_metrics("care_gateway_"), gateway_metrics()
    assert used - set(known) == set()
    # And all of them are on the board, but for what a histogram has besides.
    assert {one for one in known if not one.endswith(("_created", "_count", "_sum"))} - used == set()
    for expression in expressions():
        for metric, chosen in re.findall(r"(care_gateway_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=~?\"", chosen)) <= known[metric]


def test_the_board_and_the_alerts_use_metrics_of_the_models_that_exist():
    used = used_metrics("care_") - used_metrics("care_gateway_")
    assert used == model_metrics()


@pytest.mark.server
def test_a_running_server_shows_every_metric_of_the_board(care_server):
    used = used_metrics("care_", "nv_") - used_metrics("care_gateway_")
    assert len(used) > 15
    end = time.monotonic() + 20
    missing = used
    while missing and time.monotonic() < end:  # a model reports once in a second
        page = urllib.request.urlopen(f"http://{care_server.metrics}/metrics").read().decode()
        missing = used - set(re.findall(r"^# TYPE (\w+) ", page, re.MULTILINE))
    assert missing == set()


def test_the_board_asks_the_source_that_is_provisioned():
    (source,) = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    board = json.loads((DEPLOY / "grafana/boards/care.json").read_text(encoding="utf-8"))
    used = {
        part["datasource"]["uid"]
        for panel in board["panels"]
        for part in (panel, *panel.get("targets", []))
        if "datasource" in part
    }
    assert used == {source["uid"]}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    jobs = {
        one["job_name"]
        for one in yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    }
    assert {job for one in expressions() for job in re.findall(r'job="([^"]+)"', one)} == jobs


def test_every_alert_is_tested_firing_and_silent():
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yml").read_text())["groups"][0]["rules"]
    tests = yaml.safe_load((DEPLOY / "prometheus/alerts.test.yml").read_text())["tests"]
    for fires, one in enumerate(tests):
        assert [(case["alertname"], bool(case["exp_alerts"])) for case in one["alert_rule_test"]] == [
            (rule["alert"], bool(fires)) for rule in alerts
        ]
