"""deploy/compose.yaml: valid, its files made by secrets.sh, its server configured as it says."""

import stat
import subprocess
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from sqlalchemy import make_url
from support.deployment import DEPLOY, ROOT, parse, seconds, settings_of, time_to_stop

TEXT = (DEPLOY / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)  # with merge keys resolved
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = ("migrate", "dragoman")


def environment(service: str) -> dict[str, str]:
    return {name: value for name, value in SERVICES[service]["environment"].items() if value is not None}


def test_it_is_valid() -> None:
    options = compose_spec.PyOptions()
    options.apply_merge = True
    options.from_yaml(TEXT).validate()
    with pytest.raises(ValueError, match="bogus"):
        options.from_yaml(TEXT.replace("    restart:", "    bogus: 1\n    restart:", 1))


def test_images_are_pinned_and_what_is_named_is_there() -> None:
    for name, service in SERVICES.items():
        tag = service["image"].rpartition(":")[2]
        assert tag[:1].isdigit() or tag[:2] == "v2", name
        assert {
            each if isinstance(each, str) else each["source"] for each in service.get("configs", [])
        } <= set(COMPOSE["configs"])
        assert set(service.get("secrets", [])) <= set(COMPOSE["secrets"])
        assert set(service["networks"]) <= set(COMPOSE["networks"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).is_dir(), volume
        assert set(service.get("depends_on", [])) <= set(SERVICES)
    for config in COMPOSE["configs"].values():
        assert "content" in config or (DEPLOY / config["file"]).is_file()
    build = SERVICES["dragoman"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()


def test_nothing_is_reachable_from_other_machines() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert SERVICES["mariadb"]["networks"] == ["inside"]


@pytest.mark.parametrize("service", OURS)
def test_containers_of_ours_may_do_little(service: str) -> None:
    spec = SERVICES[service]
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    parse(spec["command"])


def test_the_server_is_configured_as_it_is_reached() -> None:
    settings = settings_of((DEPLOY / "dragoman.toml").read_text(), environment("dragoman"))
    assert settings.agents == ("examples.agents:agents",)
    assert not settings.is_local
    assert SERVICES["dragoman"]["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    program, *arguments = SERVICES["dragoman"]["healthcheck"]["test"][1:]
    assert program == "dragoman"
    parse(arguments)
    assert seconds(SERVICES["dragoman"]["stop_grace_period"]) > time_to_stop(settings)
    scrape = yaml.safe_load(COMPOSE["configs"]["prometheus"]["content"])
    assert [f"/etc/prometheus/{name}" for name in scrape["rule_files"]] == [
        each["target"] for each in SERVICES["prometheus"]["configs"] if each["source"] == "alerts"
    ]
    # As the alerts call it.
    assert scrape["scrape_configs"][0]["job_name"] == "dragoman"
    assert scrape["scrape_configs"][0]["static_configs"] == [
        {"targets": [f"dragoman:{settings.metrics_port}"]}
    ]


def test_the_schema_comes_before_the_server_and_after_the_database() -> None:
    assert SERVICES["migrate"]["depends_on"] == {"mariadb": {"condition": "service_healthy"}}
    assert SERVICES["dragoman"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert SERVICES["migrate"]["command"] == ["migrate"]


def test_secrets_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    def made() -> dict[str, str]:
        subprocess.run(["sh", DEPLOY / "secrets.sh", folder], check=True, timeout=60)
        return {path.name: path.read_text() for path in folder.iterdir()}

    secrets = made()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {f"secrets/{name}" for name in secrets} == {each["file"] for each in COMPOSE["secrets"].values()}
    url = make_url(secrets["dragoman_database_url"])
    assert (url.password, url.host) == (secrets["mariadb_password"], "mariadb")
    assert url.host in SERVICES
    database = SERVICES["mariadb"]["environment"]
    assert (url.username, url.database) == (database["MARIADB_USER"], database["MARIADB_DATABASE"])
    assert len(secrets["mariadb_password"]) == 48
    assert secrets["mariadb_password"] != secrets["grafana_password"]
    assert made() == secrets
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_database_url_is_looked_for_where_compose_puts_it() -> None:
    assert environment("dragoman")["DRAGOMAN_SECRETS"] == "/run/secrets"
    assert environment("migrate") == environment("dragoman")
    assert SERVICES["migrate"]["secrets"] == SERVICES["dragoman"]["secrets"] == ["dragoman_database_url"]
