"""The files of deploy/: that they agree with each other and with the package's command lines, ports, routes and metrics."""

import argparse
import json
import re
import shlex
import shutil
import stat
import subprocess
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from care_accel.cli import _VERBS
from care_accel.serving.gateway.admission import _ANY_HOST_PATHS
from care_accel.serving.gateway.settings import Settings, read_tokens
from care_accel.serving.repository.python_backend import MODELS
from care_accel.serving.tritonserver.program import ADDRESSES
from care_accel.version import __version__

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILES = sorted(DEPLOY.glob("Dockerfile*"))
COMPOSES = sorted(DEPLOY.glob("compose*.yaml"))
MANIFESTS = sorted(DEPLOY.glob("kubernetes/*.yaml"))
SERVER_PORTS, GATEWAY_PORT = {"http": 8000, "grpc": 8001, "metrics": 8002}, 8080


def name(file):
    return str(file.relative_to(DEPLOY))


def compose(file="compose.yaml"):
    """Return a compose file with the defaults of its variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (DEPLOY / file).read_text(encoding="utf-8"))
    assert "${" not in text, "a variable has no default"
    return yaml.safe_load(text)


def manifests():
    return [one for file in MANIFESTS for one in yaml.safe_load_all(file.read_text(encoding="utf-8")) if one]


def pods():
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in manifests()
        if "template" in one.get("spec", {})
    ]


def containers():
    return [container for _, pod in pods() for container in pod.get("initContainers", []) + pod["containers"]]


def steps(file):
    """Return the instructions of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [tuple(line.split(None, 1)) for line in lines if line.strip()]


def commands():
    """Yield where a command is, and its words."""
    for file in DOCKERFILES:
        for word, rest in steps(file):
            if word == "CMD":
                yield name(file), json.loads(rest)
    for file in COMPOSES:
        for service, one in compose(file.name)["services"].items():
            if "command" in one and not str(one.get("image", "")).startswith("prom/"):
                words = one["command"]
                yield f"{file.name} {service}", shlex.split(words) if isinstance(words, str) else words
    for container in containers():
        yield f"kubernetes {container['name']}", container["args"]


COMMANDS = list(commands())


def options(words):
    """Parse the words of ``care-accel VERB ...`` by the verb's own parser."""
    parser = argparse.ArgumentParser(prog=" ".join(words[:2]), exit_on_error=False)
    _VERBS[words[1]][0].add_arguments(parser)
    return parser.parse_args(words[2:])


def of_gateways():
    return [(where, options(words)) for where, words in COMMANDS if words[:2] == ["care-accel", "gateway"]]


@pytest.mark.parametrize(
    "file",
    [*COMPOSES, *MANIFESTS, *DEPLOY.glob("prometheus/*.yml"), *DEPLOY.glob("grafana/**/*.yaml")],
    ids=name,
)
def test_files_are_yaml(file):
    assert all(isinstance(one, dict) for one in yaml.safe_load_all(file.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[where for where, _ in COMMANDS])
def test_commands_are_understood(where, words):
    if words[0] == "care-accel":
        options(words)
    elif words[0] == "tritonserver":
        given = dict(word.split("=", 1) for word in words[1:])
        assert set(given) == {"--model-repository", *(f"--{one}-address" for one in ADDRESSES)}
        assert {given[f"--{one}-address"] for one in ADDRESSES} == {"0.0.0.0"}
    else:
        assert words[0] == "caddy"


def test_every_service_runs_at_least_one_command_that_was_checked():
    assert {words[1] for _, words in COMMANDS if words[0] == "care-accel"} == {"export", "gateway", "index"}
    assert len(of_gateways()) == 4


def test_ports_are_the_defaults_of_the_command_lines():
    serve = options(["care-accel", "serve"])
    assert {one: getattr(serve, f"{one}_port") for one in ADDRESSES} == SERVER_PORTS
    assert options(["care-accel", "gateway"]).port == GATEWAY_PORT
    for where, gateway in of_gateways():
        assert (gateway.port, gateway.server) == (GATEWAY_PORT, [f"server:{SERVER_PORTS['grpc']}"]), where
    exposed = [
        int(port) for word, rest in steps(DEPLOY / "Dockerfile") if word == "EXPOSE" for port in rest.split()
    ]
    assert exposed == list(SERVER_PORTS.values())
    assert f"reverse_proxy gateway:{GATEWAY_PORT} " in (DEPLOY / "Caddyfile").read_text()
    scraped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())["scrape_configs"]
    assert [one["static_configs"][0]["targets"] for one in scraped] == [
        [f"server:{SERVER_PORTS['metrics']}"],
        [f"gateway:{GATEWAY_PORT}"],
    ]
    ports = {
        one["name"]: {port["name"]: port["containerPort"] for port in one.get("ports", [])}
        for one in containers()
    }
    assert ports == {"models": {}, "server": SERVER_PORTS, "gateway": {"http": GATEWAY_PORT}, "index": {}}


