//! The Dataverse organisation.
//!
//! | Question                                         | File                     |
//! | ------------------------------------------------ | ------------------------ |
//! | Who may call, with which headers?                | `http.rs`                |
//! | Which tables, columns and names exist?           | `schema.rs`, `catalogue.rs`, `data/` |
//! | What may a body contain?                         | `payload.rs`, `values.rs`|
//! | What does each verb do?                          | `operation.rs`, `rows.rs`|
//! | What do create, update and delete do?            | `write.rs`, `defaults.rs`|
//! | Which row does a key name?                       | `keys.rs`                |
//! | Which state may a row have?                      | `state.rs`               |
//! | Which parties does an activity have?             | `parties.rs`             |
//! | Which attachments are accepted?                  | `attachments.rs`         |
//! | What does a bound address point to?              | `binds.rs`, `path.rs`    |
//! | What does a query understand?                    | `options.rs`, `tokens.rs`, `filter.rs`, `matching.rs`, `pattern.rs`, `read.rs` |
//! | What can a client read and change about tables?  | `definitions.rs` and the files below it, `csdl.rs` |
//! | How much may a caller request?                   | `protection.rs`          |
//! | What does the caller's role allow?               | `privileges.rs`          |
//! | What can a test change?                          | `settings.rs`, `customise.rs` |
//! | How does a batch behave?                         | `batch.rs`, `multipart.rs` |
//! | What does an error look like?                    | `refusal.rs`             |

mod attachments;
mod batch;
mod binds;
mod catalogue;
mod csdl;
mod customise;
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
mod privileges;
mod protection;
mod read;
mod refusal;
mod rows;
mod schema;
mod seed;
mod settings;
mod state;
mod store;
mod tokens;
mod values;
mod write;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

pub use org::{Dropped, Requests};
pub use privileges::Privilege;
pub use seed::SeedError;
pub use settings::{RefusedEmails, Setting};

use crate::clock::Clock;
use crate::entra::Entra;
use crate::fault::{Fault, FaultPlan, Faults, Injected};
use crate::lock::lock;
use crate::server::{Incoming, Outgoing, Service};
use org::Org;
use protection::Traffic;
use refusal::Refusal;
use schema::{AlternateKey, Column, KeyStatus, Kind, Labels, Schema};

/// The Dataverse organisation. Clones are handles of the same organisation.
#[derive(Clone)]
pub struct Dataverse {
    url: String,
    entra: Entra,
    org: Arc<Mutex<Org>>,
    faults: Faults,
    clock: Clock,
    traffic: Traffic,
}

impl Dataverse {
    pub(crate) fn new(url: String, entra: Entra, clock: Clock) -> io::Result<Self> {
        let schema = Schema::load().map_err(io::Error::other)?;
        let faults = Faults::default();
        let org = Org::new(
            url.clone(),
            schema,
            entra.client_id(),
            clock.clone(),
            faults.clone(),
        );
        Ok(Self {
            url,
            entra,
            org: Arc::new(Mutex::new(org)),
            faults,
            clock,
            traffic: Traffic::default(),
        })
    }

    /// Returns the organisation's address, `http://127.0.0.1:PORT`. The API is below
    /// `/api/data/v9.2/`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Inserts a row without the Web API and its rules about what is valid for create. Returns its
    /// id.
    ///
    /// Columns have their logical names; a lookup is `{"table": "account", "id": "…"}`. If the
    /// key is absent, a new id is used. The defaults are those of the platform.
    ///
    /// # Errors
    /// [`SeedError`] if a name is unknown, if a value does not fit its column, or if another row
    /// has the id, an alternate key or the Message-ID.
    pub fn insert(&self, table: &str, row: Value) -> Result<Uuid, SeedError> {
        seed::insert(&mut lock(&self.org), table, row)
    }

    /// Returns all rows of a table in the order of creation, by logical column names. Columns
    /// without a value are absent.
    ///
    /// Every organisation has from the start a user for the application, a business unit, a row for
    /// the organisation itself, solutions and their publisher.
    #[must_use]
    pub fn rows(&self, table: &str) -> Vec<Value> {
        let rows = lock(&self.org).store.rows(table);
        rows.into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect()
    }

    /// Returns one row; `None` if it does not exist.
    #[must_use]
    pub fn row(&self, table: &str, id: Uuid) -> Option<Value> {
        lock(&self.org)
            .store
            .get(table, id)
            .map(|row| Value::Object(row.values.clone()))
    }

    /// Returns the parties of one activity: first the parties that were sent, in their order, then
    /// those that the platform adds for the regarding record (mask 8) and the owner (mask 9).
    #[must_use]
    pub fn parties(&self, activity: Uuid) -> Vec<Value> {
        let mut rows = lock(&self.org).store.children("activityparty", activity);
        rows.sort_by_key(|(_, row)| parties::is_platform(row.get("participationtypemask")));
        rows.into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect()
    }

