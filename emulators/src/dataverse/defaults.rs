//! The values that the platform sets in a row itself.

use serde_json::{Value, json};
use uuid::Uuid;

use super::org::Work;
use super::schema::Table;
use super::store::{Values, lookup_value};

impl Work<'_> {
    /// Fills the columns of a new row that the platform sets and the request left empty.
    pub(crate) fn add_defaults(&self, table: &Table, id: Uuid, values: &mut Values) {
        let user = lookup_value("systemuser", self.org.caller.user);
        let mut fill = |column: &str, value: Value| {
            if table.columns.contains_key(column) && values.get(column).is_none_or(Value::is_null) {
                values.insert(column.to_owned(), value);
            }
        };
        fill(&table.key, json!(id.to_string()));
        fill("createdon", self.now_text());
        fill("modifiedon", self.now_text());
        fill("createdby", user.clone());
        fill("modifiedby", user.clone());
        if let Some(application) = self.org.caller.on_behalf {
            let application = lookup_value("systemuser", application);
            fill("createdonbehalfby", application.clone());
            fill("modifiedonbehalfby", application);
        }
        if !matches!(
            table.name.as_str(),
            "activityparty" | "activitymimeattachment"
        ) {
            fill("ownerid", user);
            fill(
                "owningbusinessunit",
                lookup_value("businessunit", self.org.business_unit),
            );
        }
        if let Some((&state, &status)) = table.states.first_key_value() {
            fill("statecode", json!(state));
            fill("statuscode", json!(status));
        }
        if table.is_activity() {
            fill("activitytypecode", json!(table.name));
            fill("isregularactivity", json!(true));
            fill("prioritycode", json!(1));
        }
        if table.name == "solution" {
            fill("ismanaged", json!(false));
            fill("isvisible", json!(true));
        }
        if table.name == "email" {
            // The default is outgoing (Dataverse facts §2.1).
            fill("directioncode", json!(true));
            fill("attachmentcount", json!(0));
        }
        add_computed(table, values);
    }
}

/// Sets the columns that are computed from others: `owninguser` and `fullname`.
pub(crate) fn add_computed(table: &Table, values: &mut Values) {
    if let Some(owner) = values.get("ownerid").cloned()
        && table.column("owninguser").is_some()
    {
        let is_user = owner.get("table").and_then(Value::as_str) == Some("systemuser");
        values.insert(
            "owninguser".to_owned(),
            if is_user { owner } else { Value::Null },
        );
    }
    if !matches!(table.name.as_str(), "contact" | "lead" | "systemuser") {
        return;
    }
    let part = |column: &str| {
        values
            .get(column)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    let parts: Vec<&str> = [part("firstname"), part("lastname")]
        .into_iter()
        .flatten()
        .collect();
    if !parts.is_empty() {
        let name = parts.join(" ");
        values.insert("fullname".to_owned(), Value::String(name));
    }
}
