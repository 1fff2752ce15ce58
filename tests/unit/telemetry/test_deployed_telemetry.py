"""The page, the dashboard and the alerts name what a server really tells, and Prometheus' own tool accepts them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.debian import find_or_install
from support.telemetry import Figures, scrape, watched

from dragoman.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "telemetry.md").read_text(encoding="utf-8")
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
RULE_TESTS = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "deploy" / "grafana" / "dragoman-dashboard.json").read_text())
ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
ADDED = {"job", "instance", "le"}
"""Labels that Prometheus adds, and that of a histogram's buckets."""


def expressions() -> list[str]:
    return [target["expr"] for panel in PANELS for target in panel["targets"]]


def promtool(*arguments: object) -> None:
    done = subprocess.run(
        [find_or_install("prometheus", "promtool"), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def figures(tmp_path: Path) -> Figures:
    async with watched(tmp_path) as server:
        return await scrape(server)


def declared() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """All metrics of ours, by the name under which the page has them: type, labels, what it is."""
    found = {}
    for metric in Metrics("0").registry._collector_to_names:
        if (name := getattr(metric, "_name", "")).startswith("dragoman_"):
            kind: str = metric._type  # type: ignore[attr-defined]
            total = "_total" if kind == "counter" else ""
            found[name + total] = (kind, tuple(metric._labelnames), metric._documentation)  # type: ignore[attr-defined]
    return found


def test_the_page_has_every_metric() -> None:
    rows = re.findall(r"^\| `(dragoman_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", PAGE, re.MULTILINE)
    told = {name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}
    assert told == declared()


def test_no_label_is_about_callers() -> None:
    labels = {label for _, labels, _ in declared().values() for label in labels}
    assert labels == {
        "agent", "code", "currency", "how", "kind", "limit", "method", "model", "operation", "outcome",
        "provider", "reason", "result", "status", "tool", "type", "version", "where", "why",
    }  # fmt: skip


async def test_dashboard_and_alerts_name_what_a_server_exposes(figures: Figures) -> None:
    labels = {name: set(labels) for name, (_, labels, _) in declared().items()}
    exposed: dict[str, set[str]] = {}
    for family in figures.families.values():
        for suffix in SUFFIXES.get(family.type, ("",)):
            total = "_total" if family.type == "counter" else ""
            exposed[family.name + suffix] = labels.get(family.name + total, set())
    asked = [*expressions(), *(alert["expr"] for alert in ALERTS)]
    for expression in asked:
        named = re.findall(r"\b(?:dragoman|process)_\w+", re.sub(r'"[^"]*"', '""', expression))
        assert named or "up{" in expression, expression
        assert set(named) <= exposed.keys(), expression
        known = ADDED.union(*(exposed[name] for name in named))
        selectors = ",".join(re.findall(r"\{(.*?)\}", expression))
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selectors))
        used.update(
            label.strip() for group in re.findall(r"by \((.*?)\)", expression) for label in group.split(",")
        )
        assert used <= known, expression
    # And nothing is counted that nobody looks at.
    looked_at = " ".join(asked)
    assert [name for name in declared() if name not in looked_at] == []


def test_legends_and_variables_of_the_dashboard() -> None:
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource", "job", "instance", "agent"}
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == [
        "Traffic", "Errors", "Runs", "Latency", "Money", "Storage", "Saturation",
    ]  # fmt: skip
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        for target in panel["targets"]:
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval", "__range"}
            shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
            kept = {
                label.strip()
                for group in re.findall(r"by \((.*?)\)", target["expr"])
                for label in group.split(",")
            }
            assert shown <= (kept or ADDED), target


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {
            "record": f"dashboard:expression:{number}",
            "expr": expression.replace("$__rate_interval", "5m").replace("$__range", "6h"),
        }
        for number, expression in enumerate(expressions())
    ]
    assert len(rules) > 50
    file = tmp_path / "dashboard.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", file)


def test_promtool_accepts_the_alerts_and_they_fire_when_they_should() -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", RULE_TESTS)
    cases = yaml.safe_load(RULE_TESTS.read_text())["tests"]
    fired = {test["alertname"] for case in cases for test in case["alert_rule_test"] if test["exp_alerts"]}
    assert fired == {alert["alert"] for alert in ALERTS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_each_alert_has_a_section_that_says_what_to_do(alert: dict[str, Any]) -> None:
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert page == "docs/telemetry.md"
    assert anchor == alert["alert"].lower()
    assert f"### {alert['alert']}\n" in PAGE
    assert alert["labels"]["severity"] in {"page", "ticket"}