    /// Returns the attachments of one activity, in the order of creation.
    #[must_use]
    pub fn attachments(&self, activity: Uuid) -> Vec<Value> {
        let rows = lock(&self.org)
            .store
            .children("activitymimeattachment", activity);
        rows.into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect()
    }

    /// Returns the number of requests and operations so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        lock(&self.org).requests
    }

    /// Returns every value that was silently dropped so far, including those of operations that
    /// failed later.
    #[must_use]
    pub fn dropped(&self) -> Vec<Dropped> {
        lock(&self.org).dropped.clone()
    }

    /// Makes the next HTTP request fail. Faults queue up, one for each request.
    pub fn fail_next(&self, fault: Fault) {
        self.faults.push(fault);
    }

    /// Makes one operation fail: the one after `skip` others. If it is part of a batch, it fails
    /// within the batch.
    ///
    /// Only [`Fault::Status`] is allowed here. The other faults concern whole connections and are
    /// ignored.
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

    /// Injects random faults from now on, the same ones for the same seed. The counts start again.
    pub fn set_fault_plan(&self, plan: FaultPlan) {
        self.faults.follow(plan);
    }

    /// Returns what the plan has injected since it was set.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.faults.injected()
    }

    /// Holds requests from now on: they are admitted, then wait without being processed.
    pub fn hold_requests(&self) {
        self.traffic.hold(true);
    }

    /// Lets the held requests continue, and holds no more.
    pub fn release_requests(&self) {
        self.traffic.hold(false);
    }

    /// Waits until no request is in flight.
    pub async fn wait_for_idle(&self) {
        self.traffic.idle().await;
    }

    /// Waits until at least `requests` requests are in flight.
    pub async fn wait_for_in_flight(&self, requests: usize) {
        self.traffic.reach(requests).await;
    }

    /// Removes the calling application's user from the organisation: its calls answer 403 /
    /// 0x80072560.
    pub fn remove_application_user(&self) {
        lock(&self.org).has_application_user = false;
    }

    /// Adds the calling application's user again.
    pub fn add_application_user(&self) {
        lock(&self.org).has_application_user = true;
    }

    /// Changes a setting of the organisation.
    pub fn set_setting(&self, setting: Setting) {
        lock(&self.org).change_setting(setting);
    }

    /// Adds a text column, as a customised organisation has it. By convention the name has a
    /// publisher's prefix.
    ///
    /// # Errors
    /// [`SeedError`] if there is no such table.
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
            max_length: Some(max_length),
            ..Column::custom(column, Kind::Text, "String")
        };
        table.columns.insert(added.name.clone(), added);
        Ok(())
    }

    /// Changes the limit of a text column. Organisations do that with standard columns too
    /// (Dataverse facts §15.1).
    ///
    /// # Errors
    /// [`SeedError`] if there is no such table or column.
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

    /// Adds an alternate key that is active at once.
    ///
    /// # Errors
    /// [`SeedError`] if there is no such table or column.
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
        found.alternate_keys.push(AlternateKey {
            schema_name: key.join("_"),
            labels: Labels::new(),
            columns: key,
            status: KeyStatus::Active,
            ready: self.clock.now(),
        });
        Ok(())
    }

    /// Returns all rows, so that a command can keep its organisation between runs. Settings and
    /// counters are not included.
    #[must_use]
    pub fn export(&self) -> Value {
        seed::export(&lock(&self.org))
    }

    /// Replaces all rows by those of an export.
    ///
    /// # Errors
    /// [`SeedError`] if the value is not an export. The rows are then unchanged.
    pub fn import(&self, state: Value) -> Result<(), SeedError> {
        seed::import(&mut lock(&self.org), state)
    }
}

impl Service for Dataverse {
    fn faults(&self) -> &Faults {
        &self.faults
    }

    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn count(&self) {
        lock(&self.org).requests.total += 1;
    }

    fn refuse(&self, status: u16, code: &str, message: &str) -> Outgoing {
        http::fault(status, code, message)
    }

    fn expire_token(&self, incoming: &Incoming) {
        if let Some(token) = http::bearer(incoming) {
            self.entra.revoke(token);
        }
    }

    async fn answer(&self, incoming: &Incoming) -> Outgoing {
        let network = Duration::from_millis(lock(&self.org).settings.network_ms);
        self.clock.pass(network).await;
        let admitted = {
            let mut org = lock(&self.org);
            http::admit(&mut org, &self.entra, incoming).map(|caller| {
                let flight = self.traffic.enter(&mut org, &self.org, &caller.client_id);
                (caller, flight)
            })
        };
        let (caller, _flight) = match admitted {
            Ok(admitted) => admitted,
            Err(refusal) => {
                if refusal.status == 429 {
                    lock(&self.org).requests.throttled += 1;
                }
                return http::turn_away(&refusal, incoming);
            }
        };
        self.traffic.pass().await;
        let (outgoing, spent_ms) = http::answer(&mut lock(&self.org), caller, incoming);
        self.clock.pass(Duration::from_millis(spent_ms)).await;
        outgoing
    }
}
