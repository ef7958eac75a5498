//! Contract of settlements: what is stored when a claim ends, and what is not.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;
use mailverse::ledger::messages::{Ledger, LedgerError, StoredOutcome};
use mailverse::ledger::{ClaimRequest, Entry, LEASE, State, table};
use mailverse::model::ids::ActivityId;
use uuid::Uuid;

use super::{
    Bench, activity, contract, dead, item_key, key, now, released, revisited, skipped, worker,
    written,
};

contract! {
    a_worker_that_lost_its_claim_cannot_settle
    a_settled_claim_cannot_be_settled_again
    an_unclaimed_message_cannot_be_settled
    a_settlement_stores_its_reason_and_row
    a_long_reason_is_truncated_at_a_character_boundary
    only_written_and_skipped_messages_expire
    an_item_has_exactly_the_documented_attributes
    an_item_with_an_unknown_state_is_not_changed
    a_missing_table_is_an_outage_and_not_a_lost_claim
    creating_an_existing_table_keeps_its_items
    replace_row_changes_only_the_row_and_the_reason
    only_the_row_of_a_written_message_can_be_replaced
}

async fn a_worker_that_lost_its_claim_cannot_settle(bench: Bench) {
    bench.claim(worker(1), now()).await;
    bench.claim(worker(2), now() + LEASE).await;
    for stored_outcome in [written(), skipped(), dead(), released()] {
        let late = bench.settle(worker(1), &stored_outcome).await;
        assert!(
            matches!(late, Err(LedgerError::ClaimLost)),
            "{stored_outcome:?}"
        );
    }
    assert_eq!(
        bench.entry().await.held,
        Some((worker(2), now() + LEASE + LEASE)),
        "the successor's claim is unchanged"
    );
    bench.settle(worker(2), &written()).await.unwrap();
}

async fn a_settled_claim_cannot_be_settled_again(bench: Bench) {
    bench.settled(&written()).await;
    let again = bench.settle(worker(90), &dead()).await;
    assert!(matches!(again, Err(LedgerError::ClaimLost)));
    assert_eq!(bench.entry().await.state, State::Written);
}

async fn an_unclaimed_message_cannot_be_settled(bench: Bench) {
    let settled = bench.settle(worker(1), &written()).await;
    assert!(matches!(settled, Err(LedgerError::ClaimLost)));
    assert_eq!(bench.ledger.entry(&key()).await.unwrap(), None);
}

async fn a_settlement_stores_its_reason_and_row(bench: Bench) {
    bench.settled(&released()).await;
    bench.settled(&written()).await;
    let expected = Entry {
        state: State::Written,
        held: None,
        retry_at: None,
        attempts: 2,
        failures: 0,
        since: None,
        claimable: false,
        awaits_dead_letter: false,
        reason: Some("left out: date".to_owned()),
        activity_id: Some(activity()),
        changed_at: Some(now()),
    };
    assert_eq!(bench.entry().await, expected);
    assert!(
        !bench.item().await.contains_key("retry_at_ms"),
        "a written message is not retried"
    );
}

async fn a_long_reason_is_truncated_at_a_character_boundary(bench: Bench) {
    // 'ä' has two bytes, and the limit of 500 bytes is in the middle of one.
    let reason = format!("x{}", "ä".repeat(400));
    bench
        .settled(&StoredOutcome::Dead {
            reason: reason.clone(),
            claimable: false,
        })
        .await;
    let stored_message = bench.entry().await.reason.unwrap();
    assert!(
        reason.starts_with(&stored_message) && stored_message.len() == 499,
        "{} bytes",
        stored_message.len()
    );
}

async fn only_written_and_skipped_messages_expire(bench: Bench) {
    let expires = |item: &HashMap<String, AttributeValue>| {
        let seconds = item
            .get("expires_at")?
            .as_n()
            .unwrap()
            .parse::<i64>()
            .unwrap();
        Some(seconds - now().timestamp())
    };
    bench.claim(worker(90), now()).await;
    assert_eq!(expires(&bench.item().await), None, "claimed");
    bench.settle(worker(90), &released()).await.unwrap();
    assert_eq!(expires(&bench.item().await), None, "released");
    bench.settled(&skipped()).await;
    let stored_message = expires(&bench.item().await).expect("a skipped item has an expiry time");
    let year = 365 * 86_400;
    assert!(
        (year..=4 * year).contains(&stored_message),
        "expires after more than one year of backfill, and is not stored for ever: {stored_message} s"
    );
    bench.revisit(worker(90), now()).await;
    assert_eq!(expires(&bench.item().await), None, "claimed again");
    bench.settle(worker(90), &written()).await.unwrap();
    assert_eq!(
        expires(&bench.item().await),
        Some(stored_message),
        "written"
    );

    bench
        .client
        .delete_item()
        .table_name(&bench.table)
        .set_key(Some(item_key()))
        .send()
        .await
        .unwrap();
    bench.settled(&dead()).await;
    assert_eq!(
        expires(&bench.item().await),
        None,
        "a dead message waits for an operator"
    );
}

