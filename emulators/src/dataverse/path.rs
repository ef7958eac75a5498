//! What an address names: a service function, an entity set, a row, or something below a row.

use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::values::guid;

/// The path of the API on its host.
pub(crate) const ROOT: &str = "/api/data/v9.2/";

/// Operations of the whole service, for definitions and large files. The service has many more,
/// which the emulator does not know.
const ACTIONS: [&str; 9] = [
    "PublishXml",
    "PublishAllXml",
    "ReactivateEntityKey",
    "CreateEntities",
    "GlobalOptionSetDefinitions",
    "RelationshipDefinitions",
    "InitializeAttachmentBlocksUpload",
    "UploadBlock",
    "CommitAttachmentBlocksUpload",
];

/// How an address names a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    Id(Uuid),
    /// Columns and values as written between the parentheses; texts without their quotes.
    Alternate(Vec<(String, String)>),
}

/// What the path of an address names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Resource {
    Batch,
    WhoAmI,
    /// The document that describes the whole service.
    Metadata,
    /// An operation of the whole service.
    Action(String),
    /// Definitions of tables, segment by segment.
    Definitions(Vec<String>),
    Set {
        set: String,
    },
    Count {
        set: String,
    },
    Row {
        set: String,
        key: Key,
    },
    /// A property, collection or navigation of one row, and what follows it.
    Below {
        set: String,
        key: Key,
        segment: String,
        rest: Option<String>,
    },
    Reference {
        content_id: String,
        segment: Option<String>,
    },
    Unknown {
        segment: String,
    },
}

/// Returns the part of a path or full address after [`ROOT`]; `None` if it is not below it.
///
/// A full address may name another host, because there may be a proxy in front (Dataverse facts
/// §9a).
pub(crate) fn below_root(address: &str) -> Option<&str> {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.get(rest.find('/')?..)?,
        None => address,
    };
    path.strip_prefix(ROOT)
}

/// Parses the part of a path after the root.
pub(crate) fn resource(relative: &str) -> Resource {
    let segments: Vec<String> = segments(relative);
    let words: Vec<&str> = segments.iter().map(String::as_str).collect();
    let unknown = |segment: &str| Resource::Unknown {
        segment: segment.to_owned(),
    };
    match words.as_slice() {
        ["$batch"] => Resource::Batch,
        ["WhoAmI" | "WhoAmI()"] => Resource::WhoAmI,
        ["$metadata"] => Resource::Metadata,
        [name] if ACTIONS.contains(name) => Resource::Action((*name).to_owned()),
        [first, ..] if first.starts_with("EntityDefinitions") => Resource::Definitions(segments),
        [first, rest @ ..] if first.starts_with('$') => Resource::Reference {
            content_id: first.trim_start_matches('$').to_owned(),
            segment: (!rest.is_empty()).then(|| rest.join("/")),
        },
        [first, rest @ ..] => match (set_and_key(first), rest) {
            (Some((set, None)), []) => Resource::Set { set },
            (Some((set, None)), ["$count"]) => Resource::Count { set },
            (Some((set, Some(key))), []) => Resource::Row { set, key },
            (Some((set, Some(key))), [segment, more @ ..]) => Resource::Below {
                set,
                key,
                segment: (*segment).to_owned(),
                rest: (!more.is_empty()).then(|| more.join("/")),
            },
            (Some((_, None)), [segment, ..]) => unknown(segment),
            (None, _) => unknown(first),
        },
        [] => unknown(relative),
    }
}

/// Parses `contacts(<key>)` or `contacts`; `None` if it is neither.
pub(crate) fn set_and_key(segment: &str) -> Option<(String, Option<Key>)> {
    let Some((set, rest)) = segment.split_once('(') else {
        return is_name(segment).then(|| (segment.to_owned(), None));
    };
    let inside = rest.strip_suffix(')')?;
    if !is_name(set) {
        return None;
    }
    if let Some(id) = guid(inside) {
        return Some((set.to_owned(), Some(Key::Id(id))));
    }
    let mut pairs = Vec::new();
    for pair in split_outside_quotes(inside, ',') {
        let (column, value) = pair.split_once('=')?;
        let value = match value.strip_prefix('\'') {
            Some(text) => text.strip_suffix('\'')?.replace("''", "'"),
            None => value.to_owned(),
        };
        if !is_name(column.trim()) || value.is_empty() {
            return None;
        }
        pairs.push((column.trim().to_owned(), value));
    }
    Some((set.to_owned(), Some(Key::Alternate(pairs))))
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
}

/// Splits a path into segments before decoding, so that an encoded slash stays inside its segment.
fn segments(relative: &str) -> Vec<String> {
    split_outside_quotes(relative, '/')
        .into_iter()
        .map(|segment| percent_decode_str(segment).decode_utf8_lossy().into_owned())
        .filter(|segment| !segment.is_empty())
        .collect()
}

fn split_outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(move |character| {
        if character == '\'' {
            quoted = !quoted;
        }
        character == separator && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5e0e1b52-7c6e-4d0a-9a3e-0d6f1c2b3a41";

    fn key() -> Key {
        Key::Id(Uuid::parse_str(ID).unwrap())
    }

    #[test]
    fn a_url_path_addresses_a_set_a_row_or_a_property_of_a_row() {
        assert_eq!(
            resource("emails"),
            Resource::Set {
                set: "emails".to_owned()
            }
        );
        assert_eq!(
            resource("emails/$count"),
            Resource::Count {
                set: "emails".to_owned()
            }
        );
        assert_eq!(
            resource(&format!("emails({ID})")),
            Resource::Row {
                set: "emails".to_owned(),
                key: key()
            }
        );
        let below = Resource::Below {
            set: "activitymimeattachments".to_owned(),
            key: key(),
            segment: "body".to_owned(),
            rest: Some("$value".to_owned()),
        };
        assert_eq!(
            resource(&format!("activitymimeattachments({ID})/body/$value")),
            below
        );
        let reference = Resource::Reference {
            content_id: "1".to_owned(),
            segment: None,
        };
        assert_eq!(resource("$1"), reference);
        assert_eq!(resource("WhoAmI()"), Resource::WhoAmI);
    }

    #[test]
    fn a_percent_encoded_path_addresses_the_same_resource() {
        assert_eq!(
            resource(&format!("emails%28{ID}%29")),
            Resource::Row {
                set: "emails".to_owned(),
                key: key()
            }
        );
    }

    #[test]
    fn a_key_that_is_not_a_guid_addresses_no_row() {
        for address in [
            "emails(1)",
            "emails('5e0e1b52-7c6e-4d0a-9a3e-0d6f1c2b3a41')",
            "emails()",
            "emails(x",
            "e mails",
        ] {
            assert!(
                matches!(resource(address), Resource::Unknown { .. }),
                "{address}"
            );
        }
    }

    #[test]
    fn alternate_key_values_are_unquoted() {
        let pairs = vec![
            ("new_key".to_owned(), "o'b/c".to_owned()),
            ("statecode".to_owned(), "0".to_owned()),
        ];
        assert_eq!(
            resource("emails(new_key='o''b/c',statecode=0)"),
            Resource::Row {
                set: "emails".to_owned(),
                key: Key::Alternate(pairs)
            }
        );
    }

    #[test]
    fn an_absolute_url_may_have_any_host() {
        assert_eq!(
            below_root("https://org.example.com/api/data/v9.2/emails"),
            Some("emails")
        );
        assert_eq!(below_root("/api/data/v9.2/emails"), Some("emails"));
        assert_eq!(below_root("/api/data/v9.1/emails"), None);
        assert_eq!(below_root("https://org.example.com"), None);
    }
}
