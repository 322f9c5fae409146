"""Certificates for servers and clients of tests: an authority, and what it signs."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


@dataclass(frozen=True)
class Pair:
    """PEM files of a certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; its own is in `file`."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, _name(name)
        self._key = ec.generate_private_key(ec.SECP256R1())
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._sign(self._name, self._key, None).public_bytes(Encoding.PEM))

    def sign(
        self,
        name: str,
        host: str = "127.0.0.1",
        left: dt.timedelta = DAY,
        password: bytes = b"",
        begins: dt.timedelta = -2 * DAY,
    ) -> Pair:
        """A certificate for a name or an IP address, with so much time left, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        pair.certificate.write_bytes(self._sign(_name(name), key, host, left, begins).public_bytes(Encoding.PEM))
        lock = BestAvailableEncryption(password) if password else NoEncryption()
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
        return pair

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        host: str | None,
        left: dt.timedelta = DAY,
        begins: dt.timedelta = -2 * DAY,
    ) -> x509.Certificate:
        """host: whom it is for; None for an authority."""
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + left)
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_host(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
