//! How webhook destinations are created, and how notifications are delivered to them.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, Request};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use emulators::Emulators;
use serde_json::{Value, json};

use super::nylas::NylasTestClient;
use super::valid_client::Answered;

/// Starts a receiver and returns its URL. It answers a challenge with `answer` and a delivery with
/// 200.
async fn receiver(answer: impl Fn(&str) -> Response + Send + Sync + 'static) -> String {
    answering(StatusCode::OK, answer).await
}

/// Starts a receiver like [`receiver`] that answers deliveries with `delivery`.
async fn answering(
    delivery: StatusCode,
    answer: impl Fn(&str) -> Response + Send + Sync + 'static,
) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let answer = Arc::new(answer);
    let app = Router::new().fallback(async move |request: Request| {
        if request.method() == Method::POST {
            return delivery.into_response();
        }
        let query = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).unwrap();
        answer(&query.0[0].1)
    });
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn echo() -> String {
    receiver(|challenge| challenge.to_owned().into_response()).await
}

impl NylasTestClient {
    async fn webhook(&self, method: Method, path: &str, body: Option<Value>) -> Answered {
        let url = format!("{}/v3/webhooks{path}", self.emulators.nylas().url());
        let call = self
            .http
            .request(method, url)
            .bearer_auth(self.emulators.nylas().api_key());
        let call = match body {
            Some(body) => call.json(&body),
            None => call,
        };
        Answered::read(call.send().await.unwrap()).await
    }

    async fn create(&self, url: &str, triggers: &[&str]) -> Answered {
        let body =
            json!({"webhook_url": url, "trigger_types": triggers, "compressed_delivery": true});
        self.webhook(Method::POST, "", Some(body)).await
    }
}

fn created() -> Value {
    json!({"type": "message.created", "data": {}})
}

#[tokio::test]
async fn a_webhook_secret_is_returned_only_by_creation_and_rotation() {
    let nylas = NylasTestClient::new().await;
    let made = nylas
        .create(&echo().await, &["message.created"])
        .await
        .json()["data"]
        .clone();
    let (id, secret) = (
        made["id"].as_str().unwrap(),
        made["webhook_secret"].as_str().unwrap(),
    );
    assert_eq!(made["status"], "active");
    for path in ["", &format!("/{id}")] {
        let shown = nylas.webhook(Method::GET, path, None).await;
        assert!(
            shown.body.contains(id) && !shown.body.contains("webhook_secret"),
            "{}",
            shown.body
        );
    }
    let rotated = nylas
        .webhook(Method::POST, &format!("/rotate-secret/{id}"), None)
        .await
        .json();
    assert_ne!(rotated["data"]["webhook_secret"], secret);
    let unknown = nylas
        .webhook(Method::POST, "/rotate-secret/none", None)
        .await;
    assert_eq!(unknown.status, 404);
}

#[tokio::test]
async fn a_webhook_url_that_does_not_echo_the_challenge_exactly_is_rejected() {
    let nylas = NylasTestClient::new().await;
    let chunked = |challenge: &str| {
        let text: Result<_, std::io::Error> = Ok(challenge.to_owned());
        axum::body::Body::from_stream(futures_util::stream::iter([text])).into_response()
    };
    for url in [
        receiver(|challenge| format!("{challenge}\n").into_response()).await,
        receiver(|challenge| format!("\"{challenge}\"").into_response()).await,
        receiver(|challenge| (StatusCode::CREATED, challenge.to_owned()).into_response()).await,
        receiver(chunked).await,
        "http://127.0.0.1:9/".to_owned(),
        "http://example.com/".to_owned(),
        "https://x.ngrok.io/".to_owned(),
        "no url".to_owned(),
    ] {
        assert_eq!(
            nylas.create(&url, &["message.created"]).await.status,
            400,
            "{url}"
        );
    }
    let url = echo().await;
    for triggers in [
        &[] as &[&str],
        &["contact.created"],
        &["message.created.truncated"],
    ] {
        assert_eq!(
            nylas.create(&url, triggers).await.status,
            400,
            "{triggers:?}"
        );
    }
    assert_eq!(nylas.create(&url, &["message.created"]).await.status, 200);
    assert_eq!(
        nylas.create(&url, &["message.created"]).await.status,
        400,
        "another webhook already uses the URL"
    );
    let nobody = nylas
        .http
        .get(format!("{}/v3/webhooks", nylas.emulators.nylas().url()));
    assert_eq!(nobody.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn only_active_webhooks_get_notifications_of_subscribed_types() {
    let nylas = NylasTestClient::new().await;
    let emulators: &Emulators = &nylas.emulators;
    nylas.create(&echo().await, &["message.created"]).await;
    assert!(
        emulators
            .nylas()
            .deliveries(&json!({"type": "message.updated"}))
            .is_empty()
    );
    for (kind, count) in [
        ("message.created.truncated", 1),
        ("message.created.v2.redacted", 1),
        ("message.createdx", 0),
        ("message.updated.truncated", 0),
    ] {
        let deliveries = emulators.nylas().deliveries(&json!({"type": kind}));
        assert_eq!(deliveries.len(), count, "{kind}");
    }
    for (status, count) in [("active", 1), ("failing", 1), ("pause", 0), ("failed", 0)] {
        emulators.nylas().set_webhook_status(status);
        assert_eq!(
            emulators.nylas().deliveries(&created()).len(),
            count,
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_permanently_rejected_delivery_is_lost_and_a_retryable_one_is_sent_three_times() {
    let nylas = NylasTestClient::new().await;
    for (status, answers) in [
        (StatusCode::SERVICE_UNAVAILABLE, 3),
        (StatusCode::TOO_MANY_REQUESTS, 3),
        (StatusCode::INTERNAL_SERVER_ERROR, 1),
        (StatusCode::UNAUTHORIZED, 1),
        (StatusCode::ACCEPTED, 1),
        (StatusCode::OK, 1),
    ] {
        let url = answering(status, |challenge| challenge.to_owned().into_response()).await;
        nylas.create(&url, &["message.created"]).await;
        let mut delivery = nylas
            .emulators
            .nylas()
            .deliveries(&created())
            .pop()
            .unwrap();
        for _ in 0..5 {
            delivery.attempt().await;
        }
        assert_eq!(delivery.answers.len(), answers, "{status}");
        assert_eq!(delivery.is_lost(), status != StatusCode::OK, "{status}");
    }
}
