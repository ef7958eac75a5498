//! The Lambda binary: reads the settings, creates the clients and runs the library's handler.

use aws_config::BehaviorVersion;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use mailverse::{env, telemetry};
use serde_json::Value;
use token_refresher::config::Config;
use token_refresher::refresh;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let config = Config::from_lookup(env::process)?;
    telemetry::init(config.log_filter.as_deref(), config.stack_name.as_deref());
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    let secrets = aws_sdk_secretsmanager::Client::new(&aws);
    // The payload is ignored: the schedule and an operator ask for the same thing.
    run(service_fn(async |_: LambdaEvent<Value>| {
        let refreshed = refresh(&config, &secrets, chrono::Utc::now()).await;
        refreshed
            .inspect_err(|error| tracing::error!(%error, "failed to refresh some tokens; their stored tokens stay in use"))
            .map_err(Error::from)
    }))
    .await
}
