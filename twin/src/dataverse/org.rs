//! One organisation: its tables, rows and settings, and the context that an operation works in.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::refusal::Refusal;
use super::schema::Schema;
use super::store::{Store, lookup_value};
use super::values::date_time_text;

/// HTTP requests and operations so far.
///
/// A batch is one request with as many operations as it has parts that were reached; an operation that is refused
/// counts too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// HTTP requests, whatever became of them.
    pub total: u64,
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

/// Something about the organisation that a test can change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Longest base64 text of an attachment (`Organization.maxuploadfilesize`); 5,242,880 at first.
    MaxUploadFileSize(usize),
    /// File name endings that are refused, separated by semicolons (`Organization.blockedattachments`).
    BlockedAttachments(String),
    /// A failed change set answers with the bare error part instead of a change set response that holds it. Which
    /// of the two Dataverse does is not known (Dataverse facts §9a); a client must read both. Off at first.
    BareChangeSetErrors(bool),
    /// HTTP requests in any 300 seconds before a caller is told to wait; 6,000 at first.
    RequestsPerFiveMinutes(usize),
}

/// The settings of an organisation.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) max_upload: usize,
    pub(crate) blocked: Vec<String>,
    pub(crate) bare_change_set_errors: bool,
    pub(crate) requests_per_window: usize,
}

/// Endings that an organisation blocks when nobody changed them (inferred: Microsoft's documentation of the setting,
/// shortened to those that have been in the list for many versions).
const BLOCKED: &str = "ade;adp;app;asa;ashx;asmx;asp;bas;bat;cdx;cer;chm;class;cmd;com;config;cpl;crt;csh;dll;exe;fxp;hlp;\
                       hta;htr;htw;ida;idc;idq;inf;ins;isp;its;jar;js;jse;ksh;lnk;mad;maf;mag;mam;maq;mar;mas;mat;mau;\
                       mav;maw;mda;mdb;mde;mdt;mdw;mdz;msc;msh;msh1;msh1xml;msh2;msh2xml;mshxml;msi;msp;mst;ops;pcd;pif;\
                       prf;prg;printer;pst;reg;rem;scf;scr;sct;shb;shs;shtm;shtml;soap;stm;tmp;url;vb;vbe;vbs;vsmacros;\
                       vss;vst;vsw;ws;wsc;wsf;wsh";

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_upload: 5_242_880,
            blocked: endings(BLOCKED),
            bare_change_set_errors: false,
            requests_per_window: 6_000,
        }
    }
}

fn endings(list: &str) -> Vec<String> {
    list.split(';')
        .map(|ending| ending.trim().to_ascii_lowercase())
        .filter(|ending| !ending.is_empty())
        .collect()
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
    /// Arrival times of the requests in the service protection window.
    pub(crate) arrivals: VecDeque<DateTime<Utc>>,
    /// Whether the application that calls has a user here.
    pub(crate) has_application_user: bool,
    pub(crate) user: Uuid,
    pub(crate) business_unit: Uuid,
    pub(crate) organization: Uuid,
}

impl Org {
    pub(crate) fn new(url: String, schema: Schema, client_id: &str) -> Self {
        let mut org = Self {
            url,
            schema: Arc::new(schema),
            store: Store::default(),
            settings: Settings::default(),
            dropped: Vec::new(),
            requests: Requests::default(),
            operation_faults: HashMap::new(),
            arrivals: VecDeque::new(),
            has_application_user: true,
            user: Uuid::new_v4(),
            business_unit: Uuid::new_v4(),
            organization: Uuid::new_v4(),
        };
        org.found(client_id);
        org
    }

    /// The rows that every organisation has from its first day: itself, its business unit, the application's user.
    fn found(&mut self, client_id: &str) {
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
                    "applicationid": client_id, "isdisabled": false,
                    "businessunitid": lookup_value("businessunit", unit),
                }),
            ),
        ];
        for (table, id, values) in rows {
            self.store.set(table, id, values.as_object().cloned());
        }
        self.write_settings();
        self.store.keep();
    }

    pub(crate) fn change_setting(&mut self, setting: Setting) {
        match setting {
            Setting::MaxUploadFileSize(size) => self.settings.max_upload = size,
            Setting::BlockedAttachments(list) => self.settings.blocked = endings(&list),
            Setting::BareChangeSetErrors(bare) => self.settings.bare_change_set_errors = bare,
            Setting::RequestsPerFiveMinutes(most) => self.settings.requests_per_window = most,
        }
        self.write_settings();
        self.store.keep();
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

    /// Starts an operation.
    pub(crate) fn work<'a>(&'a mut self, references: &'a References) -> Work<'a> {
        Work {
            schema: Arc::clone(&self.schema),
            now: Utc::now(),
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
