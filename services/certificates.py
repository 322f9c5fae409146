"""Certificates in PEM files, tried before gRPC gets them: whose fault a refused handshake is, gRPC does not say.

Nothing here imports gRPC: the parent of several workers checks its settings too.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forecasting.errors import InvalidSetting
from services.followed_files import read_at_most

LARGEST = 1 << 20  # bytes of a file


@dataclass(frozen=True)
class CertificateFiles:
    """Where a server's certificate (with its chain) and key lie, and the CA of callers, who then must show one."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    @property
    def all(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return tuple(file for file in (self.certificate, self.key, self.client_ca) if file is not None)


@dataclass(frozen=True)
class Certificates:
    """Their content. names: that the certificate is for; expires: seconds since the epoch"""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    names: tuple[str, ...]
    expires: float


def read_certificates(files: CertificateFiles) -> Certificates:
    """The content of the files, once a handshake with itself has succeeded.

    Raises InvalidSetting, in a sentence that names the file, for one that is missing, malformed, expired or not of
    the key.
    """
    certificate, key = read_pem(files.certificate), read_pem(files.key)
    client_ca = None if files.client_ca is None else read_pem(files.client_ca)
    if files.client_ca is not None and client_ca is not None:
        _trusting(client_ca, files.client_ca)
    names, expires = _proven(certificate, key, files)
    return Certificates(certificate, key, client_ca, names, expires)


def read_pem(file: Path) -> bytes:
    """A file of certificates or of a key; raises InvalidSetting."""
    try:
        content = read_at_most(file, LARGEST)
    except OSError as error:
        raise InvalidSetting(f"{file} cannot be read ({error.strerror}); name a PEM file") from error
    if b"-----BEGIN " not in content or len(content) > LARGEST:
        raise InvalidSetting(f"{file} is no PEM file; name one that begins with -----BEGIN")
    return content


def _proven(certificate: bytes, key: bytes, files: CertificateFiles) -> tuple[tuple[str, ...], float]:
    """Names and end of a certificate, after a handshake in memory in which the other side trusts it alone."""
    server, client = _presenting(certificate, key, files), _trusting(certificate, files.certificate)
    try:
        shown = _shaken(server, client)
    except ssl.SSLCertVerificationError as error:
        raise InvalidSetting(
            f"{files.certificate} is refused: {error.verify_message}; renew the certificate"
        ) from error
    except ssl.SSLError as error:
        raise InvalidSetting(f"{files.certificate} cannot be used ({error.reason}); renew the certificate") from error
    return _names(shown), float(ssl.cert_time_to_seconds(str(shown["notAfter"])))


def _presenting(certificate: bytes, key: bytes, files: CertificateFiles) -> ssl.SSLContext:
    """A server's side. Python reads these from files alone; here from memory, where nobody replaces them meanwhile."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _in_memory(certificate) as chain, _in_memory(key) as secret:
            context.load_cert_chain(chain, secret, password=_no_password)
    except OSError as error:  # of TLS, and of a process that has no file left to open
        is_other = isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH"
        why = "is not its key" if is_other else "or the certificate cannot be read"
        raise InvalidSetting(
            f"{files.key} {why}, for {files.certificate}; give a certificate and its unencrypted key, both PEM"
        ) from error
    return context


@contextmanager
def _in_memory(content: bytes) -> Iterator[str]:
    """The path of a file that is on no disk."""
    with open(os.memfd_create("pem"), "wb") as file:
        file.write(content)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"


def _no_password() -> bytes:
    """In place of asking the terminal."""
    return b"-"


def _trusting(pem: bytes, file: Path) -> ssl.SSLContext:
    """A client's side that trusts these certificates alone, be they of a CA or not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # it trusts one certificate, whatever that calls itself
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidSetting(f"{file} holds no certificate that can be read; name a PEM file of some") from error
    return context


def _shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> dict[str, object]:
    """The certificate that the client accepted; raises ssl.SSLError where it does not."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    calling = client.wrap_bio(to_client, to_server)
    answering = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (calling, answering, calling, answering):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(calling.getpeercert() or {})


def _names(shown: dict[str, object]) -> tuple[str, ...]:
    alternative: object = shown.get("subjectAltName", ())
    assert isinstance(alternative, tuple)
    return tuple(str(value) for kind, value in alternative if kind in ("DNS", "IP Address"))
