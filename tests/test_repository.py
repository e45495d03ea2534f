"""The repository's own files: workflows, hooks and templates, the changelog, the version, links between documents."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet
from setuptools.config.pyprojecttoml import read_configuration

import care_accel

ROOT = Path(__file__).parents[1]
CI = ".github/workflows/ci.yml"
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
CONFIGURATIONS = sorted(
    {*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"}
)
DOCUMENTS = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob(".github/*.md")})


def name(file):
    return str(file.relative_to(ROOT))


def read(file):
    return (ROOT / file).read_text(encoding="utf-8")


def jobs(file):
    return yaml.safe_load(read(file))["jobs"].values()


@pytest.mark.parametrize("file", CONFIGURATIONS, ids=name)
def test_configurations_are_yaml_mappings(file):
    assert isinstance(yaml.safe_load(read(file)), dict)


def test_tests_run_on_every_supported_python():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    classified = [one.rsplit(" ", 1)[1] for one in project["classifiers"] if re.search(r":: 3\.\d+$", one)]
    allowed = SpecifierSet(project["requires-python"])  # which cibuildwheel follows
    assert classified == [version for version in (f"3.{minor}" for minor in range(30)) if version in allowed]
    assert [job["strategy"]["matrix"]["python"] for job in jobs(CI) if "strategy" in job] == [classified]


def test_ci_and_the_pull_request_template_call_make_targets_that_exist():
    steps = [step.get("run", "") for job in jobs(CI) for step in job["steps"]]
    called = re.findall(r"^make ([\w-]+)$", "\n".join(steps), re.MULTILINE)
    assert set(called) == {"lint", "test", "clients", "cluster", "stores"}
    called += re.findall(r"`make ([\w-]+)`", read(".github/pull_request_template.md"))
    assert set(called) <= set(re.findall(r"^([a-z][\w-]*):", read("Makefile"), re.MULTILINE))


def test_only_the_publishing_job_may_write():
    for file in WORKFLOWS:
        workflow = yaml.safe_load(read(file))
        assert workflow["permissions"] == {"contents": "read"}, file
        assert "secrets." not in read(file), file
        for job_name, job in workflow["jobs"].items():
            if "permissions" in job:
                assert (file.name, job_name) == ("wheels.yml", "publish")
                assert "startsWith(github.ref, 'refs/tags/v')" in job["if"]


def test_hooks_run_what_make_lint_runs():
    repositories = yaml.safe_load(read(".pre-commit-config.yaml"))["repos"]
    entries = [hook["entry"] for one in repositories if one["repo"] == "local" for hook in one["hooks"]]
    commands = {re.match(r"\.venv/bin/(\w+)( [a-z]+)?", entry).groups() for entry in entries}
    lint = read("Makefile").split("\nlint:", 1)[1].split("\n\n", 1)[0]
    assert commands == {match.groups() for match in re.finditer(r"\$\(BIN\)/(\w+)( [a-z]+)?", lint)}


def test_the_version_is_written_once():
    assert "version" not in tomllib.loads(read("pyproject.toml"))["project"]
    assert read_configuration(ROOT / "pyproject.toml")["project"]["version"] == care_accel.__version__


def test_the_changelog_has_what_is_unreleased_and_the_current_version():
    headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert re.fullmatch(rf"\[{re.escape(care_accel.__version__)}\] - \d{{4}}-\d\d-\d\d", headings[1])
    sections = set(re.findall(r"^### (.*)$", read("CHANGELOG.md"), re.MULTILINE))
    assert sections <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_citation_is_of_the_current_release():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == care_accel.__version__
    assert f"## [{citation['version']}] - {citation['date-released']}" in read("CHANGELOG.md")


@pytest.mark.parametrize("file", DOCUMENTS, ids=name)
def test_relative_links_point_to_files(file):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", read(file), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^()\s]+)\)", text) + re.findall(r"^\[[^]]+\]: (\S+)", text, re.MULTILINE)
    paths = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert [path for path in paths if not (file.parent / path).exists()] == []
