"""Where a service listens and how it is reached, for both clients."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import grpc

from forecasting.errors import InvalidSetting
from services.client.credentials import Tls, Token, is_loopback
from services.client.refusals import ServiceError, error_of
from services.client.retries import SERVICE_CONFIG

OPTIONS = (("grpc.service_config", json.dumps(SERVICE_CONFIG)), ("grpc.initial_reconnect_backoff_ms", 200))
NO_PROXY = ("grpc.enable_http_proxy", 0)  # an environment's proxy would see a token that is to stay on this machine
TROUBLES = (  # what gRPC's core says of a connection that failed, and what we do; the first that fits
    ("CERTIFICATE_VERIFY_FAILED", "the certificate of {} is not trusted here; give the authority that signed it (ca)"),
    ("Hostname Verification", "the certificate of {} is for another name; ask by the name that it is for"),
    ("WRONG_VERSION_NUMBER", "{} does not speak TLS; ask without it"),
    ("create security handshaker", "no connection to {}: a certificate file is no PEM, or a key is another one's"),
    ("Socket closed", "{} closed the connection; it is stopping, or wants TLS, or a certificate of ours"),
    ("failed to connect", "nobody listens at {}; start python -m services.inference, or give another address"),
)
Channel = TypeVar("Channel")


class Connection:
    """An address (host:port), TLS where it is asked for, and a token where there is one."""

    def __init__(self, address: str, tls: Tls | bool, token_file: Path | None) -> None:
        """Raises InvalidSetting for files that cannot be used, and for a token that anybody on the way could read."""
        if token_file is not None and not tls and not is_loopback(address):
            raise InvalidSetting(
                f"a token would go to {address} in the clear; use TLS, or an address of this machine such as "
                "127.0.0.1:50051"
            )
        self.address = address
        self._credentials = (Tls() if tls is True else tls).credentials() if tls else None
        self._token = None if token_file is None else Token(token_file)

    def channel(self, plain: Callable[..., Channel], secure: Callable[..., Channel]) -> Channel:
        """A channel of gRPC's one kind or its other."""
        if self._credentials is None:
            return plain(self.address, options=OPTIONS if self._token is None else (*OPTIONS, NO_PROXY))
        return secure(self.address, self._credentials, options=OPTIONS)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return () if self._token is None else self._token.metadata()

    def refusal(self, call: grpc.RpcError, seconds: float) -> ServiceError:
        """Why a call failed: the service's own words; ours where it could not say any. seconds: what it was given."""
        error = error_of(call)
        ours = self._failed_on_the_way(error, seconds)
        return error if ours is None else ServiceError(error.status, ours, request_id=error.request_id)

    def silence(self, seconds: float) -> ServiceError:
        """Nothing came within so long."""
        sentence = f"{self.address} did not answer within {seconds:g} s; try again, or give it longer"
        return ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, sentence)

    def _failed_on_the_way(self, error: ServiceError, seconds: float) -> str | None:
        if error.status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return self.silence(seconds).sentence
        if error.status is not grpc.StatusCode.UNAVAILABLE:
            return None
        found = (sentence for sign, sentence in TROUBLES if sign in error.sentence)
        return next((sentence.format(self.address) for sentence in found), None)
