//! Terminal input and output that all commands share: safe printing of foreign text, questions to
//! the operator, and output to a pipe that may be closed.

use std::io::{self, ErrorKind, IsTerminal};

/// Replaces the characters in `text` that could control a terminal with spaces.
///
/// Used for text from outside. Control characters could move the cursor; bidirectional marks could
/// reverse the direction of the text.
pub(crate) fn printable(text: &str) -> String {
    let moves = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars()
        .map(|c| if moves(c) { ' ' } else { c })
        .collect()
}

/// Formats `number` with `what`, which must have a regular plural: `1 file`, `2 files`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// The answer to a yes-or-no question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    /// Standard input is not a terminal, so nothing was asked.
    NobodyThere,
}

/// Prints what is about to happen and asks for confirmation. Any answer except `y` or `Y` is `No`.
pub(crate) fn ask(what_happens: &str) -> io::Result<Answer> {
    if !io::stdin().is_terminal() {
        return Ok(Answer::NobodyThere);
    }
    eprint!("{what_happens} Continue? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(if answer.trim().eq_ignore_ascii_case("y") {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// Ignores the error of a closed pipe: the reader, such as `head`, may have read enough.
pub(crate) fn printed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
