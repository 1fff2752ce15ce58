"""The manifests of deploy/kubernetes, as kubectl renders them: valid, consistent, and in keeping with what the server does."""

from typing import Any

import kubernetes_validate
import pytest
import yaml
from support.deployment import DEPLOY, OVERLAYS, one, parse, rendered, settings_of, time_to_stop, walk

from dragoman.telemetry.metrics import Metrics
from dragoman.transport.health import HealthServicer

EXAMPLE = "kubernetes/overlays/example"
PLAIN = ("kubernetes/base", "istio")
SECRETS = tuple(yaml.safe_load_all((DEPLOY / "kubernetes/secrets.example.yaml").read_text()))
MADE_ELSEWHERE = {"dragoman-tls"}
"""By cert-manager, or whoever makes certificates."""


def pod(overlay: str) -> Any:
    return one(rendered(overlay), "Deployment")["spec"]["template"]


def server(overlay: str) -> Any:
    (container,) = pod(overlay)["spec"]["containers"]
    return container


def config(overlay: str) -> str:
    maps = [
        each for each in rendered(overlay) if each["kind"] == "ConfigMap" and "dragoman.toml" in each["data"]
    ]
    assert len(maps) == 1
    text: str = maps[0]["data"]["dragoman.toml"]
    return text


def environment(overlay: str, container: Any) -> dict[str, str]:
    """The variables of a container that are known here; those of secrets are not."""
    found = {each["name"]: each["value"] for each in container.get("env", [])}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            found |= one(rendered(overlay), "ConfigMap", source["configMapRef"]["name"])["data"]
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_manifests_are_valid(overlay: str) -> None:
    checked = 0
    for manifest in (*rendered(overlay), *SECRETS):
        if ".istio.io/" in manifest["apiVersion"]:
            continue
        kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        checked += 1
    assert checked >= 9


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_everything_lies_in_one_namespace(overlay: str) -> None:
    for manifest in (*rendered(overlay), *SECRETS):
        if manifest["kind"] == "Namespace":
            assert manifest["metadata"]["name"] == "dragoman"
        else:
            assert manifest["metadata"]["namespace"] == "dragoman", manifest["kind"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_selectors_find_the_pods(overlay: str) -> None:
    labels = pod(overlay)["metadata"]["labels"]
    selectors = [
        value for manifest in rendered(overlay) for key, value in walk(manifest) if key == "matchLabels"
    ]
    selectors += [each["spec"]["selector"] for each in rendered(overlay) if each["kind"] == "Service"]
    ours = [selector for selector in selectors if "app.kubernetes.io/name" in selector]
    assert len(ours) >= 6
    for selector in ours:
        assert selector.items() <= labels.items()
    target = one(rendered(overlay), "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    deployment = one(rendered(overlay), "Deployment")
    assert (target["apiVersion"], target["kind"], target["name"]) == (
        deployment["apiVersion"],
        "Deployment",
        deployment["metadata"]["name"],
    )
    assert "replicas" not in deployment["spec"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_is_referred_to_is_there(overlay: str) -> None:
    there = {(each["kind"], each["metadata"]["name"]) for each in (*rendered(overlay), *SECRETS)}
    there |= {("Secret", name) for name in MADE_ELSEWHERE}
    spec = pod(overlay)["spec"]
    assert ("ServiceAccount", spec["serviceAccountName"]) in there
    for volume in spec["volumes"]:
        if "configMap" in volume:
            assert ("ConfigMap", volume["configMap"]["name"]) in there
        if "secret" in volume:
            assert ("Secret", volume["secret"]["secretName"]) in there
    for key, value in walk(spec):
        if key in ("secretRef", "secretKeyRef"):
            assert ("Secret", value["name"]) in there
        if key in ("configMapRef", "configMapKeyRef"):
            assert ("ConfigMap", value["name"]) in there
    volumes = {volume["name"] for volume in spec["volumes"]}
    for container in (*spec["initContainers"], *spec["containers"]):
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        for name, value in environment(overlay, container).items():
            if value.startswith(("/etc/", "/run/")):
                assert any(value == each or value.startswith(f"{each}/") for each in mounts), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_are_those_that_the_server_listens_on(overlay: str) -> None:
    settings = settings_of(config(overlay), environment(overlay, server(overlay)))
    ports = {port["name"]: port["containerPort"] for port in server(overlay)["ports"]}
    assert ports == {"grpc": settings.port, "metrics": settings.metrics_port}
    assert not settings.is_local
    assert settings.auth
    assert settings.metrics_host == settings.host
    annotations = pod(overlay)["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    for service in (each for each in rendered(overlay) if each["kind"] == "Service"):
        for port in service["spec"]["ports"]:
            assert ports[port["targetPort"]] == port["port"]
    policy = one(rendered(overlay), "NetworkPolicy")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == set(ports)


@pytest.mark.parametrize("overlay", PLAIN)
def test_probes_ask_for_what_health_answers(overlay: str) -> None:
    known = HealthServicer(())._services
    asked = {}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = server(overlay)[name]
        assert probe["grpc"]["port"] == settings_of(config(overlay)).port
        asked[name] = probe["grpc"]["service"]
        assert asked[name] in known
    assert asked == {"startupProbe": "liveness", "readinessProbe": "", "livenessProbe": "liveness"}


def test_with_tls_probes_are_commands() -> None:
    assert one(rendered(EXAMPLE), "Deployment")["spec"]["template"]["spec"]["volumes"][0]["name"] == "tls"
    settings = settings_of(config(EXAMPLE), environment(EXAMPLE, server(EXAMPLE)))
    assert settings.tls_cert is not None
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = server(EXAMPLE)[name]
        assert "grpc" not in probe
        program, *arguments = probe["exec"]["command"]
        assert program == "dragoman"
        parse(arguments)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_are_given_the_time_that_they_need_to_stop(overlay: str) -> None:
    settings = settings_of(config(overlay), environment(overlay, server(overlay)))
    pause = server(overlay)["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(overlay)["spec"]["terminationGracePeriodSeconds"] > pause + time_to_stop(settings)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_keep_the_restricted_standard(overlay: str) -> None:
    spec = pod(overlay)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert container["resources"]["limits"].keys() == {"memory"}
        assert not container["image"].endswith(":latest")
        assert ":" in container["image"]
    namespace = one(rendered(overlay), "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not any(
        each["kind"] in ("Role", "RoleBinding", "ClusterRoleBinding") for each in rendered(overlay)
    )


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_commands_are_commands_of_ours(overlay: str) -> None:
    spec = pod(overlay)["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert "command" not in container
        parse(container["args"])
    assert [each["args"] for each in spec["initContainers"]] == [["migrate"]]


def test_the_autoscaler_counts_what_the_server_tells() -> None:
    (metric,) = one(rendered("kubernetes/base"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in {family.name for family in Metrics("1").registry.collect()}
    assert int(metric["pods"]["target"]["averageValue"]) < settings_of(config("kubernetes/base")).max_runs
    adapter = yaml.safe_load((DEPLOY / "kubernetes/adapter.values.yaml").read_text())
    (rule,) = adapter["rules"]["custom"]
    assert rule["seriesQuery"].startswith(f"{name}{{")
    assert rule["name"]["matches"] == f"^{name}$"


def test_callers_find_every_pod() -> None:
    assert one(rendered("kubernetes/base"), "Service")["spec"]["clusterIP"] == "None"


def test_the_secret_is_a_folder_of_settings() -> None:
    settings = {each["metadata"]["name"]: each["stringData"] for each in SECRETS}["dragoman-settings"]
    values = {name.removeprefix("dragoman_"): value for name, value in settings.items()}
    assert settings_of("", {f"DRAGOMAN_{name.upper()}": value for name, value in values.items()}).database_url
    assert all(name.startswith("dragoman_") for name in settings)
