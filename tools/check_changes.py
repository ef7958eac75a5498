"""The fast loop: checks what has changed since a branch, in seconds.

    check_changes.py BASE

Format of everything, prose and width of the changed lines, the rules of the documentation, then clippy, the unit tests
and the layers. The last three run only if a file that cargo may read has changed. Cargo rebuilds what the change can
reach, with the features of the whole workspace, as the full test run does, so that neither run undoes the other's work.
Clippy leaves out the harnesses, which are examples; the full run has them.

Exit status: 0 nothing found, 1 something found (printed above), 2 bad usage.
"""

import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def changed_files(start):
    """Paths that differ from the commit `start`, including files that git does not know yet."""
    return git("diff", "--name-only", start).split() + git("ls-files", "--others", "--exclude-standard").split()


def git(*command):
    done = subprocess.run(["git", "-c", "core.quotepath=off", *command], cwd=PROJECT, capture_output=True, text=True)
    if done.returncode:
        print(f"git {command[0]}: {done.stderr.strip()}", file=sys.stderr)
        sys.exit(2)
    return done.stdout


def is_built_from(path):
    """Whether cargo may read the file: all but the pages, the tools and what only make and SAM read."""
    return not path.endswith(".md") and not path.startswith("tools/") and path not in ("Makefile", "template.yaml")


def steps(files, start):
    """The commands to run, in order, each with its heading."""
    yield "formatting", ["cargo", "fmt", "--all", "--check"]
    yield "prose of the changed lines", [sys.executable, "tools/prose.py", "--diff", start]
    yield "documentation", [sys.executable, "-m", "unittest", "discover", "--start-directory", "tools",
                            "--pattern", "test_docs.py"]
    if any(map(is_built_from, files)):
        yield "clippy", ["cargo", "clippy", "--quiet", "--locked", "--workspace", "--lib", "--bins", "--tests", "--",
                         "-D", "warnings"]
        # `--lib` would also run the tests in files that the fuzz targets borrow from the command.
        yield "unit tests and layers", ["cargo", "test", "--quiet", "--locked", "--workspace",
                                        "--exclude", "fuzz-targets", "--lib", "--bin", "mailverse", "--test", "layers"]


def main(arguments):
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    start = git("merge-base", arguments[0], "HEAD").strip()
    for heading, command in steps(changed_files(start), start):
        print(f"==> {heading}", flush=True)
        if subprocess.run(command, cwd=PROJECT).returncode:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
