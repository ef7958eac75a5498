//! The probe: a signed body that shows that a public address leads to the receiver and that no byte
//! is changed on the way.
//!
//! `mailverse webhook verify` and `mailverse doctor` send it. Its signature is verified like that
//! of any delivery. The receiver recognises its type, answers [`ANSWER`] and does nothing else. A
//! probe is never queued, whatever it contains.

use std::io::Read;

use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::read::GzEncoder;

/// The type of a probe. It cannot clash with types of Nylas, which begin with the name of a
/// resource (Nylas facts §5).
pub const KIND: &str = "mailverse.probe";

/// The receiver's answer to a probe, with status 200. It distinguishes the receiver from a server
/// that answers 200 to everything.
pub const ANSWER: &str = "probe";

/// Returns the bytes of a probe.
///
/// They contain extra blanks, escapes, letters outside ASCII and an escaped slash. A gateway that
/// parses and rewrites the JSON, or changes the encoding, changes the bytes.
#[must_use]
pub fn body(id: &str, now: DateTime<Utc>) -> Vec<u8> {
    let time = now.timestamp();
    format!(
        r#"{{"specversion": "1.0",  "type":"{KIND}", "source":"\/mailverse", "id":"{id}", "time":{time}, "data":{{ "text":"caf\u00e9 café ✓" }} }}"#
    )
    .into_bytes()
}

/// Compresses a body as Nylas does when deliveries are compressed.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let read = GzEncoder::new(bytes, Compression::default()).read_to_end(&mut packed);
    // Compressing bytes in memory cannot fail.
    read.map(|_| packed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gunzip::gunzip;

    #[test]
    fn a_probe_is_json_that_changes_if_it_is_serialised_again() {
        let bytes = body("1", DateTime::UNIX_EPOCH);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&value["type"], &value["id"]), (&KIND.into(), &"1".into()));
        assert_eq!(value["data"]["text"], "café café ✓");
        assert_ne!(serde_json::to_vec(&value).unwrap(), bytes);
    }

    #[test]
    fn a_compressed_probe_decompresses_to_the_same_bytes() {
        let bytes = body("1", DateTime::UNIX_EPOCH);
        let packed = gzip(&bytes);
        assert!(packed.starts_with(&[0x1f, 0x8b]));
        assert_eq!(gunzip(&packed, 1_000).unwrap(), bytes);
    }
}
