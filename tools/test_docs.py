"""The documentation agrees with the project: links, settings, template parameters and `make` targets. Each rule finds
the fault it is there for, planted into the real pages.

What the pages say of the command, tests in Rust compare: tests/integration/docs_cli.rs, policy_command.rs and
end_to_end/operating/doctor.rs."""

import posixpath
import re
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent

README_LINES = 120
CONFIGURATION = "docs/configuration.md"

# Pages whose links are followed. CONTRIBUTING.md and SECURITY.md may be missing.
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "docs/**/*.md"]

# Where settings are read: through the methods of `mailverse::env::Settings`, or by a name that a constant has.
CODE = ["functions/*/src/**/*.rs", "cli/src/**/*.rs", "shared/src/**/*.rs"]
READ = re.compile(
    r"\.(?:required|optional|service_url|one_of|parsed|required_parsed|names)\(\s*\"([A-Z][A-Z0-9_]+)\""
    r"|const SETTING: &str = \"([A-Z][A-Z0-9_]+)\""
)


class Project:
    """The texts of a project by path, so that a fault can be planted into one of them."""

    def __init__(self, texts):
        self.texts = texts

    @classmethod
    def read(cls):
        paths = ["Makefile", "template.yaml"]
        for pattern in PAGES + CODE:
            paths += [path.relative_to(PROJECT).as_posix() for path in sorted(PROJECT.glob(pattern))]
        return cls({path: (PROJECT / path).read_text(encoding="utf-8") for path in paths})

    def with_text(self, path, text):
        return Project({**self.texts, path: text})

    def planted(self, path, old, new):
        text = self.texts[path]
        assert old in text, f"{path} has no {old!r}"
        return self.with_text(path, text.replace(old, new))

    def code_with(self, text):
        """The path of the code that has this text, wherever it is moved to."""
        return next(path for path, code in self.code().items() if text in code)

    def pages(self):
        return {path: text for path, text in self.texts.items() if path.endswith(".md")}

    def code(self):
        """The Rust code without its unit tests."""
        rust = {path: text for path, text in self.texts.items() if path.endswith(".rs")}
        return {path: text.split("#[cfg(test)]", 1)[0] for path, text in rust.items()}

    def exists(self, path):
        return path in self.texts or (PROJECT / path).exists()

    def text(self, path):
        """A page that may not be one of ours, such as events/README.md; empty for what is no page."""
        if path not in self.texts and not path.endswith(".md"):
            return ""
        return self.texts.get(path) or (PROJECT / path).read_text(encoding="utf-8")


def blocks(text):
    """Yields the lines of a page, each with whether it is in a code block."""
    fenced = False
    for line in text.splitlines():
        if re.match(r"\s*(```|~~~)", line):
            fenced = not fenced
            yield "", True
        else:
            yield line, fenced or line.startswith("    ")


def prose(text):
    """The page without code blocks and code spans."""
    lines = "\n".join("" if is_code else line for line, is_code in blocks(text))
    return re.sub(r"(`+)(?:(?!\1).)*?\1", "", lines)


def spans(text):
    """The code spans of the page; one may go on in the next line."""
    lines = "\n".join("" if is_code else line for line, is_code in blocks(text))
    return [" ".join(span.split()) for span in re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", lines)]


def anchors(text):
    """The anchors of a page's headings, as GitHub makes them."""
    found = set()
    for line, is_code in blocks(text):
        heading = re.match(r"#{1,6}\s+(.*?)\s*#*$", line)
        if is_code or not heading:
            continue
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.group(1))
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        name, number = slug, 0
        while name in found:
            number += 1
            name = f"{slug}-{number}"
        found.add(name)
    return found


