//! What all verbs do alike: show text that strangers wrote, and print to somebody who may have left.

use std::io::{self, ErrorKind};

/// Text that others wrote, for a terminal: without the characters that could move its cursor, turn its writing round, or worse.
pub(crate) fn printable(text: &str) -> String {
    let moves = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if moves(c) { ' ' } else { c })
        .collect()
}

/// What came of printing; whoever reads us may have seen enough and left.
pub(crate) fn printed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
