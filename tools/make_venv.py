"""Makes .venv with everything in it, or brings it up to date; with nothing to do it takes a moment.

    python3 tools/make_venv.py [--any-python]

Only the standard library, and written so that an old Python can read it far enough to refuse. The environment counts as
finished only by its stamp, which is taken away first and written last, so an interrupted run is started afresh.
"""

import argparse
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
STAMP = os.path.join(VENV, "finished")
SCRATCH = os.path.join(VENV, "tmp")
LOCKS = tuple(os.path.join("requirements", name) for name in ("build.txt", "controller.txt", "develop.txt"))
INPUTS = ("setup.cfg", "setup.py", "pyproject.toml", "coat_ryu.pth", "tools/make_venv.py") + LOCKS
OLDEST, NEWEST = (3, 11), (3, 13)
LOCK_TIMEOUT_S = 1800
COMMAND_TIMEOUT_S = 1800


def main():
    parser = argparse.ArgumentParser(description="Makes .venv, or brings it up to date.")
    parser.add_argument("--any-python", action="store_true", help="keep a .venv of another supported Python")
    options = parser.parse_args()
    with open(os.path.join(ROOT, "setup.cfg")) as lock:
        wait_for(lock)
        finished = read_stamp()
        python = finished[0] if finished and options.any_python else this_python()
        target = [python, digest()]
        if finished == target:
            return
        if not finished or finished[0] != python:
            check_python(lock)
            make_empty(lock)
        if os.path.exists(STAMP):
            os.remove(STAMP)
        fill(lock)
        shutil.rmtree(SCRATCH)
        with open(STAMP, "w") as stamp:
            stamp.write("\n".join(target) + "\n")
        say("done: %s" % VENV)


def wait_for(lock):
    """Two runs at once would break each other's environment; the later one waits for the earlier.

    The commands that are run inherit the lock, so it also outlasts a run that was killed while its pip goes on.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while True:
        try:
            return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                fail("another install has not ended within %d s" % LOCK_TIMEOUT_S)
            time.sleep(0.5)


def this_python():
    # The real path also leads from a virtual environment to the Python it was made of.
    return "%s %s" % (os.path.realpath(sys.executable), sys.version.split()[0])


def read_stamp():
    """The Python a finished environment was made of and the digest of what it was made from; None: no finished one."""
    if not os.path.exists(STAMP):
        return None
    with open(STAMP) as stamp:
        python, made_from = stamp.read().splitlines()
    # A system's upgrade may have replaced what the environment's links lead to.
    moved = os.path.realpath(os.path.join(VENV, "bin", "python")) != python.rpartition(" ")[0]
    return None if moved else [python, made_from]


def digest():
    result = hashlib.sha256(ROOT.encode())  # the scripts in .venv/bin hold its path
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            result.update(file.read())
    return result.hexdigest()


def check_python(lock):
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        fail(
            "%s is Python %s; Python 3.11, 3.12 or 3.13 is needed. Name one: make install PYTHON=python3.12"
            % (sys.executable, sys.version.split()[0])
        )
    if importlib.util.find_spec("ensurepip"):
        return
    # Debian and Ubuntu keep ensurepip in a package of its own.
    package = "python%d.%d-venv" % sys.version_info[:2]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        fail("%s cannot make virtual environments; as root: apt-get install %s" % (sys.executable, package))
    say("installing Debian's " + package)
    apt = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    # A fresh machine has no package lists yet. One broken source of many is no reason to give up.
    subprocess.run([*apt, "update"], stdin=subprocess.DEVNULL, timeout=COMMAND_TIMEOUT_S)
    run([*apt, "install", "--no-install-recommends", package], lock)


def make_empty(lock):
    say("making .venv with Python " + sys.version.split()[0])
    shutil.rmtree(VENV, ignore_errors=True)
    os.makedirs(SCRATCH)
    run([os.path.realpath(sys.executable), "-m", "venv", VENV], lock, TMPDIR=SCRATCH)


def fill(lock):
    say("installing coat_ryu, Ryu 4.34 and the tools (under a minute)")
    # Without --no-compile, byte code for everything takes a third of the time; Python makes what it needs of it anyway.
    # Nothing is built in an environment of pip's own making: what builds is locked as well.
    pip = [os.path.join(VENV, "bin", "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pip += ["-qq", "--no-compile", "--no-build-isolation"]
    os.makedirs(SCRATCH, exist_ok=True)
    build, _, develop = (os.path.join(ROOT, name) for name in LOCKS)
    for what in (["--require-hashes", "-r", build], ["--require-hashes", "-r", develop], ["--no-deps", "-e", ROOT]):
        # What a killed pip leaves behind goes with the next .venv. Debian 12's pip would build without PEP 517.
        run(pip + what, lock, TMPDIR=SCRATCH, PIP_USE_PEP517="1")


def run(command, lock, **extra):
    environment = dict(os.environ, **extra)
    try:
        subprocess.run(
            command,
            check=True,
            timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env=environment,
            pass_fds=[lock.fileno()],
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        fail(str(error))


def say(text):
    print("install: " + text, flush=True)


def fail(text):
    sys.exit("install: " + text)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; the next run starts afresh")
