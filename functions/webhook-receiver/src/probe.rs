//! The probe: a signed body that proves the way from a public address to the receiver, and that nothing on the way
//! changes a byte of it.
//!
//! `mailverse webhook verify` and `mailverse doctor` send it; the receiver recognises its type, after the signature was
//! verified like that of any delivery, answers [`ANSWER`] and does nothing else. It is never queued, whatever it holds.

use std::io::Read;

use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::read::GzEncoder;

/// The type of a probe. Nylas' types begin with the name of a resource (Nylas facts §5), so it meets none of them.
pub const KIND: &str = "mailverse.probe";

/// What the receiver answers to a probe, with status 200: something that answers 200 to everything is not taken for it.
pub const ANSWER: &str = "probe";

/// The bytes of a probe.
///
/// Blanks, escapes, letters beyond ASCII and an escaped slash, so that a gateway that reads JSON and writes it again, or
/// changes the encoding, changes bytes.
#[must_use]
pub fn body(id: &str, now: DateTime<Utc>) -> Vec<u8> {
    let time = now.timestamp();
    format!(
        r#"{{"specversion": "1.0",  "type":"{KIND}", "source":"\/mailverse", "id":"{id}", "time":{time}, "data":{{ "text":"caf\u00e9 café ✓" }} }}"#
    )
    .into_bytes()
}

/// What Nylas makes of a body when deliveries are compressed.
#[must_use]
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let read = GzEncoder::new(bytes, Compression::default()).read_to_end(&mut packed);
    // Packing bytes that are in memory cannot fail.
    read.map(|_| packed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inflate::gunzip;

    #[test]
    fn a_probe_is_json_that_nobody_writes_in_the_same_way() {
        let bytes = body("1", DateTime::UNIX_EPOCH);
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&value["type"], &value["id"]), (&KIND.into(), &"1".into()));
        assert_eq!(value["data"]["text"], "café café ✓");
        assert_ne!(serde_json::to_vec(&value).unwrap(), bytes);
    }

    #[test]
    fn a_packed_probe_is_unpacked_to_the_same_bytes() {
        let bytes = body("1", DateTime::UNIX_EPOCH);
        let packed = gzip(&bytes);
        assert!(packed.starts_with(&[0x1f, 0x8b]));
        assert_eq!(gunzip(&packed, 1_000).unwrap(), bytes);
    }
}
