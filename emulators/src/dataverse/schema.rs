//! The tables, columns, navigation names and choices of the organisation.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

/// The type of a column's values.
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
    /// Files, images and party lists, which are never part of a body here.
    Opaque,
}

/// A text in several languages: language code and text. English is 1033.
pub(crate) type Labels = Vec<(i64, String)>;

/// One column.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each has its own meaning, as in the service's definitions"
)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) schema_name: String,
    pub(crate) kind: Kind,
    /// The type's name in definitions. It is finer than `kind`: it separates `Memo` from `String`,
    /// and `Money` from `Double`.
    pub(crate) type_name: String,
    /// `None`, `Recommended`, `ApplicationRequired` or `SystemRequired`. Forms use it, the API does
    /// not.
    pub(crate) required: String,
    /// The display names; the schema name if none was given.
    pub(crate) labels: Labels,
    pub(crate) description: Labels,
    /// Added by a client or a test, so that it can be changed and removed.
    pub(crate) custom: bool,
    /// In UTF-16 code units (inferred: the database's nvarchar counts in that way).
    pub(crate) max_length: Option<usize>,
    pub(crate) valid_for_create: bool,
    pub(crate) valid_for_update: bool,
    pub(crate) targets: Vec<String>,
    /// Value and label. Empty if the choices are not documented; any number is then accepted.
    pub(crate) options: Vec<(i64, String)>,
    /// Not a property of the Web API.
    pub(crate) hidden: bool,
}

impl Column {
    /// Returns a column that a client or a test adds to a table.
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

    /// Returns the property that queries and answers use for this column.
    pub(crate) fn property(&self) -> String {
        if self.kind == Kind::Lookup {
            format!("_{}_value", self.name)
        } else {
            self.name.clone()
        }
    }
}

/// A name with which a lookup is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Navigation {
    pub(crate) name: String,
    pub(crate) column: String,
    pub(crate) target: String,
}

/// The state of an alternate key's index (Dataverse facts §7.2).
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
    /// When a pending index will be finished.
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
    /// Added by a client or a test, so that it can be changed and removed.
    pub(crate) custom: bool,
    /// Emails and appointments can have its rows as regarding record.
    pub(crate) has_activities: bool,
    pub(crate) has_notes: bool,
    pub(crate) set: String,
    pub(crate) key: String,
    /// The primary name column.
    pub(crate) title: String,
    pub(crate) columns: BTreeMap<String, Column>,
    pub(crate) navigations: BTreeMap<String, Navigation>,
    /// Each state with its default status.
    pub(crate) states: BTreeMap<i64, i64>,
    /// Each status with its state.
    pub(crate) statuses: BTreeMap<i64, i64>,
    /// Empty until a client or a test adds a key.
    pub(crate) alternate_keys: Vec<AlternateKey>,
}

impl Table {
    /// Returns whether rows of this table are activities, with parties and a closed state.
    pub(crate) fn is_activity(&self) -> bool {
        matches!(self.name.as_str(), "email" | "appointment")
    }

    /// Returns a column of the Web API; `None` if it does not exist or is hidden.
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name).filter(|column| !column.hidden)
    }

    /// Returns the column of a property name as queries write it: lookups are `_name_value`.
    pub(crate) fn property(&self, property: &str) -> Option<&Column> {
        if let Some(column) = self.column(property) {
            return Some(column).filter(|column| column.kind != Kind::Lookup);
        }
        let name = property.strip_prefix('_')?.strip_suffix("_value")?;
        self.column(name)
            .filter(|column| column.kind == Kind::Lookup)
    }

    /// Returns the keys that can name rows and that keep rows unique.
    pub(crate) fn active_keys(&self) -> impl Iterator<Item = &AlternateKey> {
        let active = |key: &&AlternateKey| key.status == KeyStatus::Active;
        self.alternate_keys.iter().filter(active)
    }

    /// Adds a navigation name for a lookup to `target`.
    pub(crate) fn add_navigation(&mut self, name: &str, column: &str, target: &str) {
        let navigation = Navigation {
            name: name.to_owned(),
            column: column.to_owned(),
            target: target.to_owned(),
        };
        self.navigations.insert(name.to_owned(), navigation);
    }

    /// Returns the name of this table's collection of parties; `None` if its rows are not
    /// activities.
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

    /// Returns the table with this entity set name, which is case-sensitive.
    pub(crate) fn set(&self, set: &str) -> Option<&Table> {
        self.tables.values().find(|table| table.set == set)
    }

    pub(crate) fn tables(&self) -> impl Iterator<Item = &Table> {
        self.tables.values()
    }

    /// Returns the navigation names that email and appointment inherit from their common base,
    /// `activitypointer`: those that both have for the same column and target.
    ///
    /// Inferred; Dataverse facts §6 says that such names exist.
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
