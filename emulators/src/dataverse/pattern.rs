//! Text search with wildcards (Dataverse facts §14).
//!
//! `contains`, `startswith` and `endswith` treat `%`, `_` and `[…]` as wildcards (documented for
//! the first two, inferred for the third) and compare without case.

use super::filter::Place;

/// One element of a text pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Exactly(char),
    AnyOne,
    AnyNumber,
    /// Ranges of characters, and whether the characters outside them match instead.
    OneOf(Vec<(char, char)>, bool),
}

/// Converts the argument of `contains`, `startswith` or `endswith` to a pattern in lower case.
pub(crate) fn pieces(place: Place, pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    if place != Place::Start {
        pieces.push(Piece::AnyNumber);
    }
    let lower: Vec<char> = pattern.to_lowercase().chars().collect();
    let mut rest = lower.as_slice();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        pieces.push(match first {
            '%' => Piece::AnyNumber,
            '_' => Piece::AnyOne,
            '[' => match after.iter().position(|character| *character == ']') {
                Some(end) => {
                    let (inside, behind) = after.split_at(end);
                    rest = behind.get(1..).unwrap_or_default();
                    one_of(inside)
                }
                // An opening bracket without a closing one matches nothing, as in the database.
                None => Piece::OneOf(Vec::new(), false),
            },
            other => Piece::Exactly(*other),
        });
    }
    if place != Place::End {
        pieces.push(Piece::AnyNumber);
    }
    pieces
}

fn one_of(inside: &[char]) -> Piece {
    let (outside, mut rest) = match inside.split_first() {
        Some(('^', rest)) => (true, rest),
        _ => (false, inside),
    };
    let mut ranges = Vec::new();
    while let Some((first, after)) = rest.split_first() {
        if let ['-', last, more @ ..] = after {
            ranges.push((*first, *last));
            rest = more;
        } else {
            ranges.push((*first, *first));
            rest = after;
        }
    }
    Piece::OneOf(ranges, outside)
}

/// Returns whether the pattern matches the whole of `text`, which must be in lower case.
///
/// Backtracks only to the latest [`Piece::AnyNumber`], so the time is at most the length of the
/// pattern times the length of the text.
pub(crate) fn fits(pattern: &[Piece], text: &[char]) -> bool {
    let (mut at_piece, mut at_char) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while at_char < text.len() || at_piece < pattern.len() {
        match (pattern.get(at_piece), text.get(at_char)) {
            (Some(Piece::AnyNumber), _) => {
                retry = Some((at_piece + 1, at_char));
                at_piece += 1;
            }
            (Some(piece), Some(character)) if fits_one(piece, *character) => {
                at_piece += 1;
                at_char += 1;
            }
            _ => match retry {
                Some((piece, character)) if character < text.len() => {
                    retry = Some((piece, character + 1));
                    (at_piece, at_char) = (piece, character + 1);
                }
                _ => return false,
            },
        }
    }
    true
}

fn fits_one(piece: &Piece, character: char) -> bool {
    match piece {
        Piece::Exactly(wanted) => *wanted == character,
        Piece::AnyOne | Piece::AnyNumber => true,
        Piece::OneOf(ranges, outside) => {
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&character))
                != *outside
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(place: Place, pattern: &str, text: &str) -> bool {
        fits(
            &pieces(place, pattern),
            &text.to_lowercase().chars().collect::<Vec<char>>(),
        )
    }

    #[test]
    fn a_pattern_matches_case_insensitively_at_its_place() {
        assert!(matches(Place::Anywhere, "ROUGH", "a rough day"));
        assert!(matches(Place::Start, "a r", "A rough day"));
        assert!(!matches(Place::Start, "rough", "a rough day"));
        assert!(matches(Place::End, "DAY", "a rough day"));
        assert!(!matches(Place::End, "a", "a rough day"));
        assert!(matches(Place::Anywhere, "", ""));
    }

    #[test]
    fn percent_underscore_and_brackets_are_wildcards() {
        assert!(matches(Place::Anywhere, "100%sure", "100 per cent sure"));
        assert!(
            matches(Place::Start, "a_b", "a-b"),
            "an underscore in an address also matches other addresses"
        );
        assert!(matches(Place::Start, "file[0-9]", "file7"));
        assert!(!matches(Place::Start, "file[^0-9]", "file7"));
        assert!(
            !matches(Place::Anywhere, "[tag]x", "[tag]x"),
            "brackets do not match themselves"
        );
        assert!(!matches(Place::Anywhere, "[", "a[b"));
    }

    #[test]
    fn a_pattern_with_many_wildcards_is_evaluated_quickly() {
        let text = "a".repeat(2_000);
        assert!(!matches(
            Place::Start,
            &"%a".repeat(50).repeat(5),
            &format!("{}b", "c".repeat(2_000))
        ));
        assert!(matches(Place::Anywhere, &"a%".repeat(200), &text));
    }
}
