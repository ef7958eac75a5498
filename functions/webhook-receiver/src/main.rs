//! The binary of the function `webhook-receiver`: reads the settings, creates the clients and runs
//! the handler. For its behaviour, see the crate `webhook_receiver`.

use std::convert::Infallible;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use chrono::Utc;
use lambda_http::{Request, service_fn};
use mailverse::clients::aws::queue::SqsQueue;
use webhook_receiver::Receiver;
use webhook_receiver::config::Config;
use webhook_receiver::notification_filter::Filter;
use webhook_receiver::webhook_secrets::WebhookSecrets;

/// The longest call to AWS. A delivery makes at most three (two versions of the secret, one queue
/// message), and Nylas closes the connection after 10 seconds: it should get our 503 before that.
const CALL_TIMEOUT: Duration = Duration::from_millis(2_500);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let config = Config::from_lookup(mailverse::env::process)?;
    mailverse::telemetry::init(config.log_filter.as_deref(), config.stack_name.as_deref());
    let aws = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .timeout_config(
            TimeoutConfig::builder()
                .operation_timeout(CALL_TIMEOUT)
                .build(),
        )
        .load()
        .await;
    let queue = SqsQueue::new(aws_sdk_sqs::Client::new(&aws), config.sync_queue_url);
    let store = aws_sdk_secretsmanager::Client::new(&aws);
    let secrets = WebhookSecrets::stored(store, config.webhook_secret_id);
    let filter = Filter::live(config.nylas_application_id);
    let receiver = &Receiver::new(queue, secrets).with_filter(filter);
    lambda_http::run(service_fn(move |request: Request| async move {
        Ok::<_, Infallible>(receiver.handle(request, Utc::now()).await)
    }))
    .await
}
