//! A certificate as the application's credential: instead of sending a secret, it signs with a
//! private key.
//!
//! The certificate is uploaded at the app registration, so Entra knows the public part. The
//! credential's secret contains certificate and key as PEM. A token request contains a JWT, the
//! assertion: signed with PS256, with the certificate's SHA-256 as `x5t#S256`, valid for five
//! minutes and one request (Dataverse facts §16).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{KeyPair as _, RSA_PSS_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// How long an assertion is valid.
const LIFE: TimeDelta = TimeDelta::minutes(5);

/// A certificate that cannot be used. Detected before any request to Entra.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The text contains no certificate.
    #[error(
        "certificate_pem contains no certificate: it must begin with -----BEGIN CERTIFICATE-----"
    )]
    Certificate,
    /// The text contains no key, or not an RSA key.
    #[error(
        "private_key_pem contains no RSA key of 2048 bits or more: it must begin with -----BEGIN PRIVATE KEY----- or -----BEGIN RSA PRIVATE KEY-----, without a passphrase"
    )]
    PrivateKey,
    /// Certificate and key belong to different key pairs.
    #[error(
        "private_key_pem is not the key of certificate_pem: store a certificate and the key it was made with"
    )]
    Mismatch,
    /// The certificate has expired.
    #[error(
        "the certificate expired on {ended}: make a new one, upload its public part at the app registration, and store it with its key"
    )]
    Expired {
        /// The last moment at which it was valid.
        ended: DateTime<Utc>,
    },
    /// The certificate is not valid yet.
    #[error(
        "the certificate is not valid before {begins}: wait until then, or check the clock of this machine"
    )]
    NotYet {
        /// The first moment at which it is valid.
        begins: DateTime<Utc>,
    },
}

/// A certificate with its private key. Cheap to clone.
#[derive(Clone)]
pub struct ClientCertificate {
    key: Arc<KeyPair>,
    /// `x5t#S256`
    thumbprint: String,
    begins: DateTime<Utc>,
    ends: DateTime<Utc>,
}

// Leaves out the key.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("thumbprint", &self.thumbprint)
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl ClientCertificate {
    /// Reads the first certificate of `certificate` and the first key of `key`. Both are PEM; the
    /// key is PKCS#8 or PKCS#1.
    ///
    /// # Errors
    /// [`CertificateError`]: the text says what to store instead.
    pub fn from_pem(certificate: &str, key: &SecretString) -> Result<Self, CertificateError> {
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| CertificateError::Certificate)?;
        let parsed = Certificate::from_der(&der).map_err(|_| CertificateError::Certificate)?;
        let key = private_key(key)?;
        let part = parsed.tbs_certificate();
        let public = part
            .subject_public_key_info()
            .subject_public_key
            .raw_bytes();
        if key.public_key().as_ref() != public {
            return Err(CertificateError::Mismatch);
        }
        let validity = part.validity();
        Ok(Self {
            key: Arc::new(key),
            thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(&der)),
            begins: validity.not_before.to_system_time().into(),
            ends: validity.not_after.to_system_time().into(),
        })
    }

    /// Signs the assertion that the application `client_id` sends to `token_url`. Valid for one
    /// request; the caller draws `id` at random for each.
    ///
    /// # Errors
    /// [`CertificateError`]: the certificate has expired or is not valid yet.
    pub fn assertion(
        &self,
        client_id: &str,
        token_url: &str,
        id: Uuid,
        now: DateTime<Utc>,
    ) -> Result<SecretString, CertificateError> {
        if now > self.ends {
            return Err(CertificateError::Expired { ended: self.ends });
        }
        if now < self.begins {
            return Err(CertificateError::NotYet {
                begins: self.begins,
            });
        }
        let header = json!({"alg": "PS256", "typ": "JWT", "x5t#S256": self.thumbprint});
        let claims = json!({
            "aud": token_url, "iss": client_id, "sub": client_id, "jti": id,
            "nbf": now.timestamp(), "iat": now.timestamp(), "exp": (now + LIFE).timestamp(),
        });
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(&RSA_PSS_SHA256, &random, signed.as_bytes(), &mut signature)
            .map_err(|_| CertificateError::PrivateKey)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into())
    }
}

