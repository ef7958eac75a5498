//! Compares two policy documents setting by setting.

use std::collections::BTreeMap;
use std::fmt;

use mailverse::policy::document::Document;
use serde_json::Value;

/// A setting that differs between two documents.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    place: String,
    before: Option<Value>,
    after: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<Value>| {
            value
                .as_ref()
                .map_or_else(|| "(not set)".to_owned(), Value::to_string)
        };
        let (before, after) = (shown(&self.before), shown(&self.after));
        write!(f, "{}: {before} → {after}", self.place)
    }
}

/// Returns the settings that differ between `before` and `after`, with defaults filled in, sorted
/// by path.
///
/// Returns all settings of `after` if `before` is `None`.
pub(super) fn between(
    before: Option<&Document>,
    after: &Document,
) -> Result<Vec<Change>, serde_json::Error> {
    let mut old = BTreeMap::new();
    if let Some(before) = before {
        flatten("", serde_json::to_value(before)?, &mut old);
    }
    let mut new = BTreeMap::new();
    flatten("", serde_json::to_value(after)?, &mut new);
    let mut places: Vec<String> = old.keys().chain(new.keys()).cloned().collect();
    places.sort();
    places.dedup();
    let change = |place: String| Change {
        before: old.remove(&place),
        after: new.remove(&place),
        place,
    };
    let changes = places.into_iter().map(change);
    Ok(changes
        .filter(|change| change.before != change.after)
        .collect())
}

/// Collects each value that is not an object by its path. A list is one value, because its entries
/// have no names.
fn flatten(place: &str, value: Value, flat: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let name = if name.contains(['.', '@']) {
                    format!("{name:?}")
                } else {
                    name
                };
                let separator = if place.is_empty() { "" } else { "." };
                flatten(&format!("{place}{separator}{name}"), value, flat);
            }
        }
        value => {
            flat.insert(place.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(text: &str) -> Document {
        serde_json::from_str(text).unwrap()
    }

    fn shown(before: Option<&str>, after: &str) -> Vec<String> {
        let before = before.map(document);
        let changes = between(before.as_ref(), &document(after)).unwrap();
        changes.iter().map(Change::to_string).collect()
    }

    #[test]
    fn only_changed_settings_are_shown_with_defaults_filled_in() {
        let before = r#"{"defaults": {"track": {"received": "known"}, "allow": ["a.example"]}}"#;
        let after = r#"{"defaults": {"allow": ["a.example"], "skip_internal": true}, "mailboxes": {"ada@x.example": {"track": {"sent": "none"}}}}"#;
        assert_eq!(
            shown(Some(before), after),
            [
                r#"defaults.track.received: "known" → "all""#,
                r#"mailboxes."ada@x.example".track.sent: (not set) → "none""#,
            ]
        );
        assert_eq!(shown(Some(after), after), [""; 0]);
    }

    #[test]
    fn every_setting_is_new_without_a_previous_policy() {
        let all = shown(None, "{}");
        assert!(all.contains(&"defaults.skip_internal: (not set) → true".to_owned()));
        assert!(all.len() > 10, "{all:?}");
    }
}
