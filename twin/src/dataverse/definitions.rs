//! What a client can learn about tables, columns and keys (Dataverse facts §6 and §17).
//!
//! Read only, and only what a check of the organisation needs: whether a table or column is there, how long a text may
//! be, which keys there are, and by which name a table is bound as regarding. Of the query options, `$select` and a
//! `$filter` of one `eq` are understood.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::filter::{self, Filter, Literal, Operator};
use super::operation::{Answer, Operation};
use super::options::Options;
use super::org::Work;
use super::refusal::Refusal;
use super::schema::{Column, Kind, Table};

const NAMESPACE: &str = "Microsoft.Dynamics.CRM.";

impl Work<'_> {
    /// Answers an address that starts with `EntityDefinitions`.
    pub(crate) fn definitions(
        &self,
        segments: &[String],
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        if operation.method != Method::GET {
            return Err(Refusal::not_imitated("changing table definitions"));
        }
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (first, below) = words.split_first().ok_or_else(|| Refusal::no_segment(""))?;
        if *first == "EntityDefinitions" && below.is_empty() {
            return list(self.schema.tables().map(definition).collect(), options);
        }
        let table = named(first, "EntityDefinitions").ok_or_else(|| Refusal::no_segment(first))?;
        let table = self
            .schema
            .table(table)
            .ok_or_else(|| no_definition("entity", table))?;
        match below {
            [] => Ok(one(definition(table), options)),
            ["Attributes"] => list(table.columns.values().map(attribute).collect(), options),
            ["Attributes", cast] if cast.starts_with(NAMESPACE) => {
                let columns = table
                    .columns
                    .values()
                    .filter(|column| has_cast(column, cast));
                list(columns.map(attribute).collect(), options)
            }
            ["Keys"] => list(
                table
                    .alternate_keys
                    .iter()
                    .map(|columns| key(table, columns))
                    .collect(),
                options,
            ),
            ["OneToManyRelationships"] => list(self.relationships(table), options),
            [attribute_segment, cast @ ..] => {
                let name = named(attribute_segment, "Attributes")
                    .ok_or_else(|| Refusal::no_segment(attribute_segment))?;
                let column = table
                    .columns
                    .get(name)
                    .ok_or_else(|| no_definition("attribute", name))?;
                match cast {
                    [] => Ok(one(attribute(column), options)),
                    [cast] if has_cast(column, cast) => Ok(one(attribute(column), options)),
                    _ => Err(no_definition("attribute", name)),
                }
            }
        }
    }

    /// Every lookup that leads to `target`, with the name to bind it by.
    fn relationships(&self, target: &Table) -> Vec<Value> {
        let leads_here = |table: &Table| -> Vec<Value> {
            let navigations = table
                .navigations
                .values()
                .filter(|navigation| navigation.target == target.name);
            let relationship = |name: &str, column: &str| {
                json!({
                    "ReferencedEntity": target.name, "ReferencedAttribute": target.key, "ReferencingEntity": table.name,
                    "ReferencingAttribute": column, "ReferencingEntityNavigationPropertyName": name,
                })
            };
            navigations
                .map(|navigation| relationship(&navigation.name, &navigation.column))
                .collect()
        };
        self.schema.tables().flat_map(leads_here).collect()
    }
}

fn definition(table: &Table) -> Value {
    json!({
        "LogicalName": table.name, "EntitySetName": table.set, "PrimaryIdAttribute": table.key,
        "PrimaryNameAttribute": table.title, "IsActivity": table.is_activity(),
    })
}

fn attribute(column: &Column) -> Value {
    json!({
        "@odata.type": format!("#{NAMESPACE}{}AttributeMetadata", type_name(column)),
        "LogicalName": column.name, "AttributeType": type_name(column), "MaxLength": column.max_length,
        "IsValidForCreate": column.valid_for_create, "IsValidForUpdate": column.valid_for_update,
        "Targets": column.targets,
    })
}

fn key(table: &Table, columns: &[String]) -> Value {
    json!({
        "LogicalName": columns.join("_"), "EntityLogicalName": table.name, "KeyAttributes": columns,
        "EntityKeyIndexStatus": "Active",
    })
}

/// The name of the column's kind in definitions. Short and long texts are told apart by their limit, as good as the
/// tables allow (inferred).
fn type_name(column: &Column) -> &'static str {
    match column.kind {
        Kind::Text if column.max_length.is_some_and(|limit| limit > 4_000) => "Memo",
        Kind::Text => "String",
        Kind::Integer => "Integer",
        Kind::BigInteger => "BigInt",
        Kind::Number => "Double",
        Kind::Boolean => "Boolean",
        Kind::DateTime => "DateTime",
        Kind::Choice => "Picklist",
        Kind::State => "State",
        Kind::Status => "Status",
        Kind::Lookup => "Lookup",
        Kind::Guid => "Uniqueidentifier",
        Kind::TableName => "EntityName",
        Kind::Opaque => "Virtual",
    }
}

fn has_cast(column: &Column, cast: &str) -> bool {
    cast == format!("{NAMESPACE}{}AttributeMetadata", type_name(column))
}

/// The name in `Collection(LogicalName='name')`.
fn named<'a>(segment: &'a str, collection: &str) -> Option<&'a str> {
    segment
        .strip_prefix(collection)?
        .strip_prefix("(LogicalName='")?
        .strip_suffix("')")
}

/// The status is inferred (Dataverse facts §17).
fn no_definition(what: &str, name: &str) -> Refusal {
    Refusal::new(
        404,
        "0x80060888",
        format!("Could not find an {what} with the name '{name}'."),
    )
}

fn one(value: Value, options: &Options) -> Answer {
    Answer::json(200, select(value, options))
}

fn list(rows: Vec<Value>, options: &Options) -> Result<Answer, Refusal> {
    let wanted = match &options.filter {
        None => None,
        Some(text) => match filter::parse(text, &options.aliases)? {
            Filter::Compare {
                property,
                operator: Operator::Eq,
                value: Literal::Text(value),
            } => Some((property, value)),
            // Definitions do not know `contains` and `startswith` (Dataverse facts §14).
            Filter::Match { .. } => {
                return Err(Refusal::new(
                    501,
                    "0x8006088A",
                    "The function is not supported on metadata entities.",
                ));
            }
            _ => return Err(Refusal::not_imitated("this filter on definitions")),
        },
    };
    let matches = |row: &Value| {
        let same = |(property, value): &(String, String)| {
            row.get(property).and_then(Value::as_str) == Some(value)
        };
        wanted.as_ref().is_none_or(same)
    };
    let rows: Vec<Value> = rows
        .into_iter()
        .filter(matches)
        .map(|row| select(row, options))
        .collect();
    Ok(Answer::json(200, json!({"value": rows})))
}

fn select(value: Value, options: &Options) -> Value {
    match (value, &options.select) {
        (Value::Object(fields), Some(names)) => {
            let kept = |name: &String| name.starts_with('@') || names.contains(name);
            Value::Object(
                fields
                    .into_iter()
                    .filter(|(name, _)| kept(name))
                    .collect::<Map<_, _>>(),
            )
        }
        (value, _) => value,
    }
}
