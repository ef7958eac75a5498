//! Asking Entra for a token: client credentials with a secret.
//!
//! `POST {authority}/{tenant}/oauth2/v2.0/token`, form-encoded (verified, Dataverse facts §16).

use chrono::{DateTime, TimeDelta, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::Url;

use super::store::StoredToken;
use crate::http;

/// A token that Entra did not give.
#[derive(Debug, thiserror::Error)]
pub enum EntraError {
    /// Not reachable, throttling, or broken for now: the stored token stays, try at the next run.
    #[error("entra is unavailable: {what}")]
    Unavailable {
        /// Status or kind of failure.
        what: String,
    },
    /// A person has to change something; trying again does not help.
    #[error("entra refused the credential: {error} AADSTS{code}, {}", meaning(*code))]
    Refused {
        /// OAuth error.
        error: String,
        /// The number after `AADSTS`; 0 when the answer has none.
        code: u64,
    },
}

/// The plain meaning of a documented code, with the remedy. Source: Dataverse facts §16.
fn meaning(code: u64) -> &'static str {
    match code {
        7_000_215 => {
            "the client secret is wrong: put the secret's value, not its id, into ENTRA_SECRET_ID"
        }
        7_000_222 => {
            "the client secret has expired: make a new one at the app registration and store it"
        }
        700_016 => {
            "the application is not in this tenant: check ENTRA_CLIENT_ID and ENTRA_TENANT_ID"
        }
        700_027 => {
            "the certificate's signature was refused: check that its public part is at the app registration"
        }
        90_002 => "there is no such tenant: check ENTRA_TENANT_ID and ENTRA_AUTHORITY",
        70_011 => "the scope is wrong: check DATAVERSE_URL",
        500_011 => "the tenant knows no organisation at this address: check DATAVERSE_URL",
        _ => "see Microsoft's list of AADSTS codes",
    }
}

/// One application at one tenant, asking for one organisation.
#[derive(Clone)]
pub struct EntraClient {
    http: reqwest::Client,
    token_url: String,
    client_id: String,
    client_secret: SecretString,
    scope: String,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: i64,
}

impl EntraClient {
    /// A client for the organisation at `organisation`, through the login host `authority`.
    #[must_use]
    pub fn new(
        http: reqwest::Client,
        authority: &Url,
        tenant_id: &str,
        client_id: String,
        client_secret: SecretString,
        organisation: &Url,
    ) -> Self {
        let authority = authority.as_str().trim_end_matches('/');
        let organisation = organisation.as_str().trim_end_matches('/');
        Self {
            http,
            token_url: format!("{authority}/{tenant_id}/oauth2/v2.0/token"),
            client_id,
            client_secret,
            scope: format!("{organisation}/.default"),
        }
    }

    /// Asks for a token.
    ///
    /// # Errors
    /// - [`EntraError::Unavailable`]: try at the next run.
    /// - [`EntraError::Refused`]: raise an alarm; the text says what to change.
    pub async fn request(&self, now: DateTime<Utc>) -> Result<StoredToken, EntraError> {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", &self.client_id),
            ("client_secret", self.client_secret.expose_secret()),
            ("scope", &self.scope),
        ];
        let unavailable = |error: reqwest::Error| EntraError::Unavailable {
            what: http::describe(error),
        };
        let answer = self
            .http
            .post(&self.token_url)
            .form(&form)
            .send()
            .await
            .map_err(unavailable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unavailable)?;
        if status.is_success() {
            let granted: Granted =
                serde_json::from_slice(&body).map_err(|_| EntraError::Unavailable {
                    what: "an answer without a token".to_owned(),
                })?;
            let expires_at = now + TimeDelta::seconds(granted.expires_in.clamp(0, 86_400));
            return Ok(StoredToken {
                access_token: granted.access_token.into(),
                expires_at,
            });
        }
        Err(refusal(status.as_u16(), &body))
    }
}

fn refusal(status: u16, body: &[u8]) -> EntraError {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let code = body
        .get("error_codes")
        .and_then(|codes| codes.get(0))
        .and_then(Value::as_u64)
        .unwrap_or(0);
    // 50196 is Entra's guard against loops: throttling by another name.
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
    fn a_refused_credential_is_told_from_an_outage() {
        let wrong = refusal(
            401,
            br#"{"error":"invalid_client","error_codes":[7000215],"error_description":"AADSTS7000215: x"}"#,
        );
        assert_eq!(
            wrong.to_string(),
            "entra refused the credential: invalid_client AADSTS7000215, the client secret is wrong: put the secret's value, not its id, into ENTRA_SECRET_ID"
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
