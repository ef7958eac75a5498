//! A connection to DynamoDB on which calls fail in ways that no emulator can produce.
//!
//! It replaces the SDK's HTTP client and sees every attempt of a call. Everything above it is the
//! SDK itself: how it reads a response, which errors it retries, and how often. Only its waits end
//! at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::http::{HttpRequest, HttpResponse};
use aws_sdk_dynamodb::config::retry::{RetryPartition, TokenBucket};
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{
    AsyncSleep, HttpClient, RuntimeComponents, SharedHttpClient, Sleep,
};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::result::ConnectorError;
use mailverse::ledger::messages::Ledger;
use serde_json::{Value, json};

use super::Bench;

/// What happens to one attempt of a call.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// DynamoDB does nothing and answers with this status and body.
    Answer(u16, String),
    /// No connection is established before the client's timeout.
    NoConnectionInTime,
    /// The connection breaks before DynamoDB receives the call.
    NotReachable,
    /// DynamoDB executes the call, and the connection breaks before the response arrives.
    LostAnswer,
    /// DynamoDB's response to a BatchGetItem has room for the items of this many keys. It names the
    /// other keys as unprocessed, if there are any.
    RoomFor(usize),
}

/// A ledger whose attempts meet the faults one by one, in order. After the last fault, attempts
/// succeed.
pub(super) struct FaultyConnection {
    pub(super) ledger: Ledger,
    faults: Faults,
}

type Faults = Arc<Mutex<VecDeque<Fault>>>;

impl FaultyConnection {
    pub(super) fn new(bench: &Bench, faults: impl IntoIterator<Item = Fault>) -> Self {
        let faults: Faults = Arc::new(Mutex::new(faults.into_iter().collect()));
        // All clients of a process share a token bucket for retries, so this client gets a separate
        // one. Otherwise a test could fail because other tests used up the tokens.
        let purse = RetryPartition::custom("connection").token_bucket(TokenBucket::default());
        let config = bench
            .client
            .config()
            .to_builder()
            .retry_partition(purse.build())
            .sleep_impl(AtOnce)
            // A timeout is a wait too, so it would end at once, before the response arrives.
            .timeout_config(TimeoutConfig::disabled())
            .http_client(Connections {
                faults: Arc::clone(&faults),
                onward: aws_smithy_http_client::Builder::new().build_http(),
            });
        Self {
            ledger: Ledger::new(Client::from_conf(config.build()), bench.table.clone()),
            faults,
        }
    }

    /// Returns the number of faults that no attempt has met yet.
    pub(super) fn left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }
}

#[derive(Debug)]
struct AtOnce;

impl AsyncSleep for AtOnce {
    fn sleep(&self, _: Duration) -> Sleep {
        Sleep::new(std::future::ready(()))
    }
}

#[derive(Debug)]
struct Connections {
    faults: Faults,
    onward: SharedHttpClient,
}

impl HttpClient for Connections {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(Connection {
            faults: Arc::clone(&self.faults),
            onward: self.onward.http_connector(settings, components),
        })
    }
}

#[derive(Debug)]
struct Connection {
    faults: Faults,
    onward: SharedHttpConnector,
}

impl HttpConnector for Connection {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let fault = self.faults.lock().unwrap().pop_front();
        let onward = self.onward.clone();
        HttpConnectorFuture::new(async move {
            match fault {
                None => onward.call(request).await,
                Some(Fault::Answer(status, body)) => {
                    Ok(HttpResponse::new(status.try_into().unwrap(), body.into()))
                }
                Some(Fault::NoConnectionInTime) => Err(ConnectorError::timeout("late".into())),
                Some(Fault::NotReachable) => Err(ConnectorError::io("broken".into())),
                Some(Fault::LostAnswer) => {
                    let answer = onward.call(request).await?;
                    assert!(answer.status().is_success(), "{answer:?}");
                    Err(ConnectorError::io("broken".into()))
                }
                Some(Fault::RoomFor(keys)) => {
                    let body = partly_processed(&request, keys).await;
                    Ok(HttpResponse::new(
                        200.try_into().unwrap(),
                        body.to_string().into(),
                    ))
                }
            }
        })
    }
}

/// Lets DynamoDB process the first `room` keys of a BatchGetItem on one table. Returns its response
/// with the other keys as unprocessed.
async fn partly_processed(request: &HttpRequest, room: usize) -> Value {
    let mut asked: Value = serde_json::from_slice(request.body().bytes().unwrap()).unwrap();
    let (table, wanted) = asked["RequestItems"]
        .as_object_mut()
        .and_then(|tables| tables.iter_mut().next())
        .expect("the call is a BatchGetItem");
    let (table, keys) = (table.clone(), wanted["Keys"].as_array_mut().unwrap());
    let left = keys.split_off(room.min(keys.len()));
    let mut answer = if keys.is_empty() {
        json!({ "Responses": {} })
    } else {
        let mut call = reqwest::Client::new().post(request.uri());
        for (name, value) in request.headers() {
            if name != "content-length" {
                call = call.header(name, value);
            }
        }
        let answer = call.body(asked.to_string()).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    };
    if !left.is_empty() {
        answer["UnprocessedKeys"] = json!({ table: { "Keys": left } });
    }
    answer
}
