//! How a test or a command inserts rows without the Web API, and exports them.
//!
//! Columns and values are checked as for a client. It does not matter whether a column is valid for
//! create, so that states, creation times and computed columns can be seeded too.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::org::{Org, References};
use super::schema::{Column, Kind, Table};
use super::store::{Values, lookup, lookup_value};
use super::values;

/// The error of inserting rows without the Web API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The emulator has no table with this logical name.
    #[error("unknown table {table}")]
    UnknownTable {
        /// The requested name.
        table: String,
    },
    /// The table has no such column.
    #[error("the table {table} has no column {column}")]
    UnknownColumn {
        /// The table's logical name.
        table: String,
        /// The requested name.
        column: String,
    },
    /// The value does not fit its column.
    #[error("{table}.{column}: {why}")]
    BadValue {
        /// The table's logical name.
        table: String,
        /// The column's logical name.
        column: String,
        /// The reason, as text.
        why: String,
    },
    /// A row with this id, or with the same values of an alternate key or the same Message-ID,
    /// exists.
    #[error("{table} {id}: a row with the same id, alternate key or Message-ID exists already")]
    Duplicate {
        /// The table's logical name.
        table: String,
        /// The row's key.
        id: Uuid,
    },
    /// The value is not an export, or a table that is to be added exists already.
    #[error("invalid organisation: {why}")]
    Malformed {
        /// The reason, as text.
        why: String,
    },
}

/// Inserts one row into a table and returns its id.
pub(crate) fn insert(org: &mut Org, name: &str, row: Value) -> Result<Uuid, SeedError> {
    let schema = Arc::clone(&org.schema);
    let table = schema.table(name).ok_or_else(|| SeedError::UnknownTable {
        table: name.to_owned(),
    })?;
    let Value::Object(fields) = row else {
        return Err(bad(table, "", "the row is not a JSON object"));
    };
    let mut values = Values::new();
    for (column, value) in fields {
        let accepted = accept(org, table, &column, &value)?;
        values.insert(column, accepted);
    }
    let id = match values.get(&table.key).and_then(Value::as_str) {
        Some(text) => {
            Uuid::try_parse(text).map_err(|_| bad(table, &table.key, "the key is not a GUID"))?
        }
        None => Uuid::new_v4(),
    };
    if let Some(state) = values.get("statecode").and_then(Value::as_i64) {
        let default = table.states.get(&state).copied().unwrap_or_default();
        let status = values
            .entry("statuscode")
            .or_insert_with(|| json!(default))
            .as_i64();
        if status.and_then(|status| table.statuses.get(&status)) != Some(&state) {
            return Err(bad(
                table,
                "statuscode",
                "the status does not belong to the state",
            ));
        }
    }
    let references = References::new();
    let mut work = org.work(&references);
    work.add_defaults(table, id, &mut values);
    work.insert(table, id, values)
        .map_err(|_| SeedError::Duplicate {
            table: name.to_owned(),
            id,
        })?;
    if table.is_activity() {
        work.renew_platform_parties(table, id);
    }
    match table.name.as_str() {
        "activitymimeattachment" => work.count_attachments(id),
        "activityparty" => work.note_party(id),
        _ => {}
    }
    org.store.keep();
    Ok(id)
}

fn bad(table: &Table, column: &str, why: &str) -> SeedError {
    SeedError::BadValue {
        table: table.name.clone(),
        column: column.to_owned(),
        why: why.to_owned(),
    }
}

fn accept(org: &Org, table: &Table, name: &str, value: &Value) -> Result<Value, SeedError> {
    let column = table.column(name).ok_or_else(|| SeedError::UnknownColumn {
        table: table.name.clone(),
        column: name.to_owned(),
    })?;
    if column.kind == Kind::Lookup && !value.is_null() {
        return accept_lookup(org, table, column, value);
    }
    values::accept(table, column, value).map_err(|refusal| bad(table, name, &refusal.message))
}

fn accept_lookup(
    org: &Org,
    table: &Table,
    column: &Column,
    value: &Value,
) -> Result<Value, SeedError> {
    let (target, id) = lookup(value).ok_or_else(|| {
        bad(
            table,
            &column.name,
            "a lookup must be {\"table\": …, \"id\": …}",
        )
    })?;
    let activity = org.schema.table(&target).is_some_and(Table::is_activity);
    let through_base = activity
        && column
            .targets
            .iter()
            .any(|allowed| allowed == "activitypointer");
    if !through_base && !column.targets.contains(&target) {
        return Err(bad(
            table,
            &column.name,
            &format!("the lookup cannot point to {target}"),
        ));
    }
    if !org.store.contains(&target, id) {
        return Err(bad(
            table,
            &column.name,
            &format!("{target} {id} does not exist"),
        ));
    }
    Ok(lookup_value(&target, id))
}

/// Returns all rows by table, and the ids that must be the same after an import.
pub(crate) fn export(org: &Org) -> Value {
    let mut tables = Map::new();
    for table in org.schema.tables() {
        let rows: Vec<Value> = org
            .store
            .rows(&table.name)
            .into_iter()
            .map(|(_, row)| Value::Object(row.values.clone()))
            .collect();
        if !rows.is_empty() {
            tables.insert(table.name.clone(), Value::Array(rows));
        }
    }
    json!({
        "user": org.user, "business_unit": org.business_unit, "organization": org.organization, "tables": tables,
    })
}

/// Replaces all rows by those that [`export`] returned. Nothing changes if it fails.
pub(crate) fn import(org: &mut Org, mut state: Value) -> Result<(), SeedError> {
    let malformed = |why: &str| SeedError::Malformed {
        why: why.to_owned(),
    };
    let id = |name: &str| {
        let text = state.get(name).and_then(Value::as_str);
        text.and_then(|text| Uuid::try_parse(text).ok())
            .ok_or_else(|| malformed(&format!("{name} is missing or not a GUID")))
    };
    let (user, business_unit, organization) =
        (id("user")?, id("business_unit")?, id("organization")?);
    let Some(Value::Object(tables)) = state.get_mut("tables").map(Value::take) else {
        return Err(malformed("the object `tables` is missing"));
    };
    let mut read: Vec<(String, Uuid, Values)> = Vec::new();
    for (name, rows) in tables {
        let table = org
            .schema
            .table(&name)
            .ok_or_else(|| SeedError::UnknownTable {
                table: name.clone(),
            })?;
        let Value::Array(rows) = rows else {
            return Err(malformed("a table is not an array"));
        };
        for row in rows {
            let Value::Object(values) = row else {
                return Err(malformed("a row is not an object"));
            };
            if let Some(column) = values
                .keys()
                .find(|column| !table.columns.contains_key(*column))
            {
                return Err(SeedError::UnknownColumn {
                    table: name.clone(),
                    column: column.clone(),
                });
            }
            let key = values.get(&table.key).and_then(Value::as_str);
            let key = key
                .and_then(|text| Uuid::try_parse(text).ok())
                .ok_or_else(|| malformed("a row has no key"))?;
            read.push((name.clone(), key, values));
        }
    }
    org.store.clear();
    (org.user, org.business_unit, org.organization) = (user, business_unit, organization);
    (org.caller.user, org.caller.on_behalf) = (user, None);
    for (table, id, values) in read {
        org.store.set(&table, id, Some(values));
    }
    org.write_settings();
    org.store.keep();
    Ok(())
}
