//! Checks the value of a column: JSON type, range, length and characters (Dataverse facts §19 rules
//! 1, 3 and 4).

use chrono::{DateTime, SecondsFormat, TimeZone, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::refusal::Refusal;
use super::schema::{Column, Kind, Table};

/// Returns the value in the form in which it is stored, or the error that rejects it.
pub(crate) fn accept(table: &Table, column: &Column, value: &Value) -> Result<Value, Refusal> {
    if value.is_null() {
        return match column.kind {
            // A state or status is never null (Dataverse facts §2.1); the code is inferred.
            Kind::State | Kind::Status => Err(Refusal::argument(format!(
                "{} cannot be null.",
                column.name
            ))),
            _ => Ok(Value::Null),
        };
    }
    let wrong_type = || {
        let detail = format!(
            "An error has occurred while trying to parse '{}' of type 'Microsoft.Dynamics.CRM.{}': cannot convert the \
             value to the expected type.",
            column.name, table.name
        );
        Refusal::payload(&table.set, detail)
    };
    match column.kind {
        Kind::Text | Kind::TableName => {
            let text = value.as_str().ok_or_else(wrong_type)?;
            check_text(table, column, text)?;
            Ok(value.clone())
        }
        Kind::Integer => {
            let number = value.as_i64().ok_or_else(wrong_type)?;
            i32::try_from(number)
                .map(Value::from)
                .map_err(|_| wrong_type())
        }
        Kind::BigInteger => value.as_i64().map(Value::from).ok_or_else(wrong_type),
        Kind::Number => value
            .is_number()
            .then(|| value.clone())
            .ok_or_else(wrong_type),
        Kind::Boolean => value
            .is_boolean()
            .then(|| value.clone())
            .ok_or_else(wrong_type),
        Kind::DateTime => date_time(column, value.as_str().ok_or_else(wrong_type)?, &wrong_type),
        Kind::Choice | Kind::State | Kind::Status => {
            choice(table, column, value.as_i64().ok_or_else(wrong_type)?)
        }
        Kind::Guid => {
            let id = value.as_str().and_then(guid).ok_or_else(wrong_type)?;
            Ok(Value::String(id.to_string()))
        }
        Kind::Lookup | Kind::Opaque => Err(wrong_type()),
    }
}

/// Parses an id in the only form that the Web API accepts: 32 hexadecimal digits with hyphens.
pub(crate) fn guid(text: &str) -> Option<Uuid> {
    Some(text)
        .filter(|text| text.len() == 36)
        .and_then(|text| Uuid::try_parse(text).ok())
}

/// Formats a time as Dataverse does. Fractions of a second are cut off (inferred).
pub(crate) fn date_time_text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn date_time(
    column: &Column,
    text: &str,
    wrong_type: &impl Fn() -> Refusal,
) -> Result<Value, Refusal> {
    let time = DateTime::parse_from_rfc3339(text)
        .map_err(|_| wrong_type())?
        .with_timezone(&Utc);
    // The earliest date of the database. That it also limits the Web API is inferred; the code is
    // that of InvalidDateTime.
    let first = Utc.with_ymd_and_hms(1753, 1, 1, 0, 0, 0).single();
    if first.is_some_and(|first| time < first) {
        let message = format!(
            "The date-time of '{}' is outside the supported range.",
            column.name
        );
        return Err(Refusal::new(400, "0x80040239", message));
    }
    Ok(Value::String(date_time_text(time)))
}

fn choice(table: &Table, column: &Column, number: i64) -> Result<Value, Refusal> {
    let documented =
        column.options.is_empty() || column.options.iter().any(|(value, _)| *value == number);
    if documented && i32::try_from(number).is_ok() {
        return Ok(Value::from(number));
    }
    let message = format!(
        "A validation error occurred. The value {number} of '{}' on record of type '{}' is outside the valid range.",
        column.name, table.name
    );
    Err(Refusal::new(400, "0x8004431A", message))
}

fn check_text(table: &Table, column: &Column, text: &str) -> Result<(), Refusal> {
    if text.chars().any(|character| !fits_xml(character)) {
        let message = format!(
            "The field '{}' contains one or more invalid characters.",
            column.name
        );
        // The name of the code is verified; that control characters cause it is inferred (Dataverse
        // facts §12).
        return Err(Refusal::new(400, "0x80040278", message));
    }
    if let Some(limit) = column.max_length
        && text.encode_utf16().count() > limit
    {
        let message = format!(
            "A validation error occurred. The length of the '{}' attribute of the '{}' entity exceeded the maximum \
             allowed length of '{limit}'.",
            column.name, table.name
        );
        return Err(Refusal::new(400, "0x80044331", message));
    }
    Ok(())
}

/// Returns whether XML 1.0 allows the character. Surrogates cannot occur in a Rust string.
fn fits_xml(character: char) -> bool {
    match character {
        '\t' | '\n' | '\r' => true,
        '\u{fffe}' | '\u{ffff}' => false,
        other => other >= ' ',
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::schema::Schema;
    use super::*;

    fn try_email(column: &str, value: &Value) -> Result<Value, Refusal> {
        let schema = Schema::load().unwrap();
        let table = schema.table("email").unwrap();
        accept(table, table.column(column).unwrap(), value)
    }

    fn code(result: Result<Value, Refusal>) -> String {
        result.unwrap_err().code.into_owned()
    }

    #[test]
    fn a_text_above_the_limit_is_rejected_with_column_table_and_limit() {
        assert!(try_email("subject", &json!("x".repeat(800))).is_ok());
        let refusal = try_email("subject", &json!("x".repeat(801))).unwrap_err();
        assert_eq!((refusal.status, &*refusal.code), (400, "0x80044331"));
        for word in ["'subject'", "'email'", "'800'"] {
            assert!(
                refusal.message.contains(word),
                "the message must contain {word}: {}",
                refusal.message
            );
        }
    }

    #[test]
    fn length_is_counted_in_utf16_units_so_an_emoji_counts_twice() {
        assert!(try_email("subject", &json!("🙂".repeat(400))).is_ok());
        assert_eq!(
            code(try_email("subject", &json!("🙂".repeat(401)))),
            "0x80044331"
        );
    }

    #[test]
    fn a_wrong_json_type_is_a_payload_error() {
        for (column, value) in [
            ("subject", json!(5)),
            ("directioncode", json!("false")),
            ("prioritycode", json!("1")),
            ("actualdurationminutes", json!(1.5)),
            ("actualdurationminutes", json!(3_000_000_000_u64)),
            ("actualend", json!("2026-01-31")),
            ("actualend", json!("2026-01-31T09:00:00")),
            ("actualend", json!(1_700_000_000)),
            ("activityid", json!("no guid")),
            ("activityid", json!("0123456789abcdef0123456789abcdef")),
        ] {
            assert_eq!(
                code(try_email(column, &value)),
                "0x80048d19",
                "{column} {value}"
            );
        }
    }

    #[test]
    fn an_undocumented_choice_is_out_of_range() {
        assert_eq!(code(try_email("prioritycode", &json!(3))), "0x8004431A");
        assert_eq!(code(try_email("statuscode", &json!(99))), "0x8004431A");
        assert!(
            try_email("emailremindertype", &json!(12)).is_ok(),
            "a column without documented choices accepts any number"
        );
    }

    #[test]
    fn characters_that_xml_does_not_allow_are_rejected() {
        for text in ["a\u{0}b", "a\u{b}b", "\u{1b}", "\u{ffff}"] {
            assert_eq!(
                code(try_email("subject", &json!(text))),
                "0x80040278",
                "{text:?}"
            );
        }
        assert!(try_email("description", &json!("tab\t line\r\n \u{85} \u{7f}")).is_ok());
    }

    #[test]
    fn times_are_stored_in_utc_without_fractional_seconds() {
        let stored = try_email("actualend", &json!("2026-01-31T09:15:00.750-05:00")).unwrap();
        assert_eq!(stored, json!("2026-01-31T14:15:00Z"));
        assert_eq!(
            code(try_email("actualend", &json!("1750-01-01T00:00:00Z"))),
            "0x80040239"
        );
    }

    #[test]
    fn a_status_cannot_be_cleared_but_other_columns_can() {
        assert_eq!(code(try_email("statuscode", &Value::Null)), "0x80040203");
        assert_eq!(try_email("subject", &Value::Null).unwrap(), Value::Null);
    }
}
