"""deploy/istio: resources as their types have them, with the time-outs of long streams."""

from typing import Any

import pytest
from support.deployment import one, rendered, seconds, settings_of, walk

from dragoman.v1 import run_service_pb2

OVERLAY = "istio"
SERVICE = "dragoman-mesh"
NAME = f"{SERVICE}.dragoman.svc.cluster.local"
PORT = 50051


def mesh() -> list[dict[str, Any]]:
    return [each for each in rendered(OVERLAY) if ".istio.io/" in each["apiVersion"]]


def test_resources_are_of_their_types() -> None:
    from cloudcoil.models.istio.networking import v1 as networking
    from cloudcoil.models.istio.security import v1 as security

    types: dict[str, Any] = {
        "VirtualService": networking.VirtualService,
        "DestinationRule": networking.DestinationRule,
        "PeerAuthentication": security.PeerAuthentication,
        "AuthorizationPolicy": security.AuthorizationPolicy,
    }
    assert sorted(each["kind"] for each in mesh()) == sorted(types)
    for manifest in mesh():
        read = types[manifest["kind"]].model_validate(manifest)
        # What a type does not know it drops: nothing may be missing.
        assert _plain(read.model_dump(by_alias=True, exclude_unset=True, mode="json")) == _plain(manifest)


def _plain(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: manifest[key] for key in ("apiVersion", "kind", "spec")}


def test_hosts_and_selectors_name_what_is_there() -> None:
    service = one(rendered(OVERLAY), "Service", SERVICE)
    # A sidecar balances what has an address, and knows gRPC by the port.
    assert "clusterIP" not in service["spec"]
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (PORT, "grpc")
    labels = one(rendered(OVERLAY), "Deployment")["spec"]["template"]["metadata"]["labels"]
    for manifest in mesh():
        for key, value in walk(manifest["spec"]):
            if key == "host":
                assert value == NAME
            if key == "matchLabels":
                assert value.items() <= labels.items()
    assert NAME in one(rendered(OVERLAY), "VirtualService")["spec"]["hosts"]


def test_routes_let_streams_last() -> None:
    routes = one(rendered(OVERLAY), "VirtualService")["spec"]["http"]
    assert all(route["timeout"] == "0s" for route in routes)
    services = run_service_pb2.DESCRIPTOR.package
    assert routes[0]["match"] == [{"uri": {"prefix": f"/{services}."}}]
    # Everything else (a request that was reset, a gateway's error) may have begun a run.
    retried = set(routes[0]["retries"]["retryOn"].split(","))
    assert retried == {"connect-failure", "refused-stream", "unavailable"}


def test_limits_are_the_servers_own() -> None:
    policy = one(rendered(OVERLAY), "DestinationRule")["spec"]["trafficPolicy"]
    settings = settings_of("")
    assert policy["connectionPool"]["http"]["http2MaxRequests"] > settings.max_runs + settings.max_streams
    assert policy["loadBalancer"] == {"simple": "LEAST_REQUEST"}
    # A sidecar's own limit of silence.
    assert settings.heartbeat_interval * 3 < seconds("300s")


def test_only_the_mesh_comes_in() -> None:
    assert one(rendered(OVERLAY), "PeerAuthentication")["spec"]["mtls"] == {"mode": "STRICT"}
    (rule,) = one(rendered(OVERLAY), "AuthorizationPolicy")["spec"]["rules"]
    assert all("/ns/" in each for each in rule["from"][0]["source"]["principals"])
    assert rule["to"][0]["operation"]["ports"] == [str(PORT)]


@pytest.mark.parametrize("port", ["15012"])
def test_sidecars_reach_their_control_plane(port: str) -> None:
    rules = one(rendered(OVERLAY), "NetworkPolicy")["spec"]["egress"]
    assert any(str(each["port"]) == port for rule in rules for each in rule["ports"])
    assert one(rendered(OVERLAY), "Namespace")["metadata"]["labels"]["istio-injection"] == "enabled"
    metrics = settings_of(
        next(each["data"]["dragoman.toml"] for each in rendered(OVERLAY) if each["kind"] == "ConfigMap")
    ).metrics_port
    annotations = one(rendered(OVERLAY), "Deployment")["spec"]["template"]["metadata"]["annotations"]
    assert annotations["traffic.sidecar.istio.io/excludeInboundPorts"] == str(metrics)
