"""
TLS between processes: who a server is, and where that is wanted, who its callers are.

Four PEM files decide. A certificate with its key makes every server of a process speak TLS, and
names the process to servers that ask for it. An authority makes every channel speak TLS, and trust
what it has signed. An authority for clients makes servers refuse whoever has no certificate of it,
before a single call: mutual TLS. Credentials are asked for all the same.
"""

import pathlib
from dataclasses import dataclass

import grpc

from services.rpc.settings import SettingError

CERTIFICATE, KEY = "PICTOR_TLS_CERTIFICATE", "PICTOR_TLS_KEY"
CA, CLIENT_CA = "PICTOR_TLS_CA", "PICTOR_TLS_CLIENT_CA"
# Trusts what the operating system's own authorities have signed.
SYSTEM = "system"


@dataclass(frozen=True)
class Tls:
    """
    What a process was given for TLS; each is PEM, or None.

    Attributes:
        certificate: Of the process, with those of its authorities up to the root.
        key: Its private key.
        ca: The authorities that servers are trusted by.
        client_ca: The authorities that callers must have a certificate of.
        secure_channels: Whether channels speak TLS.
    """

    certificate: bytes | None = None
    key: bytes | None = None
    ca: bytes | None = None
    client_ca: bytes | None = None
    secure_channels: bool = False

    def server_credentials(self) -> grpc.ServerCredentials | None:
        """Return what a server listens with; None for plain text."""
        if not self.certificate or not self.key:
            return None
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca,
            require_client_auth=self.client_ca is not None,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials | None:
        """Return what a channel connects with; None for plain text."""
        if not self.secure_channels:
            return None
        return grpc.ssl_channel_credentials(self.ca, self.key, self.certificate)


PLAIN = Tls()


def read_tls(certificate: str, key: str, ca: str, client_ca: str) -> Tls:
    """
    Read the files that settings name; empty names are left out.

    Raises:
        SettingError: If one cannot be read, is no PEM, or comes without what it needs.
    """
    if bool(certificate) != bool(key):
        given, missing = (CERTIFICATE, KEY) if certificate else (KEY, CERTIFICATE)
        raise SettingError(f"{given} is set and {missing} is not; a certificate needs its key")
    if client_ca and not certificate:
        raise SettingError(f"{CLIENT_CA} is set and {CERTIFICATE} is not; only TLS asks callers")
    if certificate and not ca:
        raise SettingError(
            f"{CERTIFICATE} is set and {CA} is not; the suite's own channels need an authority:"
            f" a PEM file, or {SYSTEM!r}"
        )
    return Tls(
        certificate=_pem(CERTIFICATE, certificate),
        key=_pem(KEY, key),
        ca=None if ca == SYSTEM else _pem(CA, ca),
        client_ca=_pem(CLIENT_CA, client_ca),
        secure_channels=bool(ca),
    )


def _pem(variable: str, name: str) -> bytes | None:
    if not name:
        return None
    try:
        content = pathlib.Path(name).expanduser().read_bytes()
    except OSError as error:
        raise SettingError(f"{variable}={name!r}: {error.strerror}") from None
    if b"-----BEGIN " not in content:
        raise SettingError(f"{variable}={name!r}: must be a PEM file")
    return content
