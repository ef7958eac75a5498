//! Follows the token from token-refresher, which requests it, through the secret store to its
//! readers. Everything is in one process, so that a test can set the time.

mod reading;
mod refreshing;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::config::interceptors::BeforeTransmitInterceptorContextRef;
use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{Builder, ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_secretsmanager::error::BoxError;
use chrono::{DateTime, TimeDelta, Utc};
use emulators::{Clock, Emulators, Entra};
use local_aws::moto::Moto;
use mailverse::clients::entra::token_store::TokenStore;
use serde_json::{Value, json};
use token_refresher::config::Config;
use token_refresher::{RefreshError, Refreshed, refresh};

const CREDENTIAL: &str = "entra";
const TOKEN: &str = "token";

/// Two secrets (the token's is empty), Entra, and the settings of token-refresher.
struct Office {
    entra: Entra,
    clock: Clock,
    config: Config,
    secrets: Client,
    moto: Moto,
}

impl Office {
    async fn open(emulators: &Emulators) -> Self {
        let moto = Moto::start().await;
        let secrets = moto.secrets();
        for name in [CREDENTIAL, TOKEN] {
            secrets.create_secret().name(name).send().await.unwrap();
        }
        let config = Config {
            dataverse_url: emulators.dataverse().url().parse().unwrap(),
            entra_authority: emulators.entra().authority().parse().unwrap(),
            entra_tenant_id: emulators.entra().tenant_id(),
            entra_client_id: emulators.entra().client_id(),
            entra_secret_id: CREDENTIAL.to_owned(),
            token_secret_id: TOKEN.to_owned(),
            log_filter: None,
            stack_name: None,
        };
        let office = Self {
            entra: emulators.entra().clone(),
            clock: emulators.clock().clone(),
            config,
            secrets,
            moto,
        };
        let secret = office.entra.client_secret();
        office
            .put(CREDENTIAL, &json!({"client_secret": secret}))
            .await;
        office
    }

    async fn put(&self, secret: &str, value: &Value) {
        let call = self.secrets.put_secret_value().secret_id(secret);
        call.secret_string(value.to_string()).send().await.unwrap();
    }

    async fn refresh_at(&self, now: DateTime<Utc>) -> Result<Refreshed, RefreshError> {
        refresh(&self.config, &self.secrets, now).await
    }

    /// Returns the stored tokens.
    async fn tokens(&self) -> Value {
        let call = self.secrets.get_secret_value().secret_id(TOKEN);
        // Moto finds the current version only by its label.
        let text = call
            .version_stage("AWSCURRENT")
            .send()
            .await
            .unwrap()
            .secret_string
            .unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Returns a reader of the primary token, and a counter of the calls that it makes. It does not
    /// retry a call.
    fn reader(&self) -> (TokenStore, Calls) {
        let calls = Calls::default();
        let store = reader_with(self.secrets.config().to_builder(), &calls);
        (store, calls)
    }

    /// Returns such a reader of a store that cannot be reached.
    fn dead_reader(&self, calls: &Calls) -> TokenStore {
        let config = self.secrets.config().to_builder();
        reader_with(config.endpoint_url("http://127.0.0.1:1"), calls)
    }
}

fn reader_with(config: Builder, calls: &Calls) -> TokenStore {
    let config = config
        .interceptor(calls.clone())
        .retry_config(RetryConfig::disabled());
    TokenStore::new(Client::from_conf(config.build()), TOKEN.to_owned())
}

/// Counts calls of the SDK.
#[derive(Debug, Clone, Default)]
struct Calls(Arc<AtomicUsize>);

impl Calls {
    fn made(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Intercept for Calls {
    fn name(&self) -> &'static str {
        "calls"
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_154_400, 0).unwrap()
}

fn after(minutes: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(minutes)
}
