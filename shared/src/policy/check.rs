//! Checks whether a policy document can be used, and reports what is wrong with it and where.
//!
//! The first check is the syntax: invalid JSON, an unknown setting, a value of the wrong type. Such
//! a document has one problem, with its line and column, since the rest cannot be parsed. The
//! second check is the meaning: every setting that contradicts another one or could never apply is
//! a problem, with its path in the document.

mod schema_check;
mod semantic_check;

use std::fmt;

pub(super) use self::schema_check::read;
pub(super) use self::semantic_check::problems;

/// A problem in a document. May quote the document: show it to its author, do not log it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The place: line and column, or the path of the setting.
    pub place: String,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// Returns a key as it appears in a path: quoted if necessary.
fn name(key: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_$".contains(c);
    if key.chars().all(is_plain) && !key.is_empty() {
        key.to_owned()
    } else {
        format!("{key:?}")
    }
}

#[cfg(test)]
mod tests;
