//! The folders of one mailbox: their kinds, names and paths.
//!
//! A policy names a folder by its name, its path from the root, its id or its attribute, which
//! includes its subfolders. How each provider represents subfolders (Nylas facts §9):
//!
//! | Provider | Names | Tree |
//! | --- | --- | --- |
//! | Google | labels such as `Clients/Kites`; system labels by id (`SENT`) | in the name, separated by `/` |
//! | Microsoft, EWS | `Kites`, localised | `parent_id`; a `/` in a name is an ordinary character |
//! | IMAP, Yahoo, iCloud | `INBOX.Clients.Kites` or `Clients/Kites` | in the name, separated by the server's separator, which is *unknown*: `/` and `.` are tried |

use std::collections::{HashMap, HashSet};

use crate::clients::nylas::wire::Folder;
use crate::model::message::Message;

/// The kind of folder that contains a message, where it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A folder of drafts.
    Drafts,
    /// Spam.
    Junk,
    /// Trash.
    Trash,
    /// Any other folder.
    Elsewhere,
}

/// The most parents that are followed upwards. No mailbox is deeper, and a cycle of parents ends
/// here.
const DEEPEST: usize = 50;

/// The separators in a name that contains its path.
const SEPARATORS: [char; 2] = ['/', '.'];

/// The folders of one mailbox.
#[derive(Default)]
pub struct Folders {
    known: HashMap<String, Folder>,
    /// Folder ids that messages contain and that the list lacks. They do not cause the list to be
    /// read again immediately.
    unlisted: HashSet<String>,
}

impl Folders {
    /// Creates the folders of a list.
    #[must_use]
    pub fn new(folders: Vec<Folder>) -> Self {
        let known = folders
            .into_iter()
            .map(|folder| (folder.id.clone(), folder));
        Self {
            known: known.collect(),
            unlisted: HashSet::new(),
        }
    }

    /// Returns the kind of folder that contains a message: drafts before spam before trash,
    /// whatever other labels it has.
    ///
    /// The kind of a folder that is not listed is derived from its id, which is a word on Google
    /// (Nylas facts §9).
    #[must_use]
    pub fn place(&self, message: &Message) -> Place {
        let places: Vec<Place> = message.folders.iter().map(|id| self.kind(id)).collect();
        [Place::Drafts, Place::Junk, Place::Trash]
            .into_iter()
            .find(|kind| places.contains(kind))
            .unwrap_or(Place::Elsewhere)
    }

    fn kind(&self, id: &str) -> Place {
        let attributes = self.known.get(id).map(|folder| &folder.attributes);
        attributes
            .into_iter()
            .flatten()
            .map(|attribute| place_of(attribute))
            .find(|kind| *kind != Place::Elsewhere)
            .unwrap_or_else(|| place_of(&id.to_ascii_lowercase()))
    }

    /// Returns whether a message is in the folder that a policy calls `wanted`, or in a subfolder
    /// of it.
    #[must_use]
    pub fn holds(&self, wanted: &str, message: &Message) -> bool {
        let wanted = wanted.trim();
        message
            .folders
            .iter()
            .any(|id| self.is_named(wanted, id) || self.is_below_path(wanted, id))
    }

    /// Compares by id, attribute or name, of the folder itself and of its parents. Of a folder that
    /// is not listed, only the id is known.
    fn is_named(&self, wanted: &str, id: &str) -> bool {
        let attribute = wanted.strip_prefix('\\').map(str::to_ascii_lowercase);
        let by_id = |id: &str| {
            id == wanted || attribute.as_deref() == Some(id.to_ascii_lowercase().as_str())
        };
        let by_name = |folder: &Folder| {
            let has_attribute = attribute
                .as_ref()
                .is_some_and(|attribute| folder.attributes.contains(attribute));
            has_attribute || folder.names().any(|name| is_same(name, wanted))
        };
        by_id(id)
            || self
                .upwards(id)
                .any(|folder| by_id(&folder.id) || by_name(folder))
    }

