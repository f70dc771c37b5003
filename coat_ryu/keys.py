"""One-time TLS identities for transfers between nodes.

Checkpoints hold process memory, so they travel encrypted and only between the two nodes that were told to: each end
gets a key made for this one transfer, and trusts the other end's certificate and nothing else.
"""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LIFETIME = timedelta(days=1)
"""Wide on both sides of now: the nodes' clocks need not agree, and the key is thrown away after one use anyway."""


@dataclass(frozen=True, slots=True)
class Identity:
    """PEM texts: our certificate and key, and the peer's certificate."""

    cert: str
    key: str
    peer: str

    def as_args(self) -> dict[str, str]:
        return asdict(self)


def one_time_pair(transfer: str) -> tuple[Identity, Identity]:
    """Identities for the sender and the receiver of one transfer."""
    sender, receiver = _certificate(f"{transfer} sender"), _certificate(f"{transfer} receiver")
    return Identity(*sender, peer=receiver[0]), Identity(*receiver, peer=sender[0])


def _certificate(name: str) -> tuple[str, str]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - LIFETIME)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), secret.decode()
