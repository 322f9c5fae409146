"""What the inference service can be told, by environment (GLUCAST_PORT=…) or by option (--port …)."""

from pathlib import Path

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from forecasting.errors import InvalidSetting
from forecasting.references import check_uri

PREFIX = "GLUCAST_"


class Settings(BaseSettings):
    """Settings of one inference process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every network")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    metrics_port: int = Field(9464, ge=0, le=65535, description="port of Prometheus' /metrics; 0 takes a free one")
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
        try:
            _secrets_in(file)  # told now, once, and not by every worker
        except InvalidSetting as error:
            raise ValueError(str(error)) from error
        return file

    traces: str | None = Field(None, description="OTLP endpoint that traces go to, such as http://127.0.0.1:4317")
    reflection: bool = Field(False, description="let clients list services and messages; for development")
    pause_seconds: float = Field(
        0.0, ge=0, description="time between NOT_SERVING and refusing at the end, for balancers to notice"
    )
    drain_seconds: float = Field(10.0, ge=0, description="time that running requests are given at the end")

    def id_secrets(self) -> tuple[bytes, ...]:
        """The keys of forecast ids, newest first; none where none was given. Raises InvalidSetting for the file."""
        if self.id_secret_file is not None:
            return _secrets_in(self.id_secret_file)
        return (self.id_secret.get_secret_value().encode(),) if self.id_secret else ()


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
