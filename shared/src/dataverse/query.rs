//! Queries as URLs: literals, escaping, and how many terms one query holds.
//!
//! An address never stands in a key URL, where characters such as `+` and `/` break it (Dataverse facts §7.2), but always in a quoted literal of
//! a `$filter`, percent-encoded as a whole (§14). Comparison with `eq` knows no wildcards; `contains` and `startswith` do and are not used.

use uuid::Uuid;

use crate::http::encoded;

/// Values that one query compares with. No number is published; the facts advise tens of terms (§14), and a contact has three address columns.
const VALUES_A_QUERY: usize = 15;

/// Longest `$filter` that one query gets, percent-encoded; the documented limit inside a batch is 65,536 for the whole URL (§9).
const LONGEST_FILTER: usize = 30_000;

/// A text literal: quoted, inner quotes doubled. Not yet percent-encoded.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `set?$select=…&$filter=…`, percent-encoded.
#[must_use]
pub fn rows(set: &str, select: &str, filter: &str) -> String {
    format!("{set}?$select={select}&$filter={}", encoded(filter))
}

/// A path to one row by its primary key.
#[must_use]
pub fn row(set: &str, id: Uuid) -> String {
    format!("{set}({id})")
}

/// Filters that together compare every column with every value: as many as it takes to stay within the limits above.
///
/// `terms` are the comparisons of one value. A single value that is too long for a filter still gets one of its own.
#[must_use]
pub fn any_of(values: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
    let mut filters: Vec<String> = Vec::new();
    let mut held = 0;
    let mut length = 0;
    for terms in values {
        let term = terms.join(" or ");
        let added = encoded(&term).len() + "%20or%20".len();
        match filters.last_mut() {
            Some(filter) if held < VALUES_A_QUERY && length + added <= LONGEST_FILTER => {
                filter.push_str(" or ");
                filter.push_str(&term);
                held += 1;
                length += added;
            }
            _ => {
                filters.push(term);
                held = 1;
                length = added;
            }
        }
    }
    filters
}

#[cfg(test)]
mod tests {
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_quote_is_doubled_and_the_whole_is_encoded() {
        let path = rows(
            "contacts",
            "contactid",
            &format!("emailaddress1 eq {}", literal("o'neil+a&b@example.com")),
        );
        assert_eq!(
            path,
            "contacts?$select=contactid&$filter=emailaddress1%20eq%20%27o%27%27neil%2Ba%26b%40example.com%27"
        );
    }

    #[test]
    fn many_values_become_several_queries_and_none_is_lost() {
        let filters = any_of((0..100).map(|n| vec![format!("a eq '{n}'"), format!("b eq '{n}'")]));
        assert_eq!(filters.len(), 100_usize.div_ceil(VALUES_A_QUERY));
        let all = filters.join(" or ");
        assert!((0..100).all(|n| all.contains(&format!("a eq '{n}' or b eq '{n}'"))));
        assert!(any_of(Vec::<Vec<String>>::new()).is_empty());
    }

    #[test]
    fn long_values_stay_within_the_url_limit() {
        let long = format!("{}@example.com", "ü".repeat(300));
        let filters = any_of((0..30).map(|_| {
            ["a", "b", "c"]
                .map(|column| format!("{column} eq {}", literal(&long)))
                .to_vec()
        }));
        assert!(filters.len() > 2);
        assert!(
            filters
                .iter()
                .all(|filter| rows("contacts", "contactid", filter).len() < 65_536)
        );
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_literal(text in any::<String>()) {
            let path = rows("s", "c", &format!("a eq {}", literal(&text)));
            let encoded = path.strip_prefix("s?$select=c&$filter=").unwrap();
            prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
            let filter = percent_decode_str(encoded).decode_utf8().unwrap().into_owned();
            let inside = filter.strip_prefix("a eq '").unwrap().strip_suffix('\'').unwrap();
            // Read back as the grammar reads it: every quote inside is one of a pair.
            prop_assert_eq!(inside.matches('\'').count() % 2, 0);
            prop_assert_eq!(inside.replace("''", "'"), text);
        }
    }
}
