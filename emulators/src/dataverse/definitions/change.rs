//! Creates, replaces and deletes tables (Dataverse facts §17), and has the helpers for all kinds of
//! definitions.
//!
//! The names of the codes are verified. The conditions under which they are returned and the status
//! 400 are inferred.
//!
//! | Rejected                                           | Code       |
//! | -------------------------------------------------- | ---------- |
//! | a name without a publisher's prefix, or with a prefix of another publisher than the solution's | 0x80044366 |
//! | a name with other characters than letters, digits and `_` | 0x80044364 |
//! | a table name that exists already                   | 0x8004700B |
//! | a table without exactly one primary name column    | 0x80044355 |
//! | deleting a standard table                          | 0x80047008 |

use std::sync::Arc;

use serde_json::Value;
use uuid::Uuid;

use super::super::catalogue;
use super::super::operation::{Answer, Operation};
use super::super::org::Work;
use super::super::path::ROOT;
use super::super::refusal::Refusal;
use super::super::schema::{Column, Kind, Schema, Table};
use super::body::{Body, missing};
use super::columns::read_column;
use super::{ENTITY, forms};

impl Work<'_> {
    /// Returns the schema for writing. It is copied first, since the running operation and
    /// roll-back marks share the old one.
    pub(crate) fn schema_mut(&mut self) -> &mut Schema {
        Arc::make_mut(&mut self.org.schema)
    }

    /// Returns one table of the schema for writing.
    pub(crate) fn table_mut(&mut self, table: &str) -> Result<&mut Table, Refusal> {
        let found = self.schema_mut().table_mut(table);
        found.ok_or_else(|| Refusal::no_segment(table))
    }

    /// Builds the 204 answer to a created definition. `path` is its address below
    /// `EntityDefinitions`.
    pub(crate) fn made(&self, path: &str) -> Answer {
        let mut answer = Answer::empty(204);
        let url = format!("{}{ROOT}EntityDefinitions{path}", self.org.url);
        answer.headers.push(("OData-EntityId", url));
        answer
    }

    /// Checks the schema name of a new definition, including its prefix against the publisher of
    /// the solution that the request names.
    pub(crate) fn check_name(&self, name: &str, operation: &Operation) -> Result<(), Refusal> {
        if !name
            .chars()
            .all(|character| character.is_ascii_alphanumeric() || character == '_')
        {
            let message = format!(
                "Identifier {name} can only consist of alpha-numeric and underscore characters."
            );
            return Err(Refusal::new(400, "0x80044364", message));
        }
        let no_prefix = || {
            let message = format!(
                "The schema name {name} is invalid or missing. Custom attribute, entity, entitykey, option set and \
                 relationship names must start with a valid customization prefix. The prefix for a solution component \
                 should match the prefix that is specified for the publisher of the solution."
            );
            Refusal::new(400, "0x80044366", message)
        };
        let (prefix, rest) = name.split_once('_').ok_or_else(no_prefix)?;
        let starts = prefix.starts_with(|first: char| first.is_ascii_alphabetic());
        if !(2..=8).contains(&prefix.len()) || !starts || rest.is_empty() {
            return Err(no_prefix());
        }
        match self.publisher_prefix(operation)? {
            Some(wanted) if !wanted.eq_ignore_ascii_case(prefix) => Err(no_prefix()),
            _ => Ok(()),
        }
    }

    /// Returns the prefix of the publisher whose solution `MSCRM.SolutionUniqueName` names, or
    /// `None` without that header. A solution that does not exist is 404 (inferred).
    fn publisher_prefix(&self, operation: &Operation) -> Result<Option<String>, Refusal> {
        let Some(wanted) = operation.header("mscrm.solutionuniquename") else {
            return Ok(None);
        };
        let solutions = self.org.store.rows("solution").into_iter();
        let solution = solutions.map(|(_, row)| row).find(|row| {
            row.text("uniquename")
                .is_some_and(|name| name.eq_ignore_ascii_case(wanted))
        });
        let solution = solution.ok_or_else(|| {
            Refusal::new(
                404,
                "0x80040217",
                format!("The solution '{wanted}' does not exist."),
            )
        })?;
        let publisher = solution
            .lookup("publisherid")
            .and_then(|(table, id)| self.org.store.get(&table, id));
        Ok(publisher.and_then(|row| row.text("customizationprefix").map(str::to_owned)))
    }

    /// Creates a table (POST).
    pub(crate) fn create_table(&mut self, operation: &Operation) -> Result<Answer, Refusal> {
        let body = Body::of(operation, ENTITY)?;
        let schema_name = body.required("SchemaName")?;
        self.check_name(schema_name, operation)?;
        if body.flag("IsActivity")? == Some(true) {
            return Err(Refusal::not_imitated("tables of activities"));
        }
        let mut table = Table {
            name: schema_name.to_lowercase(),
            schema_name: schema_name.to_owned(),
            custom: true,
            key: format!("{}id", schema_name.to_lowercase()),
            labels: body
                .labels("DisplayName")?
                .ok_or_else(|| missing("DisplayName"))?,
            collection_labels: body
                .labels("DisplayCollectionName")?
                .ok_or_else(|| missing("DisplayCollectionName"))?,
            description: body.labels("Description")?.unwrap_or_default(),
            has_activities: body.flag("HasActivities")?.unwrap_or_default(),
            has_notes: body.flag("HasNotes")?.unwrap_or_default(),
            ..Table::default()
        };
        table.set = match body.text("EntitySetName")? {
            Some(set) => set.to_owned(),
            None => plural(&table.name),
        };
        let taken = self.schema.table(&table.name).is_some();
        if taken || self.schema.set(&table.set).is_some() {
            let message =
                "An entity with the specified name already exists. Please specify a unique name.";
            return Err(Refusal::new(400, "0x8004700B", message));
        }
        let user_owned = match body.required("OwnershipType")? {
            "UserOwned" => true,
            "OrganizationOwned" => false,
            other => {
                let message = format!("The ownership type {other} is not valid for this operation");
                return Err(Refusal::new(400, "0x8004700D", message));
            }
        };
        self.add_columns(&mut table, body.list("Attributes")?, operation)?;
        add_system_columns(&mut table, user_owned);
        catalogue::infer_navigations(&mut table);
        let (id, name, regarding) = (
            forms::table_id(&table),
            table.name.clone(),
            table.has_activities,
        );
        self.schema_mut().tables.insert(name.clone(), table);
        if regarding {
            add_regarding(self.schema_mut(), &name);
        }
        Ok(self.made(&format!("({id})")))
    }

    fn add_columns(
        &self,
        table: &mut Table,
        bodies: Vec<Value>,
        operation: &Operation,
    ) -> Result<(), Refusal> {
        let mut titles = 0;
        for body in bodies {
            let (column, body) = read_column(body)?;
            self.check_name(&column.schema_name, operation)?;
            if body.flag("IsPrimaryName")? == Some(true) && column.type_name == "String" {
                titles += 1;
                table.title.clone_from(&column.name);
            }
            table.columns.insert(column.name.clone(), column);
        }
        if titles == 1 {
            return Ok(());
        }
        let message = format!("PrimaryName attribute not found for Entity: {}", table.name);
        Err(Refusal::new(400, "0x80044355", message))
    }

    /// Replaces a table (PUT): its labels, and whether it has activities and notes. Neither can be
    /// switched off once it is on (inferred).
    pub(crate) fn replace_table(
        &mut self,
        table: &Table,
        operation: &Operation,
    ) -> Result<Answer, Refusal> {
        let body = Body::of(operation, ENTITY)?;
        keeps_name(body.text("SchemaName")?, &table.schema_name)?;
        let labels = body.new_labels("DisplayName", &table.labels, operation)?;
        let collection_labels =
            body.new_labels("DisplayCollectionName", &table.collection_labels, operation)?;
        let description = body.new_labels("Description", &table.description, operation)?;
        let has_activities = table.has_activities || body.flag("HasActivities")? == Some(true);
        let has_notes = table.has_notes || body.flag("HasNotes")? == Some(true);
        let changed = self.table_mut(&table.name)?;
        (changed.labels, changed.collection_labels) = (labels, collection_labels);
        changed.description = description;
        (changed.has_activities, changed.has_notes) = (has_activities, has_notes);
        if has_activities && !table.has_activities {
            add_regarding(self.schema_mut(), &table.name);
        }
        Ok(Answer::empty(204))
    }

    /// Deletes a table (DELETE) with its rows, and every navigation name and lookup target that
    /// refers to it.
    pub(crate) fn delete_table(&mut self, table: &Table) -> Result<Answer, Refusal> {
        if !table.custom {
            let message = "The specified entity is not customizable";
            return Err(Refusal::new(400, "0x80047008", message));
        }
        let ids: Vec<Uuid> = self
            .org
            .store
            .rows(&table.name)
            .into_iter()
            .map(|(id, _)| id)
            .collect();
        for id in ids {
            self.delete(table, id)?;
        }
        let schema = self.schema_mut();
        schema.tables.remove(&table.name);
        for other in schema.tables.values_mut() {
            other
                .navigations
                .retain(|_, navigation| navigation.target != table.name);
            for column in other.columns.values_mut() {
                column.targets.retain(|target| *target != table.name);
            }
        }
        Ok(Answer::empty(204))
    }
}

