//! The Dataverse organisation.
//!
//! | Question                                         | File                     |
//! | ------------------------------------------------ | ------------------------ |
//! | Who may call, with which headers?                | `http.rs`                |
//! | Which tables, columns and names are there?       | `schema.rs`, `catalogue.rs`, `data/` |
//! | What may a body hold?                            | `payload.rs`, `values.rs`|
//! | What does each verb come to?                     | `operation.rs`, `rows.rs`|
//! | What do create, change and removal do?           | `write.rs`, `defaults.rs`|
//! | Which row does a key name?                       | `keys.rs`                |
//! | Which state may a row have?                      | `state.rs`               |
//! | Who takes part in an activity?                   | `parties.rs`             |
//! | Which attachments are taken?                     | `attachments.rs`         |
//! | What does a bound address point to?              | `binds.rs`, `path.rs`    |
//! | What does a query understand?                    | `options.rs`, `tokens.rs`, `filter.rs`, `matching.rs`, `pattern.rs`, `read.rs` |
//! | What can a client learn about tables?            | `definitions.rs`         |
//! | How does a batch behave?                         | `batch.rs`, `multipart.rs` |
//! | What does an error look like?                    | `refusal.rs`             |

mod attachments;
mod batch;
mod binds;
mod catalogue;
mod defaults;
mod definitions;
mod filter;
mod http;
mod keys;
mod matching;
mod multipart;
mod operation;
mod options;
mod org;
mod parties;
mod path;
mod pattern;
mod payload;
mod read;
mod refusal;
mod rows;
mod schema;
mod seed;
mod state;
mod store;
mod tokens;
mod values;
mod write;

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use uuid::Uuid;

pub use org::{Dropped, Requests, Setting};
pub use seed::SeedError;

use crate::entra::Entra;
use crate::fault::{Fault, FaultQueue};
use crate::lock::lock;
use crate::server::{Incoming, Outgoing, Service};
use org::Org;
use refusal::Refusal;
use schema::{Column, Kind, Schema};

/// The Dataverse organisation. Clones are handles of the same organisation.
#[derive(Clone)]
pub struct Dataverse {
    url: String,
    entra: Entra,
    org: Arc<Mutex<Org>>,
    faults: FaultQueue,
}

impl Dataverse {
    pub(crate) fn new(url: String, entra: Entra) -> io::Result<Self> {
        let schema = Schema::load().map_err(io::Error::other)?;
        let org = Arc::new(Mutex::new(Org::new(
            url.clone(),
            schema,
            &entra.client_id(),
        )));
        Ok(Self {
            url,
            entra,
            org,
            faults: FaultQueue::default(),
        })
    }

    /// The organisation's address, `http://127.0.0.1:PORT`; the API lies below `/api/data/v9.2/`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Puts a row into a table, without the Web API and its rules about what is valid for create.
    ///
    /// Columns go by their logical names; a lookup is `{"table": "account", "id": "…"}`. The key is made up when
    /// absent, and so are defaults as the platform fills them in.
    ///
    /// # Errors
    /// When a name is unknown, a value does not fit its column, or the key is taken.
    pub fn insert(&self, table: &str, row: Value) -> Result<Uuid, SeedError> {
        seed::insert(&mut lock(&self.org), table, row)
    }

