//! Checks a filter against a table and evaluates it for rows (Dataverse facts §14).
//!
//! Texts are compared without case. A column without a value differs from every value (inferred:
//! the platform writes "is not equal or is null") and is neither greater nor smaller than any.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use serde_json::Value;

use super::filter::{Filter, Literal, Operator};
use super::pattern::{self, Piece};
use super::refusal::Refusal;
use super::schema::{Column, Kind, Table};
use super::store::Row;
use super::values::guid;

/// A condition whose names and values were checked against a table.
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
    /// Any of several values; the texts are in lower case.
    In {
        column: String,
        texts: HashSet<String>,
        others: Vec<Comparable>,
    },
}

/// A value in a form that can be compared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Comparable {
    Null,
    /// In lower case.
    Text(String),
    Number(f64),
    Boolean(bool),
    Time(DateTime<Utc>),
}

/// Checks a filter against the columns of `table` and converts its values to their types.
pub(crate) fn check(table: &Table, filter: &Filter) -> Result<Condition, Refusal> {
    let each = |parts: &[Filter]| {
        parts
            .iter()
            .map(|part| check(table, part))
            .collect::<Result<Vec<_>, _>>()
    };
    match filter {
        Filter::Any(parts) => each(parts).map(any),
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
                pattern: pattern::pieces(*place, pattern),
            })
        }
        Filter::In { property, values } => {
            let column = filterable(table, property)?;
            // The values are texts whatever the type of the column (Dataverse facts §14).
            let read = |text: &String| match column.kind {
                Kind::Text | Kind::TableName => literal(column, &Literal::Text(text.clone())),
                _ => literal(column, &Literal::Bare(text.clone())),
            };
            let values = values.iter().map(read).collect::<Result<Vec<_>, _>>()?;
            Ok(one_of_values(column.name.clone(), values))
        }
    }
}

/// Combines alternatives into one condition.
///
/// Clients search for many values of a column with `or`. Merging the equality tests of each column
/// into one set keeps that fast.
fn any(parts: Vec<Condition>) -> Condition {
    let mut wanted: BTreeMap<String, Vec<Comparable>> = BTreeMap::new();
    let mut rest = Vec::new();
    for part in parts {
        match part {
            Condition::Compare {
                column,
                operator: Operator::Eq,
                value,
            } if value != Comparable::Null => {
                wanted.entry(column).or_default().push(value);
            }
            other => rest.push(other),
        }
    }
    rest.extend(
        wanted
            .into_iter()
            .map(|(column, values)| one_of_values(column, values)),
    );
    Condition::Any(rest)
}

fn one_of_values(column: String, values: Vec<Comparable>) -> Condition {
    let (mut texts, mut others) = (HashSet::new(), Vec::new());
    for value in values {
        match value {
            Comparable::Text(text) => {
                texts.insert(text);
            }
            other => others.push(other),
        }
    }
    Condition::In {
        column,
        texts,
        others,
    }
}

/// Returns a column that a query may filter or sort by.
pub(crate) fn filterable<'t>(table: &'t Table, property: &str) -> Result<&'t Column, Refusal> {
    if property.contains('/') {
        return Err(Refusal::not_imitated(format!(
            "the path '{property}' in a query"
        )));
    }
    let column = table
        .property(property)
        .ok_or_else(|| Refusal::unknown_column(&table.name, property))?;
    // The body of an email is stored outside the database (Dataverse facts §2.1). The code is
    // inferred.
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

/// Returns the value of a column in a form that can be compared.
pub(crate) fn comparable(table: &Table, row: &Row, name: &str) -> Comparable {
    let kind = table.columns.get(name).map(|column| column.kind);
    match (kind, row.get(name)) {
        (Some(Kind::Lookup), _) => row
            .lookup(name)
            .map_or(Comparable::Null, |(_, id)| Comparable::Text(id.to_string())),
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
    /// Returns the order of two values, or `None` if one is null or their types differ.
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
    /// Returns whether `row` meets the condition.
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
                Some(text) => {
                    pattern::fits(pattern, &text.to_lowercase().chars().collect::<Vec<char>>())
                }
                None => false,
            },
            Self::In {
                column,
                texts,
                others,
            } => match comparable(table, row, column) {
                Comparable::Null => false,
                Comparable::Text(text) => texts.contains(&text),
                other => others.contains(&other),
            },
        }
    }
}
