//! How a test or a command puts rows into the organisation without the Web API, and takes them out again.
//!
//! Columns and values are checked as they are for a client; what is valid for create does not matter, so that states,
//! creation times and computed columns can be seeded as well.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::org::{Org, References};
use super::schema::{Column, Kind, Table};
use super::store::{Values, lookup, lookup_value};
use super::values;

/// Why rows could not be put into the organisation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// The twin keeps no table of this logical name.
    #[error("there is no table {table}")]
    UnknownTable {
        /// The name that was asked for.
        table: String,
    },
    /// The table has no such column.
    #[error("the table {table} has no column {column}")]
    UnknownColumn {
        /// The table's logical name.
        table: String,
        /// The name that was asked for.
        column: String,
    },
    /// The value does not fit its column.
    #[error("{table}.{column}: {why}")]
    BadValue {
        /// The table's logical name.
        table: String,
        /// The column's logical name.
        column: String,
        /// The reason in words.
        why: String,
    },
    /// A row with this key is there already.
    #[error("{table} {id} is there already")]
    Duplicate {
        /// The table's logical name.
        table: String,
        /// The row's key.
        id: Uuid,
    },
    /// The text is not an exported state.
    #[error("not an exported organisation: {why}")]
    Malformed {
        /// The reason in words.
        why: String,
    },
}

/// Puts one row into a table.
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
            Uuid::try_parse(text).map_err(|_| bad(table, &table.key, "the key is no guid"))?
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
            return Err(bad(table, "statuscode", "it does not belong to the state"));
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
            "a lookup is written {\"table\": …, \"id\": …}",
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
            &format!("it does not lead to {target}"),
        ));
    }
    if !org.store.contains(&target, id) {
        return Err(bad(
            table,
            &column.name,
            &format!("there is no {target} {id}"),
        ));
    }
    Ok(lookup_value(&target, id))
}

/// All rows by table, with what else must be the same after an import.
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

/// Puts back what [`export`] gave; what was there before is gone.
pub(crate) fn import(org: &mut Org, mut state: Value) -> Result<(), SeedError> {
    let malformed = |why: &str| SeedError::Malformed {
        why: why.to_owned(),
    };
    let id = |name: &str| {
        let text = state.get(name).and_then(Value::as_str);
        text.and_then(|text| Uuid::try_parse(text).ok())
            .ok_or_else(|| malformed(&format!("{name} is no guid")))
    };
    let (user, business_unit, organization) =
        (id("user")?, id("business_unit")?, id("organization")?);
    let Some(Value::Object(tables)) = state.get_mut("tables").map(Value::take) else {
        return Err(malformed("tables are missing"));
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
            return Err(malformed("a table is no array"));
        };
        for row in rows {
            let Value::Object(values) = row else {
                return Err(malformed("a row is no object"));
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
