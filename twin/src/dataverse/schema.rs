//! Which tables, columns, navigation names and choices the organisation has.

use std::collections::BTreeMap;

/// What a column can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    Integer,
    BigInteger,
    Number,
    Boolean,
    DateTime,
    Choice,
    State,
    Status,
    Lookup,
    Guid,
    TableName,
    /// Files, images and party lists: never part of a body here.
    Opaque,
}

/// One column.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// In UTF-16 code units (inferred: the database's nvarchar counts so).
    pub(crate) max_length: Option<usize>,
    pub(crate) valid_for_create: bool,
    pub(crate) valid_for_update: bool,
    pub(crate) targets: Vec<String>,
    /// Value and label; empty when the choices are not documented, and any number is then taken.
    pub(crate) options: Vec<(i64, String)>,
    /// No property of the Web API.
    pub(crate) hidden: bool,
}

impl Column {
    /// The property that a query or an answer uses for this column.
    pub(crate) fn property(&self) -> String {
        if self.kind == Kind::Lookup {
            format!("_{}_value", self.name)
        } else {
            self.name.clone()
        }
    }
}

/// A name to bind a lookup with.
#[derive(Debug, Clone)]
pub(crate) struct Navigation {
    pub(crate) name: String,
    pub(crate) column: String,
    pub(crate) target: String,
}

/// One table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) set: String,
    pub(crate) key: String,
    /// The column that names a row to people.
    pub(crate) title: String,
    pub(crate) columns: BTreeMap<String, Column>,
    pub(crate) navigations: BTreeMap<String, Navigation>,
    /// State and the status it has by default.
    pub(crate) states: BTreeMap<i64, i64>,
    /// Status and the state it belongs to.
    pub(crate) statuses: BTreeMap<i64, i64>,
    /// Columns of each alternate key, sorted. No table has one until somebody adds it.
    pub(crate) alternate_keys: Vec<Vec<String>>,
}

impl Table {
    /// Whether rows of this table are activities, with parties and an end.
    pub(crate) fn is_activity(&self) -> bool {
        matches!(self.name.as_str(), "email" | "appointment")
    }

    /// A column that the Web API has.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name).filter(|column| !column.hidden)
    }

    /// The column behind a property name as queries write it: lookups are `_name_value`.
    pub(crate) fn property(&self, property: &str) -> Option<&Column> {
        if let Some(column) = self.column(property) {
            return Some(column).filter(|column| column.kind != Kind::Lookup);
        }
        let name = property.strip_prefix('_')?.strip_suffix("_value")?;
        self.column(name)
            .filter(|column| column.kind == Kind::Lookup)
    }

    /// The name of this table's collection of parties.
    pub(crate) fn parties(&self) -> Option<String> {
        self.is_activity()
            .then(|| format!("{}_activity_parties", self.name))
    }
}

/// All tables.
#[derive(Debug, Clone, Default)]
pub(crate) struct Schema {
    pub(crate) tables: BTreeMap<String, Table>,
}

impl Schema {
    pub(crate) fn table(&self, name: &str) -> Option<&Table> {
        self.tables.get(name)
    }

    pub(crate) fn table_mut(&mut self, name: &str) -> Option<&mut Table> {
        self.tables.get_mut(name)
    }

    /// The table behind an entity set's name, which is case-sensitive.
    pub(crate) fn set(&self, set: &str) -> Option<&Table> {
        self.tables.values().find(|table| table.set == set)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }
}
