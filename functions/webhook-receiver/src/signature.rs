//! Verifies the signature of a webhook delivery.
//!
//! Nylas signs every delivery: the header `x-nylas-signature` contains the HMAC-SHA256 of the exact
//! bytes of the body, in hex, with the webhook secret of the destination as the key. If the
//! delivery is compressed, the compressed bytes are signed.
//!
//! - The raw bytes are verified before anything parses them. [`VerifiedBody`] is the proof: only
//!   [`Keys::verify`] creates it, and the notification parser accepts nothing else. No setting
//!   turns verification off.
//! - The comparison takes constant time.
//! - Two secrets are valid, the current and the previous one. Nylas stops using the old one at once
//!   when it is rotated, but deliveries already on their way have the old signature.
//! - The signed text contains no time and no nonce, so a recorded delivery can be replayed. That is
//!   harmless: it names a message, and processing the same message again changes nothing.
//!
//! For the source of the secrets see [`crate::webhook_secrets`]. Source of the rule: Nylas facts
//! §3.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::gunzip::{InflateError, gunzip};

/// The header with the signature; header names are case-insensitive.
pub const HEADER: &str = "x-nylas-signature";

/// The secret with which Nylas signs test events. It is public.
///
/// Source: Nylas facts §2, `POST /v3/webhooks/send-test-event`.
const KNOWN_TO_EVERYBODY: &str = "mock-webhook-secret";

/// Why a text is not accepted as a webhook secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// The text is empty or blank.
    #[error("the webhook secret is empty")]
    Blank,
    /// Nylas signs test events with it, so anyone could sign.
    #[error(
        "the webhook secret is the public one of Nylas' test events; store the secret of your webhook destination"
    )]
    KnownToEverybody,
}

/// A webhook secret, ready for signing.
#[derive(Clone)]
pub struct Key(Hmac<Sha256>);

impl Key {
    /// Checks a secret. Whitespace around it is removed, because storing a secret easily adds a
    /// line end.
    ///
    /// # Errors
    /// [`SecretProblem`]: behave as if no secret were stored, and report the problem to the
    /// operator.
    pub fn new(secret: &SecretString) -> Result<Self, SecretProblem> {
        match secret.expose_secret().trim() {
            "" => Err(SecretProblem::Blank),
            KNOWN_TO_EVERYBODY => Err(SecretProblem::KnownToEverybody),
            text => Hmac::new_from_slice(text.as_bytes())
                .map(Self)
                .map_err(|_| SecretProblem::Blank),
        }
    }

    /// Returns the value of the signature header for `body`, in the form that Nylas uses. For the
    /// command, which signs saved events.
    #[must_use]
    pub fn sign(&self, body: &[u8]) -> String {
        hex::encode(self.0.clone().chain_update(body).finalize().into_bytes())
    }

    fn made(&self, signature: &Signature, body: &[u8]) -> bool {
        let mac = self.0.clone().chain_update(body);
        mac.verify_slice(&signature.0).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

/// The secrets that are valid at the same time.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The current secret.
    pub current: Key,
    /// The previous secret; `None` if there is none.
    pub previous: Option<Key>,
}

impl Keys {
    /// Returns the proof that one of the secrets signed `body`; `None` if neither did.
    #[must_use]
    pub fn verify<'a>(&self, signature: &Signature, body: &'a [u8]) -> Option<VerifiedBody<'a>> {
        let mut keys = std::iter::once(&self.current).chain(&self.previous);
        keys.any(|key| key.made(signature, body))
            .then_some(VerifiedBody(Cow::Borrowed(body)))
    }
}

/// The signature in a delivery's header, not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature([u8; 32]);

impl Signature {
    /// Parses the header: exactly 64 hex digits. Returns `None` if it is missing, repeated or
    /// different.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let (Some(value), None) = (values.next(), values.next()) else {
            return None;
        };
        let mut bytes = [0; 32];
        hex::decode_to_slice(value.as_bytes(), &mut bytes)
            .ok()
            .map(|()| Self(bytes))
    }
}

/// A body that was signed with the webhook secret.
pub struct VerifiedBody<'a>(Cow<'a, [u8]>);

