//! The metadata API: reads and changes table, column, key and relationship definitions (Dataverse
//! facts §6, §7.2 and §17).
//!
//! | Address below `EntityDefinitions`            | GET        | POST | PUT | DELETE | Subject             | File            |
//! | -------------------------------------------- | ---------- | ---- | --- | ------ | ------------------- | --------------- |
//! | nothing, or `(LogicalName='t')`, `(id)`      | list, one  | list | one | one    | tables              | `change.rs`     |
//! | `Attributes`, or one, or cast to a type      | list, one  | list | one | one    | columns             | `columns.rs`    |
//! | `Keys`, or one                               | list, one  | list |     | one    | alternate keys      | `key_changes.rs`|
//! | `OneToManyRelationships`, `ManyToOne…`       | list       |      |     |        | navigation names    | `forms.rs`      |
//!
//! Any other verb is 405 / 0x80060888. PUT replaces a whole definition. `forms.rs` renders
//! definitions as JSON, `properties.rs` lists their property names, `query.rs` applies query
//! options, and `body.rs` reads request bodies.

mod body;
mod change;
mod columns;
mod forms;
mod key_changes;
pub(crate) mod properties;
mod query;

use axum::http::Method;
use serde_json::Value;
use uuid::Uuid;

use super::operation::{Answer, Operation};
use super::options::Options;
use super::org::Work;
use super::privileges::Privilege;
use super::refusal::Refusal;
use super::rows::allow;
use super::schema::{AlternateKey, Column, Kind, Table};
use super::values::guid;
pub(crate) use change::add_table;
use forms::NAMESPACE;
use query::{Form, list, one};

const ENTITY: &str = "EntityMetadata";
const ATTRIBUTE: &str = "AttributeMetadata";
const KEY: &str = "EntityKeyMetadata";
const RELATIONSHIP: &str = "OneToManyRelationshipMetadata";

impl Work<'_> {
    /// Handles a request whose path starts with `EntityDefinitions`.
    pub(crate) fn definitions(
        &mut self,
        segments: &[String],
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        let schema = self.schema.clone();
        let words: Vec<&str> = segments.iter().map(String::as_str).collect();
        let (first, below) = words.split_first().ok_or_else(|| Refusal::no_segment(""))?;
        if *first == "EntityDefinitions" && below.is_empty() {
            allow(operation, &[Method::GET, Method::POST])?;
            if operation.method == Method::POST {
                return self.create_table(operation);
            }
            let tables = schema.tables().map(|table| self.table_form(table));
            return list(tables.collect(), ENTITY, options);
        }
        let name = Selector::read(first, "EntityDefinitions")?;
        let table = schema
            .tables()
            .find(|table| name.is(&table.name, forms::table_id(table)))
            .ok_or_else(|| no_definition("entity", &name))?;
        match below {
            [] => self.on_table(table, operation, options),
            [collection @ ("Attributes" | "Keys"), rest @ ..] => {
                self.on_collection(table, collection, rest, operation, options)
            }
            ["OneToManyRelationships"] => {
                self.related(table, "ReferencedEntity", operation, options)
            }
            ["ManyToOneRelationships"] => {
                self.related(table, "ReferencingEntity", operation, options)
            }
            ["ManyToManyRelationships"] => {
                allow(operation, &[Method::GET])?;
                list(Vec::new(), RELATIONSHIP, options)
            }
            [segment, cast @ ..] if segment.starts_with("Attributes(") => {
                let name = Selector::read(segment, "Attributes")?;
                let column = table
                    .columns
                    .values()
                    .find(|column| name.is(&column.name, forms::column_id(table, column)))
                    .ok_or_else(|| no_definition("attribute", &name))?;
                self.on_column((table, column), cast, operation, options)
            }
            [segment] if segment.starts_with("Keys(") => {
                let name = Selector::read(segment, "Keys")?;
                let key = table
                    .alternate_keys
                    .iter()
                    .find(|key| name.is(&key.schema_name.to_lowercase(), forms::key_id(table, key)))
                    .ok_or_else(|| no_definition("entity key", &name))?;
                self.on_key(table, key, operation, options)
            }
            [segment, ..] => Err(Refusal::no_segment(segment)),
        }
    }

    fn on_table(
        &mut self,
        table: &Table,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        allow(operation, &[Method::GET, Method::PUT, Method::DELETE])?;
        match operation.method {
            Method::PUT => self.replace_table(table, operation),
            Method::DELETE => self.delete_table(table),
            _ => one(self.table_form(table), ENTITY, options),
        }
    }

    fn on_collection(
        &mut self,
        table: &Table,
        collection: &str,
        rest: &[&str],
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        if collection == "Attributes" {
            self.require(Privilege::Read, "attribute")?;
        }
        match (collection, rest) {
            ("Keys", []) => {
                allow(operation, &[Method::GET, Method::POST])?;
                if operation.method == Method::POST {
                    return self.create_key(table, operation);
                }
                let keys = table.alternate_keys.iter();
                let keys = keys.map(|key| Form::plain(forms::key(table, key)));
                list(keys.collect(), KEY, options)
            }
            ("Attributes", []) => {
                allow(operation, &[Method::GET, Method::POST])?;
                if operation.method == Method::POST {
                    return self.create_column(table, operation);
                }
                let columns = table.columns.values();
                let columns = columns.map(|column| column_form(table, column));
                list(columns.collect(), ATTRIBUTE, options)
            }
            ("Attributes", [cast]) => {
                allow(operation, &[Method::GET])?;
                let kind = cast_type(cast)?;
                let columns = table.columns.values();
                let columns = columns.filter(|column| forms::type_name(column) == kind);
                let columns = columns.map(|column| column_form(table, column));
                list(columns.collect(), kind, options)
            }
            (_, [segment, ..]) => Err(Refusal::no_segment(segment)),
            (other, []) => Err(Refusal::no_segment(other)),
        }
    }

    fn on_column(
        &mut self,
        (table, column): (&Table, &Column),
        cast: &[&str],
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        let kind = match cast {
            [] => ATTRIBUTE,
            [cast, ..] => {
                let kind = cast_type(cast)?;
                if forms::type_name(column) != kind {
                    return Err(no_definition(
                        "attribute",
                        &Selector::Name(column.name.clone()),
                    ));
                }
                kind
            }
        };
        match cast {
            [] | [_] => allow(operation, &[Method::GET, Method::PUT, Method::DELETE])?,
            [_, "OptionSet"] if has_options(column) => {
                allow(operation, &[Method::GET])?;
                let set = Form::plain(forms::option_set(table, column));
                return one(set, "OptionSetMetadata", options);
            }
            [_, segment, ..] => return Err(Refusal::no_segment(segment)),
        }
        match operation.method {
            Method::PUT => self.replace_column(table, column, operation),
            Method::DELETE => self.delete_column(table, column),
            _ => one(column_form(table, column), kind, options),
        }
    }

    fn on_key(
        &mut self,
        table: &Table,
        key: &AlternateKey,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        allow(operation, &[Method::GET, Method::DELETE])?;
        match operation.method {
            Method::DELETE => self.delete_key(table, key),
            _ => one(Form::plain(forms::key(table, key)), KEY, options),
        }
    }

    fn related(
        &self,
        table: &Table,
        end: &str,
        operation: &Operation,
        options: &Options,
    ) -> Result<Answer, Refusal> {
        allow(operation, &[Method::GET])?;
        let forms = self.relationships(table, end).into_iter().map(Form::plain);
        list(forms.collect(), RELATIONSHIP, options)
    }

    fn relationships(&self, table: &Table, end: &str) -> Vec<Value> {
        let all = forms::relationships(&self.schema).into_iter();
        all.filter(|form| form.get(end).and_then(Value::as_str) == Some(&table.name))
            .collect()
    }

    fn table_form(&self, table: &Table) -> Form {
        let columns = table.columns.values();
        let columns = columns.map(|column| forms::column(table, column)).collect();
        let keys = table.alternate_keys.iter();
        let keys = keys.map(|key| forms::key(table, key)).collect();
        Form {
            value: forms::table(table),
            expandable: vec![
                ("Attributes", ATTRIBUTE, columns),
                ("Keys", KEY, keys),
                (
                    "OneToManyRelationships",
                    RELATIONSHIP,
                    Value::Array(self.relationships(table, "ReferencedEntity")),
                ),
                (
                    "ManyToOneRelationships",
                    RELATIONSHIP,
                    Value::Array(self.relationships(table, "ReferencingEntity")),
                ),
            ],
        }
    }
}

