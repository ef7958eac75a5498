//! The Lambda binary: reads the settings, creates the clients and runs the library's handler.

use aws_config::BehaviorVersion;
use aws_lambda_events::sqs::SqsEvent;
use lambda_runtime::{Error, LambdaEvent, run, service_fn};
use mailverse::clients::aws::queue::SqsQueue;
use mailverse::pipeline::Invocation;
use mailverse::{env, telemetry};
use sync_worker::Worker;
use sync_worker::config::Config;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let config = Config::from_lookup(env::process)?;
    telemetry::init(config.log_filter.as_deref(), config.stack_name.as_deref());
    let aws = aws_config::load_defaults(BehaviorVersion::v2026_01_12()).await;
    let queue = SqsQueue::new(aws_sdk_sqs::Client::new(&aws), config.sync_queue_url);
    let worker = Worker::new(config.pipeline.connect(&aws)?, queue);
    run(service_fn(async |event: LambdaEvent<SqsEvent>| {
        let run = Invocation::begin(event.context.deadline().into());
        Ok::<_, Error>(worker.work(event.payload, run).await.response)
    }))
    .await
}
