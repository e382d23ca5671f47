"""What is in deploy/ holds together, passes the published schemas, and starts; no container engine is needed.

Not run here, because it needs engines that test machines lack: `docker build`, `docker compose up`, `kubectl apply`.
"""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_kit import DEPLOY, ROOT, box, carry_out, instructions, only, settle, why_no_box
from server_kit import picture

from pupila.images import process
from pupila.server import Settings

KUBERNETES = DEPLOY / "kubernetes"
OLDEST = "1.31"
"""The oldest release of Kubernetes that the manifests are checked against: 1.30 was the first with preStop.sleep on."""
STEPS = instructions(DEPLOY / "Dockerfile")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def manifests() -> dict[str, Any]:
    """Return the resources that the kustomization lists, by kind."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    found = [yaml.safe_load((KUBERNETES / name).read_text()) for name in listed]
    return {manifest["kind"]: manifest for manifest in found}


def pod() -> dict[str, Any]:
    return manifests()["Deployment"]["spec"]["template"]


def container() -> dict[str, Any]:
    (found,) = pod()["spec"]["containers"]
    return found


def tool(name: str) -> str:
    """Return where a program is, beside this Python or on the path; without it the test is skipped."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


# The image


def test_dockerfile_passes_hadolint() -> None:
    passes(tool("hadolint"), DEPLOY / "Dockerfile")


