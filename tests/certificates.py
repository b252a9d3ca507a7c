"""Certificates for tests: an authority, and what it signs."""

import datetime as dt
import ipaddress
import pathlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(name: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
    )


@dataclass
class Authority:
    """
    Signs certificates into a folder.

    Attributes:
        folder: Where the files go.
        name: Of the authority, and of its file.
    """

    folder: pathlib.Path
    name: str = "authority"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        basic = x509.BasicConstraints(ca=True, path_length=None)
        made = _builder(self.name, self.name, self._key).add_extension(basic, critical=True)
        certificate = made.sign(self._key, hashes.SHA256())
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    @property
    def file(self) -> pathlib.Path:
        return self.folder / f"{self.name}.pem"

    def sign(self, name: str) -> tuple[pathlib.Path, pathlib.Path]:
        """Make a certificate for this machine; return its file and that of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = _builder(name, self.name, key).add_extension(
            x509.SubjectAlternativeName(places), critical=False
        )
        certificate = made.sign(self._key, hashes.SHA256())
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    def environ(self, name: str = "pictor", *, mutual: bool = False) -> dict[str, str]:
        """Sign a certificate, and return the settings of a suite that has it."""
        certificate, key = self.sign(name)
        return {
            "PICTOR_TLS_CERTIFICATE": str(certificate),
            "PICTOR_TLS_KEY": str(key),
            "PICTOR_TLS_CA": str(self.file),
            **({"PICTOR_TLS_CLIENT_CA": str(self.file)} if mutual else {}),
        }