fn private_key(pem: &SecretString) -> Result<KeyPair, CertificateError> {
    let key = PrivateKeyDer::from_pem_slice(pem.expose_secret().as_bytes())
        .map_err(|_| CertificateError::PrivateKey)?;
    let key = match &key {
        PrivateKeyDer::Pkcs8(der) => KeyPair::from_pkcs8(der.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(der) => KeyPair::from_der(der.secret_pkcs1_der()),
        _ => return Err(CertificateError::PrivateKey),
    };
    key.map_err(|_| CertificateError::PrivateKey)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
    use rcgen::{CertificateParams, PKCS_RSA_SHA256, date_time_ymd};

    use super::*;

    struct Pair {
        certificate: String,
        key: SecretString,
        public: Vec<u8>,
    }

    /// Valid in 2026 and 2027.
    fn pair() -> Pair {
        let key = rcgen::KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2028, 1, 1);
        Pair {
            certificate: params.self_signed(&key).unwrap().pem(),
            public: key.public_key_raw().to_vec(),
            key: key.serialize_pem().into(),
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn sign(pair: &Pair, now: &str) -> Result<SecretString, CertificateError> {
        let certificate = ClientCertificate::from_pem(&pair.certificate, &pair.key).unwrap();
        certificate.assertion("app", "https://login.example/token", Uuid::nil(), at(now))
    }

    #[test]
    fn an_assertion_is_signed_for_one_request_and_is_valid_for_five_minutes() {
        let pair = pair();
        let assertion = sign(&pair, "2026-11-20T06:00:00Z").unwrap();
        let (signed, signature) = assertion.expose_secret().rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, &pair.public)
            .verify(signed.as_bytes(), &signature)
            .unwrap();
        let parts: Vec<Value> = signed
            .split('.')
            .map(|part| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap())
            .collect();
        let der = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
        assert_eq!(
            parts[0],
            json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(Sha256::digest(&der))})
        );
        let now = at("2026-11-20T06:00:00Z").timestamp();
        assert_eq!(
            parts[1],
            json!({"aud": "https://login.example/token", "iss": "app", "sub": "app", "jti": Uuid::nil(), "nbf": now, "iat": now, "exp": now + 300})
        );
    }

    #[test]
    fn an_expired_or_not_yet_valid_certificate_is_reported() {
        let pair = pair();
        let ended = at("2028-01-01T00:00:00Z");
        assert_eq!(
            sign(&pair, "2028-01-01T00:00:01Z").unwrap_err(),
            CertificateError::Expired { ended }
        );
        let begins = at("2026-01-01T00:00:00Z");
        assert_eq!(
            sign(&pair, "2025-12-31T23:59:59Z").unwrap_err(),
            CertificateError::NotYet { begins }
        );
    }

    #[test]
    fn each_kind_of_invalid_certificate_or_key_is_distinguished() {
        let (pair, other) = (pair(), self::pair());
        let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
        for (certificate, key, expected) in [
            (
                &pair.certificate,
                other.key.expose_secret(),
                CertificateError::Mismatch,
            ),
            (
                &"no PEM".to_owned(),
                pair.key.expose_secret(),
                CertificateError::Certificate,
            ),
            (&pair.certificate, "no PEM", CertificateError::PrivateKey),
            (
                &pair.certificate,
                elliptic.as_str(),
                CertificateError::PrivateKey,
            ),
            (
                &pair.certificate,
                pair.certificate.as_str(),
                CertificateError::PrivateKey,
            ),
        ] {
            let key = SecretString::from(key);
            let error = ClientCertificate::from_pem(certificate, &key).unwrap_err();
            assert_eq!(error, expected);
            assert!(!error.to_string().contains(key.expose_secret()));
        }
    }
}