def test_dockerfile_copies_only_what_is_sent_to_the_builder() -> None:
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    copied = {name for word, rest in STEPS if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    assert copied == sent
    assert all((ROOT / name).exists() for name in sent)


@pytest.mark.slow
@pytest.mark.skipif(bool(why_no_box()), reason=why_no_box() or "it can")
def test_image_builds_starts_and_drains_as_nobody_on_a_read_only_file_system(tmp_path: Path) -> None:
    built, steps = carry_out(DEPLOY / "Dockerfile", ROOT, tmp_path / "build")
    with box(tmp_path / "image") as image:
        command, check = settle(image, steps, built)
        image.freeze()
        server = image.start(command)
        try:
            limit = time.monotonic() + 120
            while image.run(check).returncode != 0:
                assert server.poll() is None, server.communicate()[0]
                assert time.monotonic() < limit
                time.sleep(0.5)
            assert image.run(["id", "-u"]).stdout == "10001\n"
            assert image.run(["touch", "/opt/pupila/x"]).returncode != 0
            assert "Read-only" in image.run(["touch", "/x"]).stdout
            ask = (
                "import sys; from pupila.client import Client; "
                "print(Client('http://127.0.0.1:3000').predict(bytes.fromhex(sys.argv[1])).category)"
            )
            answer = image.run(["python", "-c", ask, picture("red", "JPEG").hex()])
            assert answer.returncode == 0, answer.stdout
            assert answer.stdout.strip().isalpha()
        finally:
            server.send_signal(signal.SIGTERM)
        log, _ = server.communicate(timeout=60)
        assert server.returncode == 0, log
        assert image.run(check).returncode != 0, "a health check that cannot fail"


# Compose


def test_compose_file_passes_the_compose_specification() -> None:
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_compose_mounts_files_that_exist() -> None:
    mounts = [v for service in COMPOSE["services"].values() for v in service.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) == 4
    assert [name for name in files if not (DEPLOY / name).is_file()] == []
    build = COMPOSE["services"]["pupila"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")


def test_prometheus_and_grafana_ask_the_addresses_that_compose_gives() -> None:
    passes(tool("promtool"), "check", "config", DEPLOY / "prometheus" / "prometheus.yml")
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = prometheus["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"pupila:{only(STEPS, 'EXPOSE')}"]}]
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana" / "dashboards.yaml").read_text())["providers"]
    assert any(f":{provider['options']['path']}/" in v for v in COMPOSE["services"]["grafana"]["volumes"])


def test_dashboard_asks_the_data_source_that_is_provisioned() -> None:
    dashboard = (DEPLOY / "grafana-dashboard.json").read_text()
    (source,) = yaml.safe_load((DEPLOY / "grafana" / "datasource.yaml").read_text())["datasources"]
    named = set(re.findall(r'"type": "(\w+)",\s*"uid": "([^"]+)"', dashboard))
    assert {(kind, uid) for kind, uid in named if not uid.startswith("$")} <= {(source["type"], source["uid"])}
    assert json.loads(dashboard)["title"] == "Pupila"


def test_everything_waits_longer_than_the_server_drains() -> None:
    drain = Settings().graceful_timeout
    assert float(container()["args"][container()["args"].index("--graceful-timeout") + 1]) == drain
    pause = container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["spec"]["terminationGracePeriodSeconds"] >= pause + drain + 5
    assert float(COMPOSE["services"]["pupila"]["stop_grace_period"].removesuffix("s")) >= drain + 5
    unit = (DEPLOY / "pupila.service").read_text()
    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) >= drain + 5


# Kubernetes


@pytest.mark.parametrize(
    "name", sorted(path.name for path in KUBERNETES.glob("*.yaml") if path.stem != "kustomization")
)
def test_manifest_passes_the_schemas_of_kubernetes(name: str) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    manifest = yaml.safe_load((KUBERNETES / name).read_text())
    for version in (OLDEST, validate.latest_version()):
        validate.validate(manifest, version, strict=True)


def test_memory_limits_leave_room_for_the_worst_of_all_workers() -> None:
    """A server starts a worker for each core that it is given: so each limit of memory stands beside one of cores."""
    settings, worker = Settings(), (132 + 192 + 100 + 60 + 40) * 2**20  # docs/guides/deploy.md
    bodies, unread, unpacked = settings.max_buffered_bytes, settings.max_buffered_bytes, 2 * 2 * settings.max_body_bytes
    most = worker + bodies + unread + unpacked + process.MEMORY
    unit = dict(re.findall(r"^(MemoryMax|CPUQuota)=(\d+)[G%]$", (DEPLOY / "pupila.service").read_text(), re.MULTILINE))
    service, pod = COMPOSE["services"]["pupila"], container()["resources"]["limits"]
    limits = {
        "unit": (int(unit["CPUQuota"]) // 100, int(unit["MemoryMax"])),
        "compose": (service["cpus"], int(service["mem_limit"].removesuffix("g"))),
        "pod": (int(pod["cpu"]), int(pod["memory"].removesuffix("Gi"))),
    }
    assert all(cores * most < gibibytes * 2**30 for cores, gibibytes in limits.values()), limits


def test_schemas_of_kubernetes_refuse_a_misspelt_probe() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    deployment = manifests()["Deployment"]
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["readynessProbe"] = container.pop("readinessProbe")
    with pytest.raises(validate.ValidationError, match="readynessProbe"):
        validate.validate(deployment, OLDEST, strict=True)


def test_kustomization_lists_every_manifest_and_changes_the_image_that_is_there() -> None:
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"}
    assert set(kustomization["resources"]) == there
    assert [image["name"] for image in kustomization["images"]] == [container()["image"]]
    assert manifests()["Namespace"]["metadata"]["name"] == kustomization["namespace"]


def test_every_selector_finds_the_pods() -> None:
    labels = pod()["metadata"]["labels"]
    found = manifests()
    spread = pod()["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]
    selectors = [
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        spread,
    ]
    assert [selector for selector in selectors if not selector or not selector.items() <= labels.items()] == []
    target = found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", found["Deployment"]["metadata"]["name"])


def test_ports_agree_from_the_image_to_the_service() -> None:
    port = int(only(STEPS, "EXPOSE"))
    assert port == Settings().port
    (opened,) = container()["ports"]
    assert opened["containerPort"] == port
    assert container()["args"][container()["args"].index("--port") + 1] == str(port)
    assert manifests()["Service"]["spec"]["ports"][0]["targetPort"] == opened["name"]
    assert manifests()["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == opened["name"]
    probes = [container()[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert {probe["port"] for probe in probes} == {opened["name"]}
    assert [probe["path"] for probe in probes] == ["/readyz", "/readyz", "/healthz"]
    assert f"127.0.0.1:{port}:{port}" in COMPOSE["services"]["pupila"]["ports"]
    assert f"'127.0.0.1', {port}" in only(STEPS, "HEALTHCHECK")


def test_pod_runs_as_the_images_user_without_any_right_more() -> None:
    user = int(only(STEPS, "USER").split(":")[0])
    assert user != 0
    whole, own = pod()["spec"]["securityContext"], container()["securityContext"]
    assert (whole["runAsUser"], whole["runAsNonRoot"]) == (user, True)
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert own == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["spec"]["automountServiceAccountToken"] is False
    assert container()["resources"]["requests"]["cpu"] == container()["resources"]["limits"]["cpu"]
    assert manifests()["Deployment"]["spec"].get("replicas") is None, "the autoscaler's"


# Who may do what


def test_every_image_is_pinned_by_a_whole_version() -> None:
    images = [service["image"] for service in COMPOSE["services"].values() if "build" not in service]
    (python,) = (rest.partition("=")[2] for word, rest in STEPS if word == "ARG" and rest.startswith("PYTHON="))
    kustomization = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())
    tags = [image.partition(":")[2] for image in images] + [python, kustomization["images"][0]["newTag"]]
    assert len(tags) == 4
    assert [tag for tag in tags if not re.match(r"v?\d+\.\d+\.\d+(-[\w-]+)?(@sha256:[0-9a-f]{64})?$", tag)] == []


def test_grafana_has_no_password_that_somebody_could_know() -> None:
    environment = COMPOSE["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    published = [port for service in COMPOSE["services"].values() for port in service["ports"]]
    assert [port for port in published if not port.startswith("127.0.0.1:")] == []


def test_pods_take_requests_from_named_namespaces_and_have_their_keys_from_a_secret() -> None:
    (rule,) = manifests()["NetworkPolicy"]["spec"]["ingress"]
    for source in rule["from"]:
        (expression,) = source["namespaceSelector"]["matchExpressions"]
        assert (expression["key"], expression["operator"]) == ("kubernetes.io/metadata.name", "In")
    assert manifests()["NetworkPolicy"]["spec"]["egress"] == []
    keys = Path(container()["args"][container()["args"].index("--api-keys") + 1])
    (mount,) = (one for one in container()["volumeMounts"] if one["mountPath"] == str(keys.parent))
    (volume,) = (one for one in pod()["spec"]["volumes"] if one["name"] == mount["name"])
    secret = volume["secret"]["secretName"]
    note = (KUBERNETES / "kustomization.yaml").read_text()
    assert f"create secret generic {secret} --from-file={keys.name}" in note


# Capacity


def test_capacity_page_shows_what_its_command_prints() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "cluster" / "capacity.py"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    page = (ROOT / "docs" / "capacity.md").read_text()
    assert page.partition("compares -->\n")[2].partition("<!-- end")[0] == printed


# systemd


def test_systemd_unit_passes_systemd_analyze(tmp_path: Path) -> None:
    analyze = tool("systemd-analyze")
    unit = tmp_path / "pupila.service"
    text = (DEPLOY / "pupila.service").read_text()
    assert "ExecStart=/opt/pupila/bin/pupila serve " in text
    unit.write_text(text.replace("/opt/pupila/bin/pupila", "/usr/bin/env"))  # it checks that the program is there
    passes(analyze, "verify", "--man=no", unit)
    passes(analyze, "security", "--offline=true", "--threshold=20", unit)


def test_server_runs_without_memory_that_is_writable_and_executable() -> None:
    """The unit says MemoryDenyWriteExecute: what Python, NumPy and ONNX Runtime do must get along with it."""
    # PR_SET_MDWE of linux/prctl.h; the flag outlives exec.
    code = (
        "import ctypes, os, sys, subprocess; libc = ctypes.CDLL(None, use_errno=True)\n"
        "if libc.prctl(65, 1, 0, 0, 0): sys.exit(77)\n"
        "os.execv(sys.executable, [sys.executable, '-c', '''\n"
        "from pupila.models import bundled_model; from pupila.predictor import Predictor; import numpy as np\n"
        "from pupila.server.process.libc import give_memory_back; give_memory_back()\n"
        "predictor = Predictor.load(bundled_model())\n"
        "import mmap\n"
        "try: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)\n"
        "except OSError: print('denied')\n"
        "'''])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    if done.returncode == 77:
        pytest.skip("this kernel does not know PR_SET_MDWE")
    assert (done.returncode, done.stdout) == (0, "denied\n"), done.stderr
