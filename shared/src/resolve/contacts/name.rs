//! Parses a display name into first and last name. Pure.
//!
//! | Display name | First | Last |
//! | --- | --- | --- |
//! | `Jane Doe`, `'Jane Doe'`, `"Jane Doe"` | Jane | Doe |
//! | `Doe, Jane`, `Doe, Jane (Kites)`, `Doe, Jane, PhD` | Jane | Doe |
//! | `Jane Doe, PhD`, `Jane Doe [External]`, `Jane Doe via Kites` | Jane | Doe |
//! | `Ludwig van Beethoven`: from the first lower-case word on | Ludwig | van Beethoven |
//! | `Mary Ann Doe`: the last word | Mary Ann | Doe |
//! | `Jane` | Jane | Unknown |
//! | nothing, the address itself, `jane.doe` at `jane.doe@…`, no letter in it | | Unknown |
//!
//! Names come in many forms, so this is a guess that people can correct: a name is written when the
//! contact is created, and never again. Each part is cut to 50 UTF-16 code units, at a character
//! boundary (Dataverse facts §15.1).

use crate::model::address::EmailAddress;
use crate::model::text::{cut, without_forbidden};

/// Maximum length of `contact.firstname` and `contact.lastname`, in UTF-16 code units.
const LONGEST: usize = 50;

/// The last name if none is known.
const UNKNOWN: &str = "Unknown";

/// Suffixes that may follow a name after a comma and are not part of it, in lower case and without
/// full stops.
const SUFFIXES: [&str; 18] = [
    "cpa", "dds", "esq", "gmbh", "ii", "iii", "inc", "iv", "jd", "jr", "llc", "llp", "ltd", "mba",
    "md", "msc", "phd", "sr",
];

/// The name of a new contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The value of `firstname`; `None` if it is unknown.
    pub first: Option<String>,
    /// The value of `lastname`; `Unknown` if it is unknown.
    pub last: String,
}

impl Name {
    /// Parses the display name of an address.
    #[must_use]
    pub fn of(display: &str, address: &EmailAddress) -> Self {
        let words = usable(display, address).unwrap_or_default();
        let mut parts: Vec<&str> = words
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .collect();
        while parts.len() > 1 && parts.last().is_some_and(|part| is_suffix(part)) {
            parts.pop();
        }
        match parts.as_slice() {
            [] => Self::new("", ""),
            [whole] => in_order(whole),
            [last, first, ..] => Self::new(first, last),
        }
    }

    /// Returns the name of a person whose first and last name are given separately.
    #[must_use]
    pub(crate) fn of_parts(first: &str, last: &str) -> Self {
        Self::new(&tidy(first), &tidy(last))
    }

    fn new(first: &str, last: &str) -> Self {
        let part = |text: &str| cut(text.trim(), LONGEST).trim_end().to_owned();
        let (first, last) = (part(first), part(last));
        Self {
            first: (!first.is_empty()).then_some(first),
            last: if last.is_empty() {
                UNKNOWN.to_owned()
            } else {
                last
            },
        }
    }

    /// Returns whether any part of the name is known.
    #[must_use]
    pub(crate) fn is_known(&self) -> bool {
        self.first.is_some() || self.last != UNKNOWN
    }
}

/// Returns whether an address is displayed as sending on behalf of someone else: `Jane Doe via
/// Kites`. The address is then not Jane's.
#[must_use]
pub(crate) fn is_on_behalf(display: &str) -> bool {
    via(&tidy(display)).is_some()
}

/// Returns the cleaned display name; `None` if it is not the name of a person.
fn usable(display: &str, address: &EmailAddress) -> Option<String> {
    let tidy = tidy(display);
    let name = via(&tidy).map_or(tidy.as_str(), |(name, _)| name);
    let name = without_brackets(name);
    let name = unquoted(&name);
    let is_local_part =
        name.to_lowercase() == address.local_part() && !name.chars().all(char::is_alphabetic);
    let is_name = name.chars().any(char::is_alphabetic)
        && !name.contains('@')
        && !name.contains("://")
        && !is_local_part;
    is_name.then(|| name.to_owned())
}