    /// All rows of a table in the order they were made, by logical column names; columns without a value are absent.
    ///
    /// Every organisation has a user for the application, a business unit and a row for itself from the start.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<Value> {
        let rows = lock(&self.org).store.rows(table);
        rows.into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect()
    }

    /// One row.
    #[must_use]
    pub fn row(&self, table: &str, id: Uuid) -> Option<Value> {
        lock(&self.org)
            .store
            .get(table, id)
            .map(|row| Value::Object(row.values.clone()))
    }

    /// The parties of one activity: first those that were sent, in their order, then the platform's own for the
    /// regarding record (mask 8) and the owner (mask 9).
    #[must_use]
    pub fn parties(&self, activity: Uuid) -> Vec<Value> {
        let mut rows = lock(&self.org).store.children("activityparty", activity);
        rows.sort_by_key(|(_, row)| parties::is_platform(row.get("participationtypemask")));
        rows.into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect()
    }

    /// The attachments of one activity, in the order they were made.
    #[must_use]
    pub fn attachments(&self, activity: Uuid) -> Vec<Value> {
        let rows = lock(&self.org)
            .store
            .children("activitymimeattachment", activity);
        rows.into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect()
    }

    /// How much was asked so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        lock(&self.org).requests
    }

    /// Every value that was silently dropped so far, also by operations that failed later.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        lock(&self.org).dropped.clone()
    }

    /// Makes one coming HTTP request fail. Faults queue up.
    pub fn fail_next(&self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Makes one operation fail, within its batch if it is part of one: the one that comes after `skip` others. Only
    /// [`Fault::Status`] makes sense here; the others are for whole connections and change nothing.
    pub fn fail_operation(&self, skip: u64, fault: Fault) {
        let mut org = lock(&self.org);
        let at = org.requests.operations + skip;
        if let Fault::Status {
            status,
            code,
            message,
            retry_after_seconds,
        } = fault
        {
            let refusal = Refusal {
                status,
                code: code.into(),
                message,
                retry_after: retry_after_seconds,
            };
            org.operation_faults.insert(at, refusal);
        }
    }

    /// From now on the calling application has no user in the organisation: 403 / 0x80072560.
    pub fn remove_application_user(&self) {
        lock(&self.org).has_application_user = false;
    }

    /// Changes a setting of the organisation.
    pub fn set_setting(&self, setting: Setting) {
        lock(&self.org).change_setting(setting);
    }

    /// Adds a text column, as a customised organisation has them. The name carries a publisher's prefix by custom.
    ///
    /// # Errors
    /// When there is no such table.
    pub fn add_text_column(
        &self,
        table: &str,
        column: &str,
        max_length: usize,
    ) -> Result<(), SeedError> {
        let mut org = lock(&self.org);
        let found = Arc::make_mut(&mut org.schema).table_mut(table);
        let table = found.ok_or_else(|| SeedError::UnknownTable {
            table: table.to_owned(),
        })?;
        let added = Column {
            name: column.to_owned(),
            kind: Kind::Text,
            max_length: Some(max_length),
            valid_for_create: true,
            valid_for_update: true,
            targets: Vec::new(),
            options: Vec::new(),
            hidden: false,
        };
        table.columns.insert(column.to_owned(), added);
        Ok(())
    }

    /// Changes the limit of a text column, as organisations do with standard ones too (Dataverse facts §15.1).
    ///
    /// # Errors
    /// When there is no such table or column.
    pub fn set_max_length(
        &self,
        table: &str,
        column: &str,
        max_length: usize,
    ) -> Result<(), SeedError> {
        let mut org = lock(&self.org);
        let found = Arc::make_mut(&mut org.schema).table_mut(table);
        let found = found.ok_or_else(|| SeedError::UnknownTable {
            table: table.to_owned(),
        })?;
        let unknown = || SeedError::UnknownColumn {
            table: table.to_owned(),
            column: column.to_owned(),
        };
        found
            .columns
            .get_mut(column)
            .ok_or_else(unknown)?
            .max_length = Some(max_length);
        Ok(())
    }

    /// Adds an alternate key, active at once.
    ///
    /// # Errors
    /// When there is no such table or column.
    pub fn add_alternate_key(&self, table: &str, columns: &[&str]) -> Result<(), SeedError> {
        let mut org = lock(&self.org);
        let found = Arc::make_mut(&mut org.schema).table_mut(table);
        let found = found.ok_or_else(|| SeedError::UnknownTable {
            table: table.to_owned(),
        })?;
        if let Some(column) = columns.iter().find(|column| found.column(column).is_none()) {
            return Err(SeedError::UnknownColumn {
                table: table.to_owned(),
                column: (*column).to_owned(),
            });
        }
        let mut key: Vec<String> = columns.iter().map(|column| (*column).to_owned()).collect();
        key.sort_unstable();
        found.alternate_keys.push(key);
        Ok(())
    }

    /// All rows, so that a command can keep its organisation between runs. Settings and counters are not part of it.
    #[must_use]
    pub fn export(&self) -> Value {
        seed::export(&lock(&self.org))
    }

    /// Replaces all rows by those of an export.
    ///
    /// # Errors
    /// When the value is no export; the rows are then as they were.
    pub fn import(&self, state: Value) -> Result<(), SeedError> {
        seed::import(&mut lock(&self.org), state)
    }
}

impl Service for Dataverse {
    fn faults(&self) -> &FaultQueue {
        &self.faults
    }

    fn count(&self) {
        lock(&self.org).requests.total += 1;
    }

    fn refuse(&self, status: u16, code: &str, message: &str) -> Outgoing {
        http::fault(status, code, message)
    }

    fn answer(&self, incoming: &Incoming) -> Outgoing {
        http::answer(&mut lock(&self.org), &self.entra, incoming)
    }
}
