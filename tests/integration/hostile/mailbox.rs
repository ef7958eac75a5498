//! Serves hostile messages in front of the Nylas emulator, which can hold only valid JSON.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use emulators::Emulators;
use mailverse::clients::aws::secrets::SecretSource;
use mailverse::clients::nylas::NylasClient;

use super::corpus::Case;

/// The content of every attachment of a hostile message.
pub(super) const FILE: &[u8] = b"file";

/// Answers requests for hostile messages and their files, byte for byte as in the corpus. Passes on
/// all other requests to the emulator.
pub(super) struct HostileMailbox {
    url: String,
}

struct Shelf {
    texts: HashMap<String, String>,
    http: reqwest::Client,
    emulators: String,
    key: String,
}

impl HostileMailbox {
    /// Starts a server that runs until the test's runtime ends.
    pub(super) async fn before(emulators: &Emulators, cases: &[Case]) -> Self {
        let texts = cases
            .iter()
            .map(|case| (case.id.clone(), case.text.clone()));
        let shelf = Shelf {
            texts: texts.collect(),
            http: mailverse::clients::http::client().unwrap(),
            emulators: emulators.nylas().url(),
            key: emulators.nylas().api_key(),
        };
        assert_eq!(shelf.texts.len(), cases.len(), "two cases have the same id");
        let app = Router::new()
            .route("/v3/grants/{grant}/messages/{id}", get(message))
            .route(
                "/v3/grants/{grant}/attachments/{id}/download",
                get(|| async { FILE }),
            )
            .with_state(Arc::new(shelf));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url }
    }

    pub(super) fn client(&self, emulators: &Emulators) -> NylasClient {
        let http = mailverse::clients::http::client().unwrap();
        let key = SecretSource::Given(emulators.nylas().api_key().into());
        NylasClient::new(http, &self.url.parse().unwrap(), key)
    }
}

async fn message(
    State(shelf): State<Arc<Shelf>>,
    Path((_, id)): Path<(String, String)>,
    uri: Uri,
) -> Response {
    let json = [(header::CONTENT_TYPE, "application/json")];
    if let Some(text) = shelf.texts.get(&id) {
        let answer = format!(r#"{{"request_id":"r","data":{text}}}"#);
        return (json, answer).into_response();
    }
    let call = shelf.http.get(format!("{}{uri}", shelf.emulators));
    let answer = call.bearer_auth(&shelf.key).send().await.unwrap();
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap();
    (status, json, answer.bytes().await.unwrap()).into_response()
}
