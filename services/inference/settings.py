"""What the inference service can be told, by environment (GLUCAST_PORT=…) or by option (--port …)."""

from pathlib import Path

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from forecasting.errors import InvalidSetting
from forecasting.registry import check_uri

PREFIX = "GLUCAST_"


class Settings(BaseSettings):
    """Settings of one inference process."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 for every network")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 takes a free one")
    metrics_port: int = Field(9464, ge=0, le=65535, description="port of Prometheus' /metrics; 0 takes a free one")
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
    reflection: bool = Field(False, description="let clients list services and messages; for development")
    refresh_seconds: float = Field(30.0, gt=0, description="how long a look-up in the registry is remembered")
    drain_seconds: float = Field(10.0, ge=0, description="time that running requests are given at the end")
    threads: int = Field(2, ge=1, le=256, description="forecasts that are computed at the same time")
