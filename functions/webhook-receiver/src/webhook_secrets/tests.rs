//! Tests the stored secrets over the real protocol of Secrets Manager.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::TimeZone;
use http::HeaderMap;
use serde_json::{Value, json};

use super::*;

const BODY: &[u8] = b"a body";

/// A secret store with one secret: its versions, whether it is down, and how often it was read.
#[derive(Clone, Default)]
struct Store(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    versions: HashMap<&'static str, &'static str>,
    /// The pending version that a rotation has written.
    pending: Option<&'static str>,
    down: bool,
    asked: usize,
}

impl Store {
    fn holds(&self, current: &'static str, previous: Option<&'static str>) {
        let mut contents = self.0.lock().unwrap();
        contents.versions = HashMap::from([("AWSCURRENT", current)]);
        contents
            .versions
            .extend(previous.map(|text| ("AWSPREVIOUS", text)));
    }

    fn announces(&self, pending: Option<&'static str>) {
        self.0.lock().unwrap().pending = pending;
    }

    fn is_down(&self, down: bool) {
        self.0.lock().unwrap().down = down;
    }

    fn asked(&self) -> usize {
        self.0.lock().unwrap().asked
    }

    /// Serves the store on its own port and returns the secrets in it.
    async fn secrets(&self) -> WebhookSecrets {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let config = aws_sdk_secretsmanager::Config::builder()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new("eu-north-1"))
            .endpoint_url(format!("http://{address}"))
            .retry_config(RetryConfig::disabled())
            .credentials_provider(Credentials::new("a", "b", None, None, "test"));
        WebhookSecrets::stored(Client::from_conf(config.build()), "webhook".to_owned())
    }
}

async fn answer(State(store): State<Store>, body: String) -> Response {
    let call: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(call["SecretId"], "webhook");
    let mut contents = store.0.lock().unwrap();
    contents.asked += 1;
    if contents.down {
        return (
            StatusCode::INTERNAL_SERVER_ERROR,
            r#"{"__type":"InternalServiceError"}"#,
        )
            .into_response();
    }
    let version = match call["VersionStage"].as_str().unwrap() {
        "AWSPENDING" => contents.pending.as_ref(),
        stage => contents.versions.get(stage),
    };
    match version {
        Some(text) => json!({"Name": "webhook", "SecretString": text})
            .to_string()
            .into_response(),
        None => (
            StatusCode::BAD_REQUEST,
            r#"{"__type":"ResourceNotFoundException"}"#,
        )
            .into_response(),
    }
}

fn by(secret: &str) -> Signature {
    let mut headers = HeaderMap::new();
    let signature = Key::new(&secret.into()).unwrap().sign(BODY);
    headers.insert("x-nylas-signature", signature.parse().unwrap());
    Signature::from_headers(&headers).unwrap()
}

/// Returns the time this many seconds after 10:00.
fn at(seconds: i64) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 22, 10, 0, 0).unwrap() + TimeDelta::seconds(seconds)
}

/// The result of a check, without the body.
#[derive(Debug, PartialEq)]
enum Verdict {
    Genuine,
    Forged,
    Undecided,
}

/// Returns the result of checking a signature with `secret`, or why it could not be checked.
async fn verdict(
    secrets: &WebhookSecrets,
    secret: &str,
    now: DateTime<Utc>,
) -> Result<Verdict, SecretsUnavailable> {
    Ok(match secrets.check(&by(secret), BODY, now).await? {
        Checked::Genuine(_) => Verdict::Genuine,
        Checked::Forged => Verdict::Forged,
        Checked::Undecided => Verdict::Undecided,
    })
}

/// Returns whether a signature with `secret` is genuine.
async fn check(
    secrets: &WebhookSecrets,
    secret: &str,
    now: DateTime<Utc>,
) -> Result<bool, SecretsUnavailable> {
    Ok(verdict(secrets, secret, now).await? == Verdict::Genuine)
}

#[tokio::test]
async fn both_secret_versions_are_read_once_and_cached() {
    let store = Store::default();
    store.holds("new", Some("old"));
    let secrets = store.secrets().await;
    assert_eq!(store.asked(), 0);
    for secret in ["new", "old", "new"] {
        assert!(check(&secrets, secret, at(0)).await.unwrap(), "{secret}");
    }
    assert_eq!(store.asked(), 2);
    // Cached secrets do not need the store.
    store.is_down(true);
    assert!(check(&secrets, "new", at(86_400)).await.unwrap());
}

#[tokio::test]
async fn a_rotated_secret_is_read_for_the_first_delivery_that_it_signed() {
    let store = Store::default();
    store.holds("first", None);
    let secrets = store.secrets().await;
    assert!(check(&secrets, "first", at(0)).await.unwrap());
    store.holds("second", Some("first"));
    assert!(check(&secrets, "second", at(1)).await.unwrap());
    assert!(check(&secrets, "first", at(2)).await.unwrap());
}