/// Rejects a body that renames a definition (the code is inferred).
pub(crate) fn keeps_name(sent: Option<&str>, name: &str) -> Result<(), Refusal> {
    match sent {
        None => Err(missing("SchemaName")),
        Some(sent) if sent == name => Ok(()),
        Some(_) => Err(Refusal::argument("The SchemaName cannot be changed.")),
    }
}

/// Returns the entity set name that the platform derives from a table name (inferred: English
/// plurals).
fn plural(name: &str) -> String {
    let vowel = |name: &str| name.ends_with(['a', 'e', 'i', 'o', 'u']);
    match name.strip_suffix('y') {
        Some(stem) if !vowel(stem) => format!("{stem}ies"),
        _ if name.ends_with(['s', 'x', 'z']) || name.ends_with("ch") || name.ends_with("sh") => {
            format!("{name}es")
        }
        _ => format!("{name}s"),
    }
}

/// Adds the columns that every new table has (inferred: only the most common ones).
fn add_system_columns(table: &mut Table, user_owned: bool) {
    let user: &[&str] = &["systemuser"];
    let key = table.key.clone();
    let mut columns = vec![
        (
            key.as_str(),
            Kind::Guid,
            "Uniqueidentifier",
            (true, false),
            &[][..],
        ),
        ("createdon", Kind::DateTime, "DateTime", (false, false), &[]),
        (
            "modifiedon",
            Kind::DateTime,
            "DateTime",
            (false, false),
            &[],
        ),
        (
            "overriddencreatedon",
            Kind::DateTime,
            "DateTime",
            (true, false),
            &[],
        ),
        (
            "importsequencenumber",
            Kind::Integer,
            "Integer",
            (true, false),
            &[],
        ),
        ("createdby", Kind::Lookup, "Lookup", (false, false), user),
        ("modifiedby", Kind::Lookup, "Lookup", (false, false), user),
        ("statecode", Kind::State, "State", (false, true), &[]),
        ("statuscode", Kind::Status, "Status", (true, true), &[]),
    ];
    if user_owned {
        columns.extend([
            (
                "ownerid",
                Kind::Lookup,
                "Owner",
                (true, true),
                &["systemuser", "team"][..],
            ),
            (
                "owningbusinessunit",
                Kind::Lookup,
                "Lookup",
                (false, false),
                &["businessunit"],
            ),
            ("owninguser", Kind::Lookup, "Lookup", (false, false), user),
        ]);
    }
    for (name, kind, type_name, (valid_for_create, valid_for_update), targets) in columns {
        let options: &[(i64, &str)] = match kind {
            Kind::State => &[(0, "Active"), (1, "Inactive")],
            Kind::Status => &[(1, "Active"), (2, "Inactive")],
            _ => &[],
        };
        let column = Column {
            custom: false,
            valid_for_create,
            valid_for_update,
            targets: targets.iter().map(|target| (*target).to_owned()).collect(),
            options: options
                .iter()
                .map(|(value, text)| (*value, (*text).to_owned()))
                .collect(),
            ..Column::custom(name, kind, type_name)
        };
        table.columns.insert(name.to_owned(), column);
    }
    table.states = [(0, 1), (1, 2)].into();
    table.statuses = [(1, 0), (2, 1)].into();
}

