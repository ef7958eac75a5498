//! Builds queries as URLs: literals, escaping, and the number of terms per query.
//!
//! An address is never put into a key URL, where characters such as `+` and `/` break the path
//! (Dataverse facts §7.2). It is always a quoted literal in a `$filter`, percent-encoded as a whole
//! (§14). Comparison with `eq` has no wildcards; `contains` and `startswith` do, and are not used
//! here.

use uuid::Uuid;

use crate::clients::http::encoded;

/// The most values in one query. No limit is published; the facts advise tens of terms (§14), and a
/// contact has three address columns.
const VALUES_A_QUERY: usize = 15;

/// The longest `$filter` of one query, in percent-encoded characters. The documented limit of the
/// whole URL inside a batch is 65,536, or 32,768 by an older page (§9).
const LONGEST_FILTER: usize = 30_000;

/// Returns a text literal: quoted, with inner quotes doubled. Not yet percent-encoded.
#[must_use]
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns the path `set?$select=…&$filter=…`, percent-encoded.
#[must_use]
pub fn rows(set: &str, select: &str, filter: &str) -> String {
    format!("{set}?$select={select}&$filter={}", encoded(filter))
}

/// Returns the path of one row by its primary key.
#[must_use]
pub fn row(set: &str, id: Uuid) -> String {
    format!("{set}({id})")
}

/// Joins comparisons to filters with `or`: to as many filters as the limits above require.
///
/// Each item of `values` has all comparisons of one value. A single value that is too long for a
/// filter still gets its own filter.
#[must_use]
pub(crate) fn any_of(values: impl IntoIterator<Item = Vec<String>>) -> Vec<String> {
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
    fn a_quote_is_doubled_and_the_whole_filter_is_percent_encoded() {
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

    /// Reads the comparisons of a filter by the grammar of OData: `name eq 'text'`, joined by `or`;
    /// a quote within a text is doubled.
    fn comparisons(filter: &str) -> Option<Vec<(String, String)>> {
        let mut found = Vec::new();
        let mut rest = filter;
        loop {
            let (name, after) = rest.split_once(" eq '")?;
            name.bytes()
                .all(|b| b.is_ascii_alphanumeric())
                .then_some(())?;
            let mut text = String::new();
            let mut characters = after.char_indices().peekable();
            let end = loop {
                match characters.next()? {
                    (at, '\'') => match characters.next_if(|(_, next)| *next == '\'') {
                        Some(_) => text.push('\''),
                        None => break at + 1,
                    },
                    (_, other) => text.push(other),
                }
            };
            found.push((name.to_owned(), text));
            rest = match after.get(end..)? {
                "" => return Some(found),
                more => more.strip_prefix(" or ")?,
            };
        }
    }

    fn hostile() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            "('|''| eq '| or |%27|%|&|#|\\?|\\+|/|\\$filter=|\r\n|\0|\u{202e}|a|ü|😀){0,60}",
        ]
    }

    proptest! {
        // Each case creates and reads dozens of texts without compiler optimisation.
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_text_escapes_its_literal_its_filter_or_its_url(texts in proptest::collection::vec((hostile(), hostile()), 1..25)) {
            let terms = texts.iter().map(|(a, b)| vec![format!("a eq {}", literal(a)), format!("b eq {}", literal(b))]);
            let mut read = Vec::new();
            for filter in any_of(terms) {
                let path = rows("s", "c", &filter);
                prop_assert!(path.len() < 65_536);
                let encoded = path.strip_prefix("s?$select=c&$filter=").unwrap();
                prop_assert!(encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%".contains(&b)));
                // Parsed like a server does, for which `+` is a blank and `#` ends the query.
                let url = url::Url::parse("https://org.example/").unwrap().join(&path).unwrap();
                let seen = url.query_pairs().find(|(name, _)| name == "$filter").unwrap().1.into_owned();
                prop_assert_eq!(&seen, &percent_decode_str(encoded).decode_utf8().unwrap());
                prop_assert_eq!(&seen, &filter);
                let comparisons = comparisons(&seen).unwrap();
                prop_assert!(comparisons.len() <= 2 * VALUES_A_QUERY);
                read.extend(comparisons);
            }
            let expected: Vec<(String, String)> =
                texts.into_iter().flat_map(|(a, b)| [("a".to_owned(), a), ("b".to_owned(), b)]).collect();
            prop_assert_eq!(read, expected);
        }
    }
}
