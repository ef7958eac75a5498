//! The rows of all tables, and how a failed operation is undone.
//!
//! Every change goes through [`Store::set`], which records the previous row. A change set, and each
//! operation within it, takes a [`Mark`] first and rolls back to it on failure, so nothing of a
//! failed change set remains.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use uuid::Uuid;

/// Values by logical column name. Lookups are `{"table", "id"}`; null values are left out.
pub(crate) type Values = Map<String, Value>;

/// One row.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) values: Values,
    /// Increases with every change in the organisation, like the row version of Dataverse.
    pub(crate) version: u64,
    /// Position in the order of creation, in which rows are returned if nothing else orders them.
    place: u64,
}

impl Row {
    pub(crate) fn get(&self, column: &str) -> &Value {
        self.values.get(column).unwrap_or(&Value::Null)
    }

    pub(crate) fn text(&self, column: &str) -> Option<&str> {
        self.get(column).as_str()
    }

    pub(crate) fn etag(&self) -> String {
        format!("W/\"{}\"", self.version)
    }

    /// Returns the activity that a party or an attachment belongs to.
    fn parent(&self) -> Option<Uuid> {
        self.lookup("objectid")
            .or_else(|| self.lookup("activityid"))
            .map(|(_, id)| id)
    }

    /// Returns table and id of the row that a lookup column points to.
    pub(crate) fn lookup(&self, column: &str) -> Option<(String, Uuid)> {
        lookup(self.get(column))
    }
}

/// The column of `email` that holds a Message-ID.
pub(crate) const MESSAGE_ID: &str = "messageid";

/// Returns table and id of a stored lookup.
pub(crate) fn lookup(value: &Value) -> Option<(String, Uuid)> {
    let table = value.get("table")?.as_str()?;
    let id = Uuid::try_parse(value.get("id")?.as_str()?).ok()?;
    Some((table.to_owned(), id))
}

/// Returns a lookup in its stored form.
pub(crate) fn lookup_value(table: &str, id: Uuid) -> Value {
    json!({"table": table, "id": id.to_string()})
}

/// A point to roll back to.
pub(crate) struct Mark(usize);

#[derive(Default)]
struct Shelf {
    rows: HashMap<Uuid, Arc<Row>>,
    places: BTreeMap<u64, Uuid>,
    /// Ids of the rows with a Message-ID, by Message-ID in lower case.
    message_ids: HashMap<String, HashSet<Uuid>>,
    /// Parties and attachments by activity. The index is needed because an organisation may have
    /// many thousands of them.
    children: HashMap<Uuid, BTreeMap<u64, Uuid>>,
}

struct Undo {
    table: String,
    id: Uuid,
    before: Option<Arc<Row>>,
}

/// All rows.
#[derive(Default)]
pub(crate) struct Store {
    shelves: HashMap<String, Shelf>,
    last: u64,
    journal: Vec<Undo>,
}

impl Store {
    pub(crate) fn get(&self, table: &str, id: Uuid) -> Option<Arc<Row>> {
        self.shelves.get(table)?.rows.get(&id).cloned()
    }

    pub(crate) fn contains(&self, table: &str, id: Uuid) -> bool {
        self.shelves
            .get(table)
            .is_some_and(|shelf| shelf.rows.contains_key(&id))
    }

    /// Returns all rows of a table in the order of creation.
    pub(crate) fn rows(&self, table: &str) -> Vec<(Uuid, Arc<Row>)> {
        let Some(held) = self.shelves.get(table) else {
            return Vec::new();
        };
        held.places
            .values()
            .filter_map(|id| Some((*id, held.rows.get(id)?.clone())))
            .collect()
    }

    /// Returns whether another email than `than` has the Message-ID. The comparison ignores case.
    pub(crate) fn has_message_id(&self, message_id: &str, than: Uuid) -> bool {
        let emails = self.shelves.get("email");
        let known = emails.and_then(|held| held.message_ids.get(&message_id.to_lowercase()));
        known.is_some_and(|ids| ids.iter().any(|id| *id != than))
    }

