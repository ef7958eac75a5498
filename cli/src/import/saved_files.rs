//! Splits saved files into objects and detects the kind of each.
//!
//! A file may be, whatever its name: a bare array, as the Nylas CLI prints it (Nylas facts §17), or
//! `null` for an empty one; an answer of the API, whose `data` is a list or one object; or one
//! object.
//!
//! A file is kept in memory as raw bytes with the position of each object, and an object is parsed
//! only when it is used. So a file needs no more memory than its size, and an object that cannot be
//! parsed does not affect the others.

use std::path::{Path, PathBuf};

use mailverse::clients::nylas::wire;
use serde_json::Value;

/// A file that cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {why}", path.display())]
    Unusable { path: PathBuf, why: Why },
}

/// Why a file cannot be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Why {
    #[error("the file is UTF-16, as PowerShell writes it: save it as UTF-8")]
    Utf16,
    #[error("the file is not valid JSON: {0}")]
    NotJson(&'static str),
    #[error("the file holds an error from Nylas or its CLI instead of messages or contacts")]
    Error,
    #[error("the file holds neither messages nor contacts")]
    Neither,
}

/// The byte range of a value in the file.
type Span = std::ops::Range<usize>;

/// The kind of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Message,
    Contact,
}

/// A file with the byte ranges of its objects.
pub(super) struct SavedFile {
    pub(super) path: PathBuf,
    bytes: Vec<u8>,
    objects: Vec<(Span, Option<Kind>)>,
}

impl SavedFile {
    /// Reads a file and splits it into objects.
    ///
    /// # Errors
    /// [`FileError`]: names the file and what is wrong with it. Nothing was imported yet.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = std::fs::read(path).map_err(|source| FileError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::of(path, bytes).map_err(|why| FileError::Unusable {
            path: path.to_owned(),
            why,
        })
    }

    /// Splits the bytes of a file into objects.
    pub(super) fn of(path: &Path, bytes: Vec<u8>) -> Result<Self, Why> {
        let places = objects(&bytes)?;
        let objects: Vec<_> = places
            .into_iter()
            .map(|place| {
                let object = bytes.get(place.clone()).and_then(|it| wire::json(it).ok());
                (place, object.as_ref().and_then(kind))
            })
            .collect();
        if !objects.is_empty() && objects.iter().all(|(_, kind)| kind.is_none()) {
            return Err(Why::Neither);
        }
        Ok(Self {
            path: path.to_owned(),
            bytes,
            objects,
        })
    }

    /// Returns the number of objects of a kind.
    pub(super) fn count(&self, kind: Kind) -> usize {
        let kinds = self.objects.iter();
        kinds.filter(|(_, of)| *of == Some(kind)).count()
    }

    /// Returns the objects of a kind with their indexes in the file, from 0.
    pub(super) fn objects(&self, kind: Kind) -> impl Iterator<Item = (usize, Value)> {
        let all = self.objects.iter().enumerate();
        all.filter(move |(_, (_, of))| *of == Some(kind))
            .filter_map(|(index, (place, _))| {
                let bytes = self.bytes.get(place.clone())?;
                Some((index, wire::json(bytes).ok()?))
            })
    }

    /// Returns the indexes of objects that are neither messages nor contacts, or not valid JSON.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> {
        let all = self.objects.iter().enumerate();
        all.filter(|(_, (_, kind))| kind.is_none())
            .map(|(index, _)| index)
    }
}

/// Returns the kind of an object; `None` for any other kind.
///
/// The field `object` names it. The CLI omits that field if it is empty; then the kind is detected
/// by fields that only this kind has.
fn kind(object: &Value) -> Option<Kind> {
    let has = |key: &str| object.get(key).is_some();
    match object.get("object").and_then(Value::as_str) {
        Some("message") => Some(Kind::Message),
        Some("contact") => Some(Kind::Contact),
        // Threads, drafts, events and folders share some of the fields below.
        Some(other) if !other.is_empty() => None,
        _ if has("date") && (has("from") || has("body")) => Some(Kind::Message),
        _ if has("emails") || has("given_name") || has("surname") || has("phone_numbers") => {
            Some(Kind::Contact)
        }
        _ => None,
    }
}

/// Returns the byte ranges of the objects in a file.
fn objects(bytes: &[u8]) -> Result<Vec<Span>, Why> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(Why::Utf16);
    }
    let mark = if bytes.starts_with(b"\xef\xbb\xbf") {
        3
    } else {
        0
    };
    let mut scanner = Scanner { bytes, at: mark };
    let whole = scanner.value().map_err(Why::NotJson)?;
    scanner.skip_blanks();
    if scanner.at < bytes.len() {
        return Err(Why::NotJson("there is more text after its end"));
    }
    match bytes.get(whole.start) {
        Some(b'[') => list(bytes, whole),
        Some(b'{') => object(bytes, whole),
        _ if bytes.get(whole.clone()) == Some(b"null") => Ok(Vec::new()),
        _ => {
            let text = bytes.get(whole).unwrap_or_default();
            let is_json = wire::json(text).is_ok();
            Err(if is_json {
                Why::Neither
            } else {
                Why::NotJson("it does not start like a JSON value")
            })
        }
    }
}

