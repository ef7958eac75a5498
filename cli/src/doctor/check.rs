//! The result of one check, and the report of all checks as text or JSON. Pure.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::terminal::{counted, printable};

/// Width of the terminal in columns. The remedy of a warning is wrapped to it.
const COLUMNS: usize = 80;

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The check passed.
    Well,
    /// The check failed; `remedy` says what to do.
    Broken { remedy: String },
    /// Nothing is broken, but it may not be what the operator meant; `remedy` says what to look at.
    Warning { remedy: String },
    /// The check was not made, because something that it needs is broken or not configured.
    Skipped,
}

/// One check and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was checked.
    pub(crate) name: String,
    /// The result.
    pub(crate) verdict: Verdict,
    /// What was found: ids, states, numbers; never content or a secret.
    pub(crate) seen: String,
}

impl Check {
    /// Returns a check that passed.
    pub(crate) fn passed(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Well,
            seen: seen.into(),
        }
    }

    /// Returns a check that failed, with what to do.
    pub(crate) fn broken(
        name: impl Into<String>,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Broken {
                remedy: remedy.into(),
            },
            seen: seen.into(),
        }
    }

    /// Returns a check that found something that may be a mistake, with what to look at.
    pub(crate) fn warning(
        name: impl Into<String>,
        seen: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Warning {
                remedy: remedy.into(),
            },
            seen: seen.into(),
        }
    }

    /// Returns a check that was not made. `needs` names the check that has to pass first, or what
    /// is missing.
    pub(crate) fn skipped(name: impl Into<String>, needs: &str) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Skipped,
            seen: format!("not checked: needs {needs}"),
        }
    }

    pub(crate) fn is_broken(&self) -> bool {
        matches!(self.verdict, Verdict::Broken { .. })
    }

    fn is_warning(&self) -> bool {
        matches!(self.verdict, Verdict::Warning { .. })
    }

    fn json(&self) -> Value {
        let (verdict, remedy) = match &self.verdict {
            Verdict::Well => ("well", None),
            Verdict::Broken { remedy } => ("broken", Some(remedy)),
            Verdict::Warning { remedy } => ("warning", Some(remedy)),
            Verdict::Skipped => ("skipped", None),
        };
        json!({"name": self.name, "verdict": verdict, "seen": self.seen, "remedy": remedy})
    }
}

/// Returns a passed check with `seen`, or a broken one if there is a `problem`: what is wrong and
/// what to do.
pub(crate) fn judged(name: &str, seen: String, problem: Option<(String, String)>) -> Check {
    match problem {
        None => Check::passed(name, seen),
        Some((seen, remedy)) => Check::broken(name, seen, remedy),
    }
}

/// All checks of a run, in the order in which they were made.
#[derive(Debug, Default)]
pub(crate) struct Report(pub(crate) Vec<Check>);

impl Report {
    /// Returns whether no check is broken. Warnings and skipped checks do not count.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.0.iter().any(Check::is_broken)
    }

    /// Returns one object: `healthy`, and `checks` with `name`, `verdict` (`passed`, `broken`,
    /// `warning`, `skipped`), `seen` and `remedy` (or null).
    pub(crate) fn json(&self) -> Value {
        let checks: Vec<Value> = self.0.iter().map(Check::json).collect();
        json!({"healthy": self.is_healthy(), "checks": checks})
    }

    /// Prints one JSON object if `json` is true, otherwise one line per check.
    pub(crate) fn print(&self, out: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            writeln!(out, "{}", self.json())
        } else {
            write!(out, "{self}")
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|it| it.name.chars().count()).max();
        let width = width.unwrap_or_default();
        // Consecutive checks that were skipped for the same reason share one line.
        let same = |one: &Check, other: &Check| {
            [one, other].iter().all(|it| it.verdict == Verdict::Skipped) && one.seen == other.seen
        };
        for checks in self.0.chunk_by(same) {
            let [check, others @ ..] = checks else {
                continue;
            };
            let sign = match check.verdict {
                Verdict::Well => '✔',
                Verdict::Broken { .. } => '✘',
                Verdict::Warning { .. } => '!',
                Verdict::Skipped => '–',
            };
            let (mut name, seen) = (printable(&check.name), printable(&check.seen));
            if !others.is_empty() {
                name = format!("{name} and {} more", others.len());
            }
            writeln!(f, "{sign} {name:width$}  {seen}")?;
            if let Verdict::Broken { remedy } = &check.verdict {
                writeln!(f, "  {:width$}  → {}", "", printable(remedy))?;
            }
            if let Verdict::Warning { remedy } = &check.verdict {
                let mut arrow = '→';
                for line in folded(&printable(remedy), COLUMNS.saturating_sub(width + 6)) {
                    writeln!(f, "  {:width$}  {arrow} {line}", "")?;
                    arrow = ' ';
                }
            }
        }
        let count = |wanted: fn(&Check) -> bool| self.0.iter().filter(|it| wanted(it)).count();
        let broken = count(Check::is_broken);
        let warnings = match count(Check::is_warning) {
            0 => String::new(),
            number => format!(", {}", counted(number, "warning")),
        };
        let skipped = count(|it| it.verdict == Verdict::Skipped);
        match (broken, skipped) {
            (0, 0) if warnings.is_empty() => {
                writeln!(f, "All {} checks passed.", self.0.len())
            }
            (0, 0) => writeln!(f, "Nothing is broken{warnings}."),
            (0, _) => writeln!(f, "Nothing is broken{warnings}; {skipped} not checked."),
            (_, 0) => writeln!(f, "{broken} broken{warnings}."),
            (_, _) => writeln!(f, "{broken} broken{warnings}, {skipped} not checked."),
        }
    }
}

