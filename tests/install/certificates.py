"""An authority and certificates of it, made as docs/locks.md says."""

import subprocess
from pathlib import Path

KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")


def authority(directory: Path, name: str = "ca") -> None:
    key, certificate = directory / f"{name}.key", directory / f"{name}.pem"
    _openssl("req", "-x509", *KEY, "-days", "1", "-keyout", key, "-out", certificate, "-subj", f"/CN={name}")


def certificate(directory: Path, name: str, ca: str = "ca") -> None:
    key, request, signed = (directory / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    extensions = directory / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    _openssl("req", *KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
    authority_files = ("-CA", directory / f"{ca}.pem", "-CAkey", directory / f"{ca}.key")
    _openssl("x509", "-req", "-in", request, *authority_files, "-days", "1", "-out", signed, "-extfile", extensions)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True, timeout=60)
