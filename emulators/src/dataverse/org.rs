//! One organisation: its tables, rows and settings, and the context of an operation.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::protection::Usage;
use super::refusal::Refusal;
use super::schema::Schema;
use super::settings::{Setting, Settings};
use super::store::{Mark, Store, lookup_value};
use super::values::date_time_text;
use crate::clock::Clock;
use crate::fault::Faults;

/// The number of HTTP requests and operations so far.
///
/// A batch is one request. Each of its parts that was reached is one operation, even if it was
/// rejected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// HTTP requests, whether they succeeded or not.
    pub total: u64,
    /// Requests that service protection rejected as a whole.
    pub throttled: u64,
    /// Operations: each request that is not a batch, and each part of a batch.
    pub operations: u64,
    /// Operations by POST, PATCH, PUT or DELETE.
    pub writes: u64,
    /// All other operations.
    pub reads: u64,
}

/// A value that was sent and understood but not stored, as Dataverse does with columns that are not
/// valid for the operation (Dataverse facts §19 rule 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The table's logical name.
    pub table: String,
    /// The column's logical name.
    pub column: String,
    /// `create` or `update`.
    pub operation: &'static str,
    /// The reason, as text.
    pub why: String,
}

/// A point to roll back to.
pub(crate) struct OrgMark {
    store: Mark,
    schema: Arc<Schema>,
}

/// The caller of the current request, and what its operations have used so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// The application's id.
    pub(crate) client_id: String,
    /// The user who acts: the application user, or the impersonated user.
    pub(crate) user: Uuid,
    /// The application user, if it impersonates another user.
    pub(crate) on_behalf: Option<Uuid>,
    /// The error of every part of a batch, if service protection rejects the parts and not the
    /// whole batch.
    pub(crate) parts_refused: Option<Refusal>,
    /// Execution time of all operations so far, in milliseconds.
    pub(crate) spent_ms: u64,
}

/// The state of the organisation.
pub(crate) struct Org {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    pub(crate) schema: Arc<Schema>,
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) requests: Requests,
    /// Faults of operations, by the number of operations before them.
    pub(crate) operation_faults: HashMap<u64, Refusal>,
    /// Queued and random faults.
    pub(crate) faults: Faults,
    pub(crate) clock: Clock,
    /// Recent use of each caller, by application id, for service protection.
    usage: HashMap<String, Usage>,
    /// The registered application, and whether it has a user in this organisation.
    pub(crate) client_id: String,
    pub(crate) has_application_user: bool,
    /// The application user of that application.
    pub(crate) user: Uuid,
    /// The caller of the current request.
    pub(crate) caller: Caller,
    pub(crate) business_unit: Uuid,
    pub(crate) organization: Uuid,
}

impl Org {
    pub(crate) fn new(
        url: String,
        schema: Schema,
        client_id: String,
        clock: Clock,
        faults: Faults,
    ) -> Self {
        let user = Uuid::new_v4();
        let mut org = Self {
            url,
            schema: Arc::new(schema),
            store: Store::default(),
            settings: Settings::default(),
            dropped: Vec::new(),
            requests: Requests::default(),
            operation_faults: HashMap::new(),
            faults,
            clock,
            usage: HashMap::new(),
            client_id,
            has_application_user: true,
            user,
            caller: Caller {
                user,
                ..Caller::default()
            },
            business_unit: Uuid::new_v4(),
            organization: Uuid::new_v4(),
        };
        org.found();
        org
    }

    /// Creates the rows that every organisation has: itself, its business unit, the application
    /// user, its solutions and their publisher.
    fn found(&mut self) {
        let unit = self.business_unit;
        let rows = [
            (
                "businessunit",
                unit,
                json!({"businessunitid": unit, "name": "twin"}),
            ),
            (
                "organization",
                self.organization,
                json!({"organizationid": self.organization, "name": "twin"}),
            ),
            (
                "systemuser",
                self.user,
                json!({
                    "systemuserid": self.user, "fullname": "# mailverse", "lastname": "# mailverse",
                    "internalemailaddress": "mailverse@twin.invalid", "domainname": "mailverse@twin.invalid",
                    "applicationid": self.client_id, "isdisabled": false,
                    "businessunitid": lookup_value("businessunit", unit),
                }),
            ),
        ];
        for (table, id, values) in rows {
            self.store.set(table, id, values.as_object().cloned());
        }
        self.found_solutions();
        self.write_settings();
        self.store.keep();
    }