def section(text, heading):
    """What stands below a heading, up to the next heading of its level; empty if there is none."""
    level = heading.split(" ", 1)[0]
    parts = re.split(rf"^{re.escape(heading)}\s*$", text, maxsplit=1, flags=re.MULTILINE)
    if len(parts) < 2:
        return ""
    return re.split(rf"^#{{1,{len(level)}}} ", parts[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(text):
    """The names in the first cells of a section's tables."""
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", text, flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def long_readme(project):
    lines = len(project.texts["README.md"].splitlines())
    return [f"README.md has {lines} lines, at most {README_LINES}"] if lines > README_LINES else []


def broken_links(project):
    problems = []
    for page, text in project.pages().items():
        # Image text may hold brackets of no link, so the target alone is looked for.
        for target in re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose(text)):
            if re.match(r"[a-z][a-z0-9+.-]*:", target):
                continue
            path, _, anchor = target.partition("#")
            path = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
            if not project.exists(path):
                problems.append(f"{page}: {target}: there is no {path}")
            elif anchor and anchor not in anchors(project.text(path)):
                problems.append(f"{page}: {target}: {path} has no such heading")
    return problems


def settings_read(project):
    """The settings that the code reads."""
    return {name for text in project.code().values() for pair in READ.findall(text) for name in pair if name}


def template_section(project, name):
    """The names in a section of the template."""
    _, _, rest = project.texts["template.yaml"].partition(f"\n{name}:\n")
    body = re.split(r"^\S", rest, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^  ([A-Za-z][A-Za-z0-9]*):$", body, re.MULTILINE))


def template_variables(project):
    """The variables of the functions, of one or of all."""
    names = re.findall(r"^ {8}(?: {2})?([A-Z][A-Z0-9_]+): ", project.texts["template.yaml"], re.MULTILINE)
    return set(names)


def wrong_settings(project):
    page = project.texts[CONFIGURATION]
    named = {span for span in spans(page) if re.fullmatch(r"[A-Z][A-Z0-9_]{3,}", span)}
    named = {name for name in named if not name.startswith("AWS_")}
    known = settings_read(project) | template_variables(project)
    problems = [f"{CONFIGURATION}: {name} is not a setting" for name in sorted(named - known)]
    for names, heading in (
        (known, "## What each setting means"),
        (template_variables(project), "## Settings of the functions"),
    ):
        missing = sorted(names - first_cells(section(page, heading)))
        problems += [f'{CONFIGURATION}: {name} is missing in "{heading[3:]}"' for name in missing]
    return problems


def wrong_parameters(project):
    page = project.texts[CONFIGURATION]
    problems = []
    for kind, heading in (("Parameters", "## Template parameters"), ("Outputs", "## Stack outputs")):
        there, told = template_section(project, kind), first_cells(section(page, heading))
        problems += [f"{CONFIGURATION}: {name} of {kind} is missing" for name in sorted(there - told)]
        problems += [f"{CONFIGURATION}: {name} is not in {kind} of the template" for name in sorted(told - there)]
    return problems


def unknown_targets(project):
    targets = set(re.findall(r"^([a-z][a-z0-9-]*):(?!=)", project.texts["Makefile"], re.MULTILINE))
    problems = []
    for page, text in project.pages().items():
        code = [line.strip().removeprefix("$ ") for line, is_code in blocks(text) if is_code]
        for command in spans(text) + code:
            named = re.match(r"make ([a-z][a-z0-9-]*)", command)
            if named and named.group(1) not in targets:
                problems.append(f"{page}: make {named.group(1)}: the Makefile has no such target")
    return problems


class Documentation(unittest.TestCase):
    def setUp(self):
        self.project = Project.read()

    def assert_none(self, problems):
        self.assertEqual(problems, [], "\n" + "\n".join(problems))

    def test_the_readme_is_short(self):
        self.assert_none(long_readme(self.project))

    def test_every_link_leads_to_something(self):
        self.assert_none(broken_links(self.project))

    def test_every_setting_is_documented_and_exists(self):
        self.assert_none(wrong_settings(self.project))

    def test_every_parameter_and_output_of_the_template_is_documented(self):
        self.assert_none(wrong_parameters(self.project))

    def test_every_make_target_exists(self):
        self.assert_none(unknown_targets(self.project))


class PlantedFaults(unittest.TestCase):
    def setUp(self):
        self.project = Project.read()

    def assert_found(self, rule, expected, project):
        """The rule finds the fault, which the project as it is does not have."""
        self.assertFalse(any(expected in problem for problem in rule(self.project)), expected)
        problems = rule(project)
        self.assertTrue(any(expected in problem for problem in problems), f"{expected!r} not in {problems}")

    def test_a_long_readme(self):
        text = self.project.texts["README.md"] + "line\n" * README_LINES
        self.assert_found(long_readme, "at most 120", self.project.with_text("README.md", text))

    def test_a_link_to_a_page_that_is_not_there(self):
        planted = self.project.planted("README.md", "(docs/cli.md)", "(docs/command.md)")
        self.assert_found(broken_links, "README.md: docs/command.md: there is no docs/command.md", planted)

    def test_a_link_from_a_folder_is_relative_to_it(self):
        planted = self.project.planted("docs/limits.md", "(duplicates.md)", "(docs/duplicates.md)")
        self.assert_found(broken_links, "there is no docs/docs/duplicates.md", planted)

    def test_a_link_to_a_heading_that_is_not_there(self):
        planted = self.project.planted("docs/operations.md", "## What needs attention\n", "## What is wrong\n")
        expected = "operations.md#what-needs-attention: docs/operations.md has no such heading"
        self.assert_found(broken_links, expected, planted)

    def test_a_link_within_the_page(self):
        planted = self.project.planted("docs/operations.md", "(#a-message-is-dead)", "(#a-message-died)")
        self.assert_found(broken_links, "#a-message-died: docs/operations.md has no such heading", planted)

    def test_an_image_that_is_not_there(self):
        planted = self.project.planted("README.md", "docs/images/replay.svg", "docs/images/play.svg")
        self.assert_found(broken_links, "there is no docs/images/play.svg", planted)

    def test_a_link_in_code_is_none(self):
        page = "# A\n\n`[a](b.md)`\n\n    [a](b.md)\n\n```\n[a](b.md)\n```\n"
        planted = self.project.with_text("docs/extra.md", page)
        self.assertEqual(broken_links(planted), broken_links(self.project))

    def test_a_setting_that_no_code_reads(self):
        planted = self.project.planted(CONFIGURATION, "`WRITE_MODE`", "`WRITING_MODE`")
        self.assert_found(wrong_settings, "WRITING_MODE is not a setting", planted)

    def test_a_setting_that_no_page_has(self):
        # Of a function, of all pipelines, of the command, and one whose name is a constant.
        for read in (
            'required("ENTRA_SECRET_ID"',
            'one_of("CREATED_ON"',
            'required("BACKFILL_FUNCTION"',
            'const SETTING: &str = "MAILBOXES"',
        ):
            with self.subTest(read=read):
                old = read.split('"')[1]
                planted = self.project.planted(self.project.code_with(read), f'"{old}"', '"NEW_SETTING"')
                self.assert_found(wrong_settings, "NEW_SETTING is missing", planted)

    def test_a_variable_of_the_template_that_no_page_has(self):
        planted = self.project.planted("template.yaml", "          WRITE_MODE: !Ref", "          NEW_MODE: !Ref")
        self.assert_found(wrong_settings, 'NEW_MODE is missing in "Settings of the functions"', planted)

    def test_a_parameter_that_no_page_has(self):
        planted = self.project.planted("template.yaml", "\n  KmsKeyArn:\n", "\n  KmsKeyName:\n")
        self.assert_found(wrong_parameters, "KmsKeyName of Parameters is missing", planted)
        self.assert_found(wrong_parameters, "KmsKeyArn is not in Parameters", planted)

    def test_an_output_that_no_page_has(self):
        planted = self.project.planted("template.yaml", "\n  LogGroup:\n", "\n  LogGroupName:\n")
        self.assert_found(wrong_parameters, "LogGroupName of Outputs is missing", planted)

    def test_a_make_target_that_is_not_there(self):
        planted = self.project.planted("README.md", "    make demo ", "    make show ")
        self.assert_found(unknown_targets, "README.md: make show", planted)
        planted = self.project.planted("docs/limits.md", "`make memory`", "`make heap`")
        self.assert_found(unknown_targets, "docs/limits.md: make heap", planted)


if __name__ == "__main__":
    unittest.main()
