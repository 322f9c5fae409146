"""Who we are and whom we trust: TLS with certificates, and a token that may be replaced while we run."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from forecasting.errors import InvalidSetting
from services.followed_files import FollowedFiles


@dataclass(frozen=True)
class Tls:
    """An encrypted connection to a server whose certificate is always checked. Files are PEM.

    ca:          who may have signed it; else those whom this system trusts
    certificate: our own, with its key, for a server that asks for one
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel; raises InvalidSetting for files that are not there, and for a certificate without its key."""
        if (self.certificate is None) is not (self.key is None):
            raise InvalidSetting("a certificate and its key come together; give both or neither")
        return grpc.ssl_channel_credentials(
            root_certificates=_system_roots() if self.ca is None else _read(self.ca, "certificate authority"),
            private_key=None if self.key is None else _read(self.key, "key"),
            certificate_chain=None if self.certificate is None else _read(self.certificate, "certificate"),
        )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidSetting(f"the {what} {path} cannot be read: {error.strerror}") from error


def _system_roots() -> bytes:
    """The certificates that OpenSSL trusts here; gRPC by itself brings its own."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile is not None:
        return _read(Path(paths.cafile), "system's certificates")
    hashed = sorted(Path(paths.capath).glob("*.0")) if paths.capath is not None else []
    if not hashed:
        raise InvalidSetting("this system trusts no certificate authority; give the one that signed the server's")
    return b"\n".join(_read(path, "system's certificate") for path in hashed)


class Token:
    """A token in a file, read again when the file is replaced; until that holds one again the last is sent."""

    def __init__(self, path: Path) -> None:
        """Raises InvalidSetting for a file that holds no token."""
        self._content = FollowedFiles((path,), lambda: _read_token(path), failed=lambda: None)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call carries."""
        return (("authorization", f"Bearer {self._content.now()}"),)


def _read_token(path: Path) -> str:
    """Never says what the file holds: it may be a secret with a slip in it."""
    token = _read(path, "token file").decode("ascii", "replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidSetting(f"the token file {path} holds no token; write it there alone, on one line")
    return token


def is_loopback(address: str) -> bool:
    """Does what is sent to host:port stay on this machine?"""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
