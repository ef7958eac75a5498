//! The names by which an email is bound to its regarding record.
//!
//! | Table | Set | Binding name |
//! | --- | --- | --- |
//! | account, contact, lead, opportunity, incident | known (inferred for the last two) | `regardingobjectid_<table>_email` (verified) |
//! | any other | read from its definition | read from its relationships to `email`, never guessed |
//!
//! Source: Dataverse facts §6 and §17. The names that were read are kept for the life of the
//! process, since names of tables do not change. That definitions may be read in a `$batch` is
//! inferred.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use crate::clients::dataverse::odata::literal;
use crate::clients::dataverse::records::RecordReference;
use crate::clients::http::encoded;

/// The names needed to bind rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableNames {
    /// Entity set name.
    pub set: String,
    /// Primary key column.
    pub key: String,
    /// The navigation property of `email` for `regardingobjectid` with this table.
    pub regarding: String,
}

impl TableNames {
    /// Returns the names of a table with documented names.
    #[must_use]
    pub fn documented(table: &str) -> Option<Self> {
        let set = match table {
            "account" => "accounts",
            "contact" => "contacts",
            "lead" => "leads",
            "opportunity" => "opportunities",
            "incident" => "incidents",
            _ => return None,
        };
        Some(Self {
            set: set.to_owned(),
            key: format!("{table}id"),
            regarding: format!("regardingobjectid_{table}_email"),
        })
    }

    /// Sets `target`, a row of this table, as the regarding record of the email in `row`.
    pub fn bind(&self, target: &RecordReference, row: &mut Map<String, Value>) {
        row.insert(
            format!("{}@odata.bind", self.regarding),
            Value::from(format!("/{}({})", self.set, target.id)),
        );
    }
}

/// The names that were read, shared by all clones of a client.
#[derive(Debug, Clone, Default)]
pub(crate) struct NamesRead(Arc<Mutex<HashMap<String, TableNames>>>);

impl NamesRead {
    /// Returns the names of a table, if they are documented or were read.
    pub(crate) fn get(&self, table: &str) -> Option<TableNames> {
        TableNames::documented(table).or_else(|| {
            // The map is consistent even after a panic: each change under the lock is one
            // insertion.
            let read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            read.get(table).cloned()
        })
    }

    pub(crate) fn keep(&self, table: &str, names: TableNames) {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        read.insert(table.to_owned(), names);
    }
}

/// Returns whether a text can be the name of a table or column, and so is safe in a URL.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Returns the two queries that read the names of a table: its definition and its relationships.
pub(crate) fn queries(table: &str) -> [String; 2] {
    let definition = format!(
        "EntityDefinitions(LogicalName={})",
        encoded(&literal(table))
    );
    let of_email = encoded("ReferencingEntity eq 'email'");
    [
        format!("{definition}?$select=EntitySetName,PrimaryIdAttribute"),
        format!(
            "{definition}/OneToManyRelationships?$select=ReferencingAttribute,ReferencingEntityNavigationPropertyName&$filter={of_email}"
        ),
    ]
}

/// Reads the answers to these queries; `None` if an email cannot be bound to a row of the table,
/// because the table has no activities.
pub(crate) fn read(definition: &Value, relationships: &Value) -> Option<TableNames> {
    let text = |name: &str| definition.get(name)?.as_str().map(str::to_owned);
    let all = relationships.get("value")?.as_array()?.iter();
    let mut regarding = all.filter(|one| {
        one.get("ReferencingAttribute").and_then(Value::as_str) == Some("regardingobjectid")
    });
    let name = regarding
        .next()?
        .get("ReferencingEntityNavigationPropertyName")?;
    let names = TableNames {
        set: text("EntitySetName")?,
        key: text("PrimaryIdAttribute")?,
        regarding: name.as_str()?.to_owned(),
    };
    let all_are_names = [&names.set, &names.key, &names.regarding]
        .into_iter()
        .all(|name| is_name(name));
    all_are_names.then_some(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn documented_tables_have_built_in_names_and_custom_tables_do_not() {
        let names = TableNames::documented("incident").unwrap();
        let mut row = Map::new();
        let target = RecordReference {
            table: "incident".to_owned(),
            id: Uuid::nil(),
        };
        names.bind(&target, &mut row);
        assert_eq!(
            Value::Object(row),
            json!({"regardingobjectid_incident_email@odata.bind": "/incidents(00000000-0000-0000-0000-000000000000)"})
        );
        assert_eq!(TableNames::documented("new_project"), None);
    }

    #[test]
    fn another_lookup_column_of_email_is_not_mistaken_for_the_regarding() {
        let definition =
            json!({"EntitySetName": "new_projects", "PrimaryIdAttribute": "new_projectid"});
        let lookup = |column: &str, name: &str| json!({"ReferencingAttribute": column, "ReferencingEntityNavigationPropertyName": name});
        let other = lookup("new_projectid", "new_ProjectId");
        let regarding = lookup("regardingobjectid", "regardingobjectid_new_project_email");
        let both = json!({"value": [other.clone(), regarding]});
        assert_eq!(
            read(&definition, &both).unwrap().regarding,
            "regardingobjectid_new_project_email"
        );
        assert_eq!(read(&definition, &json!({"value": [other]})), None);
    }

    #[test]
    fn a_name_that_would_break_a_url_is_rejected() {
        assert!(is_name("new_project"));
        for text in ["", "a b", "a)", "a?$filter=x", "a/b", "ä"] {
            assert!(!is_name(text), "{text}");
        }
    }
}
