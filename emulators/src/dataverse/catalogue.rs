//! Builds the schema from the CSV files in `data/`.
//!
//! Some columns of a table are not properties of the Web API: the display names of lookups
//! (`owneridname`), their type columns (`owneridtype`; verified for `partyobjecttypecode` in
//! Dataverse facts §5, inferred for the others), and party lists. Those columns are hidden, and a
//! request that names one is answered as if it did not exist.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::schema::{Column, Kind, Navigation, Schema, Table};

/// File, table, entity set, primary key, primary name column.
const DOCUMENTED: [(&str, &str, &str, &str, &str); 9] = [
    (
        include_str!("../../data/account.csv"),
        "account",
        "accounts",
        "accountid",
        "name",
    ),
    (
        include_str!("../../data/activitymimeattachment.csv"),
        "activitymimeattachment",
        "activitymimeattachments",
        "activitymimeattachmentid",
        "filename",
    ),
    (
        include_str!("../../data/activityparty.csv"),
        "activityparty",
        "activityparties",
        "activitypartyid",
        "addressused",
    ),
    (
        include_str!("../../data/appointment.csv"),
        "appointment",
        "appointments",
        "activityid",
        "subject",
    ),
    (
        include_str!("../../data/contact.csv"),
        "contact",
        "contacts",
        "contactid",
        "fullname",
    ),
    (
        include_str!("../../data/email.csv"),
        "email",
        "emails",
        "activityid",
        "subject",
    ),
    (
        include_str!("../../data/lead.csv"),
        "lead",
        "leads",
        "leadid",
        "fullname",
    ),
    (
        include_str!("../../data/queue.csv"),
        "queue",
        "queues",
        "queueid",
        "name",
    ),
    (
        include_str!("../../data/systemuser.csv"),
        "systemuser",
        "systemusers",
        "systemuserid",
        "fullname",
    ),
];

#[derive(Deserialize)]
struct ColumnRecord {
    logical_name: String,
    #[serde(default)]
    schema_name: String,
    #[serde(default)]
    required_level: String,
    #[serde(rename = "type")]
    kind: String,
    max_length: Option<usize>,
    valid_for_create: bool,
    valid_for_update: bool,
    targets: String,
    /// This and the next three fields are only in the file with several tables.
    #[serde(default)]
    table: String,
    #[serde(default)]
    set: String,
    #[serde(default)]
    key: String,
    #[serde(default)]
    title: String,
}

#[derive(Deserialize)]
struct NavigationRecord {
    table: String,
    nav_property: String,
    target_entity: String,
    referencing_attribute: String,
}

#[derive(Deserialize)]
struct OptionRecord {
    table: String,
    column: String,
    value: i64,
    label: String,
    state: Option<i64>,
    default_status: Option<i64>,
}

impl Schema {
    /// Reads the tables that are compiled into the crate.
    ///
    /// # Errors
    /// If a file is malformed. The unit tests load every file, so this does not happen in a tested
    /// build.
    pub(crate) fn load() -> Result<Self, csv::Error> {
        let mut schema = Self::default();
        for (file, name, set, key, title) in DOCUMENTED {
            for record in records::<ColumnRecord>(file)? {
                schema.add_column([name, set, key, title], &record);
            }
        }
        for record in records::<ColumnRecord>(include_str!("../../data/further_tables.csv"))? {
            schema.add_column(
                [&record.table, &record.set, &record.key, &record.title],
                &record,
            );
        }
        for file in [
            include_str!("../../data/option_values.csv"),
            include_str!("../../data/further_options.csv"),
        ] {
            for record in records::<OptionRecord>(file)? {
                schema.add_option(record);
            }
        }
        for record in records::<NavigationRecord>(include_str!("../../data/nav_properties.csv"))? {
            schema.add_navigation(&record);
        }
        schema.tables.values_mut().for_each(hide_columns);
        schema.tables.values_mut().for_each(infer_navigations);
        schema.inherit_navigations();
        schema.note_regarding();
        Ok(schema)
    }

