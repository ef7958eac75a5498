//! Checks of the ledger table, the stored policy and the queues.

use aws_config::SdkConfig;
use aws_sdk_dynamodb::types::{KeySchemaElement, TableDescription, TimeToLiveStatus};
use aws_sdk_sqs::types::QueueAttributeName;
use chrono::TimeDelta;
use mailverse::clients::aws::describe;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::ledger::LEASE;
use mailverse::ledger::mailbox_state::TASK_LEASE;
use mailverse::ledger::messages::Ledger;
use mailverse::policy::Policy;
use serde_json::Value;

use super::check::{Check, judged};
use crate::terminal::counted;

const TABLE: &str = "ledger table";
const TTL: &str = "ledger TTL";
const POLICY: &str = "policy";
pub(super) const TABLE_CHECKS: [&str; 3] = [TABLE, TTL, POLICY];

/// One of our SQS queues, with its dead-letter queue.
pub(super) struct Queue {
    name: &'static str,
    setting: &'static str,
    /// The lease of a worker. The visibility timeout must be longer; otherwise a message is
    /// delivered again while the first worker still holds the lease.
    lease: TimeDelta,
    /// The name of the check of the dead-letter queue.
    dead_letters: &'static str,
    /// What to do about dead letters.
    redrive: &'static str,
}

/// The queue with new messages and retries.
pub(super) const SYNC: Queue = Queue {
    name: "sync queue",
    setting: "SYNC_QUEUE_URL",
    lease: LEASE,
    dead_letters: "sync dead letters",
    redrive: "`mailverse status` shows the reasons; fix the cause, then use the SQS dead-letter queue redrive",
};

/// The queue with backfill tasks: mailboxes to list.
pub(super) const BACKFILL: Queue = Queue {
    name: "backfill queue",
    setting: "BACKFILL_QUEUE_URL",
    lease: TASK_LEASE,
    dead_letters: "backfill dead letters",
    redrive: "the log of the backfill function says why its tasks failed ten times; fix the cause, then use the SQS dead-letter queue redrive: the tasks continue where they stopped",
};

impl Queue {
    /// Returns the names of the checks of this queue.
    pub(super) const fn checks(&self) -> [&'static str; 2] {
        [self.name, self.dead_letters]
    }
}

/// The indexes that `status`, `explain` and the backfill query.
const INDEXES: [&str; 2] = ["attention", "activity"];

/// Checks the table, its TTL and the stored policy.
///
/// Returns the policy in force, or `None` if it could not be read or is invalid.
pub(super) async fn table(aws: &SdkConfig, name: &str, checks: &mut Vec<Check>) -> Option<Policy> {
    let dynamo = aws_sdk_dynamodb::Client::new(aws);
    let described = match dynamo.describe_table().table_name(name).send().await {
        Ok(described) => described.table,
        Err(error) => {
            let remedy = "check LEDGER_TABLE, AWS_REGION and the right dynamodb:DescribeTable";
            checks.push(Check::broken(TABLE, describe(&error), remedy));
            checks.push(Check::skipped(TTL, TABLE));
            checks.push(Check::skipped(POLICY, TABLE));
            return None;
        }
    };
    let problem = described.as_ref().and_then(table_problem).map(|seen| {
        let remedy = "deploy the template, which defines the table's keys and indexes; an index that is being built needs some time";
        (seen, remedy.to_owned())
    });
    let seen = format!("{name}, keys and {} indexes", INDEXES.len());
    checks.push(judged(TABLE, seen, problem));
    checks.push(ttl(&dynamo, name).await);
    let (check, policy) = policy(dynamo, name).await;
    checks.push(check);
    policy
}

async fn policy(dynamo: aws_sdk_dynamodb::Client, table: &str) -> (Check, Option<Policy>) {
    let stored = match Ledger::new(dynamo, table.to_owned()).stored_policy().await {
        Ok(stored) => stored,
        Err(error) => {
            let remedy = "allow dynamodb:GetItem on the table; if it is allowed, push the policy again: mailverse policy push FILE";
            return (Check::broken(POLICY, error.to_string(), remedy), None);
        }
    };
    let Some(stored) = stored else {
        let seen = "none stored, the defaults apply";
        return (Check::passed(POLICY, seen), Some(Policy::default()));
    };
    match Policy::parse(&stored.document) {
        Ok(policy) => {
            let seen = format!("version {}", policy.version());
            (Check::passed(POLICY, seen), Some(policy))
        }
        Err(problems) => {
            let seen = format!(
                "version {} is invalid: {}; messages wait",
                stored.version,
                counted(problems.len(), "problem")
            );
            let remedy = "`mailverse policy show` lists the problems; push a valid policy: mailverse policy push FILE";
            (Check::broken(POLICY, seen, remedy), None)
        }
    }
}

