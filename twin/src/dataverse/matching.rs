//! Whether a row meets a condition (Dataverse facts §14).
//!
//! Texts compare without case; `contains`, `startswith` and `endswith` treat `%`, `_` and `[…]` as wildcards
//! (documented for the first two, inferred for the third). A column without a value is different from every value
//! (inferred: the platform writes "is not equal or is null"), and neither greater nor smaller than any.

use std::cmp::Ordering;

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;

use super::filter::{Filter, Literal, Operator, Place};
use super::refusal::Refusal;
use super::schema::{Column, Kind, Table};
use super::store::Row;
use super::values::guid;

/// A condition of which every name and value was checked against a table.
#[derive(Debug)]
pub(crate) enum Condition {
    Any(Vec<Condition>),
    All(Vec<Condition>),
    Not(Box<Condition>),
    Compare {
        column: String,
        operator: Operator,
        value: Comparable,
    },
    Match {
        column: String,
        pattern: Vec<Piece>,
    },
    In {
        column: String,
        values: Vec<Comparable>,
    },
}

/// A value in the form that compares right.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Comparable {
    Null,
    /// In lower case.
    Text(String),
    Number(f64),
    Boolean(bool),
    Time(DateTime<Utc>),
}

/// One piece of a text pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Piece {
    Exactly(char),
    AnyOne,
    AnyNumber,
    /// Ranges of characters, and whether those outside are meant.
    OneOf(Vec<(char, char)>, bool),
}

/// Checks a condition against the columns of `table`.
pub(crate) fn check(table: &Table, filter: &Filter) -> Result<Condition, Refusal> {
    let each = |parts: &[Filter]| {
        parts
            .iter()
            .map(|part| check(table, part))
            .collect::<Result<Vec<_>, _>>()
    };
    match filter {
        Filter::Any(parts) => each(parts).map(Condition::Any),
        Filter::All(parts) => each(parts).map(Condition::All),
        Filter::Not(part) => check(table, part).map(|part| Condition::Not(Box::new(part))),
        Filter::Compare {
            property,
            operator,
            value,
        } => {
            let column = filterable(table, property)?;
            let value = literal(column, value)?;
            Ok(Condition::Compare {
                column: column.name.clone(),
                operator: *operator,
                value,
            })
        }
        Filter::Match {
            property,
            place,
            pattern,
        } => {
            let column = filterable(table, property)?;
            if column.kind != Kind::Text {
                return Err(incompatible(column));
            }
            Ok(Condition::Match {
                column: column.name.clone(),
                pattern: pieces(*place, pattern),
            })
        }
        Filter::In { property, values } => {
            let column = filterable(table, property)?;
            // Whatever the column holds, the values come as texts (Dataverse facts §14).
            let read = |text: &String| match column.kind {
                Kind::Text | Kind::TableName => literal(column, &Literal::Text(text.clone())),
                _ => literal(column, &Literal::Bare(text.clone())),
            };
            let values = values.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            Ok(Condition::In {
                column: column.name.clone(),
                values,
            })
        }
    }
}

/// A column that a query may filter or sort by.
pub(crate) fn filterable<'t>(table: &'t Table, property: &str) -> Result<&'t Column, Refusal> {
    if property.contains('/') {
        return Err(Refusal::not_imitated(format!(
            "the path '{property}' in a query"
        )));
    }
    let column = table
        .property(property)
        .ok_or_else(|| Refusal::unknown_column(&table.name, property))?;
    // The body of an email lies outside the database (Dataverse facts §2.1); the code is inferred.
    if table.name == "email" && column.name == "description" {
        return Err(Refusal::query(
            "The column 'description' of the table 'email' cannot be used in a condition.",
        ));
    }
    Ok(column)
}

fn incompatible(column: &Column) -> Refusal {
    Refusal::query(format!(
        "A binary operator with incompatible types was detected: the value does not have the type of '{}'.",
        column.name
    ))
}

