//! Requests a token from Entra with client credentials: a secret or a certificate.
//!
//! `POST {authority}/{tenant}/oauth2/v2.0/token`, form-encoded (verified, Dataverse facts §16).

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;
use uuid::Uuid;

use super::certificate::{CertificateError, ClientCertificate};
use super::token_store::StoredToken;
use crate::clients::http;

/// How the application authenticates.
#[derive(Debug, Clone)]
pub enum Credential {
    /// With a client secret that Entra generated.
    Secret(SecretString),
    /// With a signed assertion.
    Certificate(ClientCertificate),
}

/// Entra issued no token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EntraError {
    /// Entra cannot be reached, throttles, or fails for now: keep the stored token and try again at
    /// the next run.
    #[error("entra is unavailable: {what}")]
    Unavailable {
        /// Status or kind of failure.
        what: String,
    },
    /// An operator has to change something; a retry does not help.
    #[error("entra rejected the credential: {error} AADSTS{code}, {}", meaning(*code))]
    Refused {
        /// The OAuth error.
        error: String,
        /// The number after `AADSTS`; 0 if the answer has none.
        code: u64,
    },
    /// The same, detected before any request to Entra.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl EntraError {
    /// Returns whether an operator has to change something before a retry can succeed.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        match self {
            Self::Unavailable { .. } => false,
            Self::Refused { .. } | Self::Certificate(_) => true,
        }
    }
}

/// Returns the plain meaning of an `AADSTS` code, with the remedy.
///
/// Source: Dataverse facts §16. 700024 is not in it (inferred: Entra's usual answer to an assertion
/// whose `nbf` or `exp` does not fit its clock).
fn meaning(code: u64) -> &'static str {
    match code {
        7_000_215 => {
            "the client secret is wrong: put the secret's value, not its id, into ENTRA_SECRET_ID"
        }
        7_000_222 => {
            "the client secret has expired: make a new one at the app registration and put its value into ENTRA_SECRET_ID"
        }
        700_016 => {
            "the application is not in this tenant: check ENTRA_CLIENT_ID and ENTRA_TENANT_ID"
        }
        700_024 => {
            "the assertion's time does not fit Entra's clock: correct the clock of the requesting machine"
        }
        700_027 => {
            "the certificate or its signature was rejected: upload the public part of the certificate in ENTRA_SECRET_ID at the app registration"
        }
        90_002 => {
            "there is no such tenant: check ENTRA_TENANT_ID and, in a national cloud, ENTRA_AUTHORITY"
        }
        70_011 => "the scope is wrong: check DATAVERSE_URL",
        500_011 => "the tenant has no organisation at this address: check DATAVERSE_URL",
        _ => "see Microsoft's list of AADSTS codes",
    }
}

/// Requests tokens of one application in one tenant for one organisation.
#[derive(Clone)]
pub struct EntraClient {
    http: reqwest::Client,
    token_url: String,
    client_id: String,
    credential: Credential,
    scope: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: i64,
}

impl EntraClient {
    /// Creates a client for the organisation at `organisation`, through the login host `authority`.
    #[must_use]
    pub fn new(
        http: reqwest::Client,
        authority: &Url,
        tenant_id: &str,
        client_id: String,
        credential: Credential,
        organisation: &Url,
    ) -> Self {
        let authority = authority.as_str().trim_end_matches('/');
        let organisation = organisation.as_str().trim_end_matches('/');
        Self {
            http,
            token_url: format!("{authority}/{tenant_id}/oauth2/v2.0/token"),
            client_id,
            credential,
            scope: format!("{organisation}/.default"),
        }
    }

    /// Requests a token.
    ///
    /// Its expiry is `now` plus the lifetime that Entra returns, so that it is right on the clock
    /// of this machine, even if that clock is wrong.
    ///
    /// # Errors
    /// - [`EntraError::Unavailable`]: try again at the next run.
    /// - [`EntraError::Refused`], [`EntraError::Certificate`]: raise an alarm; the text says what
    ///   to change.
    pub async fn request(&self, now: DateTime<Utc>) -> Result<StoredToken, EntraError> {
        let unavailable = |error: reqwest::Error| EntraError::Unavailable {
            what: http::describe(error),
        };
        let proof = self.proof(now)?;
        let mut form = vec![
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("scope", &self.scope),
        ];
        match &self.credential {
            Credential::Secret(_) => form.push(("client_secret", proof.expose_secret())),
            Credential::Certificate(_) => form.extend([
                (
                    "client_assertion_type",
                    "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                ),
                ("client_assertion", proof.expose_secret()),
            ]),
        }
        let answer = self
            .http
            .post(&self.token_url)
            .form(&form)
            .send()
            .await
            .map_err(unavailable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unavailable)?;
        if !status.is_success() {
            return Err(refusal(status.as_u16(), &body));
        }
        let granted = serde_json::from_slice(&body)
            .ok()
            .filter(|granted: &Granted| granted.expires_in > 0);
        let granted = granted.ok_or_else(|| EntraError::Unavailable {
            what: "an answer without a token".to_owned(),
        })?;
        Ok(StoredToken {
            access_token: granted.access_token,
            expires_at: now + TimeDelta::seconds(granted.expires_in.min(86_400)),
            requested_at: now,
        })
    }

    /// Returns the client secret, or a new signed assertion for one request.
    fn proof(&self, now: DateTime<Utc>) -> Result<SecretString, CertificateError> {
        match &self.credential {
            Credential::Secret(secret) => Ok(secret.clone()),
            Credential::Certificate(certificate) => {
                certificate.assertion(&self.client_id, &self.token_url, Uuid::new_v4(), now)
            }
        }
    }
}

fn refusal(status: u16, body: &[u8]) -> EntraError {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let code = body
        .get("error_codes")
        .and_then(|codes| codes.get(0))
        .and_then(Value::as_u64)
        .unwrap_or(0);
    // 50196 is Entra's protection against request loops, which is a kind of throttling.
    if status == 429 || status >= 500 || code == 50_196 {
        return EntraError::Unavailable {
            what: format!("{status} AADSTS{code}"),
        };
    }
    let error = body
        .get("error")
        .and_then(Value::as_str)
        .unwrap_or("unknown error");
    EntraError::Refused {
        error: error.chars().take(100).collect(),
        code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejected_credential_is_distinguished_from_an_outage() {
        let wrong = refusal(
            401,
            br#"{"error":"invalid_client","error_codes":[7000215],"error_description":"AADSTS7000215: x"}"#,
        );
        assert_eq!(
            wrong.to_string(),
            "entra rejected the credential: invalid_client AADSTS7000215, the client secret is wrong: put the secret's value, not its id, into ENTRA_SECRET_ID"
        );
        for (status, body) in [
            (503, "<html>"),
            (429, "{}"),
            (400, r#"{"error":"x","error_codes":[50196]}"#),
        ] {
            assert!(
                matches!(
                    refusal(status, body.as_bytes()),
                    EntraError::Unavailable { .. }
                ),
                "{status}"
            );
        }
        assert!(matches!(
            refusal(400, b""),
            EntraError::Refused { code: 0, .. }
        ));
    }
}
