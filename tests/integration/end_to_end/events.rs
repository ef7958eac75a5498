//! Events as AWS creates them, signed with the secret of this cloud.

use local_aws::events;
pub(super) use local_aws::events::{http_event, schedule, sqs_event};
use serde_json::Value;

use super::cloud::WEBHOOK_SECRET;

pub(super) fn signature(body: &[u8]) -> String {
    events::signature(WEBHOOK_SECRET, body)
}

pub(super) fn delivery(notification: &Value) -> Value {
    events::delivery(WEBHOOK_SECRET, notification)
}