    /// Compares by path from the root: `Clients/Kites` matches `Clients/Kites/2026` too, but not
    /// `Old/Clients/Kites`.
    fn is_below_path(&self, wanted: &str, id: &str) -> bool {
        let mut chain: Vec<&Folder> = self.upwards(id).collect();
        chain.reverse();
        let Some(top) = chain.first() else {
            return false;
        };
        if top.parent_id.is_none() && chain.len() == 1 {
            return SEPARATORS.iter().any(|separator| {
                let path: Vec<&str> = top.name.split(*separator).collect();
                SEPARATORS
                    .iter()
                    .any(|other| starts_with(&path, &wanted.split(*other).collect::<Vec<_>>()))
            });
        }
        let path: Vec<&str> = chain.iter().map(|folder| folder.name.as_str()).collect();
        starts_with(&path, &wanted.split('/').collect::<Vec<_>>())
    }

    /// Returns a folder and its parents, the innermost first.
    fn upwards(&self, id: &str) -> impl Iterator<Item = &Folder> {
        let parent = |folder: &&Folder| {
            self.known
                .get(folder.parent_id.as_deref().unwrap_or_default())
        };
        std::iter::successors(self.known.get(id), parent).take(DEEPEST)
    }

    /// Returns whether the list has every folder of a message.
    pub(super) fn lists(&self, message: &Message) -> bool {
        message.folders.iter().all(|id| self.known.contains_key(id))
    }

    /// Returns whether another list, read now, would show nothing new about a message's folders.
    pub(super) fn knows(&self, message: &Message) -> bool {
        let is_known = |id: &String| self.known.contains_key(id) || self.unlisted.contains(id);
        message.folders.iter().all(is_known)
    }

    /// Records which of a message's folders the fresh list lacks, in addition to those that earlier
    /// lists lacked.
    pub(super) fn note_unlisted(&mut self, message: &Message, before: Option<&Self>) {
        let earlier = before.into_iter().flat_map(|before| &before.unlisted);
        let unlisted = message.folders.iter().chain(earlier);
        self.unlisted = unlisted
            .filter(|id| !self.known.contains_key(*id))
            .cloned()
            .collect();
    }
}

impl Folder {
    /// Returns the whole name, and the parts of a name that contains its path.
    fn names(&self) -> impl Iterator<Item = &str> {
        let parts = SEPARATORS
            .iter()
            .filter(|_| self.parent_id.is_none())
            .flat_map(|separator| self.name.split(*separator));
        std::iter::once(self.name.as_str()).chain(parts)
    }
}

fn is_same(a: &str, b: &str) -> bool {
    a.to_lowercase() == b.to_lowercase()
}

/// Returns whether `path` starts with `wanted`. Some IMAP servers keep all folders below the inbox,
/// which users then leave out.
fn starts_with(path: &[&str], wanted: &[&str]) -> bool {
    let begins = |path: &[&str]| {
        path.len() >= wanted.len() && path.iter().zip(wanted).all(|(a, b)| is_same(a, b))
    };
    let below_inbox = path
        .split_first()
        .filter(|(first, _)| first.eq_ignore_ascii_case("INBOX"))
        .is_some_and(|(_, rest)| begins(rest));
    begins(path) || below_inbox
}

