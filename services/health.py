"""Ask a server how it is: what container health checks run (python -m services.health --help)."""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc


def check(address: str, service: str = "", seconds: float = 2.0) -> str:
    """What the server at host:port says of a service: SERVING, NOT_SERVING, …; or the status of the failed call."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
        except grpc.RpcError as error:
            return str(error.code().name)
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def main(
    address: Annotated[str, typer.Option(help="where the server listens")] = "127.0.0.1:50051",
    service: Annotated[str, typer.Option(help="'' lives; 'ready' has a champion that forecasts")] = "",
    seconds: Annotated[float, typer.Option(min=0.1, help="how long an answer is waited for")] = 2.0,
) -> None:
    """Exit 0 where the server says SERVING, else 1 with what it says."""
    said = check(address, service, seconds)
    typer.echo(said)
    raise typer.Exit(0 if said == "SERVING" else 1)


if __name__ == "__main__":
    typer.run(main)
