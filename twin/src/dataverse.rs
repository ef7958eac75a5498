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
//! | What can a client learn about tables, and change?| `definitions.rs` and the files below it, `csdl.rs` |
//! | How much may a caller ask for?                   | `protection.rs`          |
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

    /// From now on faults come by chance, the same ones for the same seed. The counts start again.
    pub fn set_fault_plan(&self, plan: FaultPlan) {
        self.faults.follow(plan);
    }

    /// What the plan has done so far.
    #[must_use]
    pub fn injected(&self) -> Injected {
        self.faults.injected()
    }

    /// From now on requests are let in and then wait, unanswered and not yet carried out.
    pub fn hold_requests(&self) {
        self.traffic.hold(true);
    }

    /// Requests that were held go on, and no more are.
    pub fn release_requests(&self) {
        self.traffic.hold(false);
    }

    /// Waits until no request is in flight.
    pub async fn wait_for_idle(&self) {
        self.traffic.idle().await;
    }

    /// Waits until at least so many requests are in flight.
    pub async fn wait_for_in_flight(&self, requests: usize) {
        self.traffic.reach(requests).await;
    }

    /// From now on the calling application has no user in the organisation: 403 / 0x80072560.
    pub fn remove_application_user(&self) {
        lock(&self.org).has_application_user = false;
    }

    /// It has one again.
    pub fn add_application_user(&self) {
        lock(&self.org).has_application_user = true;
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
            max_length: Some(max_length),
            ..Column::custom(column, Kind::Text, "String")
        };
        table.columns.insert(added.name.clone(), added);
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
        found.alternate_keys.push(AlternateKey {
            schema_name: key.join("_"),
            labels: Labels::new(),
            columns: key,
            status: KeyStatus::Active,
            ready: self.clock.now(),
        });
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
