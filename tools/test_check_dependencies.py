"""check_dependencies.py finds each fault, planted into the real deny.toml or into a database of our own."""

import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import check_dependencies
from check_dependencies import OFFLINE, OLD_COPY, CargoDeny

RULES = (check_dependencies.PROJECT / "deny.toml").read_text(encoding="utf-8")
MANIFEST = str(check_dependencies.PROJECT / "Cargo.toml")
DATABASE = "https://github.com/RustSec/advisory-db"

ADVISORY = """```toml
[advisory]
id = "RUSTSEC-2020-9999"
package = "{package}"
date = "2020-01-01"

[versions]
patched = []
```

# Planted

Planted.
"""


class PlantedFaults(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def check(self, change=lambda rules: rules, database=None):
        """What is printed, and whether something was found; `database` stands in for the real one, whatever is reachable."""
        rules = change(RULES)
        self.assertTrue(change is PlantedFaults.check.__defaults__[0] or rules != RULES, "nothing was planted")
        config = self.folder / "deny.toml"
        copies = f'[advisories]\ndb-path = "{self.folder}/copies"\ndb-urls = ["{DATABASE}"]\n'
        config.write_text(copies + rules, encoding="utf-8")
        git = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.file://{database or self.folder / 'nowhere'}.insteadOf",
            "GIT_CONFIG_VALUE_0": DATABASE,
        }
        with mock.patch.dict(os.environ, git):
            lines, found = check_dependencies.check(CargoDeny(MANIFEST, str(config)))
        return "\n".join(lines), found

    def database(self, package):
        folder = self.folder / "database"
        advisory = folder / "crates" / package / "RUSTSEC-2020-9999.md"
        advisory.parent.mkdir(parents=True)
        advisory.write_text(ADVISORY.format(package=package), encoding="utf-8")
        who = ["-c", "user.name=x", "-c", "user.email=x@x.example"]
        for command in (["init", "--quiet", "--initial-branch", "main"], ["add", "."], [*who, "commit", "-qm", "x"]):
            subprocess.run(["git", "-C", folder, *command], check=True)
        return folder

    def test_a_licence_that_is_not_allowed(self):
        printed, found = self.check(lambda rules: rules.replace('    "ISC",\n', ""))
        self.assertTrue(found)
        self.assertIn("licenses FAILED", printed)

    def test_a_crate_that_is_banned(self):
        ban = '    { crate = "serde_json", reason = "planted" },\n'
        printed, found = self.check(lambda rules: rules.replace("deny = [\n", "deny = [\n" + ban))
        self.assertTrue(found)
        self.assertIn("bans FAILED", printed)

    def test_a_source_that_nobody_knows(self):
        other = 'unknown-registry = "deny"\nallow-registry = ["https://registry.example/index"]'
        printed, found = self.check(lambda rules: rules.replace('unknown-registry = "deny"', other))
        self.assertTrue(found)
        self.assertIn("sources FAILED", printed)

    def test_an_advisory_for_a_crate_that_is_here_and_one_that_is_not(self):
        printed, found = self.check(database=self.database("serde_json"))
        self.assertTrue(found)
        self.assertIn("RUSTSEC-2020-9999", printed)
        # The server is gone, and the copy still says so.
        printed, found = self.check()
        self.assertTrue(found)
        self.assertIn("RUSTSEC-2020-9999", printed)

    def test_an_advisory_for_a_crate_that_is_not_here(self):
        database = self.database("no-such-crate")
        printed, found = self.check(database=database)
        self.assertEqual((found, "advisories ok" in printed), (False, True), printed)
        printed, found = self.check()
        self.assertEqual((found, OLD_COPY in printed), (False, True), printed)

    def test_a_database_that_cannot_be_reached_is_said_and_fails_nothing(self):
        printed, found = self.check()
        self.assertFalse(found, printed)
        self.assertIn(OFFLINE, printed)
        self.assertTrue(re.search(r"licenses.*ok", printed), printed)


if __name__ == "__main__":
    unittest.main()