impl VerifiedBody<'_> {
    /// Returns the bytes of the body.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Decompresses the body, up to `limit` bytes.
    ///
    /// # Errors
    /// [`InflateError`]: refuse the body; the same bytes would fail again.
    pub fn inflated(&self, limit: usize) -> Result<VerifiedBody<'static>, InflateError> {
        gunzip(&self.0, limit).map(|bytes| VerifiedBody(Cow::Owned(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(secret: &str) -> Key {
        Key::new(&secret.into()).unwrap()
    }

    fn keys(current: &str, previous: Option<&str>) -> Keys {
        Keys {
            current: key(current),
            previous: previous.map(key),
        }
    }

    fn signature(text: &str) -> Option<Signature> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().unwrap());
        Signature::from_headers(&headers)
    }

    /// For the source of the vector see `tests/fixtures/README.md`.
    #[test]
    fn the_test_vector_published_by_nylas_verifies() {
        let body = include_bytes!("../tests/fixtures/signed-grant.deleted.body");
        let vector = include_str!("../tests/fixtures/signed-grant.deleted.meta.json");
        let vector: serde_json::Value = serde_json::from_str(vector).unwrap();
        let text = |name: &str| vector[name].as_str().unwrap();

        let keys = keys(text("webhook_secret"), None);
        let valid = signature(text("valid_signature")).unwrap();
        assert!(
            keys.verify(&valid, body)
                .is_some_and(|verified| verified.bytes() == body)
        );
        let invalid = signature(text("invalid_signature")).unwrap();
        assert!(keys.verify(&invalid, body).is_none());
        assert_eq!(
            key(text("webhook_secret")).sign(body),
            text("valid_signature")
        );
    }

    #[test]
    fn only_the_current_and_the_previous_secret_are_accepted() {
        let keys = keys("new", Some("old"));
        let by = |secret: &str| signature(&key(secret).sign(b"body")).unwrap();
        assert!(keys.verify(&by("new"), b"body").is_some());
        assert!(keys.verify(&by("old"), b"body").is_some());
        assert!(keys.verify(&by("older"), b"body").is_none());
    }

    #[test]
    fn one_changed_byte_of_the_body_or_the_signature_fails_verification() {
        let keys = keys("secret", None);
        let good = key("secret").sign(b"body");
        let signed = signature(&good).unwrap();
        assert!(keys.verify(&signed, b"bodY").is_none());
        assert!(keys.verify(&signed, b"body\n").is_none());
        for at in 0..64 {
            let mut other = good.clone().into_bytes();
            other[at] = if other[at] == b'0' { b'1' } else { b'0' };
            let other = signature(std::str::from_utf8(&other).unwrap()).unwrap();
            assert!(keys.verify(&other, b"body").is_none(), "digit {at}");
        }
    }

    #[test]
    fn a_signature_is_exactly_one_header_with_64_hex_digits() {
        let good = key("secret").sign(b"body");
        assert_eq!(signature(&good), signature(&good.to_uppercase()));
        assert!(signature(&good).is_some());
        for other in [
            String::new(),
            good[..62].to_owned(),
            format!("{good}00"),
            format!("sha256={good}"),
            format!(" {good}"),
            format!("0x{}", &good[..62]),
            format!("{good},{good}"),
            "g".repeat(64),
        ] {
            assert_eq!(signature(&other), None, "{other}");
        }
        assert_eq!(Signature::from_headers(&HeaderMap::new()), None);
        let mut twice = HeaderMap::new();
        twice.append(HEADER, good.parse().unwrap());
        twice.append("X-Nylas-Signature", good.parse().unwrap());
        assert_eq!(Signature::from_headers(&twice), None);
    }

    #[test]
    fn a_blank_or_publicly_known_secret_is_rejected() {
        for blank in ["", "  ", "\n"] {
            assert_eq!(Key::new(&blank.into()).err(), Some(SecretProblem::Blank));
        }
        for known in ["mock-webhook-secret", " mock-webhook-secret\n"] {
            assert_eq!(
                Key::new(&known.into()).err(),
                Some(SecretProblem::KnownToEverybody)
            );
        }
        assert_eq!(key("secret\n").sign(b"x"), key("secret").sign(b"x"));
        assert_eq!(
            format!("{:?}", keys("secret", None)),
            "Keys { current: Key(…), previous: None }"
        );
    }

    #[test]
    fn decompressing_a_verified_body_that_is_not_gzip_fails() {
        let verified = VerifiedBody(Cow::Borrowed(b"{}"));
        assert_eq!(verified.inflated(10).err(), Some(InflateError::NotGzip));
    }
}
