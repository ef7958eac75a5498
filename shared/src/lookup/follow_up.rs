//! The second lookup: questions that depend on the answers of the first one, in one `$batch`, and
//! only for the messages that need it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::result::{LookupResult, OpenRows};
use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::batch::BatchPart;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::metadata::table_names;
use crate::clients::dataverse::metadata::table_names::{TableNames, is_name};
use crate::clients::dataverse::odata::{any_of, rows};
use crate::clients::dataverse::records::{PartyReference, RecordReference, Table, guid};
use crate::clients::dataverse::session::Session;

/// What to look up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FollowUpRequest {
    /// Contacts and accounts: which open rows of the app do they have?
    pub customers: BTreeSet<PartyReference>,
    /// Tables: by which names are their rows bound?
    pub tables: BTreeSet<String>,
    /// Records: do they exist?
    pub records: BTreeSet<RecordReference>,
}

impl FollowUpRequest {
    /// Returns whether there is nothing to look up.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.customers.is_empty() && self.tables.is_empty() && self.records.is_empty()
    }

    /// Adds the questions of `other`.
    pub fn add(&mut self, other: Self) {
        self.customers.extend(other.customers);
        self.tables.extend(other.tables);
        self.records.extend(other.records);
    }
}

/// Where to find the open rows of a customer.
///
/// That state 0 is open in every table is *inferred*: Dataverse facts do not list the states.
#[derive(Debug, Clone)]
pub(crate) struct OpenRowsQuery {
    /// The entity set of the table.
    pub set: String,
    /// The column of its primary key.
    pub key: String,
    /// The lookup columns that refer to a contact.
    pub contact: Vec<String>,
    /// The lookup columns that refer to an account.
    pub account: Vec<String>,
}

impl OpenRowsQuery {
    fn lookups(&self, customer: &PartyReference) -> &[String] {
        if customer.table == Table::Contact {
            &self.contact
        } else {
            &self.account
        }
    }

    fn queries(&self, customers: &BTreeSet<PartyReference>) -> Vec<String> {
        let terms = customers.iter().map(|customer| {
            let lookups = self.lookups(customer).iter();
            lookups
                .map(|column| format!("_{column}_value eq {}", customer.id))
                .collect()
        });
        let columns: BTreeSet<String> = self
            .contact
            .iter()
            .chain(&self.account)
            .map(|column| format!("_{column}_value"))
            .collect();
        let columns: Vec<String> = columns.into_iter().collect();
        let select = format!("{},{}", self.key, columns.join(","));
        any_of(terms)
            .iter()
            .map(|filter| {
                let open = format!("statecode eq 0 and ({filter})");
                rows(&self.set, &select, &open)
            })
            .collect()
    }

    /// Adds each row to the customers that it belongs to.
    fn add_open_rows(
        &self,
        page: &[Value],
        customers: &BTreeSet<PartyReference>,
        found: &mut LookupResult,
    ) {
        for row in page {
            let Some(id) = guid(row, &self.key) else {
                continue;
            };
            for customer in customers {
                let of_customer =
                    |column: &String| guid(row, &format!("_{column}_value")) == Some(customer.id);
                if self.lookups(customer).iter().any(of_customer) {
                    found.add_open_row(*customer, id);
                }
            }
        }
    }
}

enum About {
    App,
    Definition(String),
    Relationships,
    Records(String, TableNames),
}

impl DataverseClient {
    /// Returns the names of a table, if they are documented or were read before.
    #[must_use]
    pub(crate) fn known_names(&self, table: &str) -> Option<TableNames> {
        self.names.get(table)
    }

    /// Looks up the questions and adds the answers to `found`.
    ///
    /// A permanent rejection counts as an answer too: a setting with a table that the organisation
    /// does not have must not prevent messages from being written.
    ///
    /// # Errors
    /// A [`DataverseError`] that may go away: the messages that need the answer have to wait.
    pub(crate) async fn look_up_further(
        &self,
        session: &Session,
        lookup_request: &FollowUpRequest,
        open_rows: Option<&OpenRowsQuery>,
        found: &mut LookupResult,
    ) -> Result<(), DataverseError> {
        for customer in &lookup_request.customers {
            // A customer has no open rows until the query returns one.
            found.set_open_rows(*customer, OpenRows::default());
        }
        if open_rows.is_none() {
            refuse_app(lookup_request, found);
        }
        let queries = self.further_queries(lookup_request, open_rows, found);
        let mut definition = None;
        let mut rest = queries.as_slice();
        while !rest.is_empty() {
            let answers = self.first_of(session, rest).await?;
            let (some, later) = rest.split_at(answers.len());
            rest = later;
            for ((about, _), parts) in some.iter().zip(answers) {
                let Some(answer) = parts.first() else {
                    return Err(crate::clients::dataverse::error::unreadable(
                        "an answer without parts",
                    ));
                };
                let body = readable(answer)?;
                match about {
                    About::App => match (body, open_rows) {
                        (Some(body), Some(table)) => {
                            let all = self.with_next_pages(session, body).await?;
                            table.add_open_rows(&all, &lookup_request.customers, found);
                        }
                        _ => refuse_app(lookup_request, found),
                    },
                    About::Definition(name) => definition = Some((name.clone(), body)),
                    About::Relationships => {
                        let Some((name, described)) = definition.take() else {
                            continue;
                        };
                        let names = described.zip(body).and_then(|(described, related)| {
                            table_names::read(&described, &related)
                        });
                        if let Some(names) = &names {
                            self.names.keep(&name, names.clone());
                        }
                        found.set_names(&name, names);
                    }
                    About::Records(table, names) => {
                        let page = body.as_ref().and_then(|body| body.get("value"));
                        let page = page.and_then(Value::as_array);
                        found.read_records(table, names, page.map_or(&[], Vec::as_slice));
                    }
                }
            }
        }
        Ok(())
    }