/// Returns the byte ranges of the list or the one object in `data`, or of the object itself if it
/// has no `data`.
fn object(bytes: &[u8], whole: Span) -> Result<Vec<Span>, Why> {
    let (mut data, mut error) = (None, false);
    for (key, value) in members(bytes, whole.clone()).map_err(Why::NotJson)? {
        match bytes.get(key) {
            Some(b"\"data\"") => data = Some(value),
            Some(b"\"error\"") => error = true,
            _ => {}
        }
    }
    match data {
        None if error => Err(Why::Error),
        None => Ok(vec![whole]),
        Some(data) => match bytes.get(data.start) {
            Some(b'[') => list(bytes, data),
            Some(b'{') => Ok(vec![data]),
            _ if bytes.get(data) == Some(b"null") => Ok(Vec::new()),
            _ => Err(Why::Neither),
        },
    }
}

fn list(bytes: &[u8], whole: Span) -> Result<Vec<Span>, Why> {
    let mut scanner = Scanner {
        bytes,
        at: whole.start + 1,
    };
    let mut items = Vec::new();
    scanner
        .each(b']', |scanner| {
            items.push(scanner.value()?);
            Ok(())
        })
        .map_err(Why::NotJson)?;
    Ok(items)
}

/// Returns the byte ranges of the keys, including their quotes, and of the values of an object.
fn members(bytes: &[u8], whole: Span) -> Result<Vec<(Span, Span)>, &'static str> {
    let mut scanner = Scanner {
        bytes,
        at: whole.start + 1,
    };
    let mut members = Vec::new();
    scanner.each(b'}', |scanner| {
        let key = scanner.value()?;
        scanner.skip_blanks();
        scanner.expect(b':', "a key has no value")?;
        members.push((key, scanner.value()?));
        Ok(())
    })?;
    Ok(members)
}

/// Finds where values end. It does not check that they are valid JSON; that happens when they are
/// parsed.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

