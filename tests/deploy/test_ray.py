"""The files of deploy/ray: their commands, images and releases. Ray's own checks are in tests/cluster."""

import argparse
import shlex
from pathlib import Path

import pytest
import yaml

from care_accel.cluster import command
from care_accel.version import __version__

RAY = Path(__file__).parents[2] / "deploy" / "ray"


def read(name):
    return list(yaml.safe_load_all((RAY / name).read_text(encoding="utf-8")))


def pods():
    cluster = read("rayjob.yaml")[0]["spec"]["rayClusterSpec"]
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_the_job_s_command_is_understood():
    words = shlex.split(read("rayjob.yaml")[0]["spec"]["entrypoint"])
    assert words[:2] == ["care-accel", "index"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    command.add_arguments(parser)
    given = parser.parse_args(words[2:])
    assert (given.cluster, given.collection) == ("auto", "/data/articles")


def test_images_and_packages_are_of_this_release():
    assert [pod["containers"][0]["image"].rpartition(":")[2] for pod in pods()] == [__version__] * 2
    assert f"care-accel[cluster]=={__version__}" in read("cluster.yaml")[0]["setup_commands"][-1]
    assert f"care-accel-ray:{__version__}" in (RAY / "Dockerfile").read_text(encoding="utf-8")


@pytest.mark.parametrize("number", [0, 1])
def test_pods_are_narrow_and_their_volumes_are_there(number):
    pod = pods()[number]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_the_policy_is_of_the_pods_that_kuberay_marks():
    job, policy = read("rayjob.yaml")
    assert policy["metadata"]["namespace"] == job["metadata"]["namespace"]
    assert policy["spec"]["podSelector"]["matchExpressions"][0]["key"] == "ray.io/is-ray-node"
