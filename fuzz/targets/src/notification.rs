//! What somebody who has the webhook secret posts, whatever it is.

use std::sync::LazyLock;

use http::HeaderMap;
use webhook_receiver::notification::{Notification, parse};
use webhook_receiver::signature::{HEADER, Key, Keys, Signature};

static KEYS: LazyLock<Option<Keys>> = LazyLock::new(|| {
    Some(Keys {
        current: Key::new(&"fuzzing".into()).ok()?,
        previous: None,
    })
});

/// Signs the body, verifies it, and reads it, packed or not.
///
/// # Panics
/// A promise about the notification does not hold.
pub fn run(body: &[u8]) {
    let Some(keys) = KEYS.as_ref() else {
        unreachable!("`fuzzing` is a secret");
    };
    let mut headers = HeaderMap::new();
    if let Ok(value) = keys.current.sign(body).parse() {
        headers.insert(HEADER, value);
    }
    let signature = Signature::from_headers(&headers);
    let verified = signature.and_then(|signature| keys.verify(&signature, body));
    let Some(verified) = verified else {
        unreachable!("signed above");
    };
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
}
