"""Container images for the lab, made from the Debian packages of its root file system.

Each holds a static busybox (``sh``, ``sleep``, ...), a few programs and the shared libraries that they need: small
enough to be loaded in a moment. They are kept twice: in an image store that Podman opens read-only
(``additionalimagestores`` of containers-storage.conf(5)), so that a host has them without loading anything, and as
archives for ``podman load``.
"""

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SHARE = Path("/usr/share/coat-lab")
STORE = SHARE / "image-store"
ARCHIVES = SHARE / "images"


@dataclass(frozen=True, slots=True)
class Image:
    """``localhost/coat-NAME``: programs by path, further trees to copy, and what runs if no command is given."""

    name: str
    programs: tuple[str, ...]
    trees: tuple[str, ...] = ()
    command: tuple[str, ...] = ("sleep", "infinity")

    @property
    def reference(self) -> str:
        return f"localhost/coat-{self.name}"

    @property
    def archive(self) -> Path:
        return ARCHIVES / f"coat-{self.name}.tar"


IMAGES = (
    Image("iperf3", ("/usr/bin/iperf3",), command=("iperf3", "--server")),
    Image("sockperf", ("/usr/bin/sockperf",), command=("sockperf", "server", "--tcp", "--ip", "0.0.0.0")),
    Image(
        "redis",
        ("/usr/bin/redis-server", "/usr/bin/redis-cli", "/usr/bin/redis-benchmark"),
        command=("redis-server", "--protected-mode", "no"),
    ),
    Image("python", ("/usr/bin/python3",), trees=("/usr/lib/python3.13",), command=("python3",)),
    Image(
        "web",
        ("/usr/bin/python3", "/usr/bin/gunicorn", "/usr/sbin/haproxy"),
        trees=(
            "/usr/lib/python3.13",
            *(f"/usr/lib/python3/dist-packages/{name}" for name in ("gunicorn", "packaging")),
        ),
    ),
)


ENTER = Path(__file__).with_name("enter.sh")


def run_in(root: Path, argv: list[str]) -> str:
    """Run a command inside a root file system, in mounts and processes of its own. Returns its standard output.

    Raises subprocess.CalledProcessError with what it wrote to standard error.
    """
    enter = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--", "sh", str(ENTER)]
    done = subprocess.run([*enter, str(root), *argv], capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
    return done.stdout


def shared_libraries(root: Path, programs: list[str]) -> Iterator[str]:
    """Paths of the dynamic loader and the libraries that programs or modules of that root file system load."""
    for line in run_in(root, ["ldd", *programs]).splitlines():
        match = re.search(r"(?:=> )?(/\S+) \(0x", line)
        if match:
            yield match[1]


def _copy(root: Path, tree: Path, path: str) -> None:
    """Copy one file, resolved, to the same place; /lib and /bin are links into /usr on both sides."""
    source, target = root / path.lstrip("/"), tree / path.lstrip("/")
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source.resolve(strict=True), target)


def _fill(root: Path, tree: Path, image: Image) -> None:
    """Lay out the image's root directory."""
    for directory in "usr/bin usr/lib usr/lib64 usr/sbin etc proc sys dev root run tmp var".split():
        (tree / directory).mkdir(parents=True, exist_ok=True)
    (tree / "tmp").chmod(0o1777)
    for link in ("bin", "lib", "lib64", "sbin"):
        (tree / link).symlink_to(f"usr/{link}")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    (tree / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    _copy(root, tree, "/usr/bin/busybox")
    for applet in run_in(root, ["busybox", "--list"]).split():
        if applet != "busybox":
            (tree / "usr/bin" / applet).symlink_to("busybox")
    for path in image.trees:
        shutil.copytree(root / path.lstrip("/"), tree / path.lstrip("/"), symlinks=True, dirs_exist_ok=True)
    modules = ["/" + str(module.relative_to(tree)) for module in tree.glob("usr/lib/python*/lib-dynload/*.so")]
    # glibc loads it by name when a thread is cancelled (nptl, "libgcc_s.so.1 must be installed"); ldd does not tell
    unwinder = next("/" + str(path.relative_to(root)) for path in root.glob("usr/lib/*/libgcc_s.so.1"))
    programs = [*image.programs, *modules, unwinder]
    linked = [path for path in programs if (root / path.lstrip("/")).read_bytes()[:4] == b"\x7fELF"]
    for path in [*programs, *shared_libraries(root, linked)]:
        _copy(root, tree, path)


def build(root: Path, image: Image) -> None:
    """Make one image inside the root file system: into the read-only store and as an archive."""
    podman = ["podman", "--root", str(STORE), "--runroot", "/run/coat-build", "--storage-driver", "overlay"]
    (root / ARCHIVES.relative_to("/")).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / "var/tmp") as directory:
        work = Path("/var/tmp") / Path(directory).name  # the same place, seen from inside
        _fill(root, Path(directory) / "tree", image)
        run_in(root, ["tar", "--create", "--file", f"{work}/layer.tar", "--directory", f"{work}/tree", "."])
        change = f"CMD {list(image.command)}".replace("'", '"')
        run_in(root, [*podman, "import", "--quiet", "--change", change, f"{work}/layer.tar", image.reference])
        run_in(root, [*podman, "save", "--quiet", "--output", str(image.archive), image.reference])


def build_all(root: Path, progress: Callable[[str], None]) -> None:
    """Make every image of IMAGES. Raises subprocess.CalledProcessError."""
    for image in IMAGES:
        progress(f"container image {image.reference}")
        build(root, image)
