//! A secret store that does not answer: every caller that needs a secret fails, and the store is
//! asked only once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{BehaviorVersion, Credentials, Region};
use axum::Router;
use axum::http::StatusCode;
use futures_util::future::join_all;
use mailverse::clients::aws::secrets::SecretSource;
use tokio::net::TcpListener;

/// Starts a secret store that refuses every request. Returns its address and the number of
/// requests.
pub(crate) async fn broken_store() -> (String, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let counter = Arc::clone(&asked);
    let app = Router::new().fallback(async move || {
        counter.fetch_add(1, Ordering::SeqCst);
        let body = r#"{"__type":"InternalServiceError"}"#;
        (StatusCode::INTERNAL_SERVER_ERROR, body)
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (url, asked)
}

#[tokio::test]
async fn concurrent_callers_send_one_request_to_an_unavailable_secret_store() {
    let (url, asked) = broken_store().await;
    let config = aws_sdk_secretsmanager::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("eu-north-1"))
        .endpoint_url(url)
        .retry_config(RetryConfig::disabled())
        .credentials_provider(Credentials::new("a", "b", None, None, "test"));
    let client = aws_sdk_secretsmanager::Client::from_conf(config.build());
    let source = SecretSource::stored(client, "nylas".to_owned());
    let answers = join_all((0..20).map(|_| source.get())).await;
    for answer in answers {
        let error = answer.unwrap_err().to_string();
        assert!(error.starts_with("secret nylas: "), "{error}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}