    fn add_column(&mut self, [name, set, key, title]: [&str; 4], record: &ColumnRecord) {
        let table = self.tables.entry(name.to_owned()).or_insert_with(|| Table {
            name: name.to_owned(),
            schema_name: name.to_owned(),
            set: set.to_owned(),
            key: key.to_owned(),
            title: title.to_owned(),
            ..Table::default()
        });
        let schema_name = Some(&record.schema_name).filter(|name| !name.is_empty());
        let schema_name = schema_name.unwrap_or(&record.logical_name);
        // A column without a documented level is not required (inferred).
        let required = Some(&record.required_level).filter(|level| !level.is_empty());
        let column = Column {
            name: record.logical_name.clone(),
            required: required.map_or("None", String::as_str).to_owned(),
            custom: false,
            max_length: record.max_length,
            valid_for_create: record.valid_for_create,
            valid_for_update: record.valid_for_update,
            targets: record
                .targets
                .split(';')
                .filter(|target| !target.is_empty())
                .map(str::to_owned)
                .collect(),
            ..Column::custom(schema_name, kind(&record.kind), &record.kind)
        };
        table.columns.insert(column.name.clone(), column);
    }

    fn add_option(&mut self, record: OptionRecord) {
        let Some(table) = self.tables.get_mut(&record.table) else {
            return;
        };
        if let Some(status) = record.default_status {
            table.states.insert(record.value, status);
        }
        if let Some(state) = record.state {
            table.statuses.insert(record.value, state);
        }
        if let Some(column) = table.columns.get_mut(&record.column) {
            column.options.push((record.value, record.label));
        }
    }

    fn add_navigation(&mut self, record: &NavigationRecord) {
        let Some(table) = self.tables.get_mut(&record.table) else {
            return;
        };
        table.add_navigation(
            &record.nav_property,
            &record.referencing_attribute,
            &record.target_entity,
        );
    }

    /// Adds to `appointment` the navigation names that an email inherits from the base of all
    /// activities (Dataverse facts §15.2).
    ///
    /// Inherited names are recognised by their form: no `_email` in the name, and a column that
    /// appointments have too (inferred).
    fn inherit_navigations(&mut self) {
        let Some(mut appointment) = self.tables.remove("appointment") else {
            return;
        };
        for navigation in self
            .tables
            .get("email")
            .into_iter()
            .flat_map(|email| email.navigations.values())
        {
            let column = appointment.columns.get(&navigation.column);
            let lookup = column.is_some_and(|column| column.kind == Kind::Lookup);
            let suffixed = navigation.name.to_lowercase().contains("_email");
            if lookup && !suffixed && !appointment.navigations.contains_key(&navigation.name) {
                let Navigation {
                    name,
                    column,
                    target,
                } = navigation;
                appointment.add_navigation(name, column, target);
            }
        }
        self.tables.insert(appointment.name.clone(), appointment);
    }

    /// Marks every table that can be the regarding of an email: it has activities and notes (the
    /// notes are inferred).
    fn note_regarding(&mut self) {
        let regarding: BTreeSet<String> = self
            .tables
            .get("email")
            .into_iter()
            .flat_map(|email| email.navigations.values())
            .filter(|navigation| navigation.column == "regardingobjectid")
            .map(|navigation| navigation.target.clone())
            .collect();
        for table in self.tables.values_mut() {
            table.has_activities = regarding.contains(&table.name);
            table.has_notes = table.has_activities || table.is_activity();
        }
    }
}

fn records<T: DeserializeOwned>(file: &str) -> Result<Vec<T>, csv::Error> {
    csv::Reader::from_reader(file.as_bytes())
        .deserialize()
        .collect()
}

