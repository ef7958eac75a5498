//! Looks up everything that has to be known before some messages are written.
//!
//! One `$batch` of queries, or several if one would take too long. The result is [`LookupResult`].

use std::collections::BTreeSet;

use super::related_emails;
use super::result::LookupResult;
use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::metadata::table_names::TableNames;
use crate::clients::dataverse::odata::{any_of, literal, rows};
use crate::clients::dataverse::records::{EMAIL_COLUMNS, RecordReference, Table};
use crate::clients::dataverse::session::Session;
use crate::model::address::EmailAddress;
use crate::model::ids::{ActivityId, InternetMessageId};

/// The longest Message-ID that the column `messageid` can hold, in UTF-16 code units (Dataverse
/// facts §2.1).
///
/// A longer one is not written, and not searched for either: two different ids may agree in their
/// first 320 characters.
pub(crate) const LONGEST_MESSAGE_ID: usize = 320;

/// What to look up.
#[derive(Default)]
pub struct LookupRequest {
    /// Addresses: which rows have them?
    pub addresses: BTreeSet<EmailAddress>,
    /// Messages: do they have rows already? Each with the keys that its row may have, and with its
    /// Message-ID.
    pub emails: Vec<(Vec<ActivityId>, Option<InternetMessageId>)>,
    /// Message-IDs that other messages answer: do they have rows?
    pub ancestors: BTreeSet<InternetMessageId>,
    /// Tracking tokens: which emails have them?
    pub tokens: BTreeSet<String>,
    /// Records: do they exist? Only records of tables with known names are looked up.
    pub records: BTreeSet<RecordReference>,
}

/// What a query asks for, which decides how its rows are read.
enum About {
    People(Table),
    Emails,
    Earlier,
    Records(String, TableNames),
}

impl About {
    /// Returns whether the lookup continues without the answer to this query.
    ///
    /// The table of leads comes with the sales app. An organisation without it answers 404 to the
    /// whole table (Dataverse facts §5, §12; the status is inferred), while a query without matches
    /// is answered with 200. Every organisation has queues, but a role from an earlier version may
    /// not be allowed to read them: 403.
    ///
    /// A record that the policy names counts as missing, whatever the rejection: it must not
    /// prevent messages from being written.
    fn goes_without(&self, status: u16) -> bool {
        match self {
            Self::People(Table::Lead) => status == 404,
            Self::People(Table::Queue) => matches!(status, 403 | 404),
            Self::Records(..) => matches!(status, 400 | 403 | 404),
            Self::People(_) | Self::Emails | Self::Earlier => false,
        }
    }

    fn table(&self) -> &str {
        match self {
            Self::People(table) => table.name(),
            Self::Emails | Self::Earlier => "email",
            Self::Records(table, _) => table,
        }
    }
}

impl DataverseClient {
    /// Looks up to which rows the addresses belong, which messages have rows already, and the other
    /// questions.
    ///
    /// # Errors
    /// [`DataverseError`] of the first query that failed: without its answer nothing can be
    /// decided.
    pub async fn look_up(
        &self,
        session: &Session,
        lookup_request: &LookupRequest,
    ) -> Result<LookupResult, DataverseError> {
        let mut found = LookupResult::default();
        let mut queries = queries(lookup_request);
        let of_records = self.record_queries(&lookup_request.records, &mut found);
        queries.extend(
            of_records
                .into_iter()
                .map(|(table, names, path)| (About::Records(table, names), path)),
        );
        let mut rest = queries.as_slice();
        while !rest.is_empty() {
            let answers = self.first_of(session, rest).await?;
            let (some, later) = rest.split_at(answers.len());
            rest = later;
            for ((about, _), parts) in some.iter().zip(answers) {
                for answer in &parts {
                    if about.goes_without(answer.status) {
                        tracing::info!(
                            table = about.table(),
                            status = answer.status,
                            "a table does not exist here, or the application may not read it; continuing without its rows"
                        );
                        continue;
                    }
                    let rows = self.all_rows(session, answer).await?;
                    match about {
                        About::People(table) => found.read_people(*table, &rows),
                        About::Emails => found.read_emails(&rows),
                        About::Earlier => found.read_earlier(&rows),
                        About::Records(table, names) => found.read_records(table, names, &rows),
                    }
                }
            }
        }
        Ok(found)
    }
}

