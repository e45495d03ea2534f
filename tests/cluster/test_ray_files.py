"""The files of deploy/ray, read by Ray's own checks."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ray = pytest.importorskip("ray", reason="needs the extra cluster: make cluster")
FOLDER = Path(__file__).parents[2] / "deploy" / "ray"


def check(file):
    command = [sys.executable, str(FOLDER / "check.py"), str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_ray_takes_the_cluster_file(tmp_path):
    done = check(FOLDER / "cluster.yaml")
    assert done.returncode == 0, done.stderr
    text = (FOLDER / "cluster.yaml").read_text(encoding="utf-8")
    (tmp_path / "wrong.yaml").write_text(text + "no_such_key: 1\n", encoding="utf-8")
    done = check(tmp_path / "wrong.yaml")
    assert done.returncode == 1
    assert "no_such_key" in done.stderr.splitlines()[-1]


def test_the_commands_of_the_cluster_file_have_options_that_ray_knows():
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in (*parameter.opts, *parameter.secondary_opts)}
    config = yaml.safe_load((FOLDER / "cluster.yaml").read_text(encoding="utf-8"))
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    given = [
        word.partition("=")[0]
        for command in commands
        for word in command.partition("ray start")[2].split()
        if word.startswith("--")
    ]
    assert len(given) >= 5
    assert set(given) <= known


def test_the_release_is_the_one_that_is_tested():
    release = f"ray=={ray.__version__}"
    constraints = (FOLDER.parents[1] / "constraints.txt").read_text(encoding="utf-8")
    assert release in constraints.splitlines()
    assert f"'{release}'" in (FOLDER / "cluster.yaml").read_text(encoding="utf-8")
    assert f"rayproject/ray:{ray.__version__}-py311" in (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    job = next(yaml.safe_load_all((FOLDER / "rayjob.yaml").read_text(encoding="utf-8")))
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == ray.__version__