    fn found_solutions(&mut self) {
        let publisher = Uuid::new_v4();
        let values = json!({
            "publisherid": publisher, "uniquename": "DefaultPublishertwin", "friendlyname": "Default Publisher for twin",
            "customizationprefix": "new", "customizationoptionvalueprefix": 10_000,
        });
        self.store
            .set("publisher", publisher, values.as_object().cloned());
        for (name, title, managed, visible) in [
            ("System", "System Solution", true, false),
            ("Active", "Active Solution", false, false),
            ("Default", "Default Solution", false, true),
        ] {
            let id = Uuid::new_v4();
            let values = json!({
                "solutionid": id, "uniquename": name, "friendlyname": title, "version": "1.0", "ismanaged": managed,
                "isvisible": visible, "publisherid": lookup_value("publisher", publisher),
            });
            self.store.set("solution", id, values.as_object().cloned());
        }
    }

    pub(crate) fn change_setting(&mut self, setting: Setting) {
        self.settings.change(setting);
        self.write_settings();
        self.store.keep();
    }

    /// Returns the recent use of a caller.
    pub(crate) fn usage(&mut self, client_id: &str) -> &mut Usage {
        self.usage.entry(client_id.to_owned()).or_default()
    }

    /// Returns the first user of an application that is not disabled.
    pub(crate) fn user_of(&self, client_id: &str) -> Option<Uuid> {
        if client_id == self.client_id {
            return Some(self.user).filter(|_| self.has_application_user);
        }
        let same = |text: &str| text.eq_ignore_ascii_case(client_id);
        let users = self.store.rows("systemuser").into_iter();
        users
            .filter(|(_, row)| row.get("isdisabled").as_bool() != Some(true))
            .find(|(_, row)| row.text("applicationid").is_some_and(same))
            .map(|(id, _)| id)
    }

    /// Returns the user with this Entra object id, unless it is disabled.
    pub(crate) fn user_of_entra(&self, object_id: Uuid) -> Option<Uuid> {
        let same = |text: &str| Uuid::try_parse(text).is_ok_and(|id| id == object_id);
        let users = self.store.rows("systemuser").into_iter();
        users
            .filter(|(_, row)| row.get("isdisabled").as_bool() != Some(true))
            .find(|(_, row)| row.text("azureactivedirectoryobjectid").is_some_and(same))
            .map(|(id, _)| id)
    }

    /// Writes the settings to columns of the organisation's row, where clients read them.
    pub(crate) fn write_settings(&mut self) {
        let mut values = self
            .store
            .get("organization", self.organization)
            .map(|row| row.values.clone())
            .unwrap_or_default();
        values.insert(
            "maxuploadfilesize".to_owned(),
            Value::from(self.settings.max_upload),
        );
        values.insert(
            "blockedattachments".to_owned(),
            Value::from(self.settings.blocked.join(";")),
        );
        self.store
            .set("organization", self.organization, Some(values));
    }

    /// Returns a point to roll back to.
    pub(crate) fn mark(&self) -> OrgMark {
        OrgMark {
            store: self.store.mark(),
            schema: Arc::clone(&self.schema),
        }
    }

    /// Undoes all changes to rows and definitions since `mark`.
    pub(crate) fn roll_back(&mut self, mark: &OrgMark) {
        self.store.roll_back(&mark.store);
        self.schema = Arc::clone(&mark.schema);
    }

    /// Starts an operation.
    pub(crate) fn work<'a>(&'a mut self, references: &'a References) -> Work<'a> {
        Work {
            schema: Arc::clone(&self.schema),
            now: self.clock.now(),
            references,
            org: self,
        }
    }
}

/// Rows of earlier operations of the same change set, by Content-ID.
pub(crate) type References = HashMap<String, (String, Uuid)>;

/// The context of one operation. Its methods are spread over the files that each answer one
/// question.
pub(crate) struct Work<'a> {
    pub(crate) org: &'a mut Org,
    pub(crate) schema: Arc<Schema>,
    pub(crate) references: &'a References,
    pub(crate) now: DateTime<Utc>,
}

impl Work<'_> {
    /// Returns the time of the operation as it is stored.
    pub(crate) fn now_text(&self) -> Value {
        Value::String(date_time_text(self.now))
    }

    /// Returns the address of a row, as answers contain it.
    pub(crate) fn entity_url(&self, set: &str, id: Uuid) -> String {
        format!("{}{}{set}({id})", self.org.url, super::path::ROOT)
    }

    /// Records a value that is not stored.
    pub(crate) fn drop_value(&mut self, table: &str, column: &str, operation: &'static str) {
        let why = format!("the column is not valid for {operation}");
        let dropped = Dropped {
            table: table.to_owned(),
            column: column.to_owned(),
            operation,
            why,
        };
        self.org.dropped.push(dropped);
    }
}
