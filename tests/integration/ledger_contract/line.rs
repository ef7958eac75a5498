//! A line to DynamoDB on which calls fail as no stand-in makes them fail.
//!
//! It takes the place of the SDK's HTTP connection and sees every try of a call. Above it all is the SDK's own: what it reads out of an
//! answer, what it takes for passing, and how often it tries again. Only its waits end at once.

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
use mailverse::dedupe::ledger::Ledger;

use super::Bench;

/// What becomes of one try of a call.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// DynamoDB does nothing and answers this, with this status.
    Answer(u16, String),
    /// Nobody picks up until the client gives up.
    NoConnectionInTime,
    /// The connection breaks before DynamoDB has the call.
    NotReachable,
    /// DynamoDB does what it was told, and the connection breaks before its answer is here.
    LostAnswer,
}

/// A ledger whose tries meet the faults, one each and in their order; after the last one, all is well.
pub(super) struct Line {
    pub(super) ledger: Ledger,
    faults: Faults,
}

type Faults = Arc<Mutex<VecDeque<Fault>>>;

impl Line {
    pub(super) fn new(bench: &Bench, faults: impl IntoIterator<Item = Fault>) -> Self {
        let faults: Faults = Arc::new(Mutex::new(faults.into_iter().collect()));
        // Tries are paid for from a purse that all clients of a process share, so this one has its own: else a test would fail for
        // want of tries that another one used up.
        let purse = RetryPartition::custom("line").token_bucket(TokenBucket::default());
        let config = bench
            .client
            .config()
            .to_builder()
            .retry_partition(purse.build())
            .sleep_impl(AtOnce)
            // A time-out is a wait too, and would end before the answer is here.
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

    /// How many faults no try has met.
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
            }
        })
    }
}