def test_probes_ask_for_a_model_and_for_what_any_host_may_ask():
    found = set()
    for file in DOCKERFILES:
        found |= set(
            re.findall(
                r"http://127.0.0.1:(\d+)(/[^'\"]*)",
                " ".join(rest for word, rest in steps(file) if word == "HEALTHCHECK"),
            )
        )
    for service in compose()["services"].values():
        found |= set(
            re.findall(r"http://127.0.0.1:(\d+)(/[^'\"]*)", " ".join(service["healthcheck"].get("test", [])))
        )
    for container in containers():
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                asked = container[probe]["httpGet"]
                found.add((str(ports[asked["port"]]), asked["path"]))
    assert "search" in MODELS
    assert {path for port, path in found if port == "8000"} == {"/v2/models/search/ready"}
    assert {path for port, path in found if port == "8080"} == _ANY_HOST_PATHS
    assert {port for port, _ in found} == {
        "8000",
        "8080",
        "2019",
        "9090",
        "3000",
    }  # Caddy's, Prometheus', Grafana's own


def images(file):
    """Return the images that a Dockerfile begins with."""
    found, stages, arguments = [], set(), {}
    for word, rest in steps(file):
        if word == "ARG":
            argument, _, value = rest.partition("=")
            arguments[f"${{{argument}}}"] = arguments.get(value, value)
        if word == "FROM":
            image, _, stage = rest.partition(" AS ")
            for argument, value in arguments.items():
                image = image.replace(argument, value)
            if image not in stages:
                found.append(image)
            stages.add(stage)
    return found


def test_images_have_a_version():
    found = [image for file in DOCKERFILES for image in images(file)]
    found += [
        one["image"] for file in COMPOSES for one in compose(file.name)["services"].values() if "image" in one
    ]
    found += [f"{one['newName']}:{one['newTag']}" for one in kustomization()["images"]]
    assert len(found) == 13
    for image in found:
        tag = image.rpartition("/")[2].partition(":")[2]
        assert tag, image
        assert "latest" not in tag


def test_nvidias_container_has_the_fixes_of_the_published_vulnerabilities():
    (tag,) = re.findall(
        r"^ARG SERVER=nvcr.io/nvidia/tritonserver:(\S+)-py3$",
        (DEPLOY / "Dockerfile").read_text(),
        re.MULTILINE,
    )
    assert tuple(map(int, tag.split("."))) >= (25, 7)


def kustomization():
    return yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text())


def test_images_are_tagged_with_this_version():
    tags = [one["newTag"] for one in kustomization()["images"]]
    tags += re.findall(r"registry.example.org/\S+:(\S+)", (DEPLOY / "kubernetes/index-job.yaml").read_text())
    tags += re.findall(
        r"CARE_VERSION(?::-|=)([\d.]+)",
        "".join((DEPLOY / one).read_text() for one in ("compose.yaml", ".env.example")),
    )
    assert len(tags) == 7
    assert set(tags) == {__version__}


def test_every_manifest_is_applied_but_the_job():
    assert {*kustomization()["resources"], "kustomization.yaml", "index-job.yaml"} == {
        file.name for file in MANIFESTS
    }


@pytest.mark.parametrize("file", DOCKERFILES, ids=name)
def test_images_end_as_a_user_that_is_not_root(file):
    users = [rest for word, rest in steps(file) if word == "USER"]
    assert users[-1] == "10001:10001"
    assert "HEALTHCHECK" in [word for word, _ in steps(file)]


@pytest.mark.parametrize("file", DOCKERFILES, ids=name)
def test_what_is_copied_is_in_the_context(file):
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines[1] == "*"
    for word, rest in steps(file):
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch(source, one) for one in kept), source


