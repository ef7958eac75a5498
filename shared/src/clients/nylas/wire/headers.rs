//! Reads the headers of a message: which emails it answers, and whether it is bulk mail.

use serde_json::Value;

use super::{array, text};
use crate::model::ids::InternetMessageId;
use crate::model::message::{Bulk, MOST_ANCESTORS};

/// Returns the Message-IDs of the emails that this one answers, nearest first, at most
/// [`MOST_ANCESTORS`].
///
/// A header contains the ids one after the other, in angle brackets, separated by whitespace.
pub(super) fn ancestors(object: &Value) -> Vec<InternetMessageId> {
    let ids = |name| {
        let value = header(object, name).unwrap_or_default();
        let ids = value.split_inclusive('>').flat_map(|part| {
            // Some clients omit the brackets.
            let bracketed = part.rfind('<').and_then(|at| part.get(at..));
            bracketed.map_or_else(|| part.split_whitespace().collect(), |id| vec![id])
        });
        ids.filter_map(InternetMessageId::from_header)
            .collect::<Vec<_>>()
    };
    let mut nearest_first: Vec<InternetMessageId> = Vec::new();
    for id in ids("In-Reply-To")
        .into_iter()
        .chain(ids("References").into_iter().rev())
    {
        if nearest_first.len() < MOST_ANCESTORS && !nearest_first.contains(&id) {
            nearest_first.push(id);
        }
    }
    nearest_first
}

/// Returns whether `fields=include_basic_headers` would leave this header out. Every complete set
/// has such headers, at least `From` and `Date`.
pub(super) fn is_beyond_basic(header: &Value) -> bool {
    let basic = ["Message-ID", "In-Reply-To", "References"];
    text(header, "name").is_some_and(|name| !basic.iter().any(|b| name.eq_ignore_ascii_case(b)))
}

/// Returns the header that marks the message as bulk mail or an automatic answer, as far as Nylas
/// returned the headers.
///
/// Sources: RFC 2919 (List-Id), RFC 2369 (List-Unsubscribe), RFC 3834 (Auto-Submitted). Precedence
/// is a convention without a standard.
pub(super) fn bulk(object: &Value) -> Option<Bulk> {
    let value = |name| header(object, name).map(|value| value.trim().to_ascii_lowercase());
    let automatic = |value: &String| {
        // The value may be followed by parameters, and by comments in parentheses.
        let word = value.split([';', '(']).next().unwrap_or_default().trim();
        !matches!(word, "" | "no")
    };
    let listed = |value: &String| matches!(value.as_str(), "bulk" | "list" | "junk");
    if value("List-Id").is_some() {
        Some(Bulk::ListId)
    } else if value("List-Unsubscribe").is_some() {
        Some(Bulk::ListUnsubscribe)
    } else if value("Precedence").is_some_and(|value| listed(&value)) {
        Some(Bulk::Precedence)
    } else if value("Auto-Submitted").is_some_and(|value| automatic(&value)) {
        Some(Bulk::AutoSubmitted)
    } else {
        None
    }
}

/// Returns the first header with this name, compared without case.
pub(super) fn header<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    array(object, "headers")
        .iter()
        .find(|header| text(header, "name").is_some_and(|n| n.eq_ignore_ascii_case(name)))
        .and_then(|header| text(header, "value"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::message::Message;

    fn read(object: &Value) -> Message {
        crate::clients::nylas::wire::message(&"g".parse().unwrap(), object)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn each_bulk_mail_header_is_recognised_unless_its_value_denies_it() {
        let of = |name: &str, value: &str| {
            let headers = json!([{"name": "From", "value": "x"}, {"name": name, "value": value}]);
            read(&json!({"id": "m", "headers": headers})).bulk
        };
        assert_eq!(of("list-id", "Kites <kites.example>"), Some(Bulk::ListId));
        let unsubscribe = of("List-Unsubscribe", "<https://x.example/u>");
        assert_eq!(unsubscribe, Some(Bulk::ListUnsubscribe));
        for value in ["bulk", " List ", "JUNK"] {
            assert_eq!(of("Precedence", value), Some(Bulk::Precedence), "{value}");
        }
        for value in ["auto-replied", "Auto-Generated; owner-email=x"] {
            let expected = Some(Bulk::AutoSubmitted);
            assert_eq!(of("Auto-Submitted", value), expected, "{value}");
        }
        let none = [
            ("Precedence", "first-class"),
            ("Auto-Submitted", "No"),
            ("Auto-Submitted", "no (sent by a person)"),
            ("Auto-Submitted", ""),
            ("X-List-Id", "kites"),
        ];
        for (name, value) in none {
            assert_eq!(of(name, value), None, "{name}: {value}");
        }
    }

    #[test]
    fn a_complete_set_of_headers_is_distinguished_from_the_basic_three() {
        let of = |names: &[&str]| {
            let headers: Vec<Value> = names
                .iter()
                .map(|name| json!({"name": name, "value": "x"}))
                .collect();
            read(&json!({"id": "m", "headers": headers})).has_all_headers
        };
        assert!(!of(&["message-id", "In-Reply-To", "REFERENCES"]) && !of(&[]));
        assert!(of(&["Message-ID", "Date"]));
    }

    #[test]
    fn the_ancestors_of_a_message_are_listed_nearest_first() {
        let of = |in_reply_to: &str, references: &str| {
            let headers = json!([
                {"name": "In-Reply-To", "value": in_reply_to}, {"name": "references", "value": references},
            ]);
            let message = read(&json!({"id": "m", "headers": headers}));
            let ids = message.ancestors.iter().map(InternetMessageId::as_str);
            ids.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("<c@x>", "<a@x> <b@x>\r\n <c@x>"), ["c@x", "b@x", "a@x"]);
        assert_eq!(of("", "<a@x><b@x>"), ["b@x", "a@x"]);
        assert_eq!(of("a@x", "b@x c@x"), ["a@x", "c@x", "b@x"]);
        assert_eq!(of("Ada's mail of Monday <c@x>", ""), ["c@x"]);
        let long: Vec<String> = (0..50).map(|n| format!("<{n}@x>")).collect();
        let nearest = of("", &long.join(" "));
        assert_eq!(
            (nearest.len(), nearest[0].as_str()),
            (MOST_ANCESTORS, "49@x")
        );
    }
}
