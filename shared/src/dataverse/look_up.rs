//! Everything that the writing of some messages has to know beforehand, in one `$batch` of queries. What comes of it: [`Found`].

use std::collections::{BTreeSet, HashSet};

use serde_json::Value;

use super::DataverseClient;
use super::batch::{MOST_OPERATIONS, Operation};
use super::earlier;
use super::error::DataverseError;
pub use super::found::{Found, OpenRows};
use super::names::TableNames;
use super::query::{any_of, literal, rows};
use super::rows::{EMAIL_COLUMNS, Table, Target};
use super::session::Session;
use crate::ids::{ActivityId, EmailAddress, InternetMessageId};

/// Longest Message-ID that the column `messageid` holds, in UTF-16 code units (Dataverse facts §2.1). A longer one is not written, so it is not
/// searched for either: two different ids may agree in their first 320 characters.
pub const LONGEST_MESSAGE_ID: usize = 320;

/// What is asked.
#[derive(Default)]
pub struct Questions {
    /// Whose are these?
    pub addresses: BTreeSet<EmailAddress>,
    /// Are these mails there already?
    pub emails: Vec<(ActivityId, Option<InternetMessageId>)>,
    /// Are these mails, which others answer, there?
    pub ancestors: BTreeSet<InternetMessageId>,
    /// Which mails have these tracking tokens?
    pub tokens: BTreeSet<String>,
    /// Are these rows there? Only those are asked for whose table's names are known.
    pub records: BTreeSet<Target>,
}

/// What a query is about, so that its rows are read as such.
enum About {
    People(Table),
    Emails,
    Earlier,
    Records(String, TableNames),
}

impl About {
    /// Leads come with the sales app; an organisation without it answers 404 to the whole table (Dataverse facts §5, §12; the status is inferred).
    /// A query that finds nothing answers 200.
    ///
    /// A record that the policy names is taken to be missing, whatever the refusal: it must not keep mail out.
    fn is_missing_table(&self, status: u16) -> bool {
        match self {
            Self::People(table) => *table == Table::Lead && status == 404,
            Self::Records(..) => matches!(status, 400 | 403 | 404),
            Self::Emails | Self::Earlier => false,
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
    /// Looks up whose the addresses are and which mails are there already.
    ///
    /// # Errors
    /// [`DataverseError`] of the first query that failed: without its answer nothing can be decided.
    pub async fn look_up(
        &self,
        session: &Session,
        questions: &Questions,
    ) -> Result<Found, DataverseError> {
        let mut found = Found::default();
        let mut queries = queries(questions);
        let of_records = self.record_queries(&questions.records, &mut found);
        queries.extend(
            of_records
                .into_iter()
                .map(|(table, names, path)| (About::Records(table, names), path)),
        );
        for some in queries.chunks(MOST_OPERATIONS) {
            let operations: Vec<Operation> = some
                .iter()
                .map(|(_, path)| Operation::Get(path.clone()))
                .collect();
            let answers = self.batch(session, &operations).await?;
            for ((about, _), parts) in some.iter().zip(answers) {
                for answer in &parts {
                    if about.is_missing_table(answer.status) {
                        tracing::info!(
                            table = about.table(),
                            "this organisation has no such table"
                        );
                        continue;
                    }
                    if !answer.is_success() {
                        return Err(super::part_error(answer));
                    }
                    self.read_pages(session, about, &answer.body, &mut found)
                        .await?;
                }
            }
        }
        Ok(found)
    }

    /// Reads a page of rows and those that follow it.
    async fn read_pages(
        &self,
        session: &Session,
        about: &About,
        first: &[u8],
        found: &mut Found,
    ) -> Result<(), DataverseError> {
        let mut page: Value =
            serde_json::from_slice(first).map_err(|_| super::unreadable("a query's answer"))?;
        let mut seen = HashSet::new();
        loop {
            let rows = page
                .get("value")
                .and_then(Value::as_array)
                .ok_or_else(|| super::unreadable("a query's answer"))?;
            match about {
                About::People(table) => found.read_people(*table, rows),
                About::Emails => found.read_emails(rows),
                About::Earlier => found.read_earlier(rows),
                About::Records(table, names) => found.read_records(table, names, rows),
            }
            let Some(next) = page.get("@odata.nextLink").and_then(Value::as_str) else {
                return Ok(());
            };
            if !seen.insert(next.to_owned()) {
                return Err(super::unreadable("a link to a page that was read before"));
            }
            page = self.next_page(session, next).await?;
        }
    }
}

fn queries(questions: &Questions) -> Vec<(About, String)> {
    let mut queries = Vec::new();
    for table in Table::ALL {
        let terms = questions.addresses.iter().map(|address| {
            let columns = table.address_columns().iter();
            columns
                .map(|column| format!("{column} eq {}", literal(address.as_str())))
                .collect()
        });
        let state = match table {
            Table::SystemUser => "isdisabled",
            Table::Contact => "statecode,_parentcustomerid_value",
            Table::Account | Table::Lead => "statecode",
        };
        let select = format!(
            "{},{},{state}",
            table.key(),
            table.address_columns().join(",")
        );
        queries.extend(
            any_of(terms)
                .iter()
                .map(|filter| (About::People(table), rows(table.set(), &select, filter))),
        );
    }
    let terms = questions.emails.iter().map(|(activity_id, message_id)| {
        let mut terms = vec![format!("activityid eq {activity_id}")];
        if let Some(id) = message_id.as_ref().filter(|id| fits_its_column(id)) {
            // Written with angle brackets by us and, it is inferred, by server-side sync; other importers leave them out.
            terms.push(format!("messageid eq {}", literal(&id.in_brackets())));
            terms.push(format!("messageid eq {}", literal(id.as_str())));
        }
        terms
    });
    queries.extend(
        any_of(terms)
            .iter()
            .map(|filter| (About::Emails, rows("emails", EMAIL_COLUMNS, filter))),
    );
    queries.extend(
        earlier::queries(questions)
            .into_iter()
            .map(|path| (About::Earlier, path)),
    );
    queries
}

/// Whether `messageid` can hold it, brackets included.
#[must_use]
pub fn fits_its_column(id: &InternetMessageId) -> bool {
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
    fn a_hundred_mails_with_two_people_each_are_one_batch_of_few_queries() {
        let questions = Questions {
            addresses: (0..200)
                .map(|n| address(&format!("person{n}@example.com")))
                .collect(),
            emails: (0..100)
                .map(|n| {
                    (
                        ActivityId::new(Uuid::from_u128(n)),
                        InternetMessageId::from_header(&format!("<{n}@x>")),
                    )
                })
                .collect(),
            ..Questions::default()
        };
        assert_eq!(queries(&questions).len(), 4 * 14 + 7);
    }

    #[test]
    fn nothing_asked_is_no_query() {
        assert!(queries(&Questions::default()).is_empty());
    }

    #[test]
    fn a_long_message_id_is_looked_for_by_its_activity_id_only() {
        let id = InternetMessageId::from_header(&"x".repeat(400));
        let asked = queries(&Questions {
            emails: vec![(ActivityId::new(Uuid::nil()), id)],
            ..Questions::default()
        });
        assert_eq!(asked.len(), 1);
        assert!(!asked[0].1.contains("messageid%20eq"));
    }
}
