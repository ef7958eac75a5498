//! A check as data, and a list of them as text or JSON. Pure.

use std::fmt;
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::terminal::{counted, printable};

/// Columns of the terminal that a warning keeps to.
const COLUMNS: usize = 80;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it should be.
    Well,
    /// Not as it should be, and what to do about it.
    Broken { remedy: String },
    /// Nothing is broken, and it may not be what was meant: what to look at.
    Warning { remedy: String },
    /// It could not be looked at, because something that it needs is broken or is not named.
    Skipped,
}

/// One question, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// What was looked at.
    pub(crate) name: String,
    /// What that came to.
    pub(crate) verdict: Verdict,
    /// What was seen: ids, states, numbers; never content or a secret.
    pub(crate) seen: String,
}

impl Check {
    pub(crate) fn well(name: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Well,
            seen: seen.into(),
        }
    }

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

    /// `needs` is the name of the check that has to be well first.
    pub(crate) fn skipped(name: impl Into<String>, needs: &str) -> Self {
        Self {
            name: name.into(),
            verdict: Verdict::Skipped,
            seen: format!("not looked at: needs {needs}"),
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

/// Broken ones by a test: `seen` when it is well, else what is wrong and what to do.
pub(crate) fn judged(name: &str, seen: String, problem: Option<(String, String)>) -> Check {
    match problem {
        None => Check::well(name, seen),
        Some((seen, remedy)) => Check::broken(name, seen, remedy),
    }
}

/// All checks of a run, in their order.
#[derive(Debug, Default)]
pub(crate) struct Report(pub(crate) Vec<Check>);

impl Report {
    pub(crate) fn is_healthy(&self) -> bool {
        !self.0.iter().any(Check::is_broken)
    }

    /// One object: `healthy`, and `checks` with `name`, `verdict` (`well`, `broken`, `warning`,
    /// `skipped`), `seen` and `remedy` (or null).
    pub(crate) fn json(&self) -> Value {
        let checks: Vec<Value> = self.0.iter().map(Check::json).collect();
        json!({"healthy": self.is_healthy(), "checks": checks})
    }

    /// The lines, and as JSON where that is asked for.
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
        // What is skipped for the same reason is one line.
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
                writeln!(f, "All {} checks are well.", self.0.len())
            }
            (0, 0) => writeln!(f, "Nothing is broken{warnings}."),
            (0, _) => writeln!(f, "Nothing is broken{warnings}; {skipped} not looked at."),
            (_, 0) => writeln!(f, "{broken} broken{warnings}."),
            (_, _) => writeln!(f, "{broken} broken{warnings}, {skipped} not looked at."),
        }
    }
}

/// Lines of whole words, of at most `width` characters where a single word is not longer.
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
    fn each_check_is_a_line_and_what_is_broken_says_what_to_do() {
        let report = Report(vec![
            Check::well("token", "ends in 40 minutes"),
            Check::broken("mailbox", "invalid\u{1b}[2J", "let its owner sign in again"),
            Check::skipped("read emails", "WhoAmI"),
        ]);
        let text = report.to_string();
        let expected = "✔ token        ends in 40 minutes\n\
                        ✘ mailbox      invalid [2J\n\
                        \u{20}              → let its owner sign in again\n\
                        – read emails  not looked at: needs WhoAmI\n\
                        1 broken, 1 not looked at.\n";
        assert_eq!(text, expected);
        assert!(!report.is_healthy());
        assert_eq!(
            report.json()["checks"][1]["remedy"],
            "let its owner sign in again"
        );
    }

    #[test]
    fn a_warning_breaks_nothing_and_is_folded_to_eighty_columns() {
        let name = "mailbox 11111111-2222-4333-8444-555555555555";
        let remedy = "correct the entry, connect its mailboxes at Nylas, or leave it out";
        let report = Report(vec![
            Check::well(name, "in by entry 1, google"),
            Check::warning("MAILBOXES entry 2", "a domain: no mailbox", remedy),
        ]);
        let text = report.to_string();
        let expected = "✔ mailbox 11111111-2222-4333-8444-555555555555  in by entry 1, google\n\
                        ! MAILBOXES entry 2                             a domain: no mailbox\n\
                        \u{20}                                               → correct the entry, connect its\n\
                        \u{20}                                                 mailboxes at Nylas, or leave\n\
                        \u{20}                                                 it out\n\
                        Nothing is broken, 1 warning.\n";
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| line.chars().count() <= 80));
        assert!(report.is_healthy());
        assert_eq!(report.json()["checks"][1]["verdict"], "warning");
        assert_eq!(report.json()["checks"][1]["remedy"], remedy);
    }

    #[test]
    fn what_was_not_looked_at_for_one_reason_is_one_line() {
        let skip = |name: &str| Check::skipped(name, "token");
        let report = Report(vec![
            skip("a"),
            skip("b"),
            skip("c"),
            Check::skipped("d", "a"),
        ]);
        let expected = "– a and 2 more  not looked at: needs token\n\
                        – d  not looked at: needs a\n\
                        Nothing is broken; 4 not looked at.\n";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.json()["checks"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn what_was_not_looked_at_is_not_broken() {
        let well = Report(vec![Check::well("a", "b")]);
        assert_eq!(well.to_string(), "✔ a  b\nAll 1 checks are well.\n");
        let skipped = Report(vec![Check::well("a", "b"), Check::skipped("c", "a")]);
        assert!(skipped.is_healthy());
        assert!(
            skipped
                .to_string()
                .ends_with("Nothing is broken; 1 not looked at.\n")
        );
    }
}