    /// Returns the parties or attachments of one activity, in the order of creation.
    pub(crate) fn children(&self, table: &str, parent: Uuid) -> Vec<(Uuid, Arc<Row>)> {
        let Some(held) = self.shelves.get(table) else {
            return Vec::new();
        };
        let ids = held
            .children
            .get(&parent)
            .into_iter()
            .flat_map(BTreeMap::values);
        ids.filter_map(|id| Some((*id, held.rows.get(id)?.clone())))
            .collect()
    }

    /// Writes a row, or removes it if `values` is `None`.
    pub(crate) fn set(&mut self, table: &str, id: Uuid, values: Option<Values>) {
        let before = self.get(table, id);
        let after = values.map(|mut values| {
            self.last += 1;
            values.retain(|_, value| !value.is_null());
            let place = before.as_ref().map_or(self.last, |row| row.place);
            Arc::new(Row {
                values,
                version: self.last,
                place,
            })
        });
        self.put(table, id, after);
        self.journal.push(Undo {
            table: table.to_owned(),
            id,
            before,
        });
    }

    /// Returns a point to roll back to.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.journal.len())
    }

    /// Undoes all changes since `mark`. Row versions are not reset, as in a database.
    pub(crate) fn roll_back(&mut self, mark: &Mark) {
        while self.journal.len() > mark.0 {
            if let Some(undo) = self.journal.pop() {
                self.put(&undo.table, undo.id, undo.before);
            }
        }
    }

    /// Commits: the changes so far can no longer be rolled back.
    pub(crate) fn keep(&mut self) {
        self.journal.clear();
    }

    pub(crate) fn clear(&mut self) {
        self.shelves.clear();
        self.journal.clear();
    }

    fn put(&mut self, table: &str, id: Uuid, row: Option<Arc<Row>>) {
        let held = self.shelves.entry(table.to_owned()).or_default();
        if let Some(old) = held.rows.remove(&id) {
            held.places.remove(&old.place);
            if let Some(message_id) = old.text(MESSAGE_ID).map(str::to_lowercase)
                && let Some(known) = held.message_ids.get_mut(&message_id)
            {
                known.remove(&id);
            }
            if let Some(siblings) = old
                .parent()
                .and_then(|parent| held.children.get_mut(&parent))
            {
                siblings.remove(&old.place);
            }
        }
        if let Some(row) = row {
            held.places.insert(row.place, id);
            if let Some(message_id) = row.text(MESSAGE_ID).map(str::to_lowercase) {
                held.message_ids.entry(message_id).or_default().insert(id);
            }
            if let Some(parent) = row.parent() {
                held.children
                    .entry(parent)
                    .or_default()
                    .insert(row.place, id);
            }
            held.rows.insert(id, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Option<Values> {
        json!({"subject": text, "description": null})
            .as_object()
            .cloned()
    }

    #[test]
    fn a_rollback_undoes_changes_removals_and_additions() {
        let mut store = Store::default();
        let (kept, gone, added) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        store.set("email", kept, values("before"));
        store.set("email", gone, values("here"));
        store.keep();
        let mark = store.mark();
        store.set("email", kept, values("after"));
        store.set("email", gone, None);
        store.set("email", added, values("new"));
        store.roll_back(&mark);
        assert_eq!(
            store.get("email", kept).unwrap().text("subject"),
            Some("before")
        );
        assert!(store.contains("email", gone));
        assert!(!store.contains("email", added));
        let order: Vec<Uuid> = store.rows("email").into_iter().map(|(id, _)| id).collect();
        assert_eq!(order, [kept, gone]);
    }

    #[test]
    fn every_change_gives_a_row_a_new_version() {
        let mut store = Store::default();
        let id = Uuid::from_u128(1);
        store.set("email", id, values("a"));
        let first = store.get("email", id).unwrap().etag();
        store.set("email", id, values("a"));
        assert_ne!(store.get("email", id).unwrap().etag(), first);
        assert!(
            !store
                .get("email", id)
                .unwrap()
                .values
                .contains_key("description"),
            "a null value must not be stored"
        );
    }
}