fn queries(lookup_request: &LookupRequest) -> Vec<(About, String)> {
    let mut queries = Vec::new();
    let spellings: BTreeSet<String> = lookup_request
        .addresses
        .iter()
        .flat_map(|address| [Some(address.clone()), address.without_tag()])
        .flatten()
        .flat_map(|address| address.spellings())
        .collect();
    for table in Table::ALL {
        let terms = spellings.iter().map(|spelling| {
            let columns = table.address_columns().iter();
            columns
                .map(|column| format!("{column} eq {}", literal(spelling)))
                .collect()
        });
        let state = match table {
            Table::SystemUser => "isdisabled,azureactivedirectoryobjectid",
            Table::Contact => "statecode,_parentcustomerid_value",
            Table::Queue | Table::Account | Table::Lead => "statecode",
        };
        let select = format!(
            "{},{},{state},modifiedon,createdon",
            table.key(),
            table.address_columns().join(",")
        );
        queries.extend(
            any_of(terms)
                .iter()
                .map(|filter| (About::People(table), rows(table.set(), &select, filter))),
        );
    }
    let terms = lookup_request.emails.iter().map(|(keys, message_id)| {
        let keys = keys.iter().map(|key| format!("activityid eq {key}"));
        let mut terms: Vec<String> = keys.collect();
        terms.extend(message_id.iter().flat_map(with_message_id));
        terms
    });
    queries.extend(
        any_of(terms)
            .iter()
            .map(|filter| (About::Emails, rows("emails", EMAIL_COLUMNS, filter))),
    );
    queries.extend(
        related_emails::queries(lookup_request)
            .into_iter()
            .map(|path| (About::Earlier, path)),
    );
    queries
}

/// Returns filter terms that match a Message-ID; none if it is longer than its column.
pub(crate) fn with_message_id(id: &InternetMessageId) -> Vec<String> {
    if !fits_its_column(id) {
        return Vec::new();
    }
    // We and server-side synchronization write it in angle brackets (Dataverse facts §2.1); other
    // importers omit them.
    vec![
        format!("messageid eq {}", literal(&id.in_brackets())),
        format!("messageid eq {}", literal(id.as_str())),
    ]
}

/// Returns whether the column `messageid` can hold the id with its angle brackets.
#[must_use]
pub(crate) fn fits_its_column(id: &InternetMessageId) -> bool {
    id.in_brackets().encode_utf16().count() <= LONGEST_MESSAGE_ID
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn address(text: &str) -> EmailAddress {
        EmailAddress::parse(text).unwrap()
    }

    #[test]
    fn a_hundred_messages_with_two_people_each_need_few_queries() {
        let lookup_request = LookupRequest {
            addresses: (0..200)
                .map(|n| address(&format!("person{n}@example.com")))
                .collect(),
            emails: (0..100)
                .map(|n| {
                    (
                        vec![ActivityId::new(Uuid::from_u128(n))],
                        InternetMessageId::from_header(&format!("<{n}@x>")),
                    )
                })
                .collect(),
            ..LookupRequest::default()
        };
        assert_eq!(queries(&lookup_request).len(), 5 * 14 + 7);
    }

    #[test]
    fn an_address_is_looked_up_in_every_spelling_and_without_its_tag() {
        let asked = |text: &str| {
            let lookup_request = LookupRequest {
                addresses: BTreeSet::from([address(text)]),
                ..LookupRequest::default()
            };
            let queries = queries(&lookup_request);
            assert_eq!(queries.len(), 5, "in the same queries");
            let (_, users) = &queries[0];
            let decoded = percent_encoding::percent_decode_str(users).decode_utf8();
            let decoded = decoded.unwrap().into_owned();
            decoded
                .split('\'')
                .skip(1)
                .step_by(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(asked("ada@example.com"), ["ada@example.com"]);
        assert_eq!(
            asked("ada+x@bücher.example"),
            [
                "ada+x@bücher.example",
                "ada+x@xn--bcher-kva.example",
                "ada@bücher.example",
                "ada@xn--bcher-kva.example"
            ]
        );
    }

    #[test]
    fn unreadable_queues_and_missing_leads_are_left_out_of_the_lookup() {
        let goes_without = |table, status| About::People(table).goes_without(status);
        assert!(goes_without(Table::Lead, 404) && !goes_without(Table::Lead, 403));
        assert!(goes_without(Table::Queue, 404) && goes_without(Table::Queue, 403));
        for table in [Table::SystemUser, Table::Contact, Table::Account] {
            assert!(!goes_without(table, 404) && !goes_without(table, 403));
        }
        assert!(!About::Emails.goes_without(404) && !About::Earlier.goes_without(404));
        assert!(!goes_without(Table::Queue, 500) && !goes_without(Table::Queue, 429));
    }

    #[test]
    fn the_ancestors_of_a_message_are_looked_up_in_a_separate_query() {
        let lookup_request = LookupRequest {
            ancestors: InternetMessageId::from_header("<a@x>")
                .into_iter()
                .collect(),
            ..LookupRequest::default()
        };
        let asked = queries(&lookup_request);
        assert_eq!(asked.len(), 1);
        assert!(
            asked[0]
                .1
                .contains(&crate::clients::http::encoded("messageid eq '<a@x>'"))
        );
    }

    #[test]
    fn an_empty_lookup_request_needs_no_query() {
        assert!(queries(&LookupRequest::default()).is_empty());
    }

    #[test]
    fn an_email_with_a_long_message_id_is_looked_up_by_activity_id_only() {
        let id = InternetMessageId::from_header(&"x".repeat(400));
        let asked = queries(&LookupRequest {
            emails: vec![(vec![ActivityId::new(Uuid::nil())], id)],
            ..LookupRequest::default()
        });
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].1.contains("messageid%20eq"));
    }
}
