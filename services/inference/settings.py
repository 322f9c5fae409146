"""What the inference service can be told, by environment (GLUCAST_PORT=…) or by option (--port …)."""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from forecasting.errors import InvalidSetting
from forecasting.references import check_uri
from services.certificates import CertificateFiles, read_certificates
from services.logs import LogFormat
from services.tokens import read_tokens

PREFIX = "GLUCAST_"
T = TypeVar("T")


class Settings(BaseSettings):
    """Settings of one inference process."""

    # an empty variable is none: compose files pass on what may not be set
    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, env_ignore_empty=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every network")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    metrics_port: int = Field(9464, ge=0, le=65535, description="port of Prometheus' /metrics; 0 takes a free one")
    metrics_host: str | None = Field(
        None, description="address of /metrics, which has neither TLS nor tokens; else that of --host"
    )
    health_port: int | None = Field(
        None, ge=1, le=65535, description="port of health alone, without TLS, for probes that have no certificates"
    )
    workers: int = Field(1, ge=1, le=64, description="processes that share the port, each with its own models")
    namespace: str = Field(
        "virtual", pattern="^[a-z0-9_]+$", description="data set whose models are routed when a request names none"
    )
    registry: str | None = Field(
        None, description="tracking URI of the registry; else MLFLOW_TRACKING_URI, else sqlite:///registry/mlflow.db"
    )

    @field_validator("registry")
    @classmethod
    def _is_registry(cls, uri: str | None) -> str | None:
        try:
            return uri and check_uri(uri)
        except InvalidSetting as error:
            raise ValueError(str(error)) from error

    cache: Path | None = Field(None, description="folder of verified bundles; else ~/.cache/glucast/bundles")
    refresh_seconds: float = Field(
        5.0, gt=0, description="time between two looks at the registry, give or take a fifth"
    )
    memory_mb: int = Field(512, ge=1, description="networks kept open, in MB; least recently used ones go first")
    canary_share: float = Field(0.0, ge=0, le=1, description="share of patients whom the challenger answers")
    shadow_share: float = Field(
        0.0, ge=0, le=1, description="share of forecasts that the challenger also makes, unseen, for comparison"
    )
    threads: int = Field(2, ge=1, le=256, description="batches that are computed at the same time")
    batch_size: int = Field(64, ge=1, le=4096, description="forecasts that are computed together at most")
    batch_wait_ms: float = Field(2.0, ge=0, le=1000, description="how long a forecast waits for others, in ms")
    inline_ms: float = Field(
        10.0, ge=0, le=1000, description="batches that take no longer are computed without a thread"
    )
    queue_size: int = Field(1024, ge=1, description="forecasts of one model version that may wait; more are refused")
    alarm_low: float = Field(0.3, gt=0, lt=1, description="P(< 70 mg/dL within 30 min) that raises an alarm")
    alarm_high: float = Field(0.5, gt=0, lt=1, description="P(> 180 mg/dL within 30 min) that raises an alarm")
    id_secret: SecretStr | None = Field(
        None, description="key of forecast ids, equal on all replicas; else ids are known to this service alone"
    )
    id_secret_file: Path | None = Field(
        None, description="file of such keys in place of it, one a line: the first seals, all of them open"
    )

    @field_validator("id_secret_file")
    @classmethod
    def _holds_secrets(cls, file: Path | None, others: ValidationInfo) -> Path | None:
        if file is None:
            return None
        if others.data.get("id_secret"):
            raise ValueError(f"{PREFIX}ID_SECRET is set too; give one of the two")
        _told_now(_secrets_in, file)
        return file

    traces: str | None = Field(None, description="OTLP endpoint that traces go to, such as http://127.0.0.1:4317")
    tls_certificate: Path | None = Field(None, description="PEM file of the service's certificate and its chain: TLS")
    tls_key: Path | None = Field(None, description="PEM file of its key, unencrypted", validate_default=True)
    tls_client_ca: Path | None = Field(
        None, description="PEM file of a CA: callers must show a certificate of it", validate_default=True
    )

    @field_validator("tls_key")
    @classmethod
    def _comes_with_certificate(cls, key: Path | None, others: ValidationInfo) -> Path | None:
        if (key is None) != (others.data.get("tls_certificate") is None):
            raise ValueError("--tls-certificate and --tls-key belong together; give both")
        return key

    @field_validator("tls_client_ca")
    @classmethod
    def _can_be_shown(cls, ca: Path | None, others: ValidationInfo) -> Path | None:
        files = _certificate_files(others.data.get("tls_certificate"), others.data.get("tls_key"), ca)
        if files is None and ca is not None:
            raise ValueError("--tls-client-ca is of use with --tls-certificate and --tls-key alone; give them too")
        if files is not None:
            _told_now(read_certificates, files)
        return ca

    token_file: Path | None = Field(
        None, description="file of bearer tokens, `forecast TOKEN` or `admin TOKEN` a line; without it all may ask"
    )

    @field_validator("token_file")
    @classmethod
    def _holds_tokens(cls, file: Path | None) -> Path | None:
        if file is not None:
            _told_now(read_tokens, file)
        return file

    rate_per_second: float = Field(
        0.0,
        ge=0,
        description="calls of one caller (a token, else an address) that are answered; 0 for any number; each of the "
        "workers takes its part of this and the next two, so a caller on one connection is allowed that part",
    )
    rate_burst: int = Field(100, ge=1, description="calls of one caller beyond that rate, after a pause")
    streams_per_caller: int = Field(0, ge=0, description="streams of one caller open at once; 0 for any number")
    log_format: LogFormat = Field(LogFormat.TEXT, description="text or json, a line each")
    reflection: bool = Field(False, description="let clients list services and messages; for development")
    pause_seconds: float = Field(
        0.0, ge=0, description="time between NOT_SERVING and refusing at the end, for balancers to notice"
    )
    drain_seconds: float = Field(10.0, ge=0, description="time that running requests are given at the end")

    @property
    def certificate_files(self) -> CertificateFiles | None:
        """Of TLS; None without it."""
        return _certificate_files(self.tls_certificate, self.tls_key, self.tls_client_ca)

    @property
    def metrics_at(self) -> str:
        """The address of /metrics."""
        return self.metrics_host or self.host

    @property
    def exposure(self) -> str:
        """What whoever starts the service should know of its port; empty where nothing is amiss."""
        lacking = {"tokens (--token-file)": self.token_file, "TLS (--tls-certificate, --tls-key)": self.tls_certificate}
        names = [name for name, given in lacking.items() if given is None]
        if not names or _is_loopback(self.host):
            return ""
        return f"listens on {self.host} without {' and without '.join(names)}: let nobody reach it but whom you trust"

    def limits_of_a_worker(self) -> dict[str, float]:
        """A worker's part of what a caller may, which all of them allow together; parts of whole ones are rounded up.

        Workers know nothing of each other's callers: with the whole to each, N of them would allow N times as much.
        """
        return {
            "rate_per_second": self.rate_per_second / self.workers,
            "rate_burst": -(-self.rate_burst // self.workers),
            "streams_per_caller": -(-self.streams_per_caller // self.workers),
        }

    def id_secrets(self) -> tuple[bytes, ...]:
        """The keys of forecast ids, newest first; none where none was given. Raises InvalidSetting for the file."""
        if self.id_secret_file is not None:
            return _secrets_in(self.id_secret_file)
        return (self.id_secret.get_secret_value().encode(),) if self.id_secret else ()


def _certificate_files(certificate: Path | None, key: Path | None, ca: Path | None) -> CertificateFiles | None:
    return None if certificate is None or key is None else CertificateFiles(certificate, key, ca)


def _told_now(read: Callable[[T], object], files: T) -> None:
    """Read once, so that the start says what is wrong, and not each worker."""
    try:
        read(files)
    except InvalidSetting as error:
        raise ValueError(str(error)) from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _secrets_in(file: Path) -> tuple[bytes, ...]:
    """The lines that are not blank, without the space around them."""
    try:
        lines = file.read_bytes().splitlines()
    except OSError as error:
        raise InvalidSetting(
            f"id_secret_file {file} cannot be read ({error.strerror}); name one that holds a secret a line",
            "id_secret_file",
        ) from error
    secrets = tuple(line.strip() for line in lines if line.strip())
    if not secrets:
        raise InvalidSetting(f"id_secret_file {file} holds no secret; write one a line, newest first", "id_secret_file")
    return secrets
