//! The ledger's table and the queues.

use std::time::Duration;

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{KeySchemaElement, TableDescription, TimeToLiveStatus};
use aws_sdk_sqs::types::QueueAttributeName;
use mailverse::aws::describe;
use mailverse::retry::RECEIVE_LIMIT;
use serde_json::Value;

use super::check::{Check, judged};

const TABLE: &str = "ledger table";
const TTL: &str = "ledger TTL";
const QUEUE: &str = "sync queue";
const DEAD_LETTERS: &str = "dead letters";
pub(super) const TABLE_CHECKS: [&str; 2] = [TABLE, TTL];
pub(super) const QUEUE_CHECKS: [&str; 2] = [QUEUE, DEAD_LETTERS];

/// The indexes that `status`, `explain` and the backfill ask.
const INDEXES: [&str; 2] = ["attention", "activity"];

/// The lease of a claim: a message must stay hidden for longer, or its redelivery meets the claim.
const LEASE: Duration = Duration::from_secs(180);

pub(super) async fn table(aws: &SdkConfig, name: &str, checks: &mut Vec<Check>) {
    let dynamo = aws_sdk_dynamodb::Client::new(aws);
    let described = match dynamo.describe_table().table_name(name).send().await {
        Ok(described) => described.table,
        Err(error) => {
            let remedy = "check LEDGER_TABLE, AWS_REGION, and the right dynamodb:DescribeTable";
            checks.push(Check::broken(TABLE, describe(&error), remedy));
            checks.push(Check::skipped(TTL, TABLE));
            return;
        }
    };
    let problem = described.as_ref().and_then(table_problem).map(|seen| {
        let remedy = "deploy the template, which has the table's keys and indexes; an index that is being built needs time";
        (seen, remedy.to_owned())
    });
    let seen = format!("{name}, keys and {} indexes", INDEXES.len());
    checks.push(judged(TABLE, seen, problem));
    checks.push(ttl(&dynamo, name).await);
}

fn table_problem(table: &TableDescription) -> Option<String> {
    let keys: Vec<&str> = table
        .key_schema()
        .iter()
        .map(KeySchemaElement::attribute_name)
        .collect();
    if keys != ["pk", "sk"] {
        return Some(format!("its keys are {}, not pk, sk", keys.join(", ")));
    }
    let active = |wanted: &&&str| {
        table.global_secondary_indexes().iter().any(|index| {
            let ready = index
                .index_status()
                .is_none_or(|it| it.as_str() == "ACTIVE");
            index.index_name() == Some(**wanted) && ready
        })
    };
    let missing: Vec<&str> = INDEXES.iter().filter(|it| !active(it)).copied().collect();
    (!missing.is_empty())
        .then(|| format!("the index {} is missing or being built", missing.join(", ")))
}

async fn ttl(dynamo: &aws_sdk_dynamodb::Client, name: &str) -> Check {
    let remedy = "turn on time to live for the attribute expires_at, as the template does: without it, the table grows for ever";
    let found = match dynamo.describe_time_to_live().table_name(name).send().await {
        Ok(found) => found.time_to_live_description,
        Err(error) => {
            let remedy = "allow dynamodb:DescribeTimeToLive";
            return Check::broken(TTL, describe(&error), remedy);
        }
    };
    let on = found.is_some_and(|it| {
        let status = it.time_to_live_status();
        it.attribute_name() == Some("expires_at")
            && matches!(
                status,
                Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
            )
    });
    judged(
        TTL,
        "on, expires_at".to_owned(),
        (!on).then(|| ("off".to_owned(), remedy.to_owned())),
    )
}

pub(super) async fn queues(aws: &SdkConfig, url: &str, checks: &mut Vec<Check>) {
    let sqs = aws_sdk_sqs::Client::new(aws);
    let call = sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::All);
    let found = match call.send().await {
        Ok(found) => found.attributes.unwrap_or_default(),
        Err(error) => {
            let remedy = "check SYNC_QUEUE_URL, AWS_REGION, and the right sqs:GetQueueAttributes";
            checks.push(Check::broken(QUEUE, describe(&error), remedy));
            checks.push(Check::skipped(DEAD_LETTERS, QUEUE));
            return;
        }
    };
    let number = |name| {
        found
            .get(&name)
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or_default()
    };
    let redrive = found.get(&QueueAttributeName::RedrivePolicy);
    let redrive: Option<Value> = redrive.and_then(|text| serde_json::from_str(text).ok());
    let hidden = number(QueueAttributeName::VisibilityTimeout);
    let field = |name| redrive.as_ref().and_then(|it| it.get(name));
    // A number here and a text there.
    let receives =
        field("maxReceiveCount").and_then(|it| it.as_u64().or_else(|| it.as_str()?.parse().ok()));
    let problem = if receives != Some(RECEIVE_LIMIT.into()) {
        let count = receives.map_or_else(|| "none".to_owned(), |count| count.to_string());
        Some(format!(
            "its redrive policy allows {count} receives, not {RECEIVE_LIMIT}"
        ))
    } else if hidden <= LEASE.as_secs() {
        Some(format!(
            "a message is hidden for {hidden} s, not longer than the lease of {} s",
            LEASE.as_secs()
        ))
    } else {
        None
    };
    let waiting = number(QueueAttributeName::ApproximateNumberOfMessages);
    checks.push(judged(
        QUEUE,
        format!("there; about {waiting} waiting"),
        problem.map(|seen| {
            (
                seen,
                "deploy the template, which has the queue's settings".to_owned(),
            )
        }),
    ));
    let target = field("deadLetterTargetArn").and_then(Value::as_str);
    match target.and_then(|arn| arn.rsplit(':').next()) {
        Some(name) => checks.push(dead_letters(&sqs, name).await),
        None => checks.push(Check::skipped(DEAD_LETTERS, QUEUE)),
    }
}

async fn dead_letters(sqs: &aws_sdk_sqs::Client, name: &str) -> Check {
    let rights = "check that the dead-letter queue is there, and the rights sqs:GetQueueUrl and sqs:GetQueueAttributes on it";
    let url = match sqs.get_queue_url().queue_name(name).send().await {
        Ok(found) => found.queue_url.unwrap_or_default(),
        Err(error) => return Check::broken(DEAD_LETTERS, describe(&error), rights),
    };
    let count = QueueAttributeName::ApproximateNumberOfMessages;
    let call = sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(count.clone());
    let found = match call.send().await {
        Ok(found) => found.attributes.unwrap_or_default(),
        Err(error) => return Check::broken(DEAD_LETTERS, describe(&error), rights),
    };
    let held = found.get(&count).map_or("0", String::as_str);
    judged(
        DEAD_LETTERS,
        "none".to_owned(),
        (held != "0").then(|| {
            let remedy = "`mailverse status` says why; mend that, then redrive the dead-letter queue with SQS's own redrive";
            (format!("about {held}"), remedy.to_owned())
        }),
    )
}
