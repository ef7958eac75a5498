//! Creates, replaces and deletes columns (Dataverse facts §17).
//!
//! | Rejected                                            | Answer           |
//! | --------------------------------------------------- | ---------------- |
//! | no `@odata.type`, so the kind of column is unknown  | 400 / 0x80048d19 |
//! | a column name that exists already                   | 400 / 0x80047013 |
//! | a length outside the range of the kind of text      | 400 / 0x80040203 |
//! | deleting a standard column or the primary name      | 400 / 0x80047009 |
//! | deleting a column that a key needs                  | 400 / 0x8004F01F |
//!
//! The names of the codes are verified. The conditions under which they are returned are inferred.

use serde_json::Value;

use super::super::operation::{Answer, Operation};
use super::super::org::Work;
use super::super::refusal::Refusal;
use super::super::rows;
use super::super::schema::{Column, Kind, Table};
use super::body::{Body, missing, type_of};
use super::change::keeps_name;
use super::forms;

/// The kinds of columns that a client can add: metadata type, kind, type name in other properties,
/// largest `MaxLength` of a text.
const KINDS: [(&str, Kind, &str, Option<usize>); 8] = [
    ("StringAttributeMetadata", Kind::Text, "String", Some(4_000)),
    ("MemoAttributeMetadata", Kind::Text, "Memo", Some(1_048_576)),
    ("IntegerAttributeMetadata", Kind::Integer, "Integer", None),
    ("BigIntAttributeMetadata", Kind::BigInteger, "BigInt", None),
    ("DecimalAttributeMetadata", Kind::Number, "Decimal", None),
    ("DoubleAttributeMetadata", Kind::Number, "Double", None),
    ("BooleanAttributeMetadata", Kind::Boolean, "Boolean", None),
    (
        "DateTimeAttributeMetadata",
        Kind::DateTime,
        "DateTime",
        None,
    ),
];

const LEVELS: [&str; 4] = [
    "None",
    "Recommended",
    "ApplicationRequired",
    "SystemRequired",
];

/// Reads the definition of a new or replaced column. Returns the raw body too, for properties that
/// are not part of [`Column`].
pub(crate) fn read_column(value: Value) -> Result<(Column, Body), Refusal> {
    let named = value.as_object().and_then(type_of).ok_or_else(|| {
        let detail = "a column needs '@odata.type': its definition is of an abstract type.";
        Refusal::payload("EntityDefinitions", detail)
    })?;
    let known = KINDS.iter().find(|(kind, ..)| *kind == named);
    let Some((metadata, kind, type_name, longest)) = known else {
        return Err(Refusal::not_imitated(format!(
            "columns of the type {named}"
        )));
    };
    let body = Body::read(value, metadata)?;
    for sent in [
        body.text("AttributeType")?,
        body.wrapped("AttributeTypeName")?,
    ] {
        if sent.is_some_and(|sent| sent.trim_end_matches("Type") != *type_name) {
            return Err(Refusal::argument(
                "AttributeType and AttributeTypeName do not fit the type of the definition.",
            ));
        }
    }
    let mut column = Column::custom(body.required("SchemaName")?, *kind, type_name);
    if let Some(longest) = longest {
        column.max_length = Some(length(&body, *longest, type_name)?);
    }
    if let Some(level) = body.wrapped("RequiredLevel")? {
        if !LEVELS.contains(&level) {
            let detail = format!("'{level}' is no required level.");
            return Err(Refusal::payload("EntityDefinitions", detail));
        }
        level.clone_into(&mut column.required);
    }
    column.labels = body
        .labels("DisplayName")?
        .ok_or_else(|| missing("DisplayName"))?;
    column.description = body.labels("Description")?.unwrap_or_default();
    Ok((column, body))
}

/// Returns the length limit of a text column. Without `MaxLength` it is the default (2,000 for
/// `Memo`, else 100), also when a definition is replaced.
fn length(body: &Body, longest: usize, type_name: &str) -> Result<usize, Refusal> {
    let default = if type_name == "Memo" { 2_000 } else { 100 };
    let length = body.size("MaxLength")?.unwrap_or(default);
    if (1..=longest).contains(&length) {
        return Ok(length);
    }
    Err(Refusal::argument(format!(
        "MaxLength must lie between 1 and {longest}."
    )))
}

impl Work<'_> {
    /// Creates a column (POST).
    pub(crate) fn create_column(
        &mut self,
        table: &Table,
        operation: &Operation,
    ) -> Result<Answer, Refusal> {
        let (column, _) = read_column(rows::body("EntityDefinitions", operation)?)?;
        self.check_name(&column.schema_name, operation)?;
        if table.columns.contains_key(&column.name) {
            let message = "An attribute with the specified name already exists";
            return Err(Refusal::new(400, "0x80047013", message));
        }
        let path = column_path(table, &column);
        let columns = &mut self.table_mut(&table.name)?.columns;
        columns.insert(column.name.clone(), column);
        Ok(self.made(&path))
    }

    /// Replaces a column (PUT). The labels, description, length and required level of a standard
    /// column can be changed too.
    pub(crate) fn replace_column(
        &mut self,
        table: &Table,
        column: &Column,
        operation: &Operation,
    ) -> Result<Answer, Refusal> {
        let (sent, body) = read_column(rows::body("EntityDefinitions", operation)?)?;
        keeps_name(Some(&sent.schema_name), &column.schema_name)?;
        if sent.type_name != column.type_name {
            return Err(Refusal::argument("The type of a column cannot be changed."));
        }
        let changed = Column {
            labels: body.new_labels("DisplayName", &column.labels, operation)?,
            description: body.new_labels("Description", &column.description, operation)?,
            max_length: sent.max_length,
            required: sent.required,
            ..column.clone()
        };
        let columns = &mut self.table_mut(&table.name)?.columns;
        columns.insert(changed.name.clone(), changed);
        Ok(Answer::empty(204))
    }

    /// Deletes a column (DELETE) and its value in every row.
    pub(crate) fn delete_column(
        &mut self,
        table: &Table,
        column: &Column,
    ) -> Result<Answer, Refusal> {
        if !column.custom || column.name == table.title {
            let message = "The specified attribute is not a custom attribute";
            return Err(Refusal::new(400, "0x80047009", message));
        }
        let in_key = |key: &&_| {
            let key: &super::super::schema::AlternateKey = key;
            key.columns.contains(&column.name)
        };
        if let Some(key) = table.alternate_keys.iter().find(in_key) {
            let message = format!(
                "The Attribute({}) component cannot be deleted because it is referenced by 1 other components: the key \
                 {}.",
                column.name, key.schema_name
            );
            return Err(Refusal::new(400, "0x8004F01F", message));
        }
        for (id, row) in self.org.store.rows(&table.name) {
            let mut values = row.values.clone();
            if values.remove(&column.name).is_some() {
                self.org.store.set(&table.name, id, Some(values));
            }
        }
        self.table_mut(&table.name)?.columns.remove(&column.name);
        Ok(Answer::empty(204))
    }
}

fn column_path(table: &Table, column: &Column) -> String {
    format!(
        "({})/Attributes({})",
        forms::table_id(table),
        forms::column_id(table, column)
    )
}