fn table_problem(table: &TableDescription) -> Option<String> {
    let keys: Vec<&str> = table
        .key_schema()
        .iter()
        .map(KeySchemaElement::attribute_name)
        .collect();
    if keys != ["pk", "sk"] {
        return Some(format!("its keys are {}, expected pk, sk", keys.join(", ")));
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
    let remedy = "turn on time to live for the attribute expires_at, as the template does: without it, the table grows without limit";
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

pub(super) async fn queue(aws: &SdkConfig, queue: &Queue, url: &str, checks: &mut Vec<Check>) {
    let sqs = aws_sdk_sqs::Client::new(aws);
    let call = sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(QueueAttributeName::All);
    let found = match call.send().await {
        Ok(found) => found.attributes.unwrap_or_default(),
        Err(error) => {
            let remedy = format!(
                "check {}, AWS_REGION and the right sqs:GetQueueAttributes",
                queue.setting
            );
            checks.push(Check::broken(queue.name, describe(&error), remedy));
            checks.push(Check::skipped(queue.dead_letters, queue.name));
            return;
        }
    };
    let number = |name| {
        found
            .get(&name)
            .and_then(|text| text.parse::<i64>().ok())
            .unwrap_or_default()
    };
    let redrive = found.get(&QueueAttributeName::RedrivePolicy);
    let redrive: Option<Value> = redrive.and_then(|text| serde_json::from_str(text).ok());
    let hidden = number(QueueAttributeName::VisibilityTimeout);
    let field = |name| redrive.as_ref().and_then(|it| it.get(name));
    // The count may be a JSON number or a string.
    let receives =
        field("maxReceiveCount").and_then(|it| it.as_u64().or_else(|| it.as_str()?.parse().ok()));
    let problem = if receives != Some(RECEIVE_LIMIT.into()) {
        let count = receives.map_or_else(|| "none".to_owned(), |count| count.to_string());
        Some(format!(
            "its redrive policy allows {count} receives, expected {RECEIVE_LIMIT}"
        ))
    } else if TimeDelta::seconds(hidden) <= queue.lease {
        Some(format!(
            "the visibility timeout is {hidden} s; it must be longer than the lease of {} s",
            queue.lease.num_seconds()
        ))
    } else {
        None
    };
    let waiting = number(QueueAttributeName::ApproximateNumberOfMessages);
    checks.push(judged(
        queue.name,
        format!("exists, about {waiting} waiting"),
        problem.map(|seen| {
            (
                seen,
                "deploy the template, which defines the queue's settings".to_owned(),
            )
        }),
    ));
    let target = field("deadLetterTargetArn").and_then(Value::as_str);
    match target.and_then(|arn| arn.rsplit(':').next()) {
        Some(name) => checks.push(dead_letters(&sqs, queue, name).await),
        None => checks.push(Check::skipped(queue.dead_letters, queue.name)),
    }
}

async fn dead_letters(sqs: &aws_sdk_sqs::Client, queue: &Queue, name: &str) -> Check {
    let rights = "check that the dead-letter queue exists, and the rights sqs:GetQueueUrl and sqs:GetQueueAttributes on it";
    let url = match sqs.get_queue_url().queue_name(name).send().await {
        Ok(found) => found.queue_url.unwrap_or_default(),
        Err(error) => return Check::broken(queue.dead_letters, describe(&error), rights),
    };
    let count = QueueAttributeName::ApproximateNumberOfMessages;
    let call = sqs
        .get_queue_attributes()
        .queue_url(url)
        .attribute_names(count.clone());
    let found = match call.send().await {
        Ok(found) => found.attributes.unwrap_or_default(),
        Err(error) => return Check::broken(queue.dead_letters, describe(&error), rights),
    };
    let held = found.get(&count).map_or("0", String::as_str);
    judged(
        queue.dead_letters,
        "none".to_owned(),
        (held != "0").then(|| (format!("about {held}"), queue.redrive.to_owned())),
    )
}