fn column_form(table: &Table, column: &Column) -> Form {
    let options = has_options(column).then(|| {
        (
            "OptionSet",
            "OptionSetMetadata",
            forms::option_set(table, column),
        )
    });
    Form {
        value: forms::column(table, column),
        expandable: options.into_iter().collect(),
    }
}

fn has_options(column: &Column) -> bool {
    matches!(
        column.kind,
        Kind::Choice | Kind::State | Kind::Status | Kind::Boolean
    )
}

/// The logical name or id by which a path segment selects one definition.
enum Selector {
    Name(String),
    Id(Uuid),
}

impl Selector {
    /// Parses `Collection(LogicalName='name')`, `Collection(MetadataId=id)` or `Collection(id)`.
    fn read(segment: &str, collection: &str) -> Result<Self, Refusal> {
        let inside = segment
            .strip_prefix(collection)
            .and_then(|rest| rest.strip_prefix('(')?.strip_suffix(')'))
            .ok_or_else(|| Refusal::no_segment(segment))?;
        let name = inside
            .strip_prefix("LogicalName='")
            .and_then(|rest| rest.strip_suffix('\''));
        let id = guid(inside.strip_prefix("MetadataId=").unwrap_or(inside));
        let by_id = id.map(Self::Id);
        name.map(|name| Self::Name(name.to_owned()))
            .or(by_id)
            .ok_or_else(|| Refusal::query("Bad Request - Error in query syntax."))
    }

    fn is(&self, name: &str, id: Uuid) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Id(wanted) => *wanted == id,
        }
    }
}

/// Returns the metadata type that a cast segment names.
fn cast_type(segment: &str) -> Result<&'static str, Refusal> {
    segment
        .strip_prefix(NAMESPACE)
        .and_then(properties::metadata_type)
        .map(|kind| kind.name)
        .ok_or_else(|| Refusal::no_segment(segment))
}

/// Builds the error for a definition that does not exist. The status 404 is inferred (Dataverse
/// facts §17).
fn no_definition(what: &str, name: &Selector) -> Refusal {
    let message = match name {
        Selector::Name(name) => format!("Could not find an {what} with the name '{name}'."),
        Selector::Id(id) => format!("Could not find an {what} with the id {id}."),
    };
    Refusal::new(404, "0x80060888", message)
}
