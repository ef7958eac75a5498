//! Parses a text as a policy document.

use serde_path_to_error::Segment;

use super::{Problem, name};
use crate::policy::document::Document;

/// The maximum length of a document, in bytes. A DynamoDB item holds 400 KB, and the other
/// attributes need room.
const LONGEST_DOCUMENT: usize = 350_000;

/// Parses a document. Fails with the one problem that makes it unreadable.
pub(in crate::policy) fn read(text: &str) -> Result<Document, Problem> {
    if text.len() > LONGEST_DOCUMENT {
        return Err(Problem {
            place: "the document".to_owned(),
            what: format!(
                "is {} bytes long; at most {LONGEST_DOCUMENT} can be stored",
                text.len()
            ),
        });
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let document = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = path(error.path());
        problem(&path, error.inner())
    })?;
    json.end().map_err(|error| problem("", &error))?;
    Ok(document)
}

fn problem(path: &str, error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line(), error.column());
    let what = error.to_string();
    let place_again = format!(" at line {line} column {column}");
    Problem {
        place: match path {
            "" => format!("line {line}, column {column}"),
            path => format!("line {line}, column {column}, {path}"),
        },
        what: what.strip_suffix(&place_again).unwrap_or(&what).to_owned(),
    }
}

/// Returns a path such as `mailboxes."ada@example.com".block[0]`.
fn path(path: &serde_path_to_error::Path) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => text.push_str(&format!("[{index}]")),
            Segment::Map { key } | Segment::Enum { variant: key } => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(&name(key));
            }
            Segment::Unknown => {}
        }
    }
    text
}
