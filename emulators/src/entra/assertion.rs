//! How Entra checks a client assertion: a JWT that an application signs with the key of an uploaded
//! certificate.
//!
//! Dataverse facts §16, verified: the fields of header and claims, and that Entra checks them. Our
//! choice: PS256 is the only accepted algorithm (inferred: Entra still accepts the older RS256 with
//! `x5t`). Inferred: the numbers of the errors, that an `exp` more than ten minutes after `nbf` is
//! rejected, and the tolerance of five minutes for clock differences.

use std::collections::HashSet;

use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sha2::{Digest, Sha256};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::OAuthError;

/// The only accepted `client_assertion_type`.
pub(super) const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Longest lifetime of an assertion, from `nbf` to `exp`.
const LONGEST: TimeDelta = TimeDelta::minutes(10);

/// How far the sender's clock may be wrong.
const TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// What an assertion has to match.
pub(super) struct Expected<'a> {
    /// The application's certificates in DER, as uploaded.
    pub(super) certificates: &'a [Vec<u8>],
    pub(super) client_id: &'a str,
    pub(super) audience: &'a str,
    pub(super) now: DateTime<Utc>,
}

impl Expected<'_> {
    /// Checks an assertion, and adds its id to `taken`: an id is accepted only once.
    pub(super) fn check(
        &self,
        assertion: &str,
        taken: &mut HashSet<String>,
    ) -> Result<(), OAuthError> {
        let claims = self.signed_claims(assertion)?;
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        if text("aud") != self.audience {
            return Err(malformed("Client assertion audience claim does not match."));
        }
        for name in ["iss", "sub"] {
            if !text(name).eq_ignore_ascii_case(self.client_id) {
                return Err(malformed(
                    "Client assertion issuer or subject is not the client.",
                ));
            }
        }
        self.check_time(&claims)?;
        let id = text("jti");
        if id.is_empty() || !taken.insert(id.to_owned()) {
            return Err(malformed(
                "Client assertion id is missing or was used before.",
            ));
        }
        Ok(())
    }

    /// Returns the claims if the key of one of the certificates signed them.
    fn signed_claims(&self, assertion: &str) -> Result<Value, OAuthError> {
        let parts: Vec<&str> = assertion.split('.').collect();
        let [header, claims, signature] = parts.as_slice() else {
            return Err(malformed("Invalid JWT token."));
        };
        let header = json(header)?;
        if header.get("alg").and_then(Value::as_str) != Some("PS256") {
            return Err(malformed(
                "Invalid JWT token: the algorithm is not supported.",
            ));
        }
        let thumbprint = header.get("x5t#S256").and_then(Value::as_str);
        let certificate = self
            .certificates
            .iter()
            .find(|der| Some(URL_SAFE_NO_PAD.encode(Sha256::digest(der)).as_str()) == thumbprint);
        let certificate = certificate.and_then(|der| Certificate::from_der(der).ok());
        let Some(certificate) = certificate else {
            return Err(refused(
                "The certificate with identifier used to sign the client assertion is not registered on application.",
            ));
        };
        let part = certificate.tbs_certificate();
        let ends: DateTime<Utc> = part.validity().not_after.to_system_time().into();
        if ends < self.now {
            return Err(refused("Client assertion contains an expired certificate."));
        }
        let key = part
            .subject_public_key_info()
            .subject_public_key
            .raw_bytes();
        let signed = assertion.rsplit_once('.').map_or("", |(signed, _)| signed);
        let signature = bytes(signature)?;
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key)
            .verify(signed.as_bytes(), &signature)
            .map_err(|_| refused("Client assertion contains an invalid signature."))?;
        json(claims)
    }

    fn check_time(&self, claims: &Value) -> Result<(), OAuthError> {
        let time = |name: &str| {
            let seconds = claims.get(name).and_then(Value::as_i64);
            seconds
                .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
                .ok_or_else(|| malformed("Client assertion lacks a time."))
        };
        let (begins, ends) = (time("nbf")?, time("exp")?);
        if begins > self.now + TOLERANCE || ends <= self.now - TOLERANCE {
            let text = format!(
                "Client assertion is not within its valid time range. Current time: {}, assertion valid from {begins}, expiry time of assertion {ends}.",
                self.now
            );
            return Err(OAuthError::new(401, "invalid_client", 700_024, &text));
        }
        if ends - begins > LONGEST {
            return Err(malformed("Client assertion lives for too long."));
        }
        Ok(())
    }
}

fn bytes(part: &str) -> Result<Vec<u8>, OAuthError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| malformed("Invalid JWT token."))
}

fn json(part: &str) -> Result<Value, OAuthError> {
    serde_json::from_slice(&bytes(part)?).map_err(|_| malformed("Invalid JWT token."))
}

fn malformed(text: &str) -> OAuthError {
    OAuthError::new(401, "invalid_client", 50_027, text)
}

fn refused(text: &str) -> OAuthError {
    OAuthError::new(401, "invalid_client", 700_027, text)
}
