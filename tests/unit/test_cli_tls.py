"""`coat` over TLS: it trusts the authority that it is given and nobody else, and shows its certificate when asked."""

import datetime
import ipaddress
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from webob import Request, Response

from coat_ryu.cli.client import Exit
from tests.unit.served import served
from tests.unit.test_cli import coat, told


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that vouches for itself, with its key: server, client and authority at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "controller")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path_factory.mktemp("tls") / "identity.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    return file


@pytest.mark.parametrize("mutual", [False, True])
def test_who_is_trusted_is_said_on_both_sides(identity: Path, mutual: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(identity)

    def answer(request: Request) -> Response:
        return Response("[]", content_type="application/json", charset="utf-8")

    with served(answer, context) as url:
        stranger = coat(url, "containers")
        assert (stranger.exit_code, "--ca" in stranger.stderr) == (Exit.DENIED, True)
        known = coat(url, "--ca", str(identity), "containers", "--json")
        if mutual:
            # With TLS 1.3 the refusal may come as an alert, or as a reset when the request is under way already.
            assert known.exit_code in (Exit.DENIED, Exit.NO_CONTROLLER)
            known = coat(url, "containers", "--json", COAT_CA=str(identity), COAT_CERT=str(identity))
        assert told(known) == []


def test_a_file_without_certificates_is_said_to_be_none(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    result = coat("https://127.0.0.1:1", "--ca", str(empty), "nodes")
    assert (result.exit_code, "cannot be used" in result.stderr) == (Exit.DENIED, True)
