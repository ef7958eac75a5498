//! The tables, columns and binding names in use. Source: Dataverse facts §2, §5, §6 and §15.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::model::address::EmailAddress;
use crate::model::ids::ActivityId;

/// A table with addresses, in order of precedence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// A user of the organisation.
    SystemUser,
    /// A queue of the organisation: an address that several users share.
    Queue,
    /// A person outside the organisation.
    Contact,
    /// A prospect, who may become a contact.
    Lead,
    /// A company.
    Account,
}

impl Table {
    /// All tables, in order of precedence.
    pub const ALL: [Self; 5] = [
        Self::SystemUser,
        Self::Queue,
        Self::Contact,
        Self::Lead,
        Self::Account,
    ];

    /// Returns the logical name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SystemUser => "systemuser",
            Self::Queue => "queue",
            Self::Contact => "contact",
            Self::Account => "account",
            Self::Lead => "lead",
        }
    }

    /// Returns the entity set name.
    #[must_use]
    pub const fn set(self) -> &'static str {
        match self {
            Self::SystemUser => "systemusers",
            Self::Queue => "queues",
            Self::Contact => "contacts",
            Self::Account => "accounts",
            Self::Lead => "leads",
        }
    }

    /// Returns the primary key column.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::SystemUser => "systemuserid",
            Self::Queue => "queueid",
            Self::Contact => "contactid",
            Self::Account => "accountid",
            Self::Lead => "leadid",
        }
    }

    /// Returns the columns that contain addresses.
    #[must_use]
    pub const fn address_columns(self) -> &'static [&'static str] {
        match self {
            Self::SystemUser => &["internalemailaddress"],
            Self::Queue => &["emailaddress"],
            Self::Contact | Self::Account | Self::Lead => {
                &["emailaddress1", "emailaddress2", "emailaddress3"]
            }
        }
    }
}

/// A reference to a row of a table with addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartyReference {
    /// Its table.
    pub table: Table,
    /// Its primary key.
    pub id: Uuid,
}

impl PartyReference {
    /// Returns the value of a binding: `/contacts(…)`.
    #[must_use]
    pub fn binding(self) -> String {
        format!("/{}({})", self.table.set(), self.id)
    }

    /// Returns the name of the binding as an activity party: `partyid_contact@odata.bind`.
    #[must_use]
    pub(crate) fn party_binding_name(self) -> String {
        format!("partyid_{}@odata.bind", self.table.name())
    }
}

/// A reference to a row of any table, such as a regarding record. For the names that bind it, see
/// [`super::metadata::table_names`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct RecordReference {
    /// Logical name of its table.
    pub table: String,
    /// Its primary key.
    pub id: Uuid,
}

impl From<PartyReference> for RecordReference {
    fn from(record: PartyReference) -> Self {
        Self {
            table: record.table.name().to_owned(),
            id: record.id,
        }
    }
}

/// Reads the row that a lookup column refers to. Its table is in the annotation of the column;
/// `None` if either is missing.
pub(crate) fn target(row: &Value, column: &str) -> Option<RecordReference> {
    let table = row.get(format!("{column}@Microsoft.Dynamics.CRM.lookuplogicalname"))?;
    Some(RecordReference {
        table: table.as_str()?.to_owned(),
        id: guid(row, column)?,
    })
}

/// A row with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// The row.
    pub record: PartyReference,
    /// Whether the row is active; for a user, enabled.
    pub active: bool,
    /// The account of a contact.
    pub account: Option<Uuid>,
    /// When it was last changed, or created if that is unknown.
    pub changed: Option<DateTime<Utc>>,
}

/// The `statecode` of an activity (Dataverse facts §2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// A draft, such as a crash between two calls leaves behind.
    Open,
    /// Completed.
    Completed,
    /// Cancelled.
    Canceled,
}

/// An email activity that exists in Dataverse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExistingEmail {
    /// Its primary key.
    pub activity_id: ActivityId,
    /// Open, completed or cancelled.
    pub state: RowState,
    /// The sender, if the row contains one.
    pub sender: Option<EmailAddress>,
    /// The subject; may be empty.
    pub subject: String,
    /// The dates of the email: from the columns that we write and from the one that server-side
    /// synchronization writes.
    pub dates: Vec<DateTime<Utc>>,
    /// Whether it has a regarding record.
    pub has_regarding: bool,
    /// That record, if the answer names its table: answers to batches of queries do.
    pub regarding: Option<RecordReference>,
    /// How many attachments it has; computed by Dataverse.
    pub attachments: i64,
    /// Whether the last change was not made by the creator of the row: a user has worked with it.
    pub(crate) changed_by_another: bool,
    /// Its version, for `If-Match`.
    pub etag: Option<String>,
}