/// Returns the kind for a lower-case word: an attribute without its backslash, or a Google system
/// id.
fn place_of(word: &str) -> Place {
    match word {
        "drafts" | "draft" => Place::Drafts,
        "junk" | "spam" => Place::Junk,
        "trash" => Place::Trash,
        _ => Place::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::clients::nylas::wire;

    fn message(folders: &[&str]) -> Message {
        wire::message(
            &"g".parse().unwrap(),
            &json!({"id": "m", "folders": folders}),
        )
        .unwrap_or_else(|e| panic!("{e}"))
    }

    fn folders(listed: &Value) -> Folders {
        let listed = listed.as_array().unwrap();
        Folders::new(listed.iter().filter_map(wire::folder).collect())
    }

    #[test]
    fn the_kind_of_a_folder_comes_from_its_attribute_and_not_its_name() {
        let folders = folders(&json!([
            {"id": "AAMk1", "name": "Entwürfe", "attributes": ["\\Drafts"]},
            {"id": "AAMk2", "name": "Trash"},
        ]));
        assert_eq!(folders.place(&message(&["AAMk1"])), Place::Drafts);
        assert_eq!(folders.place(&message(&["AAMk2"])), Place::Elsewhere);
    }

    #[test]
    fn an_unlisted_google_label_is_recognised_by_its_id() {
        let folders = Folders::default();
        assert_eq!(folders.place(&message(&["SPAM", "UNREAD"])), Place::Junk);
        assert_eq!(folders.place(&message(&["TRASH"])), Place::Trash);
        assert_eq!(
            folders.place(&message(&["INBOX", "SENT"])),
            Place::Elsewhere
        );
        assert_eq!(folders.place(&message(&[])), Place::Elsewhere);
        assert!(folders.holds("\\Sent", &message(&["SENT"])));
        assert!(folders.holds("SENT", &message(&["SENT"])));
        assert!(!folders.holds("\\Sent", &message(&["INBOX"])));
    }

    /// Returns which of `wanted` match a message in the folder `id`.
    fn holding<'a>(folders: &Folders, id: &str, wanted: &[&'a str]) -> Vec<&'a str> {
        let message = message(&[id]);
        let holds = wanted
            .iter()
            .filter(|wanted| folders.holds(wanted, &message));
        holds.copied().collect()
    }

    #[test]
    fn a_microsoft_folder_matches_the_names_of_its_parents() {
        let folders = folders(&json!([
            {"id": "i", "name": "Posteingang", "attributes": ["\\Inbox"]},
            {"id": "c", "name": "Clients", "parent_id": "i"},
            {"id": "k", "name": "Kites", "parent_id": "c"},
            {"id": "a", "name": "Billing/2026", "parent_id": "root-that-is-not-listed"},
        ]));
        let wanted = [
            "kites",
            "k",
            "c",
            "Clients",
            "posteingang/clients",
            "Posteingang/Clients/Kites",
            "\\inbox",
        ];
        assert_eq!(holding(&folders, "k", &wanted), wanted);
        let not = [
            "K",
            "Kite",
            "Clients/Kites",
            "Posteingang/Kites",
            "\\Archive",
            "Clients/Kites/2026",
            "",
        ];
        assert_eq!(holding(&folders, "k", &not), [""; 0]);
        assert_eq!(holding(&folders, "c", &["Kites", "k"]), [""; 0]);
        // A slash within a name does not separate levels.
        assert_eq!(
            holding(&folders, "a", &["Billing/2026", "2026", "Billing"]),
            ["Billing/2026"]
        );
    }

    #[test]
    fn the_path_of_a_google_label_or_an_imap_folder_is_read_from_its_name() {
        let folders = folders(&json!([
            {"id": "Label_2", "name": "Clients/Kites/2026"}, {"id": "x", "name": "INBOX.Clients.Kites"},
            {"id": "v", "name": "v1.2"}, {"id": "o", "name": "Old/Clients/Kites"},
        ]));
        let wanted = [
            "Clients",
            "Kites",
            "2026",
            "Clients/Kites",
            "clients/kites/2026",
            "Label_2",
        ];
        assert_eq!(holding(&folders, "Label_2", &wanted), wanted);
        let wanted = [
            "INBOX",
            "Clients/Kites",
            "INBOX/Clients",
            "INBOX.Clients.Kites",
            "Kites",
        ];
        assert_eq!(holding(&folders, "x", &wanted), wanted);
        assert_eq!(holding(&folders, "v", &["v1.2"]), ["v1.2"]);
        assert_eq!(
            holding(
                &folders,
                "o",
                &["Clients/Kites", "Old/Kites", "Old/Clients"]
            ),
            ["Old/Clients"]
        );
    }

    #[test]
    fn a_cycle_of_parent_folders_terminates() {
        let folders = folders(&json!([
            {"id": "a", "name": "A", "parent_id": "b"}, {"id": "b", "name": "B", "parent_id": "a"},
        ]));
        assert_eq!(holding(&folders, "a", &["B", "C"]), ["B"]);
    }
}
