//! Holds the transcripts in the manuals to what the compiled command prints.
//!
//! A transcript begins in a code block with the line `$ command`, and ends at the next such line or
//! at the end of the block. A line that is only `…` stands for any number of lines. What differs
//! from run to run (ids, times, policy versions, durations) is masked on both sides. All else must
//! be equal.

use crate::replay::project;

/// Asserts that `page`, a path in the project, shows for this command what the command printed.
#[track_caller]
pub(crate) fn assert_shows(page: &str, command: &str, printed: &str) {
    let text = std::fs::read_to_string(project().join(page)).unwrap();
    let shown = transcript(&text, command);
    let shown = shown.unwrap_or_else(|| panic!("{page} has no line `$ {command}`"));
    let printed = masked_lines(printed);
    assert!(
        is_shown(&shown, &printed),
        "`mailverse` printed for `$ {command}`:\n{}\n{page} shows:\n{}",
        printed.join("\n"),
        shown.join("\n")
    );
}

/// Returns the masked lines that the page shows below `$ command`.
fn transcript(page: &str, command: &str) -> Option<Vec<String>> {
    let prompt = masked(&format!("$ {command}"));
    let mut lines = page.lines().map(masked);
    lines.find(|line| *line == prompt)?;
    let shown = lines.take_while(|line| !line.starts_with("$ ") && !line.starts_with("```"));
    Some(shown.collect())
}

/// Returns the masked lines of an output, without empty lines at its end.
fn masked_lines(printed: &str) -> Vec<String> {
    printed.trim_end().lines().map(masked).collect()
}

/// Returns whether the lines of a transcript are the printed ones.
fn is_shown(shown: &[String], printed: &[String]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line.trim() == "…" => {
            (0..=printed.len()).any(|skipped| is_shown(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed.first() == Some(line) && is_shown(rest, &printed[1..]),
    }
}

/// Replaces what differs from run to run. Ids, times and versions keep their width, so that the
/// columns of a table stay where they are.
fn masked(line: &str) -> String {
    let is_separator = |c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | ':' | '.');
    let mut pieces = line.split_inclusive(is_separator).peekable();
    let mut masked = String::new();
    while let Some(piece) = pieces.next() {
        let word = without_end(piece);
        let unit = pieces.peek().copied().map(without_end);
        match unit {
            Some("min" | "ms") if word.parse::<u64>().is_ok() => masked.push('…'),
            _ => masked.push_str(&masked_word(word)),
        }
        masked.push_str(&piece[word.len()..]);
    }
    masked
}

/// Returns the word without the punctuation and the space after it.
fn without_end(piece: &str) -> &str {
    piece.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
}

fn masked_word(word: &str) -> String {
    let is_hexadecimal = word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
    // A policy version has 12 digits. An id of Gmail has 16, and the tests choose it.
    if is_hexadecimal && (word.len() == 12 || word.len() >= 32) {
        return word.replace(|c: char| c.is_ascii_hexdigit(), "0");
    }
    let shape = word.replace(|c: char| c.is_ascii_digit(), "0");
    match shape.as_str() {
        "0000-00-00" | "00:00" | "00:00:00" | "0000-00-00T00:00:00Z" => shape,
        // A fraction has as many digits as it needs.
        _ if shape.starts_with("0000-00-00T00:00:00.") => "0000-00-00T00:00:00.…Z".to_owned(),
        _ => word.to_owned(),
    }
}

const PAGE: &str = "\
A page.

```
$ mailverse explain 00367939-aace-53bc-8ff9-aff8371de005
changed 2026-11-22 13:51:53 UTC, policy 32d23ee69bcb
  …
took 59 min, until 2026-11-22T16:48:11.123456789Z.
$ mailverse status
1 dead.
```
";

fn page_shows(command: &str, printed: &str) -> bool {
    let shown = transcript(PAGE, command).unwrap();
    is_shown(&shown, &masked_lines(printed))
}

#[test]
fn a_transcript_matches_whatever_its_ids_times_versions_and_durations_are() {
    let command = "mailverse explain d57b3733-2aff-4ba2-9d97-51270905d7ae";
    let first = "changed 2027-01-02 03:04:05 UTC, policy 0123456789ab";
    let last = "took 7 min, until 2027-01-02T03:04:05.678Z.";
    for rest in ["", "more\nand more\n"] {
        assert!(
            page_shows(command, &format!("{first}\n{rest}{last}\n\n")),
            "{rest}"
        );
    }
    assert!(page_shows("mailverse status", "1 dead.\n"));
}

#[test]
fn a_transcript_with_another_word_or_number_of_lines_does_not_match() {
    for printed in ["2 dead.", "1 dead", "", "1 dead.\n1 dead."] {
        assert!(!page_shows("mailverse status", printed), "{printed}");
    }
    assert_eq!(transcript(PAGE, "mailverse doctor"), None);
}