def test_containers_of_compose_have_no_rights_and_limits():
    services = compose()["services"]
    assert set(services) == {"models", "server", "gateway", "caddy", "prometheus", "grafana"}
    for service, one in services.items():
        assert one["read_only"] is True, service
        assert one["cap_drop"] == ["ALL"]
        assert "cap_add" not in one
        assert one["security_opt"] == ["no-new-privileges:true"]
        assert int(one["user"].split(":")[0]) > 0
        assert set(one["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
        assert one["healthcheck"]
    for file in COMPOSES[:]:
        for one in compose(file.name)["services"].values():
            assert not {"privileged", "cap_add", "pid", "ipc", "devices"} & set(one)
            assert one.get("network_mode") in (None, "none")


def test_pods_have_no_rights_and_limits():
    assert [pod for pod, _ in pods()] == ["gateway", "index", "server"]
    for _, pod in pods():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers():
        locked = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == locked
        assert "memory" in container["resources"]["limits"]
        assert {"cpu", "memory"} <= set(container["resources"]["requests"])


def test_only_caddy_and_grafana_are_published_and_on_loopback():
    services = compose()["services"]
    published = {service: one["ports"] for service, one in services.items() if "ports" in one}
    assert set(published) == {"caddy", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    # A network that leads outside has nothing that has to be hidden; ports are published only there.
    networks = compose()["networks"]
    outside = {one for one, settings in networks.items() if not settings.get("internal")}
    assert outside == {"outside"}
    assert {service for service, one in services.items() if outside & set(one.get("networks", []))} == set(
        published
    )


def test_the_gateway_trusts_the_network_of_its_proxy_alone():
    edge = compose()["networks"]["edge"]["ipam"]["config"][0]["subnet"]
    assert {
        service for service, one in compose()["services"].items() if "edge" in one.get("networks", [])
    } == {"caddy", "gateway"}
    for where, gateway in of_gateways():
        if where.startswith("compose"):
            assert gateway.trusted_proxy == [edge]
            assert gateway.allow_host == [
                compose()["services"]["caddy"]["environment"]["CARE_DOMAIN"],
                "gateway",
            ]


def test_gateways_that_others_reach_read_tokens_from_mounted_secrets():
    for file in ("compose.yaml", "compose.collection.yaml"):
        gateway = compose(file)["services"]["gateway"]
        given = options(gateway["command"])
        assert {f"/run/secrets/{one}" for one in gateway["secrets"]} == {
            str(one) for one in (given.token_file, given.write_token_file) if one
        }
        assert given.writable == (given.write_token_file is not None)
    (pod,) = (pod for one, pod in pods() if one == "gateway")
    mounts = [mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]]
    assert str(options(pod["containers"][0]["args"]).token_file.parent) in mounts


def test_a_proxy_takes_bodies_that_the_gateway_takes():
    assert Settings().max_body == 4 * 2**20
    assert "max_size 5MiB" in (DEPLOY / "Caddyfile").read_text()
    assert "client_max_body_size 4m;" in (DEPLOY / "nginx.conf").read_text()  # of nginx, binary


def test_variables_are_in_the_example_with_their_defaults():
    text = "".join(file.read_text() for file in COMPOSES)
    used = set(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    example = re.findall(r"^(\w+)=(.*)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE)
    assert used == set(example)


def test_the_server_s_environment_has_the_pins_of_the_wheel_s_server():
    def pins(file):
        return dict(re.findall(r"^([\w-]+)==(\S+)", (ROOT / file).read_text(), re.MULTILINE))

    wheel = pins("care_accel/serving/tritonserver/requirements.txt")
    own = pins("deploy/constraints-server.txt")
    assert own == {one: version for one, version in wheel.items() if one != "nvidia-pytriton"}
    # The lines that the Dockerfile takes out of constraints.txt; triton is torch's own choice.
    (removed,) = re.findall(
        r"grep -vE '\^\(([\w|]+)\)==' constraints.txt", (DEPLOY / "Dockerfile").read_text()
    )
    assert set(removed.split("|")) == set(own) | {"triton"}
    assert set(own) <= set(pins("constraints.txt"))


def test_secrets_are_made_once_and_are_their_owners_alone(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl")
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)

    def make():
        subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, capture_output=True)
        files = sorted((tmp_path / "secrets").iterdir())
        return {file.name: (stat.S_IMODE(file.stat().st_mode), file.read_text()) for file in files}

    first = make()
    wanted = {
        Path(one["file"]).name for file in COMPOSES for one in compose(file.name).get("secrets", {}).values()
    }
    assert set(first) == wanted
    assert {mode for mode, _ in first.values()} == {0o400}
    assert make() == first
    tokens = read_tokens(tmp_path / "secrets/gateway-tokens")
    metrics = first["metrics-token"][1].strip()
    assert len(tokens) == 2
    assert metrics in tokens
    Settings(
        tokens=tokens, write_tokens=read_tokens(tmp_path / "secrets/write-tokens")
    )  # long enough, and not the same


@pytest.mark.parametrize(
    "program",
    ["hadolint", "docker", "dclint", "caddy", "nginx", "promtool", "kubernetes-validate", "kubectl", "ray"],
)
def test_the_programs_that_read_the_files_accept_them(program):
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}")
    if (
        program == "docker"
        and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip("needs docker's plugin compose")
    done = subprocess.run(
        ["sh", str(DEPLOY / "check.sh"), program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
