//! Creates and deletes alternate keys, and runs the actions for definitions (Dataverse facts §7.2
//! and §17).
//!
//! | Rejected                                            | Code       |
//! | --------------------------------------------------- | ---------- |
//! | a key name that exists already                      | 0x80060893 |
//! | a key with the same columns as another              | 0x80060894 |
//! | more than 900 bytes; a character counts as two (inferred) | 0x80060895 |
//! | more than 16 columns or 10 keys, a column that does not exist or whose type a key cannot use | 0x8006088F |
//! | reactivating a key that did not fail                | 0x80060897 |
//!
//! The names of the codes are verified. The status 400 is inferred, and so is the whole row of
//! 0x8006088F. A new key is `Pending` for [`Setting::KeyIndexSeconds`] and does not enforce
//! uniqueness until then.
//!
//! [`Setting::KeyIndexSeconds`]: super::super::Setting::KeyIndexSeconds

use axum::http::Method;
use serde_json::Value;

use super::super::operation::{Answer, Operation};
use super::super::org::Work;
use super::super::refusal::Refusal;
use super::super::rows::{self, allow};
use super::super::schema::{AlternateKey, Column, KeyStatus, Kind, Table};
use super::body::Body;
use super::{KEY, forms};

const MOST_COLUMNS: usize = 16;
const MOST_KEYS: usize = 10;
const MOST_BYTES: usize = 900;

impl Work<'_> {
    /// Creates an alternate key (POST).
    pub(crate) fn create_key(
        &mut self,
        table: &Table,
        operation: &Operation,
    ) -> Result<Answer, Refusal> {
        let body = Body::of(operation, KEY)?;
        let schema_name = body.required("SchemaName")?.to_owned();
        self.check_name(&schema_name, operation)?;
        let mut columns = body.texts("KeyAttributes")?;
        columns.sort_unstable();
        check_key(table, &schema_name, &columns)?;
        let key = AlternateKey {
            schema_name,
            labels: body.labels("DisplayName")?.unwrap_or_default(),
            columns,
            status: KeyStatus::Pending,
            ready: self.now + self.org.settings.key_index,
        };
        let path = format!(
            "({})/Keys({})",
            forms::table_id(table),
            forms::key_id(table, &key)
        );
        self.table_mut(&table.name)?.alternate_keys.push(key);
        self.org.finish_key_indexes();
        Ok(self.made(&path))
    }

    /// Deletes an alternate key (DELETE).
    pub(crate) fn delete_key(
        &mut self,
        table: &Table,
        key: &AlternateKey,
    ) -> Result<Answer, Refusal> {
        let keys = &mut self.table_mut(&table.name)?.alternate_keys;
        keys.retain(|other| other.schema_name != key.schema_name);
        Ok(Answer::empty(204))
    }

    /// Runs an unbound action of the service.
    pub(crate) fn action(&mut self, name: &str, operation: &Operation) -> Result<Answer, Refusal> {
        match name {
            "PublishAllXml" => {
                allow(operation, &[Method::POST])?;
                Ok(Answer::empty(204))
            }
            "PublishXml" => {
                let body = parameters(operation)?;
                parameter(&body, "ParameterXml")?;
                Ok(Answer::empty(204))
            }
            "ReactivateEntityKey" => {
                let body = parameters(operation)?;
                let table = parameter(&body, "EntityLogicalName")?;
                let key = parameter(&body, "EntityKeyLogicalName")?;
                self.reactivate(table, key)
            }
            other => Err(Refusal::not_imitated(format!("the operation {other}"))),
        }
    }

    fn reactivate(&mut self, table: &str, name: &str) -> Result<Answer, Refusal> {
        let ready = self.now + self.org.settings.key_index;
        let keys = &mut self.table_mut(table)?.alternate_keys;
        let named = |key: &&mut AlternateKey| key.schema_name.to_lowercase() == name;
        let key = keys
            .iter_mut()
            .find(named)
            .ok_or_else(|| Refusal::argument(format!("There is no key {name}.")))?;
        if key.status != KeyStatus::Failed {
            let message = "Reactivate entity key is only supported for failed job";
            return Err(Refusal::new(400, "0x80060897", message));
        }
        (key.status, key.ready) = (KeyStatus::Pending, ready);
        self.org.finish_key_indexes();
        Ok(Answer::empty(204))
    }
}

fn parameters(operation: &Operation) -> Result<Value, Refusal> {
    allow(operation, &[Method::POST])?;
    rows::body("the operation", operation)
}

fn parameter<'b>(body: &'b Value, name: &str) -> Result<&'b str, Refusal> {
    let missing = || {
        Refusal::payload(
            "the operation",
            format!("the parameter '{name}' is missing."),
        )
    };
    body.get(name).and_then(Value::as_str).ok_or_else(missing)
}

fn check_key(table: &Table, schema_name: &str, columns: &[String]) -> Result<(), Refusal> {
    let same_name = |key: &AlternateKey| key.schema_name.eq_ignore_ascii_case(schema_name);
    if table.alternate_keys.iter().any(same_name) {
        let message = format!(
            "An entity key with the name {schema_name} already exists on entity {}.",
            table.name
        );
        return Err(Refusal::new(400, "0x80060893", message));
    }
    if table
        .alternate_keys
        .iter()
        .any(|key| key.columns == columns)
    {
        let message = "An entity key with the selected attributes already exists on entity.";
        return Err(Refusal::new(400, "0x80060894", message));
    }
    let invalid = |why: &str| {
        let message = format!("Invalid EntityKey Operation performed : {why}");
        Refusal::new(400, "0x8006088F", message)
    };
    if columns.is_empty() || columns.len() > MOST_COLUMNS {
        return Err(invalid("a key has 1 to 16 columns"));
    }
    if table.alternate_keys.len() >= MOST_KEYS {
        return Err(invalid("a table has at most 10 keys"));
    }
    let mut bytes = 0;
    for name in columns {
        let column = table.column(name).and_then(size_in_key);
        bytes += column.ok_or_else(|| invalid(&format!("'{name}' cannot be part of a key")))?;
    }
    if bytes > MOST_BYTES {
        let message = format!(
            "Index size exceeded the size limit of {MOST_BYTES} bytes. The key is too large. Try removing some columns \
             or making the strings in string columns shorter."
        );
        return Err(Refusal::new(400, "0x80060895", message));
    }
    Ok(())
}

/// Returns the size of a column in the index, in bytes, or `None` if it cannot be part of a key.
fn size_in_key(column: &Column) -> Option<usize> {
    match (column.kind, column.type_name.as_str()) {
        (Kind::Text, "String") => column.max_length.map(|length| length * 2),
        (Kind::Integer | Kind::Choice, _) => Some(4),
        (Kind::DateTime, _) => Some(8),
        (Kind::Number, "Decimal") => Some(13),
        (Kind::Lookup, _) => Some(16),
        _ => None,
    }
}
