"""The published schema of the policy document, read by a JSON Schema validator that is not ours: what it takes, and what it refuses.

What `mailverse policy check` says of the same documents: tests/integration/policy_command.rs."""

import json
import unittest
from pathlib import Path

from jsonschema import Draft202012Validator

PROJECT = Path(__file__).resolve().parent.parent


def read(path):
    return json.loads((PROJECT / path).read_text(encoding="utf-8"))


SCHEMA = read("docs/policy.schema.json")


def refused(document):
    """Why the schema refuses a document; None when it takes it."""
    validator = Draft202012Validator(SCHEMA, format_checker=Draft202012Validator.FORMAT_CHECKER)
    errors = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]
    return "; ".join(errors) or None


class PolicySchema(unittest.TestCase):
    def test_it_is_a_schema(self):
        self.assertEqual(SCHEMA["$schema"], "https://json-schema.org/draft/2020-12/schema")
        Draft202012Validator.check_schema(SCHEMA)

    def test_it_takes_every_published_document(self):
        paths = sorted(Path("docs/policy").joinpath(path.name) for path in (PROJECT / "docs/policy").glob("*.json"))
        self.assertGreaterEqual(len(paths), 2)
        for path in paths:
            with self.subTest(path=str(path)):
                self.assertIsNone(refused(read(path)))

    def test_it_refuses_what_it_can_tell_and_nothing_else(self):
        documents = read("tests/fixtures/policy/documents.json")
        self.assertGreaterEqual(len(documents), 20)
        for document in documents:
            with self.subTest(what=document["what"]):
                verdict = refused(document["document"])
                self.assertEqual(verdict is not None, "schema" in document["refused_by"], verdict)


if __name__ == "__main__":
    unittest.main()