#[tokio::test]
async fn repeated_wrong_signatures_cause_one_secret_read_per_minute() {
    let store = Store::default();
    store.holds("right", Some("before"));
    let secrets = store.secrets().await;
    let forged = verdict(&secrets, "wrong", at(0)).await.unwrap();
    assert_eq!((forged, store.asked()), (Verdict::Forged, 3));
    // The first reading was for the first delivery itself; from here on there is one a minute.
    let forged = verdict(&secrets, "wrong", at(1)).await.unwrap();
    assert_eq!((forged, store.asked()), (Verdict::Forged, 6));
    for second in 2..=60 {
        let unsaid = verdict(&secrets, "wrong", at(second)).await.unwrap();
        assert_eq!(
            unsaid,
            Verdict::Undecided,
            "no reading was made for this delivery"
        );
    }
    assert_eq!(store.asked(), 6);
    let forged = verdict(&secrets, "wrong", at(61)).await.unwrap();
    assert_eq!((forged, store.asked()), (Verdict::Forged, 9));
    // A clock that was set back does not prevent finding a rotated secret.
    store.holds("rotated", None);
    assert!(check(&secrets, "rotated", at(-3_600)).await.unwrap());
}

#[tokio::test]
async fn concurrent_deliveries_read_the_secret_once() {
    let store = Store::default();
    store.holds("right", None);
    let secrets = store.secrets().await;
    let (one, two) = tokio::join!(
        check(&secrets, "right", at(0)),
        check(&secrets, "right", at(0))
    );
    assert!(one.unwrap() && two.unwrap());
    assert_eq!(store.asked(), 2);
}

#[tokio::test]
async fn an_unavailable_store_is_an_error_and_is_read_again_after_five_seconds() {
    let store = Store::default();
    store.holds("first", None);
    store.is_down(true);
    let secrets = store.secrets().await;
    // A burst of deliveries, and one call to the store.
    for second in [0, 0, 1, 4] {
        let unknown = check(&secrets, "first", at(second)).await;
        assert!(matches!(unknown, Err(SecretsUnavailable::Store(_))));
    }
    assert_eq!(store.asked(), 1);
    let unknown = check(&secrets, "first", at(5)).await;
    assert!(matches!(unknown, Err(SecretsUnavailable::Store(_))));
    assert_eq!(store.asked(), 2);
    store.is_down(false);
    assert!(check(&secrets, "first", at(10)).await.unwrap());

    // The same if a secret is cached: the delivery may be signed with the rotated secret, which
    // cannot be read.
    store.is_down(true);
    store.holds("second", Some("first"));
    for second in [11, 12] {
        let unknown = check(&secrets, "second", at(second)).await;
        assert!(matches!(unknown, Err(SecretsUnavailable::Store(_))));
        // A cached secret does not need the store.
        assert!(check(&secrets, "first", at(second)).await.unwrap());
    }
    assert_eq!(
        store.asked(),
        5,
        "the failed reading counts as one more call"
    );
    store.is_down(false);
    assert!(check(&secrets, "second", at(16)).await.unwrap());
}

#[tokio::test]
async fn a_missing_blank_or_publicly_known_secret_is_an_error_until_it_is_replaced() {
    let store = Store::default();
    let secrets = store.secrets().await;
    let missing = check(&secrets, "any", at(0)).await;
    assert!(matches!(missing, Err(SecretsUnavailable::Missing)));
    for (stored, problem) in [
        (" \n", SecretProblem::Blank),
        ("mock-webhook-secret", SecretProblem::KnownToEverybody),
    ] {
        store.holds(stored, Some("before"));
        let unusable = check(&secrets, "before", at(0)).await;
        assert!(matches!(unusable, Err(SecretsUnavailable::Unusable(found)) if found == problem));
    }
    // Once the secret is stored, no restart is needed.
    store.holds("real", Some("mock-webhook-secret"));
    assert!(check(&secrets, "real", at(1)).await.unwrap());
}

#[tokio::test]
async fn no_delivery_is_judged_as_forged_during_a_rotation() {
    let store = Store::default();
    store.holds("first", None);
    let secrets = store.secrets().await;
    assert!(check(&secrets, "first", at(0)).await.unwrap());
    store.announces(Some("a rotation is under way"));
    for (second, asked) in [(1, 5), (2, 5), (5, 5), (6, 8)] {
        let early = verdict(&secrets, "second", at(second)).await.unwrap();
        assert_eq!((early, store.asked()), (Verdict::Undecided, asked));
        assert!(check(&secrets, "first", at(second)).await.unwrap());
    }
    store.holds("second", Some("first"));
    store.announces(Some("second"));
    assert!(check(&secrets, "second", at(11)).await.unwrap());
    // The pending version is now the current one: the rotation is over.
    let forged = verdict(&secrets, "wrong", at(12)).await.unwrap();
    assert_eq!(forged, Verdict::Forged);
}

#[tokio::test]
async fn the_first_delivery_of_a_process_stays_undecided_during_a_rotation() {
    let store = Store::default();
    store.holds("first", None);
    store.announces(Some("a rotation is under way"));
    let secrets = store.secrets().await;
    let early = verdict(&secrets, "second", at(0)).await.unwrap();
    assert_eq!(early, Verdict::Undecided);
    store.holds("second", Some("first"));
    store.announces(Some("second"));
    assert!(check(&secrets, "second", at(1)).await.unwrap());
}
