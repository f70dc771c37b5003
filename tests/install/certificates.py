"""An authority and certificates of it, made as docs/locks.md says."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


def authority(directory: Path, name: str = "ca") -> None:
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    _openssl("req", "-x509", *KEY, "-days", "1", "-keyout", key, "-out", certificate, "-subj", f"/CN={name}")


def certificate(
    directory: Path, name: str, ca: str = "ca", names: Sequence[str] = ("localhost",), usage: str = ""
) -> None:
    """``names`` are others than its own, ``usage`` is ``clientAuth``, ``serverAuth`` or, as it was, none."""
    key, request, signed = (directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    extensions = directory / f"{name}.ext"
    alternatives = ",".join([*(f"DNS:{one}" for one in names), "IP:127.0.0.1"])
    extensions.write_text(f"subjectAltName={alternatives}\n" + (f"extendedKeyUsage={usage}\n" if usage else ""))
    _openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    authority_files = ("-CA", directory / f"{ca}.pem", "-CAkey", directory / f"{ca}.key")
    _openssl("x509", "-req", "-in", request, *authority_files, "-days", "1", "-out", signed, "-extfile", extensions)


def revoke(directory: Path, *names: str, ca: str = "ca") -> None:
    """``CA.crl`` has the certificates of these names."""
    settings = directory / f"{ca}.cnf"
    files = f"database={directory}/{ca}.index\ncrlnumber={directory}/{ca}.number"
    settings.write_text(f"[ca]\ndefault_ca=it\n[it]\n{files}\ndefault_md=sha256\ndefault_crl_days=1\n")
    (directory / f"{ca}.index").touch()
    (directory / f"{ca}.number").write_text("01\n")
    common = ("ca", "-config", settings, "-cert", directory / f"{ca}.pem", "-keyfile", directory / f"{ca}.key")
    for name in names:
        _openssl(*common, "-revoke", directory / f"{name}.pem")
    _openssl(*common, "-gencrl", "-out", directory / f"{ca}.crl")


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