    fn further_queries(
        &self,
        lookup_request: &FollowUpRequest,
        table: Option<&OpenRowsQuery>,
        found: &mut LookupResult,
    ) -> Vec<(About, String)> {
        let mut queries = Vec::new();
        let of_app = table.map(|table| table.queries(&lookup_request.customers));
        queries.extend(of_app.into_iter().flatten().map(|path| (About::App, path)));
        for table in &lookup_request.tables {
            if let Some(names) = self.known_names(table) {
                found.set_names(table, Some(names));
            } else if is_name(table) {
                let [definition, relationships] = table_names::queries(table);
                queries.push((About::Definition(table.clone()), definition));
                queries.push((About::Relationships, relationships));
            } else {
                found.set_names(table, None);
            }
        }
        let of_records = self
            .record_queries(&lookup_request.records, found)
            .into_iter();
        queries.extend(of_records.map(|(table, names, path)| (About::Records(table, names), path)));
        queries
    }

    /// Returns queries for these rows, if the names of their tables are known. Marks the rows as
    /// missing until the answer shows that they exist.
    pub(crate) fn record_queries(
        &self,
        records: &BTreeSet<RecordReference>,
        found: &mut LookupResult,
    ) -> Vec<(String, TableNames, String)> {
        let tables: BTreeSet<&str> = records.iter().map(|record| record.table.as_str()).collect();
        let mut queries = Vec::new();
        for table in tables {
            let Some(names) = self.known_names(table) else {
                continue;
            };
            let of_table = records.iter().filter(|record| record.table == table);
            of_table
                .clone()
                .for_each(|record| found.set_there(record, false));
            let terms = of_table.map(|record| vec![format!("{} eq {}", names.key, record.id)]);
            for filter in any_of(terms) {
                let path = rows(&names.set, &names.key, &filter);
                queries.push((table.to_owned(), names.clone(), path));
            }
        }
        queries
    }
}

/// Returns the body of an answer; `None` for a permanent rejection.
fn readable(answer: &BatchPart) -> Result<Option<Value>, DataverseError> {
    if answer.is_success() {
        let body = serde_json::from_slice(&answer.body);
        return body
            .map(Some)
            .map_err(|_| crate::clients::dataverse::error::unreadable("a query's answer"));
    }
    match crate::clients::dataverse::error::part_error(answer) {
        // The code of a 404 for a missing table is classified as stale.
        DataverseError::Rejected { .. } | DataverseError::Stale { .. } => {
            tracing::warn!(
                status = answer.status,
                "dataverse rejected a query for regarding records; continuing without its rows"
            );
            Ok(None)
        }
        error => Err(error),
    }
}

fn refuse_app(lookup_request: &FollowUpRequest, found: &mut LookupResult) {
    for customer in &lookup_request.customers {
        found.set_open_rows(*customer, OpenRows::Refused);
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::policy::document::App;
    use crate::resolve::regarding::app::open_rows_query;

    fn customers() -> BTreeSet<PartyReference> {
        let record = |table, id| PartyReference {
            table,
            id: Uuid::from_u128(id),
        };
        BTreeSet::from([record(Table::Contact, 1), record(Table::Account, 2)])
    }

    #[test]
    fn open_rows_are_queried_by_every_lookup_column_of_the_customer() {
        let table = open_rows_query(&App::Sales).unwrap();
        let asked = table.queries(&customers());
        assert_eq!(asked.len(), 1);
        let filter = percent_encoding::percent_decode_str(&asked[0])
            .decode_utf8()
            .unwrap();
        let (one, two) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let expected = format!(
            "opportunities?$select=opportunityid,_customerid_value,_parentaccountid_value,_parentcontactid_value&$filter=statecode eq 0 and \
             (_customerid_value eq {one} or _parentcontactid_value eq {one} or _customerid_value eq {two} or _parentaccountid_value eq {two})"
        );
        assert_eq!(filter, expected);
    }
}
