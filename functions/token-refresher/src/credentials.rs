//! Parses the secret that holds the Entra credentials of one or several app registrations.
//!
//! ```json
//! {"client_secret": "…",
//!  "application_users": {"second": {
//!    "client_id": "…",
//!    "certificate_pem": "-----BEGIN CERTIFICATE-----…",
//!    "private_key_pem": "-----BEGIN PRIVATE KEY-----…"}}}
//! ```
//!
//! Each app registration has a client secret, or a certificate with its private key. The top level
//! is the primary one. Without a `client_id`, `ENTRA_CLIENT_ID` is used.

use mailverse::clients::entra::certificate::{CertificateError, ClientCertificate};
use mailverse::clients::entra::client::Credential;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// An app registration in the secret.
pub struct Application {
    /// The name of its application user; `None` for the primary one.
    pub application_user: Option<String>,
    /// Its client id and credential, or why they cannot be used.
    pub proof: Result<Proof, CredentialError>,
}

/// What an app registration signs in with.
#[derive(Debug)]
pub struct Proof {
    /// Application (client) id; `None` means the one in the settings.
    pub client_id: Option<String>,
    /// The client secret or certificate.
    pub credential: Credential,
}

/// Why a credential cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The JSON does not have one of the two known forms.
    #[error(
        "the credential must be JSON of the form {{\"client_secret\": \"…\"}} or {{\"certificate_pem\": \"…\", \"private_key_pem\": \"…\"}}"
    )]
    Malformed,
    /// The certificate or its private key cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

#[derive(Deserialize)]
struct Wire {
    client_id: Option<String>,
    client_secret: Option<SecretString>,
    certificate_pem: Option<String>,
    private_key_pem: Option<SecretString>,
}

/// Returns all app registrations in the secret's text, the primary one first. A problem with one
/// does not affect the others.
///
/// # Errors
/// [`CredentialError::Malformed`]: the text is not a JSON object, or `application_users` is not
/// one. Correct the secret.
pub fn read(text: &SecretString) -> Result<Vec<Application>, CredentialError> {
    let document: Value =
        serde_json::from_str(text.expose_secret()).map_err(|_| CredentialError::Malformed)?;
    let fields = document.as_object().ok_or(CredentialError::Malformed)?;
    let mut all = vec![Application {
        application_user: None,
        proof: proof(&document),
    }];
    match fields.get("application_users") {
        None => {}
        Some(Value::Object(application_users)) => {
            all.extend(
                application_users
                    .iter()
                    .map(|(name, document)| Application {
                        application_user: Some(name.clone()),
                        proof: proof(document),
                    }),
            );
        }
        Some(_) => return Err(CredentialError::Malformed),
    }
    Ok(all)
}

fn proof(document: &Value) -> Result<Proof, CredentialError> {
    // The error is dropped because serde may quote the secret in it.
    let wire = Wire::deserialize(document).map_err(|_| CredentialError::Malformed)?;
    let credential = match (
        wire.client_secret,
        wire.certificate_pem,
        wire.private_key_pem,
    ) {
        (Some(secret), None, None) => Credential::Secret(secret),
        (None, Some(certificate), Some(key)) => {
            Credential::Certificate(ClientCertificate::from_pem(&certificate, &key)?)
        }
        _ => return Err(CredentialError::Malformed),
    };
    Ok(Proof {
        client_id: wire.client_id,
        credential,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Vec<Application> {
        read(&SecretString::from(text)).unwrap()
    }

    #[test]
    fn the_credentials_of_one_or_several_application_users_are_read() {
        let all = read_text(
            r#"{"client_secret": "s", "application_users": {"second": {"client_id": "app", "client_secret": "t"}}}"#,
        );
        let read: Vec<_> = all
            .iter()
            .map(|one| {
                let proof = one.proof.as_ref().unwrap();
                (one.application_user.as_deref(), proof.client_id.as_deref())
            })
            .collect();
        assert_eq!(read, [(None, None), (Some("second"), Some("app"))]);
    }

    #[test]
    fn an_invalid_credential_is_reported_without_quoting_it() {
        for text in [
            r#"{"client_secret": 7}"#,
            r#"{"client_secret": "s", "certificate_pem": "c", "private_key_pem": "k"}"#,
            r#"{"certificate_pem": "c"}"#,
            r#"{"private_key_pem": "k"}"#,
            "{}",
        ] {
            let proof = &read_text(text)[0].proof;
            assert_eq!(
                proof.as_ref().unwrap_err(),
                &CredentialError::Malformed,
                "{text}"
            );
        }
        for text in [
            "the secret",
            "[]",
            r#"{"client_secret": "s", "application_users": []}"#,
        ] {
            let error = read(&SecretString::from(text)).err().unwrap();
            assert_eq!(error, CredentialError::Malformed, "{text}");
            assert!(!error.to_string().contains("the secret"));
        }
    }

    #[test]
    fn an_unreadable_certificate_is_reported_and_the_other_credentials_are_read() {
        let all = read_text(
            r#"{"certificate_pem": "c", "private_key_pem": "k", "application_users": {"second": {"client_secret": "t"}}}"#,
        );
        assert_eq!(
            all[0].proof.as_ref().unwrap_err(),
            &CredentialError::Certificate(CertificateError::Certificate)
        );
        assert!(all[1].proof.is_ok());
    }
}
