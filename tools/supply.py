"""What coat_ryu is installed with: its lock files, a scan of them, and the wheel with its SBOM.

    .venv/bin/python tools/supply.py lock | audit | wheel

``requirements/build.txt`` builds, ``controller.txt`` runs the controller, ``develop.txt`` is for a checkout. Each names
exact versions with the SHA-256 of every file, for all supported Pythons.
"""

import hashlib
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sysconfig.get_path("scripts"))
LOCKS = ROOT / "requirements"
DIST = ROOT / "dist"
OLDEST = "3.11"
BUILD_TOOLS = "setuptools\nwheel\npbr\n"  # pbr is what Ryu's setup asks for
TIMEOUT = 600
# Both are faults of setuptools as a downloader of packages (easy_install, package_index), which nothing here uses. Ryu
# 4.34 does not build with the releases that mend them.
NOT_OURS = ("PYSEC-2025-49", "GHSA-cx63-2mw6-8hw5")


def lock() -> int:
    """All three anew, each within the bounds of the one before."""
    _compile("build.txt", "-", "-c", "build-constraints.txt", given=BUILD_TOOLS)
    _compile("controller.txt", "setup.cfg", "-c", "requirements/build.txt")
    _compile("develop.txt", "setup.cfg", "--extra", "lab", "--extra", "dev", "-c", "requirements/controller.txt")
    return 0


def _compile(target: str, source: str, *options: str, given: str | None = None) -> None:
    command = [BIN / "uv", "pip", "compile", source, *options, "--output-file", LOCKS / target]
    # --upgrade: what the file says already is no reason to stay with it.
    command += ["--universal", "--python-version", OLDEST, "--generate-hashes", "--upgrade", "--quiet"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--build-constraints", "build-constraints.txt"]
    subprocess.run(command, cwd=ROOT, input=given, text=True, timeout=TIMEOUT, check=True)


def audit() -> int:
    """1 if a vulnerability is known. Where the list of them cannot be had it says so, and that is no failure."""
    command = [BIN / "pip-audit", "--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    ignored = [f"--ignore-vuln={name}" for name in NOT_OURS]
    files = [f"--requirement={LOCKS / name}" for name in ("build.txt", "develop.txt")]
    done = subprocess.run([*command, *ignored, *files], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        print(f"audit: the scan could not be made:\n{done.stderr[-2000:]}", file=sys.stderr)
        return 0 if "Connection" in done.stderr else 1
    return report(packages)


def report(packages: list[dict[str, Any]]) -> int:
    """Says what a scan has found; ``packages`` as pip-audit's JSON has them."""
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    bad = [package for package in packages if package.get("vulns")]
    for package in bad:
        for one in package["vulns"]:
            mended = ", ".join(one["fix_versions"]) or "no release"
            print(f"audit: {package['name']} {package['version']}: {one['id']}, mended in {mended}")
    print(f"audit: {len(packages) - len(unknown)} of {len(packages)} packages looked up, {len(bad)} with known faults")
    if unknown:
        print(f"audit: of {len(unknown)} nothing could be learned: {', '.join(unknown[:5])} ...")
    return 1 if bad else 0


def wheel() -> int:
    """``dist/`` with the wheel and, under the same name, its SBOM."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", DIST]
    for old in DIST.glob("coat_ryu-*"):
        old.unlink()
    subprocess.run([*pip, ROOT], cwd=ROOT, timeout=TIMEOUT, check=True)
    (built,) = DIST.glob("coat_ryu-*.whl")
    made = DIST / f"{built.stem}.cdx.json"
    cyclonedx = [
        BIN / "cyclonedx-py",
        "requirements",
        LOCKS / "controller.txt",
        "--output-reproducible",
        "--of",
        "JSON",
    ]
    listed = subprocess.run(cyclonedx, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=True)
    made.write_text(json.dumps(described(json.loads(listed.stdout), built), indent=2) + "\n")
    print(f"{os.path.relpath(built)}\n{os.path.relpath(made)}")
    return 0


def described(bom: dict[str, Any], built: Path) -> dict[str, Any]:
    """The list of components with the wheel as what they are for (CycloneDX, ``metadata.component``)."""
    name, version = built.name.split("-")[:2]
    digest = hashlib.sha256(built.read_bytes()).hexdigest()
    component = {"type": "application", "bom-ref": name, "name": name, "version": version}
    component |= {"hashes": [{"alg": "SHA-256", "content": digest}], "licenses": [{"license": {"id": "Apache-2.0"}}]}
    return {**bom, "metadata": {**bom.get("metadata", {}), "component": component}}


COMMANDS = {"lock": lock, "audit": audit, "wheel": wheel}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in COMMANDS:
        sys.exit(f"usage: supply.py {' | '.join(COMMANDS)}")
    sys.exit(COMMANDS[sys.argv[1]]())
