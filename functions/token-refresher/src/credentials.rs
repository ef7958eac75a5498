//! The credential's secret: one application, or several.
//!
//! ```json
//! {"client_secret": "…",
//!  "application_users": {"second": {"client_id": "…", "certificate_pem": "-----BEGIN CERTIFICATE-----…", "private_key_pem": "-----BEGIN PRIVATE KEY-----…"}}}
//! ```
//!
//! Each application has a secret or a certificate with its key. The top level is the primary user's; `client_id` is `ENTRA_CLIENT_ID` where it is not told.

use mailverse::entra::certificate::{CertificateError, ClientCertificate};
use mailverse::entra::request::Credential;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// An application, by the name of its user; `None` is the primary one.
pub struct Application {
    /// The user.
    pub identity: Option<String>,
    /// Who asks, and how it proves that; or why that cannot be told.
    pub proof: Result<Proof, CredentialError>,
}

/// Who asks, and how it proves that.
#[derive(Debug)]
pub struct Proof {
    /// Application (client) id; `None` is that of the settings.
    pub client_id: Option<String>,
    /// Its credential.
    pub credential: Credential,
}

/// A credential that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Not a form that we know.
    #[error(
        "the credential is not the JSON {{\"client_secret\": \"…\"}} or {{\"certificate_pem\": \"…\", \"private_key_pem\": \"…\"}}"
    )]
    Malformed,
    /// A certificate that cannot be used.
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

/// All applications in the secret's text, the primary one first. What is wrong with one costs the others nothing.
///
/// # Errors
/// [`CredentialError::Malformed`]: it is no JSON object.
pub fn read(text: &SecretString) -> Result<Vec<Application>, CredentialError> {
    let document: Value =
        serde_json::from_str(text.expose_secret()).map_err(|_| CredentialError::Malformed)?;
    let fields = document.as_object().ok_or(CredentialError::Malformed)?;
    let mut all = vec![Application {
        identity: None,
        proof: proof(&document),
    }];
    match fields.get("application_users") {
        None => {}
        Some(Value::Object(identities)) => {
            all.extend(identities.iter().map(|(name, document)| Application {
                identity: Some(name.clone()),
                proof: proof(document),
            }));
        }
        Some(_) => return Err(CredentialError::Malformed),
    }
    Ok(all)
}

fn proof(document: &Value) -> Result<Proof, CredentialError> {
    // The error of serde may quote the secret.
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
    fn one_application_or_several_are_read() {
        let all = read_text(
            r#"{"client_secret": "s", "application_users": {"second": {"client_id": "app", "client_secret": "t"}}}"#,
        );
        let read: Vec<_> = all
            .iter()
            .map(|one| {
                let proof = one.proof.as_ref().unwrap();
                (one.identity.as_deref(), proof.client_id.as_deref())
            })
            .collect();
        assert_eq!(read, [(None, None), (Some("second"), Some("app"))]);
    }

    #[test]
    fn what_is_no_credential_is_said_without_quoting_it() {
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
    fn a_certificate_that_cannot_be_read_is_named_and_the_others_stay() {
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