/// Returns the text in one line with single blanks, without invisible characters and surrounding
/// quotes.
pub(super) fn tidy(display: &str) -> String {
    let unseen = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    let seen: String = without_forbidden(display)
        .chars()
        .filter(|c| !unseen(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: Vec<&str> = seen.split_whitespace().collect();
    unquoted(&words.join(" ")).to_owned()
}

/// Splits a name at ` via `; `None` if it is not there.
fn via(name: &str) -> Option<(&str, &str)> {
    let at = name.to_ascii_lowercase().find(" via ")?;
    Some((name.get(..at)?, name.get(at + " via ".len()..)?))
}

/// Removes quotes or angle brackets around the whole name.
fn unquoted(mut name: &str) -> &str {
    const PAIRS: [(char, char); 10] = [
        ('"', '"'),
        ('\'', '\''),
        ('`', '`'),
        ('<', '>'),
        ('\u{2018}', '\u{2019}'),
        ('\u{201a}', '\u{2018}'),
        ('\u{201c}', '\u{201d}'),
        ('\u{201e}', '\u{201c}'),
        ('«', '»'),
        ('‹', '›'),
    ];
    loop {
        name = name.trim();
        let inner = PAIRS
            .iter()
            .find_map(|(open, close)| name.strip_prefix(*open)?.strip_suffix(*close));
        match inner {
            Some(inner) => name = inner,
            None => return name,
        }
    }
}

/// Removes everything in brackets; an unclosed bracket removes the rest.
fn without_brackets(name: &str) -> String {
    let mut depth = 0_u32;
    let mut kept = String::new();
    for c in name.chars() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            other if depth == 0 => kept.push(other),
            _ => {}
        }
    }
    kept.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_suffix(part: &str) -> bool {
    let plain: String = part.to_lowercase().replace('.', "");
    SUFFIXES.contains(&plain.as_str())
}

/// Parses a name in spoken order: first names, then the last name.
fn in_order(name: &str) -> Name {
    let words: Vec<&str> = name.split(' ').collect();
    let is_small = |word: &&str| word.chars().next().is_some_and(char::is_lowercase);
    let all_small = words.iter().all(is_small);
    let small = words.iter().skip(1).position(is_small).map(|at| at + 1);
    let at = small
        .filter(|_| !all_small)
        .unwrap_or(words.len().saturating_sub(1))
        .max(1);
    let (first, last) = words.split_at(at.min(words.len()));
    Name::new(&first.join(" "), &last.join(" "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(display: &str) -> (String, String) {
        let address = EmailAddress::parse("jane.doe@kites.example").unwrap();
        let name = Name::of(display, &address);
        (name.first.unwrap_or_default(), name.last)
    }

    #[track_caller]
    fn is(display: &str, first: &str, last: &str) {
        assert_eq!(
            name(display),
            (first.to_owned(), last.to_owned()),
            "{display}"
        );
    }

    #[test]
    fn the_last_word_of_a_name_is_the_last_name() {
        is("Jane Doe", "Jane", "Doe");
        is("  Jane\t\r\n Doe ", "Jane", "Doe");
        is("Mary Ann Doe", "Mary Ann", "Doe");
        is("jane doe", "jane", "doe");
        is("JANE DOE", "JANE", "DOE");
        is("Jörg Müller", "Jörg", "Müller");
        is("Conan O'Brien", "Conan", "O'Brien");
    }

    #[test]
    fn a_comma_swaps_the_first_and_the_last_name() {
        is("Doe, Jane", "Jane", "Doe");
        is("DOE, Jane", "Jane", "DOE");
        is("van der Berg, Jan", "Jan", "van der Berg");
        is("Doe,Jane", "Jane", "Doe");
        is("Doe, Jane (Kites)", "Jane", "Doe");
        is("\"Doe, Jane\"", "Jane", "Doe");
        is("Doe,", "Doe", "Unknown");
    }

    #[test]
    fn a_title_after_a_comma_does_not_reorder_the_name() {
        is("Jane Doe, PhD", "Jane", "Doe");
        is("Jane Doe, Ph.D., M.B.A.", "Jane", "Doe");
        is("John Doe, Jr.", "John", "Doe");
        is("Doe, Jane, MD", "Jane", "Doe");
        // `Phd-Jane` is not in the list, so it may be a name.
        is("Doe, Phd-Jane", "Phd-Jane", "Doe");
    }

    #[test]
    fn quotes_brackets_and_invisible_characters_are_not_part_of_a_name() {
        for same in [
            "'Jane Doe'",
            "\"Jane Doe\"",
            "\"'Jane Doe'\"",
            "“Jane Doe”",
            "„Jane Doe“",
            "<Jane Doe>",
            "Jane Doe (Kites GmbH)",
            "Jane Doe [External]",
            "[EXT] Jane Doe",
            "Jane (Janie) Doe",
            "Jane Doe (Kites",
            "\u{202e}Jane\u{200b} Doe\u{0}",
            "Jane Doe via Kites",
            "'Jane Doe' via Kites",
        ] {
            is(same, "Jane", "Doe");
        }
        is("Jane D'Arc'", "Jane", "D'Arc'");
        is("Octavia Doe", "Octavia", "Doe");
    }

    #[test]
    fn lower_case_particles_belong_to_the_last_name() {
        is("Ludwig van Beethoven", "Ludwig", "van Beethoven");
        is("Anna Maria de la Cruz", "Anna Maria", "de la Cruz");
        is("anna de la cruz", "anna de la", "cruz");
        is("bell Hooks", "bell", "Hooks");
    }

    #[test]
    fn text_that_is_not_a_name_leaves_the_last_name_unknown() {
        for none in [
            "",
            "  ",
            "jane.doe@kites.example",
            "JANE.DOE@KITES.EXAMPLE",
            "'jane.doe@kites.example'",
            "Jane Doe <jane.doe@kites.example>",
            "jane.doe",
            "Jane.Doe",
            "+49 170 1234567",
            "(Kites)",
            "''",
            ",",
            "https://kites.example",
        ] {
            is(none, "", "Unknown");
        }
        is("Jane", "Jane", "Unknown");
        let jane = EmailAddress::parse("jane@kites.example").unwrap();
        assert_eq!(Name::of("Jane", &jane).first.as_deref(), Some("Jane"));
        assert!(Name::of("Jane", &jane).is_known() && !Name::of("", &jane).is_known());
    }

    #[test]
    fn a_sender_on_behalf_of_others_is_distinguished_from_a_name_with_via() {
        assert!(is_on_behalf("'Jane Doe' via Sales") && is_on_behalf("Jane Via Kites"));
        assert!(!is_on_behalf("Octavia Doe") && !is_on_behalf("Via Doe") && !is_on_behalf(""));
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        is(&format!("{} Doe", "x".repeat(60)), &"x".repeat(50), "Doe");
        is(
            &format!("Jane {}{}", "x".repeat(49), "😀"),
            "Jane",
            &"x".repeat(49),
        );
        is(&format!("Jane {}", "x".repeat(50)), "Jane", &"x".repeat(50));
    }

    proptest! {
        #[test]
        fn every_display_name_gives_a_name_that_fits_its_columns(display in any::<String>()) {
            let (first, last) = name(&display);
            prop_assert!(first.encode_utf16().count() <= 50 && last.encode_utf16().count() <= 50);
            prop_assert!(!last.is_empty() && last.trim() == last && first.trim() == first);
            prop_assert!(!first.contains('@') && !last.contains('@'));
        }
    }
}
