//! The backfill's items of one mailbox, attribute by attribute, as the tables of
//! [`mailverse::ledger::mailbox_state`] and [`mailverse::ledger::backfill_runs`] describe them.

use std::collections::{BTreeMap, HashMap};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};
use chrono::{DateTime, Utc};
use mailverse::ledger::backfill_runs::TaskKey;
use mailverse::model::ids::GrantId;

use super::model::{Leased, Model, Stored, TASKS};
use super::task_name;
use crate::ledger_contract::Bench;

const NAMES: [&str; 2 + TASKS] = ["the schedule", "operators", "task 0", "task 1"];

/// The attributes of each item without its key, by the item's name. Numbers are written as texts.
pub(super) type Items = BTreeMap<&'static str, Attributes>;

type Attributes = BTreeMap<String, String>;

/// Reads the items of the mailbox and of its tasks.
pub(super) async fn stored(bench: &Bench, grant: &GrantId, tasks: &[TaskKey; TASKS]) -> Items {
    let mailbox = format!("mailbox#{grant}");
    let [first, second] = tasks
        .each_ref()
        .map(|task| (format!("run#{}", task.run_id), mailbox.clone()));
    let leases = ["backfill", "history"].map(|sk| (mailbox.clone(), sk.to_owned()));
    let [schedule, operators] = leases;
    let keys = [schedule, operators, first, second];
    let names: HashMap<_, _> = keys.iter().cloned().zip(NAMES).collect();
    let keys = keys.map(|(pk, sk)| {
        HashMap::from([
            ("pk".to_owned(), AttributeValue::S(pk)),
            ("sk".to_owned(), AttributeValue::S(sk)),
        ])
    });
    let wanted = KeysAndAttributes::builder()
        .set_keys(Some(keys.into()))
        .consistent_read(true);
    let call = bench
        .client
        .batch_get_item()
        .request_items(&bench.table, wanted.build().unwrap());
    let found = call.send().await.unwrap().responses.unwrap_or_default();
    let items = found.into_values().flatten().map(|item| {
        let mut item: Attributes = item
            .into_iter()
            .map(|(name, value)| (name, shown(value)))
            .collect();
        let key = (item.remove("pk").unwrap(), item.remove("sk").unwrap());
        (names[&key], item)
    });
    // A released lease leaves an item without attributes.
    items.filter(|(_, item)| !item.is_empty()).collect()
}

fn shown(value: AttributeValue) -> String {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => text,
        other => format!("{other:?}"),
    }
}

/// Returns the items of the model.
pub(super) fn expected(model: &Model) -> Items {
    let [mut schedule, operators] = model.leases.map(leased);
    schedule.extend(attributes([("watermark_ms", model.watermark.map(ms))]));
    let [first, second] = model.tasks.each_ref().map(|stored| task(stored.as_ref()));
    let items = NAMES.into_iter().zip([schedule, operators, first, second]);
    items.filter(|(_, item)| !item.is_empty()).collect()
}

fn leased(lease: Option<Leased>) -> Attributes {
    let Some(lease) = lease else {
        return Attributes::new();
    };
    attributes([
        ("lease_task", Some(task_name(lease.task))),
        ("lease_token", lease.token.map(|token| token.to_string())),
        ("lease_until_ms", Some(ms(lease.until))),
    ])
}

fn task(stored: Option<&Stored>) -> Attributes {
    let Some(stored) = stored else {
        return Attributes::new();
    };
    let progress = &stored.progress;
    let (position, coverage) = (&progress.position, &progress.coverage);
    let (cursor, cursor_at) = position.cursor.clone().unzip();
    // A task that saved no page has no counts.
    let count = |number: u64| (progress.pages > 0).then(|| number.to_string());
    let failures = progress.nylas_failures;
    attributes([
        ("state", Some(progress.state.as_str().to_owned())),
        ("pages", count(progress.pages)),
        ("saved_by", stored.saved_by.map(|token| token.to_string())),
        ("part", position.part.clone()),
        ("cursor", cursor),
        ("cursor_at_ms", cursor_at.map(ms)),
        ("before", position.before.map(|time| time.to_string())),
        ("reached", position.reached.map(|time| time.to_string())),
        ("listed", count(coverage.listed)),
        ("written", count(coverage.written)),
        ("skipped", count(coverage.skipped)),
        ("waiting", count(coverage.waiting)),
        ("dead", count(coverage.dead)),
        ("repaired", count(coverage.repaired)),
        (
            "nylas_failures",
            (failures > 0).then(|| failures.to_string()),
        ),
        ("reason", progress.reason.clone()),
        ("changed_at_ms", progress.changed_at.map(ms)),
        ("expires_at", Some(stored.expires_at.to_string())),
    ])
}

fn ms(time: DateTime<Utc>) -> String {
    time.timestamp_millis().to_string()
}

fn attributes<const N: usize>(list: [(&str, Option<String>); N]) -> Attributes {
    let present = list
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)));
    present.collect()
}
