//! A file that somebody imports, whatever it is.

use std::path::Path;

use mailverse::clients::nylas::wire;
use mailverse::model::ids::GrantId;
use mailverse::resolve::contacts::card::new_contact;

use crate::saved_files::{Kind, SavedFile};

/// Takes the file apart, and reads its messages and contacts as the importer does.
///
/// # Panics
/// A promise about it does not hold.
pub fn run(bytes: &[u8]) {
    let Ok(grant) = "g".parse::<GrantId>() else {
        unreachable!("`g` is an id");
    };
    let Some(counts) = counts(bytes) else {
        return;
    };
    // An answer of the API holds the same list under `data`.
    if bytes.first() == Some(&b'[') {
        let answer = [br#"{"data": "#, bytes, b"}"].concat();
        assert_eq!(self::counts(&answer), Some(counts), "in an answer");
    }
    let Ok(file) = SavedFile::of(Path::new("saved.json"), bytes.to_vec()) else {
        unreachable!("it could be read a moment ago");
    };
    for (_, object) in file.objects(Kind::Message) {
        let _ = wire::message(&grant, &object);
    }
    for (_, object) in file.objects(Kind::Contact) {
        let mut card = wire::contact(&object);
        if card.keep_usable().is_ok() {
            let contact = new_contact(&card, None);
            assert!(contact.is_some(), "a usable card becomes no contact");
        }
    }
}

/// How many messages, contacts and other objects a file holds; `None` for a file that cannot be
/// imported.
fn counts(bytes: &[u8]) -> Option<(usize, usize, usize)> {
    let file = SavedFile::of(Path::new("saved.json"), bytes.to_vec()).ok()?;
    let mut places: Vec<usize> = file.others().collect();
    let others = places.len();
    for kind in [Kind::Message, Kind::Contact] {
        let of_kind: Vec<usize> = file.objects(kind).map(|(place, _)| place).collect();
        assert_eq!(of_kind.len(), file.count(kind), "an object is lost");
        places.extend(of_kind);
    }
    places.sort_unstable();
    let expected: Vec<usize> = (0..places.len()).collect();
    assert_eq!(places, expected, "each object once");
    assert!(places.len() <= bytes.len());
    Some((file.count(Kind::Message), file.count(Kind::Contact), others))
}
