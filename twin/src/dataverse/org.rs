//! One organisation: its tables, rows and settings, and the context that an operation works in.

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

/// HTTP requests and operations so far.
///
/// A batch is one request with as many operations as it has parts that were reached; an operation that is refused
/// counts too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// HTTP requests, whatever became of them.
    pub total: u64,
    /// Those that service protection refused as a whole.
    pub throttled: u64,
    /// Operations: each request that is no batch, and each part of a batch.
    pub operations: u64,
    /// Operations by POST, PATCH, PUT or DELETE.
    pub writes: u64,
    /// All other operations.
    pub reads: u64,
}

/// A value that was sent, understood and not stored, as Dataverse does with columns that are not valid for the
/// operation (Dataverse facts §19 rule 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The table's logical name.
    pub table: String,
    /// The column's logical name.
    pub column: String,
    /// `create` or `update`.
    pub operation: &'static str,
    /// The reason in words.
    pub why: String,
}

/// A point to roll back to.
pub(crate) struct OrgMark {
    store: Mark,
    schema: Arc<Schema>,
}

/// Who asks, and how the answer is going.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller {
    /// The application.
    pub(crate) client_id: String,
    /// The user who acts: the application's, or the one for whom it acts.
    pub(crate) user: Uuid,
    /// The application's user, while it acts for another.
    pub(crate) on_behalf: Option<Uuid>,
    /// The refusal of every part of the batch that was let in all the same.
    pub(crate) parts_refused: Option<Refusal>,
    /// Milliseconds of all operations so far.
    pub(crate) spent_ms: u64,
}

/// Everything that the service keeps.
pub(crate) struct Org {
    /// `http://127.0.0.1:PORT`.
    pub(crate) url: String,
    pub(crate) schema: Arc<Schema>,
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    pub(crate) dropped: Vec<Dropped>,
    pub(crate) requests: Requests,
    /// Operations that will fail, by how many came before them.
    pub(crate) operation_faults: HashMap<u64, Refusal>,
    /// Faults that come by chance.
    pub(crate) faults: Faults,
    pub(crate) clock: Clock,
    /// What each caller asked for lately, by application.
    usage: HashMap<String, Usage>,
    /// The registered application, and whether it has a user here.
    pub(crate) client_id: String,
    pub(crate) has_application_user: bool,
    /// That user.
    pub(crate) user: Uuid,
    /// Who asks at the moment.
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

    /// The rows that every organisation has from its first day: itself, its business unit, the application's user, its
    /// solutions and their publisher.
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

    /// What a caller asked for lately.
    pub(crate) fn usage(&mut self, client_id: &str) -> &mut Usage {
        self.usage.entry(client_id.to_owned()).or_default()
    }

    /// The user of an application: the first that is not disabled.
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

    /// The user with this Entra object id: one that is not disabled.
    pub(crate) fn user_of_entra(&self, object_id: Uuid) -> Option<Uuid> {
        let same = |text: &str| Uuid::try_parse(text).is_ok_and(|id| id == object_id);
        let users = self.store.rows("systemuser").into_iter();
        users
            .filter(|(_, row)| row.get("isdisabled").as_bool() != Some(true))
            .find(|(_, row)| row.text("azureactivedirectoryobjectid").is_some_and(same))
            .map(|(id, _)| id)
    }

    /// Clients read the settings as columns of the organisation's row.
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

    /// Remembers this point.
    pub(crate) fn mark(&self) -> OrgMark {
        OrgMark {
            store: self.store.mark(),
            schema: Arc::clone(&self.schema),
        }
    }

    /// Takes back what was done to rows and definitions since `mark`.
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

/// Rows that earlier operations of the same change set named by their Content-ID.
pub(crate) type References = HashMap<String, (String, Uuid)>;

/// What one operation works with. Its methods are spread over the files that answer one question each.
pub(crate) struct Work<'a> {
    pub(crate) org: &'a mut Org,
    pub(crate) schema: Arc<Schema>,
    pub(crate) references: &'a References,
    pub(crate) now: DateTime<Utc>,
}

impl Work<'_> {
    /// The time of the operation as it is stored.
    pub(crate) fn now_text(&self) -> Value {
        Value::String(date_time_text(self.now))
    }

    /// The address of a row, as answers name it.
    pub(crate) fn entity_url(&self, set: &str, id: Uuid) -> String {
        format!("{}{}{set}({id})", self.org.url, super::path::ROOT)
    }

    /// Notes a value that is not stored.
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
