//! The Dataverse calls of the address book import: reads contacts with the columns that an address
//! book entry may fill, finds accounts by name, and fills columns.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::clients::dataverse::DataverseClient;
use crate::clients::dataverse::batch::{BatchPart, Change, MOST_OPERATIONS, Operation};
use crate::clients::dataverse::emails::WriteMode;
use crate::clients::dataverse::error::DataverseError;
use crate::clients::dataverse::error::{part_error, unreadable};
use crate::clients::dataverse::odata::{any_of, literal, row, rows};
use crate::clients::dataverse::records::{PartyReference, guid};
use crate::clients::dataverse::session::Session;

/// The columns of a contact that a card may fill, including the company.
pub const COLUMNS: [&str; 12] = [
    "firstname",
    "lastname",
    "emailaddress1",
    "emailaddress2",
    "emailaddress3",
    "telephone1",
    "mobilephone",
    "telephone2",
    "telephone3",
    "fax",
    "jobtitle",
    "_parentcustomerid_value",
];

/// A contact that exists.
#[derive(Debug, Clone)]
pub(crate) struct ContactRow {
    /// Its version, for `If-Match`.
    pub etag: String,
    /// The columns that an address book entry may fill ([`COLUMNS`]).
    pub columns: Map<String, Value>,
}

/// Columns to write into a row, if it still has this version.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The row.
    pub record: PartyReference,
    /// Its version when it was read.
    pub etag: String,
    /// The body of the PATCH.
    pub columns: Map<String, Value>,
}

impl DataverseClient {
    /// Reads contacts by their keys. A contact that was deleted, or whose version cannot be read,
    /// is left out.
    ///
    /// # Errors
    /// [`DataverseError`] of the first query that failed.
    pub(crate) async fn contact_rows(
        &self,
        session: &Session,
        ids: &BTreeSet<Uuid>,
    ) -> Result<HashMap<Uuid, ContactRow>, DataverseError> {
        let select = format!("contactid,{}", COLUMNS.join(","));
        let terms = ids.iter().map(|id| vec![format!("contactid eq {id}")]);
        let found = self.all_of(session, "contacts", &select, terms).await?;
        let read = |found: Value| {
            let id = guid(&found, "contactid")?;
            let etag = found.get("@odata.etag").and_then(Value::as_str)?;
            // The etag becomes a header value.
            let sound = etag.bytes().all(|byte| byte.is_ascii_graphic());
            let etag = Some(etag).filter(|_| sound)?.to_owned();
            let Value::Object(columns) = found else {
                return None;
            };
            Some((id, ContactRow { etag, columns }))
        };
        Ok(found.into_iter().filter_map(read).collect())
    }

    /// Returns the active accounts with these names, by name in lower case.
    ///
    /// # Errors
    /// [`DataverseError`] of the first query that failed.
    pub(crate) async fn accounts_named(
        &self,
        session: &Session,
        names: &BTreeSet<String>,
    ) -> Result<HashMap<String, BTreeSet<Uuid>>, DataverseError> {
        let terms = names
            .iter()
            .map(|name| vec![format!("name eq {}", literal(name))]);
        let found = self.all_of(session, "accounts", "accountid,name,statecode", terms);
        let mut accounts: HashMap<String, BTreeSet<Uuid>> = HashMap::new();
        for account in found.await? {
            let active = account.get("statecode").and_then(Value::as_i64) == Some(0);
            let name = account.get("name").and_then(Value::as_str);
            if let (true, Some(name), Some(id)) = (active, name, guid(&account, "accountid")) {
                let name = name.trim().to_lowercase();
                accounts.entry(name).or_default().insert(id);
            }
        }
        Ok(accounts)
    }

    async fn all_of(
        &self,
        session: &Session,
        set: &str,
        select: &str,
        terms: impl Iterator<Item = Vec<String>>,
    ) -> Result<Vec<Value>, DataverseError> {
        let filters = any_of(terms);
        let mut all = Vec::new();
        for some in filters.chunks(MOST_OPERATIONS) {
            let queries = some.iter().map(|filter| rows(set, select, filter));
            let operations: Vec<Operation> = queries.map(Operation::Get).collect();
            for answer in self.batch(session, &operations).await?.iter().flatten() {
                all.extend(self.all_rows(session, answer).await?);
            }
        }
        Ok(all)
    }

    /// Writes columns into rows. Returns one result per row, in order; a failed row does not affect
    /// the others.
    ///
    /// A row that was changed since it was read stays unchanged and is reported as
    /// [`DataverseError::Stale`].
    pub async fn fill(
        &self,
        session: &Session,
        fills: &[Fill],
        mode: WriteMode,
    ) -> Vec<Result<(), DataverseError>> {
        let mut results = Vec::with_capacity(fills.len());
        for some in fills.chunks(MOST_OPERATIONS) {
            let together = match mode {
                WriteMode::ChangeSet => Some(self.fill_together(session, some).await),
                WriteMode::Stepwise => None,
            };
            match together {
                Some(Ok(outcomes)) => results.extend(outcomes),
                None | Some(Err(DataverseError::TooLarge | DataverseError::Rejected { .. })) => {
                    for Fill {
                        record,
                        etag,
                        columns,
                    } in some
                    {
                        let path = row(record.table.set(), record.id);
                        let method = reqwest::Method::PATCH;
                        let done = self.call(session, method, &path, Some(etag), Some(columns));
                        results.push(done.await.map(drop));
                    }
                }
                Some(Err(error)) => results.extend(some.iter().map(|_| Err(error.clone()))),
            }
        }
        results
    }

    async fn fill_together(
        &self,
        session: &Session,
        fills: &[Fill],
    ) -> Result<Vec<Result<(), DataverseError>>, DataverseError> {
        let patch = |fill: &Fill| {
            Operation::ChangeSet(vec![Change {
                method: "PATCH",
                path: row(fill.record.table.set(), fill.record.id),
                if_match: Some(fill.etag.clone()),
                body: Value::Object(fill.columns.clone()),
            }])
        };
        let operations: Vec<Operation> = fills.iter().map(patch).collect();
        let answers = self.batch(session, &operations).await?;
        let outcome = |parts: &Vec<BatchPart>| match parts.iter().find(|part| !part.is_success()) {
            None if parts.is_empty() => Err(unreadable("an empty answer")),
            None => Ok(()),
            Some(failure) => Err(part_error(failure)),
        };
        Ok(answers.iter().map(outcome).collect())
    }
}
