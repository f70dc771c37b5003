"""TLS of the controller's two doors, REST and OpenFlow: whose certificates count, until they are revoked.

What a certificate may be used for (client or server, RFC 5280, section 4.2.1.12) OpenSSL looks at itself; which names
may do what is the affair of those who ask for ``names``.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from coat_ryu.errors import CoatError

NAMES = "coat.names"
"""In a request's environment: the names in the client's certificate, none if it has none; missing without TLS."""


class OpenDoor(CoatError):
    default_cause = "open_door"


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files. With ``client_ca`` only clients with a certificate of that authority are let in, and with ``crl`` none
    that it has revoked. ``options`` is what people call the four, for messages.
    """

    cert: str | None = None
    key: str | None = None
    client_ca: str | None = None
    crl: str | None = None
    options: tuple[str, str, str, str] = ("[coat] tls_cert", "tls_key", "tls_client_ca", "tls_crl")

    def context(self) -> ssl.SSLContext | None:
        """None without a certificate. Raises OpenDoor when the files cannot be used."""
        cert, key, client_ca, crl = self.options
        if not (self.cert and self.key):
            if self.cert or self.key or self.client_ca or self.crl:
                raise OpenDoor(f"{cert} and {key} belong together, and {client_ca} and {crl} need both")
            return None
        if self.crl and not self.client_ca:
            raise OpenDoor(f"{crl} needs {client_ca}: without it nobody is asked for a certificate")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key)
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
            if self.crl:
                context.load_verify_locations(self.crl)
                context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        except (OSError, ssl.SSLError) as error:
            files = ", ".join(filter(None, (self.cert, self.key, self.client_ca, self.crl)))
            raise OpenDoor(f"TLS: one of {files} cannot be used: {error}") from None
        if self.crl and not context.cert_store_stats()["crl"]:
            raise OpenDoor(f"{crl}: there is no list of revoked certificates in {self.crl}")
        return context


class Keys:
    """The files as they were when they were read last; connections that begin later get what is there then."""

    def __init__(self, files: Tls) -> None:
        self.files = files
        self.context = files.context()

    def read_again(self) -> None:
        """Raises OpenDoor, and then stays as it was."""
        self.context = self.files.context()


def is_revoked(certificate: bytes, crl: str) -> bool:
    """Whether a certificate (DER) is in one of the lists of the PEM file ``crl``. Raises OSError, ValueError."""
    ours, end = x509.load_der_x509_certificate(certificate), b"-----END X509 CRL-----"
    lists = [x509.load_pem_x509_crl(part + end) for part in Path(crl).read_bytes().split(end)[:-1]]
    return any(
        one.issuer == ours.issuer and one.get_revoked_certificate_by_serial_number(ours.serial_number) is not None
        for one in lists
    )


def names(certificate: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What a verified certificate calls its owner (``SSLSocket.getpeercert``): common names, then DNS names."""
    subject = (certificate or {}).get("subject", ())
    common = [value for part in subject for key, value in part if key == "commonName"]
    others = [value for kind, value in (certificate or {}).get("subjectAltName", ()) if kind == "DNS"]
    return tuple(dict.fromkeys([*common, *others]))
