//! What somebody who has the webhook secret posts, whatever it is.

#![no_main]

use std::sync::LazyLock;

use http::HeaderMap;
use libfuzzer_sys::fuzz_target;
use webhook_receiver::notification::{Notification, parse};
use webhook_receiver::signature::{HEADER, Key, Keys, Signature};

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys {
    current: Key::new(&"fuzzing".into()).expect("a secret"),
    previous: None,
});

fuzz_target!(|body: &[u8]| {
    let mut headers = HeaderMap::new();
    let value = KEYS.current.sign(body).parse().expect("hex digits");
    headers.insert(HEADER, value);
    let signature = Signature::from_headers(&headers).expect("64 hex digits");
    let verified = KEYS.verify(&signature, body).expect("signed above");
    match parse(&verified) {
        Ok(Notification::Message(notification)) => {
            let key = &notification.request.key;
            for id in [key.grant_id.as_str(), key.message_id.as_str()] {
                assert!(!id.is_empty() && id.len() <= 1_000 && id != "." && id != "..");
                assert!(!id.chars().any(char::is_control));
            }
            if let Some(suffix) = &notification.unknown_suffix {
                let text = suffix.text();
                assert!(text.len() <= 32 && text.is_ascii() && !text.contains('@'));
            }
        }
        Ok(Notification::Probe) => {}
        Ok(Notification::Other { kind }) => assert!(kind.chars().count() <= 80),
        Err(error) => assert!(error.to_string().len() < 200, "a reason quotes the body"),
    }
    // Packed bodies take the same way after unpacking.
    if let Ok(unpacked) = verified.inflated(64 * 1024) {
        assert!(unpacked.bytes().len() <= 64 * 1024);
        let _ = parse(&unpacked);
    }
});
