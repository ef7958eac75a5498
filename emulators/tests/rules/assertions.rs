//! Which client assertions (JWT) Entra accepts in exchange for a token.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use rcgen::{CertificateParams, PKCS_RSA_SHA256, date_time_ymd};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::valid_client::ValidClient;

/// A key pair with its certificate, and the application and token URL that it signs for.
struct Signer {
    key: KeyPair,
    der: Vec<u8>,
    client_id: String,
    token_url: String,
}

/// A valid assertion before it is signed. Each test then makes one part invalid.
struct Assertion {
    header: Value,
    claims: Value,
}

impl Signer {
    fn new(client: &ValidClient, ends_in_year: i32) -> Self {
        let key = rcgen::KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_after = date_time_ymd(ends_in_year, 1, 1);
        let entra = client.emulators.entra();
        Self {
            der: params.self_signed(&key).unwrap().der().to_vec(),
            key: KeyPair::from_pkcs8(&key.serialize_der()).unwrap(),
            client_id: entra.client_id(),
            token_url: format!(
                "{}/{}/oauth2/v2.0/token",
                entra.authority(),
                entra.tenant_id()
            ),
        }
    }

    fn uploaded(client: &ValidClient) -> Self {
        let signer = Self::new(client, 4000);
        let entra = client.emulators.entra();
        entra.upload_certificate(&signer.client_id, &signer.der);
        signer
    }

    fn right(&self, now: DateTime<Utc>) -> Assertion {
        let now = now.timestamp();
        Assertion {
            header: json!({"alg": "PS256", "typ": "JWT", "x5t#S256": URL_SAFE_NO_PAD.encode(Sha256::digest(&self.der))}),
            claims: json!({
                "aud": self.token_url, "iss": self.client_id, "sub": self.client_id, "jti": Uuid::new_v4(),
                "nbf": now, "iat": now, "exp": now + 300,
            }),
        }
    }

    fn sign(&self, assertion: &Assertion) -> String {
        self.sign_with(assertion, &RSA_PSS_SHA256)
    }

    fn sign_with(&self, assertion: &Assertion, scheme: &'static dyn RsaEncoding) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let signed = format!(
            "{}.{}",
            encode(&assertion.header),
            encode(&assertion.claims)
        );
        let mut signature = vec![0; self.key.public_modulus_len()];
        let random = SystemRandom::new();
        self.key
            .sign(scheme, &random, signed.as_bytes(), &mut signature)
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

async fn ask(client: &ValidClient, signer: &Signer, assertion: &str) -> (u16, Value) {
    let form = [
        ("client_id", signer.client_id.as_str()),
        (
            "scope",
            &format!("{}/.default", client.emulators.dataverse().url()),
        ),
        ("grant_type", "client_credentials"),
        (
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        ),
        ("client_assertion", assertion),
    ];
    let response = client.http.post(&signer.token_url).form(&form).send();
    let response = response.await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

async fn refused(client: &ValidClient, signer: &Signer, assertion: &str) -> i64 {
    let (status, body) = ask(client, signer, assertion).await;
    assert_eq!(
        (status, body["error"].as_str()),
        (401, Some("invalid_client")),
        "{body}"
    );
    body["error_codes"][0].as_i64().unwrap()
}

#[tokio::test]
async fn an_assertion_signed_with_an_uploaded_certificate_gets_a_token_once() {
    let mut client = ValidClient::new().await;
    let signer = Signer::uploaded(&client);
    let assertion = signer.sign(&signer.right(client.emulators.clock().now()));
    let (status, body) = ask(&client, &signer, &assertion).await;
    assert_eq!(status, 200, "{body}");
    body["access_token"]
        .as_str()
        .unwrap()
        .clone_into(&mut client.token);
    assert_eq!(client.get("WhoAmI").await.status, 200);
    assert_eq!(
        refused(&client, &signer, &assertion).await,
        50_027,
        "an assertion is accepted only once"
    );
}

#[tokio::test]
async fn each_claim_of_an_assertion_is_checked() {
    let client = ValidClient::new().await;
    let signer = Signer::uploaded(&client);
    let now = client.emulators.clock().now();
    for (part, value, number) in [
        ("aud", json!("https://login.example.com"), 50_027),
        ("iss", json!("somebody"), 50_027),
        ("sub", json!("somebody"), 50_027),
        ("jti", json!(""), 50_027),
        ("exp", json!(now.timestamp() + 601), 50_027),
        ("exp", json!(now.timestamp() - 301), 700_024),
        ("nbf", json!(now.timestamp() + 310), 700_024),
        ("nbf", json!("now"), 50_027),
    ] {
        let mut assertion = signer.right(now);
        assertion.claims[part] = value.clone();
        let got = refused(&client, &signer, &signer.sign(&assertion)).await;
        assert_eq!(got, number, "{part} {value}");
    }
}

#[tokio::test]
async fn each_part_of_the_signature_is_checked() {
    let client = ValidClient::new().await;
    let (signer, stranger) = (Signer::uploaded(&client), Signer::new(&client, 4000));
    let right = signer.right(client.emulators.clock().now());
    let expect = async |assertion: &str, number, what: &str| {
        assert_eq!(refused(&client, &signer, assertion).await, number, "{what}");
    };
    let strange = stranger.right(client.emulators.clock().now());
    expect(
        &stranger.sign(&strange),
        700_027,
        "the certificate was not uploaded",
    )
    .await;
    expect(
        &stranger.sign(&right),
        700_027,
        "signed with the key of another certificate",
    )
    .await;
    let other_scheme = signer.sign_with(&right, &RSA_PKCS1_SHA256);
    expect(
        &other_scheme,
        700_027,
        "signed with PKCS#1 although `alg` says PS256",
    )
    .await;
    let mut older = signer.right(client.emulators.clock().now());
    older.header["alg"] = json!("RS256");
    expect(&signer.sign(&older), 50_027, "`alg` is RS256").await;
    for text in ["a.b.c", "a.b", "e30.e30.e30"] {
        expect(text, 50_027, text).await;
    }
}

#[tokio::test]
async fn an_assertion_signed_with_an_expired_certificate_is_rejected() {
    let client = ValidClient::new().await;
    let signer = Signer::new(&client, 2020);
    client
        .emulators
        .entra()
        .upload_certificate(&signer.client_id, &signer.der);
    let assertion = signer.sign(&signer.right(client.emulators.clock().now()));
    assert_eq!(refused(&client, &signer, &assertion).await, 700_027);
}

#[tokio::test]
async fn each_application_has_its_own_secret_and_its_own_certificates() {
    let client = ValidClient::new().await;
    let mut signer = Signer::uploaded(&client);
    signer.client_id = client.emulators.entra().register();
    let assertion = signer.sign(&signer.right(client.emulators.clock().now()));
    assert_eq!(refused(&client, &signer, &assertion).await, 700_027);
    let secret = |id: &str| client.emulators.entra().client_secret_of(id).unwrap();
    assert_ne!(
        secret(&signer.client_id),
        secret(&client.emulators.entra().client_id())
    );
}
