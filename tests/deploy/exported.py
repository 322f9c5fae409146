"""Every series that Prometheus can have from what it scrapes here, derived from the code that exports it."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from services.inference.telemetry import Telemetry
from services.inference.workers import Series
from tests.deploy.promql import metric_names
from trainer.training_telemetry import exported as training_names

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "summary": ("", "_sum", "_count")}
OF_EVERY_SCRAPE = {
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
    "ALERTS",
    "ALERTS_FOR_STATE",
}
OF_PROMETHEUS = {  # its own and Alertmanager's: the few that are used here
    "prometheus_config_last_reload_successful",
    "prometheus_notifications_dropped_total",
    "prometheus_rule_evaluation_failures_total",
    "prometheus_tsdb_head_series",
    "alertmanager_config_last_reload_successful",
    "alertmanager_notifications_failed_total",
    "alertmanager_notifications_total",
}


@cache
def exported_names() -> set[str]:
    """Names of all series that are scraped; those that rules record are recorded_names()."""
    return _service_names() | _ray_names() | training_names() | OF_EVERY_SCRAPE | OF_PROMETHEUS


def recorded_names() -> set[str]:
    """Names of the series that the recording rules make."""
    return {rule["record"] for rule in rules() if "record" in rule}


def rules() -> Iterator[dict[str, Any]]:
    """Every rule of every file, as it is written."""
    for file in sorted(RULES.glob("*.yml")):
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def _service_names() -> set[str]:
    with TemporaryDirectory() as folder:
        process = CollectorRegistry()
        ProcessCollector(registry=process)
        registries = Telemetry().registry, Series(folder).registry, process
        return set().union(*map(_names_of, registries))


def _names_of(registry: CollectorRegistry) -> set[str]:
    return {family.name + suffix for family in registry.collect() for suffix in SUFFIXES.get(family.type, ("",))}


def _ray_names() -> set[str]:
    """What a machine of a Ray cluster reports, and what Ray's own dashboards read."""
    from ray.dashboard.modules.metrics.dashboards.default_dashboard_panels import DEFAULT_GRAFANA_ROWS
    from ray.dashboard.modules.metrics.dashboards.train_dashboard_panels import TRAIN_GRAFANA_ROWS
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    rows = *DEFAULT_GRAFANA_ROWS, *TRAIN_GRAFANA_ROWS
    expressions = (target.expr for row in rows for panel in row.panels for target in panel.targets)
    read = (metric_names(expression.format(global_filters="")) for expression in expressions)
    return {f"ray_{gauge.name}" for gauge in METRICS_GAUGES.values()}.union(*read)