impl ExistingEmail {
    /// Returns whether the row can be an email of this sender: it is completed and has no other
    /// sender.
    #[must_use]
    pub(crate) fn may_be_email_of(&self, sender: Option<&EmailAddress>) -> bool {
        let same_sender = match (&self.sender, sender) {
            (Some(external_row), Some(ours)) => external_row == ours,
            _ => true,
        };
        self.state == RowState::Completed && same_sender
    }
}

/// Returns the valid addresses in the address columns of a row.
pub(crate) fn addresses(row: &Value, table: Table) -> impl Iterator<Item = EmailAddress> {
    table
        .address_columns()
        .iter()
        .filter_map(|column| row.get(*column)?.as_str())
        .filter_map(EmailAddress::parse)
}

/// Reads a row of `emails` with the columns [`EMAIL_COLUMNS`]; `None` without a key.
pub(crate) fn existing_email(row: &Value) -> Option<ExistingEmail> {
    Some(ExistingEmail {
        activity_id: guid(row, "activityid").map(ActivityId::new)?,
        state: match row.get("statecode").and_then(Value::as_i64) {
            Some(1) => RowState::Completed,
            Some(2) => RowState::Canceled,
            _ => RowState::Open,
        },
        sender: row
            .get("sender")
            .and_then(Value::as_str)
            .and_then(EmailAddress::parse),
        subject: row
            .get("subject")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        dates: ["actualstart", "sortdate", "senton"]
            .iter()
            .filter_map(|column| row.get(*column)?.as_str()?.parse().ok())
            .collect(),
        has_regarding: guid(row, REGARDING).is_some(),
        regarding: target(row, REGARDING),
        attachments: row
            .get("attachmentcount")
            .and_then(Value::as_i64)
            .unwrap_or_default(),
        changed_by_another: guid(row, "_createdby_value")
            .zip(guid(row, "_modifiedby_value"))
            .is_some_and(|(made, changed)| made != changed)
            // The row was created by impersonation, and the user has changed it without us.
            || guid(row, "_createdonbehalfby_value") != guid(row, "_modifiedonbehalfby_value"),
        etag: row
            .get("@odata.etag")
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

/// The columns of an email that are read.
pub(crate) const EMAIL_COLUMNS: &str = "activityid,messageid,sender,subject,actualstart,sortdate,senton,statecode,attachmentcount,_regardingobjectid_value,\
     _createdby_value,_modifiedby_value,_createdonbehalfby_value,_modifiedonbehalfby_value";

/// The column with the regarding record of an email.
pub(crate) const REGARDING: &str = "_regardingobjectid_value";

/// Reads a key or the value of a lookup column.
pub(crate) fn guid(row: &Value, column: &str) -> Option<Uuid> {
    row.get(column)?.as_str()?.parse().ok()
}

/// Returns when a row was last changed, or created if that is unknown.
pub(crate) fn changed(row: &Value) -> Option<DateTime<Utc>> {
    ["modifiedon", "createdon"]
        .iter()
        .find_map(|column| row.get(*column)?.as_str()?.parse().ok())
}

/// A row to create, unless it exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// The table and id of the row.
    pub record: PartyReference,
    /// The body of the POST.
    pub row: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_written_by_impersonation_counts_as_changed_after_a_direct_edit() {
        const APPLICATION: u128 = 1;
        const ADA: u128 = 2;
        let of = |made: (u128, Option<u128>), changed: (u128, Option<u128>)| {
            let id = |number: u128| Uuid::from_u128(number);
            let row = json!({
                "activityid": id(9), "_createdby_value": id(made.0), "_createdonbehalfby_value": made.1.map(id),
                "_modifiedby_value": id(changed.0), "_modifiedonbehalfby_value": changed.1.map(id),
            });
            existing_email(&row).unwrap().changed_by_another
        };
        assert!(!of((APPLICATION, None), (APPLICATION, None)));
        assert!(of((APPLICATION, None), (ADA, None)));
        assert!(!of((ADA, Some(APPLICATION)), (ADA, Some(APPLICATION))));
        assert!(of((ADA, Some(APPLICATION)), (ADA, None)));
        assert!(of((ADA, Some(APPLICATION)), (APPLICATION, None)));
    }
}
