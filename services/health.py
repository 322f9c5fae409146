"""Ask a server how it is: what container health checks run (python -m services.health --help).

Beside a service that has TLS the command needs no option: it reads the same settings from the environment. It asks the
port of health alone where there is one, else over TLS, where it trusts the service's own certificate alone.
"""

from pathlib import Path
from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from forecasting.errors import InvalidSetting
from services.certificates import CertificateFiles, read_certificates, read_pem

SAME = "of a service on this machine: its own setting"


def check(channel: grpc.Channel, service: str = "", seconds: float = 2.0) -> str:
    """What a server says of a service: SERVING, NOT_SERVING, …; or the status of the failed call."""
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
    except grpc.RpcError as error:
        return str(error.code().name)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def channel_of(address: str, ca: Path | None, own: CertificateFiles | None, shows_own: bool) -> grpc.Channel:
    """To a server at host:port; over TLS where a CA, or the server's own files, are known. Raises InvalidSetting.

    shows_own: let the caller show the server's own certificate as well, to one that asks for some
    """
    if own is None:
        credentials = None if ca is None else grpc.ssl_channel_credentials(read_pem(ca))
        return grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    known = read_certificates(own)
    trusted = known.certificate if ca is None else read_pem(ca)
    pair = (known.key, known.certificate) if shows_own else (None, None)
    # it is asked at the loopback address, and has its certificate for the name under which others know it
    names = [("grpc.ssl_target_name_override", name.replace("*", "any")) for name in known.names[:1]]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(trusted, *pair), names)


def main(
    address: Annotated[str | None, typer.Option(help="where it listens; else the port of health, else 50051")] = None,
    service: Annotated[str, typer.Option(help="'' lives; 'ready' has a champion that forecasts")] = "",
    seconds: Annotated[float, typer.Option(min=0.1, help="how long an answer is waited for")] = 2.0,
    health_port: Annotated[int | None, typer.Option(envvar="GLUCAST_HEALTH_PORT", help=SAME)] = None,
    ca: Annotated[Path | None, typer.Option(envvar="GLUCAST_HEALTH_CA", help="CA of a server with TLS")] = None,
    tls_certificate: Annotated[Path | None, typer.Option(envvar="GLUCAST_TLS_CERTIFICATE", help=SAME)] = None,
    tls_key: Annotated[Path | None, typer.Option(envvar="GLUCAST_TLS_KEY", help=SAME)] = None,
    tls_client_ca: Annotated[Path | None, typer.Option(envvar="GLUCAST_TLS_CLIENT_CA", help=SAME)] = None,
) -> None:
    """Exit 0 where the server says SERVING, else 1 with what it says."""
    is_plain = address is None and health_port is not None
    own = CertificateFiles(tls_certificate, tls_key) if tls_certificate and tls_key and not is_plain else None
    try:
        with channel_of(
            address or f"127.0.0.1:{health_port or 50051}",
            None if is_plain else ca,
            own,
            shows_own=tls_client_ca is not None,
        ) as channel:
            said = check(channel, service, seconds)
    except InvalidSetting as error:
        said = f"error: {error}"
    typer.echo(said)
    raise typer.Exit(0 if said == "SERVING" else 1)


if __name__ == "__main__":
    typer.run(main)
