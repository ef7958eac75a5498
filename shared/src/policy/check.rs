//! Whether a policy document can be used, and if not, what is wrong with it and where.
//!
//! Shape first: no JSON, an unknown setting, a value of the wrong kind. Such a document has one problem, with its line and column, since nothing that
//! follows it can be read. Then sense: everything that contradicts something else, or could never apply, each with its path in the document.

mod sense;
mod shape;

use std::fmt;

pub(super) use self::sense::problems;
pub(super) use self::shape::read;

/// Something that is wrong with a document. May quote it: for the person who wrote it, not for a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where: line and column, or the path of the setting.
    pub place: String,
    /// What.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

/// A key as a path has it: in quotes where it needs them.
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