fn kind(text: &str) -> Kind {
    match text {
        "String" | "Memo" => Kind::Text,
        "Integer" => Kind::Integer,
        "BigInt" => Kind::BigInteger,
        "Decimal" | "Double" | "Money" => Kind::Number,
        "Boolean" => Kind::Boolean,
        "DateTime" => Kind::DateTime,
        "Picklist" => Kind::Choice,
        "State" => Kind::State,
        "Status" => Kind::Status,
        "Lookup" | "Customer" | "Owner" => Kind::Lookup,
        "Uniqueidentifier" => Kind::Guid,
        "EntityName" => Kind::TableName,
        _ => Kind::Opaque,
    }
}

fn hide_columns(table: &mut Table) {
    let lookups: BTreeSet<String> = table
        .columns
        .values()
        .filter(|column| column.kind == Kind::Lookup)
        .map(|column| column.name.clone())
        .collect();
    for column in table.columns.values_mut() {
        let of_lookup = ["name", "yominame"].iter().any(|ending| {
            column
                .name
                .strip_suffix(ending)
                .is_some_and(|base| lookups.contains(base))
        });
        let type_of_lookup = column.kind == Kind::TableName
            && !matches!(column.name.as_str(), "objecttypecode" | "activitytypecode");
        column.hidden = of_lookup || type_of_lookup || column.kind == Kind::Opaque;
    }
}

/// Adds navigation names to a table for which none are documented: the column's name, with the
/// target's name appended if there are several targets (inferred from the documented tables).
pub(crate) fn infer_navigations(table: &mut Table) {
    if !table.navigations.is_empty() {
        return;
    }
    let lookups = table.columns.values();
    let lookups: Vec<Column> = lookups
        .filter(|column| column.kind == Kind::Lookup)
        .cloned()
        .collect();
    for column in lookups {
        for target in &column.targets {
            let one_name = column.targets.len() == 1 || column.name == "ownerid";
            let name = if one_name {
                column.name.clone()
            } else {
                format!("{}_{target}", column.name)
            };
            let target = if column.name == "ownerid" {
                "owner"
            } else {
                target
            };
            table.add_navigation(&name, &column.name, target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_every_documented_table_with_its_columns() {
        let schema = Schema::load().unwrap();
        let email = schema.table("email").unwrap();
        assert_eq!(email.column("subject").unwrap().max_length, Some(800));
        assert_eq!(email.statuses.get(&4), Some(&1));
        assert_eq!(email.states.get(&1), Some(&2));
        assert_eq!(schema.set("activityparties").unwrap().name, "activityparty");
        assert!(
            schema.set("Emails").is_none(),
            "entity set names are case-sensitive"
        );
    }

    #[test]
    fn lookup_name_and_type_columns_are_not_properties() {
        let schema = Schema::load().unwrap();
        for (table, column) in [
            ("email", "owneridname"),
            ("email", "from"),
            ("activityparty", "partyobjecttypecode"),
            ("contact", "owneridtype"),
        ] {
            let table = schema.table(table).unwrap();
            assert!(table.columns.contains_key(column), "{column} is a column");
            assert!(table.column(column).is_none(), "{column} is not a property");
        }
        assert!(
            schema
                .table("activitymimeattachment")
                .unwrap()
                .column("objecttypecode")
                .is_some()
        );
    }

    #[test]
    fn a_lookup_is_queried_only_by_its_value_property() {
        let schema = Schema::load().unwrap();
        let contact = schema.table("contact").unwrap();
        assert!(contact.property("_parentcustomerid_value").is_some());
        assert!(contact.property("parentcustomerid").is_none());
        assert!(contact.property("_fullname_value").is_none());
    }

    #[test]
    fn undocumented_navigation_names_follow_the_naming_pattern() {
        let schema = Schema::load().unwrap();
        let account = schema.table("account").unwrap();
        assert!(account.navigations.contains_key("primarycontactid"));
        assert!(account.navigations.contains_key("ownerid"));
        assert!(
            schema
                .table("incident")
                .unwrap()
                .navigations
                .contains_key("customerid_account")
        );
    }
}