const CUT_OFF: &str = "it ends in the middle";

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, otherwise: &'static str) -> Result<(), &'static str> {
        match self.peek() {
            Some(found) if found == byte => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(otherwise),
            None => Err(CUT_OFF),
        }
    }

    /// Reads items separated by commas up to `close`.
    fn each(
        &mut self,
        close: u8,
        mut item: impl FnMut(&mut Self) -> Result<(), &'static str>,
    ) -> Result<(), &'static str> {
        self.skip_blanks();
        if self.peek() == Some(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            self.skip_blanks();
            if self.peek() == Some(close) {
                return Ok(());
            }
            self.expect(b',', "a comma is missing")?;
        }
    }

    /// Skips blanks and reads one value. Not recursive, so deep nesting cannot overflow the stack.
    fn value(&mut self) -> Result<Span, &'static str> {
        self.skip_blanks();
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek().ok_or(CUT_OFF)? {
                b'"' => self.string()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' if depth > 0 => {
                    depth -= 1;
                    self.at += 1;
                }
                b',' | b':' | b'}' | b']' if depth == 0 => return Err("a value is missing"),
                _ if depth == 0 => self.scalar(),
                _ => self.at += 1,
            }
            if depth == 0 {
                return Ok(start..self.at);
            }
        }
    }

    fn string(&mut self) -> Result<(), &'static str> {
        self.at += 1;
        loop {
            match self.peek().ok_or(CUT_OFF)? {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn scalar(&mut self) {
        let ends = |byte: u8| matches!(byte, b',' | b':' | b'}' | b']' | b'{' | b'[' | b'"');
        while self
            .peek()
            .is_some_and(|byte| !ends(byte) && !byte.is_ascii_whitespace())
        {
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn file(text: &str) -> Result<SavedFile, Why> {
        SavedFile::of(Path::new("saved.json"), text.as_bytes().to_vec())
    }

    fn kinds(text: &str) -> Result<(usize, usize, Vec<usize>), Why> {
        file(text).map(|file| {
            let counts = (file.count(Kind::Message), file.count(Kind::Contact));
            (counts.0, counts.1, file.others().collect())
        })
    }

    const MESSAGE: &str =
        r#"{"id": "m", "from": null, "date": "2026-01-31T09:15:00-05:00", "body": "]}"}"#;
    const CONTACT: &str = r#"{"id": "c", "given_name": "Jane"}"#;

    #[test]
    fn messages_and_contacts_are_detected_from_the_file_content() {
        let both = (1, 1, Vec::new());
        for text in [
            format!("[{MESSAGE},{CONTACT}]"),
            format!("\u{feff} [ {MESSAGE} , {CONTACT} ] \n"),
            format!(r#"{{"request_id": "[", "data": [{MESSAGE}, {CONTACT}], "next_cursor": "x"}}"#),
        ] {
            assert_eq!(kinds(&text), Ok(both.clone()), "{text}");
        }
        assert_eq!(kinds(MESSAGE), Ok((1, 0, Vec::new())));
        assert_eq!(
            kinds(&format!(r#"{{"data": {CONTACT}}}"#)),
            Ok((0, 1, Vec::new()))
        );
        for empty in ["[]", "null", r#"{"data": null}"#, r#"{"data": [ ]}"#] {
            assert_eq!(kinds(empty), Ok((0, 0, Vec::new())), "{empty}");
        }
    }

    #[test]
    fn objects_that_are_neither_messages_nor_contacts_are_not_imported() {
        let thread =
            json!({"object": "thread", "subject": "x", "participants": [], "date": 1, "from": []});
        let event = json!({"id": "e", "title": "x", "when": {}});
        let objects = json!([thread, 7, null, {"object": "contact"}, event]);
        assert_eq!(kinds(&objects.to_string()), Ok((0, 1, vec![0, 1, 2, 4])));
        assert_eq!(kinds(&json!([thread]).to_string()), Err(Why::Neither));
        assert_eq!(kinds(r#"{"a": 1}"#), Err(Why::Neither));
    }

    #[test]
    fn an_invalid_object_is_skipped_and_a_file_that_is_not_json_is_reported() {
        let lone = r#"{"object": "message", "id": "s", "snippet": "cut \ud83d"}"#;
        let text = format!("[{CONTACT}, {{\"id\" \"c\"}}, {lone}]");
        assert_eq!(kinds(&text), Ok((1, 1, vec![1])));
        for (text, why) in [
            ("", CUT_OFF),
            ("[", CUT_OFF),
            (r#"[{"a": "b"#, CUT_OFF),
            (r#"[{"a": "b\"#, CUT_OFF),
            ("[1 2]", "a comma is missing"),
            ("[1,]", "a value is missing"),
            ("[] []", "there is more text after its end"),
            ("hello", "it does not start like a JSON value"),
            (r#"{"a" 1}"#, "a key has no value"),
        ] {
            assert_eq!(kinds(text), Err(Why::NotJson(why)), "{text}");
        }
        assert_eq!(kinds("42"), Err(Why::Neither));
        assert_eq!(kinds(r#"{"error": "unauthorized"}"#), Err(Why::Error));
        let utf16 = SavedFile::of(Path::new("x"), vec![0xff, 0xfe, b'[', 0, b']', 0]);
        assert_eq!(utf16.err(), Some(Why::Utf16));
    }

    #[test]
    fn deeply_nested_json_does_not_overflow_the_stack() {
        let deep = "[".repeat(1_000_000);
        assert_eq!(kinds(&deep), Err(Why::NotJson(CUT_OFF)));
        let closed = format!("[{CONTACT},{}{}]", deep, "]".repeat(1_000_000));
        assert_eq!(kinds(&closed), Ok((0, 1, vec![1])));
    }

    #[test]
    fn a_file_with_fifty_thousand_objects_is_split_into_all_of_them() {
        let all = vec![CONTACT; 50_000].join(",");
        let file = file(&format!("[{all}]")).unwrap();
        assert_eq!(file.count(Kind::Contact), 50_000);
        assert_eq!(file.objects(Kind::Contact).last().unwrap().0, 49_999);
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
            Just(json!("\"]}[{,:\\")),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let key = prop_oneof![
                "[a-z]{0,3}",
                Just("date".to_owned()),
                Just("from".to_owned()),
                Just("emails".to_owned()),
                Just("data".to_owned())
            ];
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                proptest::collection::btree_map(key, inner, 0..6).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_list_is_split_into_its_elements(items in proptest::collection::vec(any_json(), 0..8), pretty in any::<bool>()) {
            let list = Value::from(items.clone());
            let text = if pretty { serde_json::to_string_pretty(&list).unwrap() } else { list.to_string() };
            let places = objects(text.as_bytes()).unwrap();
            let read: Vec<Value> = places.into_iter().map(|place| wire::json(&text.as_bytes()[place]).unwrap()).collect();
            prop_assert_eq!(read, items);
        }

        #[test]
        fn arbitrary_bytes_and_objects_do_not_cause_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), item in any_json(), cut in any::<prop::sample::Index>()) {
            let _ = SavedFile::of(Path::new("x"), bytes);
            let text = json!([item]).to_string();
            let _ = SavedFile::of(Path::new("x"), text.as_bytes()[..cut.index(text.len())].to_vec());
            let mut card = wire::contact(&item);
            let _ = card.keep_usable();
            let _ = mailverse::resolve::contacts::card::new_contact(&card, None);
            let _ = wire::message(&"g".parse().unwrap(), &item);
        }
    }
}