/// Adds a table as [`Work::create_table`] does, but with lookup columns, which `create_table` does
/// not support.
pub(crate) fn add_table(
    schema: &mut Schema,
    name: &str,
    title: Column,
    lookups: Vec<Column>,
    has_activities: bool,
) {
    let mut table = Table {
        name: name.to_owned(),
        schema_name: name.to_owned(),
        custom: true,
        key: format!("{name}id"),
        title: title.name.clone(),
        set: plural(name),
        has_activities,
        has_notes: has_activities,
        ..Table::default()
    };
    for column in lookups.into_iter().chain([title]) {
        table.columns.insert(column.name.clone(), column);
    }
    add_system_columns(&mut table, true);
    catalogue::infer_navigations(&mut table);
    schema.tables.insert(name.to_owned(), table);
    if has_activities {
        add_regarding(schema, name);
    }
}

/// Lets activities refer to rows of this table as their regarding record: by the navigation name
/// with the activity's suffix and by the inherited name (Dataverse facts §6).
fn add_regarding(schema: &mut Schema, target: &str) {
    for table in schema
        .tables
        .values_mut()
        .filter(|table| table.is_activity())
    {
        let column = "regardingobjectid";
        let inherited = format!("{column}_{target}");
        let own = format!("{inherited}_{}", table.name);
        table.add_navigation(&inherited, column, target);
        table.add_navigation(&own, column, target);
        if let Some(column) = table.columns.get_mut(column) {
            column.targets.push(target.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entity_set_name_is_the_plural_of_the_table_name() {
        for (name, set) in [
            ("new_account", "new_accounts"),
            ("new_box", "new_boxes"),
            ("new_party", "new_parties"),
            ("new_day", "new_days"),
        ] {
            assert_eq!(plural(name), set);
        }
    }
}
