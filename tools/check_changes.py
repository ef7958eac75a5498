"""The fast loop: checks what has changed since a branch, in seconds.

    check_changes.py BASE

Format of everything, prose and width of the changed lines, then clippy and the unit tests. Rust is checked only if a
file that it is built from has changed. Cargo rebuilds what the change can reach, with the features of the whole
workspace, as the full test run does, so that neither run undoes the other's work.

Exit status: 0 nothing found, 1 something found (printed above), 2 bad usage.
"""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def changed_files(base):
    """Paths that differ from the point where this branch left `base`, including files that git does not know yet."""
    start = git("merge-base", base, "HEAD").strip()
    return sorted({*git("diff", "--name-only", start).split("\n"),
                   *git("ls-files", "--others", "--exclude-standard").split("\n")} - {""})


def git(*command):
    done = subprocess.run(["git", "-c", "core.quotepath=off", *command], cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        print(f"git {command[0]}: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(2)
    return done.stdout


def is_rust(path):
    return path.endswith(".rs") or Path(path).name in ("Cargo.toml", "Cargo.lock", "clippy.toml")


def steps(files, start):
    """The commands to run, in order, each with its heading."""
    yield "formatting", ["cargo", "fmt", "--all", "--check"]
    yield "prose of the changed lines", [sys.executable, "tools/prose.py", "--diff", start]
    if any(path.startswith("tools/") or path.endswith(".md") for path in files):
        yield "documentation", [sys.executable, "-m", "unittest", "discover", "--start-directory", "tools",
                                "--pattern", "test_docs.py"]
    if any(map(is_rust, files)):
        yield "clippy", ["cargo", "clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]
        yield "unit tests", ["cargo", "test", "--quiet", "--locked", "--workspace", "--exclude", "fuzz-targets",
                              "--lib", "--bins"]
        yield "layers", ["cargo", "test", "--quiet", "--locked", "--workspace", "--test", "layers"]


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    start = git("merge-base", arguments[0], "HEAD").strip()
    for heading, command in steps(changed_files(arguments[0]), start):
        print(f"==> {heading}", flush=True)
        if subprocess.run(command, cwd=PROJECT).returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
