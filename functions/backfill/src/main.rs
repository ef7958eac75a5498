//! The Lambda binary: reads the settings, creates the clients and runs the library's handler.

use aws_config::BehaviorVersion;
use backfill::Backfill;
use backfill::config::Config;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use mailverse::clients::aws::queue::SqsQueue;
use mailverse::pipeline::Invocation;
use mailverse::{env, telemetry};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let config = Config::from_lookup(env::process)?;
    telemetry::init(config.log_filter.as_deref(), config.stack_name.as_deref());
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    let sqs = aws_sdk_sqs::Client::new(&aws);
    let sync = SqsQueue::new(sqs.clone(), config.sync_queue_url);
    let tasks = SqsQueue::new(sqs, config.backfill_queue_url);
    let backfill = Backfill::new(config.pipeline.connect(&aws)?, sync, tasks);
    run(service_fn(async |event: LambdaEvent<Value>| {
        let deadline = event.context.deadline().into();
        let begin = || Invocation::begin(deadline);
        Ok::<_, Error>(backfill.handle(&event.payload, &begin).await?)
    }))
    .await
}