async fn an_item_has_exactly_the_documented_attributes(bench: Bench) {
    let names = |item: HashMap<String, AttributeValue>| item.into_keys().collect::<BTreeSet<_>>();
    let expected = |more: &[&str]| {
        let always = ["pk", "sk", "state", "attempts", "changed_at_ms"];
        always
            .iter()
            .chain(more)
            .map(|name| (*name).to_owned())
            .collect::<BTreeSet<_>>()
    };
    bench.claim(worker(90), now()).await;
    assert_eq!(
        names(bench.item().await),
        expected(&[
            "claim_token",
            "lease_until_ms",
            "failures",
            "attention",
            "since_ms"
        ])
    );
    bench.settle(worker(90), &released()).await.unwrap();
    assert_eq!(
        names(bench.item().await),
        expected(&[
            "settled_by",
            "reason",
            "retry_at_ms",
            "failures",
            "attention",
            "since_ms"
        ])
    );
    bench.settled(&written()).await;
    assert_eq!(
        names(bench.item().await),
        expected(&["settled_by", "reason", "activity_id", "expires_at"])
    );
}

async fn an_item_with_an_unknown_state_is_not_changed(bench: Bench) {
    let mut item = item_key();
    item.insert("state".to_owned(), AttributeValue::S("parked".to_owned()));
    bench
        .client
        .put_item()
        .table_name(&bench.table)
        .set_item(Some(item.clone()))
        .send()
        .await
        .unwrap();
    let claim = bench
        .ledger
        .claim(&key(), &revisited(worker(1), now()))
        .await;
    assert!(
        matches!(claim, Err(LedgerError::Unavailable(_))),
        "{claim:?}"
    );
    assert!(bench.ledger.entry(&key()).await.is_err());
    assert_eq!(bench.item().await, item);
}

async fn a_missing_table_is_an_outage_and_not_a_lost_claim(bench: Bench) {
    let ledger = Ledger::new(bench.client, "a_table_that_nobody_made".to_owned());
    let claim = ledger
        .claim(&key(), &ClaimRequest::new(worker(1), now()))
        .await;
    assert!(
        matches!(claim, Err(LedgerError::Unavailable(_))),
        "{claim:?}"
    );
    let settled = ledger.settle(&key(), worker(1), now(), &written()).await;
    assert!(
        matches!(settled, Err(LedgerError::Unavailable(_))),
        "{settled:?}"
    );
    assert!(ledger.entry(&key()).await.is_err());
}

async fn creating_an_existing_table_keeps_its_items(bench: Bench) {
    bench.settled(&written()).await;
    table::create(&bench.client, &bench.table).await.unwrap();
    assert_eq!(bench.entry().await.state, State::Written);
}

/// Tells the ledger that another row holds the message. Returns whether it stored that.
async fn told(bench: &Bench, external_row: ActivityId, note: &str) -> bool {
    let ledger = &bench.ledger;
    ledger
        .replace_row(&key(), activity(), external_row, note)
        .await
        .unwrap()
}

async fn replace_row_changes_only_the_row_and_the_reason(bench: Bench) {
    bench.settled(&written()).await;
    let before = bench.entry().await;
    let external_row = ActivityId::new(Uuid::from_u128(77));
    let replaced_row = || async {
        bench
            .ledger
            .stored_message(&key())
            .await
            .unwrap()
            .unwrap()
            .replaced_row
    };
    assert!(told(&bench, activity(), "both stay").await);
    assert_eq!(replaced_row().await, None);
    assert!(told(&bench, external_row, "theirs").await);
    let expected = Entry {
        activity_id: Some(external_row),
        reason: Some("theirs".to_owned()),
        ..before
    };
    assert_eq!(bench.entry().await, expected);
    assert_eq!(replaced_row().await, Some(activity()));
    let again = told(&bench, external_row, "again").await;
    assert!(!again, "the item names another row by now");
    assert_eq!(bench.entry().await, expected);
}

async fn only_the_row_of_a_written_message_can_be_replaced(bench: Bench) {
    let external_row = ActivityId::new(Uuid::from_u128(77));
    assert!(!told(&bench, external_row, "theirs").await);
    assert_eq!(bench.ledger.entry(&key()).await.unwrap(), None);
    bench.claim(worker(1), now()).await;
    let claimed = bench.entry().await;
    assert!(!told(&bench, external_row, "theirs").await);
    assert_eq!(bench.entry().await, claimed);
}