fn literal(column: &Column, literal: &Literal) -> Result<Comparable, Refusal> {
    let wrong = || incompatible(column);
    let bare = match literal {
        Literal::Bare(text) if text == "null" => return Ok(Comparable::Null),
        Literal::Bare(text) => Some(text.as_str()),
        Literal::Text(_) => None,
    };
    match (column.kind, literal) {
        (Kind::Text | Kind::TableName, Literal::Text(text)) => {
            Ok(Comparable::Text(text.to_lowercase()))
        }
        (Kind::Text | Kind::TableName | Kind::Opaque, _) => Err(wrong()),
        (Kind::Guid | Kind::Lookup, _) => {
            let id = bare.and_then(guid).ok_or_else(wrong)?;
            Ok(Comparable::Text(id.to_string()))
        }
        (Kind::Boolean, _) => match bare {
            Some("true") => Ok(Comparable::Boolean(true)),
            Some("false") => Ok(Comparable::Boolean(false)),
            _ => Err(wrong()),
        },
        (Kind::DateTime, _) => bare.and_then(time).map(Comparable::Time).ok_or_else(wrong),
        _ => bare
            .and_then(|text| text.parse::<f64>().ok())
            .map(Comparable::Number)
            .ok_or_else(wrong),
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return date.and_hms_opt(0, 0, 0).map(|time| time.and_utc());
    }
    DateTime::parse_from_rfc3339(text)
        .ok()
        .map(|time| time.with_timezone(&Utc))
}

/// The value of a column in the form that compares right.
pub(crate) fn comparable(table: &Table, row: &Row, name: &str) -> Comparable {
    let kind = table.columns.get(name).map(|column| column.kind);
    match (kind, row.get(name)) {
        (Some(Kind::Lookup), value) => row
            .lookup(name)
            .map_or(Comparable::Null, |(_, id)| Comparable::Text(id.to_string()))
            .or_text(value),
        (Some(Kind::DateTime), Value::String(text)) => {
            time(text).map_or(Comparable::Null, Comparable::Time)
        }
        (_, Value::String(text)) => Comparable::Text(text.to_lowercase()),
        (_, Value::Bool(value)) => Comparable::Boolean(*value),
        (_, Value::Number(number)) => number.as_f64().map_or(Comparable::Null, Comparable::Number),
        _ => Comparable::Null,
    }
}

impl Comparable {
    /// Some columns hold an id in one table and a reference in another.
    fn or_text(self, value: &Value) -> Self {
        match (self, value) {
            (Self::Null, Value::String(text)) => Self::Text(text.to_lowercase()),
            (found, _) => found,
        }
    }

    /// The order of two values; `None` when one is null.
    pub(crate) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Number(a), Self::Number(b)) => a.partial_cmp(b),
            (Self::Boolean(a), Self::Boolean(b)) => Some(a.cmp(b)),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl Condition {
    /// Whether `row` meets the condition.
    pub(crate) fn holds(&self, table: &Table, row: &Row) -> bool {
        match self {
            Self::Any(parts) => parts.iter().any(|part| part.holds(table, row)),
            Self::All(parts) => parts.iter().all(|part| part.holds(table, row)),
            Self::Not(part) => !part.holds(table, row),
            Self::Compare {
                column,
                operator,
                value,
            } => {
                let stored = comparable(table, row, column);
                let order = stored.order(value);
                match operator {
                    Operator::Eq => stored == *value,
                    Operator::Ne => stored != *value,
                    Operator::Gt => order == Some(Ordering::Greater),
                    Operator::Ge => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
                    Operator::Lt => order == Some(Ordering::Less),
                    Operator::Le => matches!(order, Some(Ordering::Less | Ordering::Equal)),
                }
            }
            Self::Match { column, pattern } => match row.text(column) {
                Some(text) => fits(pattern, &text.to_lowercase().chars().collect::<Vec<char>>()),
                None => false,
            },
            Self::In { column, values } => {
                let stored = comparable(table, row, column);
                stored != Comparable::Null && values.contains(&stored)
            }
        }
    }
}

fn pieces(place: Place, pattern: &str) -> Vec<Piece> {
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
                // Without its other half a bracket matches nothing, as in the database.
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

/// Matches with one point to come back to, the latest "any number"; so it takes no more than length times length.
fn fits(pattern: &[Piece], text: &[char]) -> bool {
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
    fn texts_are_found_without_case_where_they_should_be() {
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
            "an underscore in an address also finds other addresses"
        );
        assert!(matches(Place::Start, "file[0-9]", "file7"));
        assert!(!matches(Place::Start, "file[^0-9]", "file7"));
        assert!(
            !matches(Place::Anywhere, "[tag]x", "[tag]x"),
            "brackets do not stand for themselves"
        );
        assert!(!matches(Place::Anywhere, "[", "a[b"));
    }

    #[test]
    fn many_wildcards_do_not_take_for_ever() {
        let text = "a".repeat(2_000);
        assert!(!matches(
            Place::Start,
            &"%a".repeat(50).repeat(5),
            &format!("{}b", "c".repeat(2_000))
        ));
        assert!(matches(Place::Anywhere, &"a%".repeat(200), &text));
    }
}
