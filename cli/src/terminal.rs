//! What all verbs do alike: show text that strangers wrote, ask, and print to somebody who may have left.

use std::io::{self, ErrorKind, IsTerminal};

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

/// So many of something whose plural is regular.
pub(crate) fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Yes,
    No,
    /// Standard input is no terminal: nothing was asked.
    NobodyThere,
}

/// Says what is about to happen and asks whether it may. Anything but `y` is a no.
pub(crate) fn ask(what_happens: &str) -> io::Result<Answer> {
    if !io::stdin().is_terminal() {
        return Ok(Answer::NobodyThere);
    }
    eprint!("{what_happens} Go on? [y/N] ");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(if answer.trim().eq_ignore_ascii_case("y") {
        Answer::Yes
    } else {
        Answer::No
    })
}

/// What came of printing; whoever reads us may have seen enough and left.
pub(crate) fn printed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}
