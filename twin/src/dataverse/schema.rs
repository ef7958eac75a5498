//! Which tables, columns, navigation names and choices the organisation has.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

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

/// A text in several languages: code and text. English is 1033.
pub(crate) type Labels = Vec<(i64, String)>;

/// One column.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each says something of its own, as in the service's definitions"
)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) schema_name: String,
    pub(crate) kind: Kind,
    /// The type's name in definitions: finer than the kind, as it tells `Memo` from `String` and `Money` from `Double`.
    pub(crate) type_name: String,
    /// `None`, `Recommended`, `ApplicationRequired` or `SystemRequired`; forms look at it, the API does not.
    pub(crate) required: String,
    /// What people call it; the schema name when nobody said.
    pub(crate) labels: Labels,
    pub(crate) description: Labels,
    /// Added by somebody, so that it can be changed and removed.
    pub(crate) custom: bool,
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
    /// A column that somebody adds to a table.
    pub(crate) fn custom(schema_name: &str, kind: Kind, type_name: &str) -> Self {
        Self {
            name: schema_name.to_lowercase(),
            schema_name: schema_name.to_owned(),
            kind,
            type_name: type_name.to_owned(),
            required: "None".to_owned(),
            labels: Labels::new(),
            description: Labels::new(),
            custom: true,
            max_length: None,
            valid_for_create: true,
            valid_for_update: true,
            targets: Vec::new(),
            options: Vec::new(),
            hidden: false,
        }
    }

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Navigation {
    pub(crate) name: String,
    pub(crate) column: String,
    pub(crate) target: String,
}

/// How far the index of an alternate key is (Dataverse facts §7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyStatus {
    Pending,
    Active,
    /// Two rows had the same values when the index was built.
    Failed,
}

/// An alternate key.
#[derive(Debug, Clone)]
pub(crate) struct AlternateKey {
    pub(crate) schema_name: String,
    pub(crate) labels: Labels,
    /// Sorted.
    pub(crate) columns: Vec<String>,
    pub(crate) status: KeyStatus,
    /// When a pending index is finished.
    pub(crate) ready: DateTime<Utc>,
}

/// One table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) schema_name: String,
    pub(crate) labels: Labels,
    pub(crate) collection_labels: Labels,
    pub(crate) description: Labels,
    /// Added by somebody, so that it can be changed and removed.
    pub(crate) custom: bool,
    /// Emails and appointments can concern its rows.
    pub(crate) has_activities: bool,
    pub(crate) has_notes: bool,
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
    /// No table has one until somebody adds it.
    pub(crate) alternate_keys: Vec<AlternateKey>,
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

    /// The keys that name rows and hold them unique.
    pub(crate) fn active_keys(&self) -> impl Iterator<Item = &AlternateKey> {
        let active = |key: &&AlternateKey| key.status == KeyStatus::Active;
        self.alternate_keys.iter().filter(active)
    }

    /// A navigation name for a lookup to `target`.
    pub(crate) fn add_navigation(&mut self, name: &str, column: &str, target: &str) {
        let navigation = Navigation {
            name: name.to_owned(),
            column: column.to_owned(),
            target: target.to_owned(),
        };
        self.navigations.insert(name.to_owned(), navigation);
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

    /// The navigation names that email and appointment inherit from their common base, `activitypointer`: those that
    /// both have for the same column and target (inferred; Dataverse facts §6 says that there are such names).
    pub(crate) fn inherited_navigations(&self) -> BTreeSet<&str> {
        let (Some(email), Some(appointment)) = (self.table("email"), self.table("appointment"))
        else {
            return BTreeSet::new();
        };
        let shared = |navigation: &&Navigation| {
            navigation.column != email.key
                && appointment.navigations.get(&navigation.name) == Some(*navigation)
        };
        let navigations = email.navigations.values().filter(shared);
        navigations
            .map(|navigation| navigation.name.as_str())
            .collect()
    }
}