/// Wraps `text` at spaces to lines of at most `width` characters. A longer word gets its own line.
fn folded(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_is_one_line_and_a_broken_check_shows_its_remedy() {
        let report = Report(vec![
            Check::passed("token", "ends in 40 minutes"),
            Check::broken(
                "mailbox",
                "invalid\u{1b}[2J",
                "ask its owner to sign in again",
            ),
            Check::skipped("read emails", "WhoAmI"),
        ]);
        let text = report.to_string();
        let expected = "✔ token        ends in 40 minutes\n\
                        ✘ mailbox      invalid [2J\n\
                        \u{20}              → ask its owner to sign in again\n\
                        – read emails  not checked: needs WhoAmI\n\
                        1 broken, 1 not checked.\n";
        assert_eq!(text, expected);
        assert!(!report.is_healthy());
        assert_eq!(
            report.json()["checks"][1]["remedy"],
            "ask its owner to sign in again"
        );
    }

    #[test]
    fn a_warning_does_not_count_as_broken_and_wraps_at_eighty_columns() {
        let name = "mailbox 11111111-2222-4333-8444-555555555555";
        let remedy = "correct the entry, connect its mailboxes at Nylas, or remove it";
        let report = Report(vec![
            Check::passed(name, "included by entry 1, google"),
            Check::warning("MAILBOXES entry 2", "a domain: no mailbox", remedy),
        ]);
        let text = report.to_string();
        let expected = "✔ mailbox 11111111-2222-4333-8444-555555555555  included by entry 1, google\n\
                        ! MAILBOXES entry 2                             a domain: no mailbox\n\
                        \u{20}                                               → correct the entry, connect its\n\
                        \u{20}                                                 mailboxes at Nylas, or remove\n\
                        \u{20}                                                 it\n\
                        Nothing is broken, 1 warning.\n";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
        assert!(report.is_healthy());
        assert_eq!(report.json()["checks"][1]["verdict"], "warning");
        assert_eq!(report.json()["checks"][1]["remedy"], remedy);
    }

    #[test]
    fn checks_skipped_for_the_same_reason_share_one_line() {
        let skip = |name: &str| Check::skipped(name, "token");
        let report = Report(vec![
            skip("a"),
            skip("b"),
            skip("c"),
            Check::skipped("d", "a"),
        ]);
        let expected = "– a and 2 more  not checked: needs token\n\
                        – d  not checked: needs a\n\
                        Nothing is broken; 4 not checked.\n";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.json()["checks"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_skipped_check_does_not_count_as_broken() {
        let passed = Report(vec![Check::passed("a", "b")]);
        assert_eq!(passed.to_string(), "✔ a  b\nAll 1 checks passed.\n");
        let skipped = Report(vec![Check::passed("a", "b"), Check::skipped("c", "a")]);
        assert!(skipped.is_healthy());
        assert!(
            skipped
                .to_string()
                .ends_with("Nothing is broken; 1 not checked.\n")
        );
    }
}
