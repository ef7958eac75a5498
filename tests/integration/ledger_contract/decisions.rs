//! Contract of decision records: which one is stored, for how long, and how messages are found by
//! their row.

use mailverse::ledger::decisions::{DecidedRow, DecisionToStore, StoredMessage};
use mailverse::ledger::messages::StoredOutcome;
use mailverse::ledger::{ClaimRequest, State};
use mailverse::model::ids::ActivityId;
use uuid::Uuid;

use super::{
    Bench, activity, contract, dead, given_up, key, key_of, last, now, released, revisited,
    skipped, worker, written,
};

contract! {
    an_attempt_stores_its_decision_record_only_if_it_may_have_written_a_row
    an_existing_row_is_explained_by_the_last_decision_that_may_have_written_it
    an_external_row_is_explained_by_the_decision_that_found_it
    a_decision_record_stays_until_another_one_replaces_it
    all_copies_of_a_message_are_found_by_its_row
    a_stored_message_has_its_entry_and_its_times
}

impl Bench {
    /// Claims the message and settles it with a decision record of this text.
    async fn decided(&self, stored_outcome: &StoredOutcome, text: &str, row: DecidedRow) {
        assert!(
            self.revisit(worker(90), now()).await.is_won(),
            "{stored_outcome:?}"
        );
        let decided = DecisionToStore {
            text: text.to_owned(),
            row,
        };
        self.ledger
            .settle_with_decision(&key(), worker(90), now(), stored_outcome, Some(&decided))
            .await
            .unwrap();
    }

    async fn stored_message(&self) -> StoredMessage {
        self.ledger
            .stored_message(&key())
            .await
            .unwrap()
            .expect("the message has an item")
    }

    async fn decision(&self) -> Option<String> {
        self.stored_message().await.decision
    }

    async fn attribute(&self, name: &str) -> Option<String> {
        let item = self.item().await;
        item.get(name).map(|value| value.as_s().unwrap().clone())
    }
}

async fn an_attempt_stores_its_decision_record_only_if_it_may_have_written_a_row(bench: Bench) {
    bench.decided(&released(), "early", DecidedRow::None).await;
    assert_eq!(
        bench.decision().await.as_deref(),
        None,
        "no write was attempted"
    );
    bench.decided(&released(), "tried", DecidedRow::Ours).await;
    assert_eq!(bench.decision().await.as_deref(), Some("tried"));
    assert_eq!(bench.attribute("decision").await, None);
    bench.decided(&written(), "ours", DecidedRow::Ours).await;
    assert_eq!(bench.decision().await.as_deref(), Some("ours"));
    assert_eq!(bench.attribute("attempted_decision").await, None);
}

async fn an_existing_row_is_explained_by_the_last_decision_that_may_have_written_it(bench: Bench) {
    bench.decided(&released(), "first", DecidedRow::Ours).await;
    bench.decided(&released(), "failed", DecidedRow::None).await;
    bench.decided(&given_up(), "second", DecidedRow::Ours).await;
    assert_eq!(
        bench.decision().await.as_deref(),
        Some("second"),
        "the row may have been written by this decision"
    );
    bench.decided(&written(), "found", DecidedRow::Found).await;
    assert_eq!(bench.decision().await.as_deref(), Some("second"));
    assert_eq!(bench.attribute("attempted_decision").await, None);
}

async fn an_external_row_is_explained_by_the_decision_that_found_it(bench: Bench) {
    bench.decided(&skipped(), "skipped", DecidedRow::None).await;
    bench.decided(&written(), "found", DecidedRow::Found).await;
    assert_eq!(bench.decision().await.as_deref(), Some("found"));
}

async fn a_decision_record_stays_until_another_one_replaces_it(bench: Bench) {
    bench.decided(&skipped(), "skipped", DecidedRow::None).await;
    bench.revisit(worker(1), now()).await;
    assert_eq!(
        bench.decision().await.as_deref(),
        Some("skipped"),
        "a claim keeps the record"
    );
    bench
        .ledger
        .settle(&key(), worker(1), now(), &skipped())
        .await
        .unwrap();
    assert_eq!(
        bench.decision().await.as_deref(),
        Some("skipped"),
        "a settlement without a record keeps the old one"
    );
    bench.decided(&dead(), "dead", DecidedRow::None).await;
    assert_eq!(bench.decision().await.as_deref(), Some("dead"));
    assert!(bench.ledger.redrive(&key()).await.unwrap());
    let claim = bench
        .ledger
        .claim(&key(), &last(worker(2), now()))
        .await
        .unwrap();
    assert_eq!(
        (claim.is_won(), bench.decision().await.as_deref()),
        (true, Some("dead")),
        "a claim after a redrive keeps the record"
    );
}

async fn all_copies_of_a_message_are_found_by_its_row(bench: Bench) {
    let copies = [key_of("grant-2", "b"), key_of("grant-1", "c"), key()];
    for copy in &copies {
        let request = ClaimRequest::new(worker(1), now());
        bench.ledger.claim(copy, &request).await.unwrap();
        bench
            .ledger
            .settle(copy, worker(1), now(), &written())
            .await
            .unwrap();
    }
    let other = key_of("grant-3", "other");
    bench
        .ledger
        .claim(&other, &revisited(worker(1), now()))
        .await
        .unwrap();
    bench
        .ledger
        .settle(&other, worker(1), now(), &skipped())
        .await
        .unwrap();
    let mut expected = copies.to_vec();
    expected.sort();
    assert_eq!(
        bench.ledger.messages_of_row(activity()).await.unwrap(),
        expected
    );
    let nobody = ActivityId::new(Uuid::from_u128(8));
    assert_eq!(bench.ledger.messages_of_row(nobody).await.unwrap(), []);
}

async fn a_stored_message_has_its_entry_and_its_times(bench: Bench) {
    assert_eq!(bench.ledger.stored_message(&key()).await.unwrap(), None);
    bench.claim(worker(1), now()).await;
    let stored_message = bench.stored_message().await;
    assert_eq!(stored_message.entry, bench.entry().await);
    assert_eq!(
        (stored_message.since, stored_message.changed_at),
        (Some(now()), Some(now()))
    );
    assert_eq!(
        stored_message.until,
        stored_message.entry.held.map(|(_, until)| until),
        "the end of the lease"
    );
    bench
        .ledger
        .settle(&key(), worker(1), now(), &released())
        .await
        .unwrap();
    let stored_message = bench.stored_message().await;
    let StoredOutcome::Released { retry_at, .. } = released() else {
        panic!("`released` returns `Released`")
    };
    assert_eq!(
        (stored_message.since, stored_message.until),
        (Some(now()), Some(retry_at))
    );
    bench.settled(&written()).await;
    let stored_message = bench.stored_message().await;
    assert_eq!(
        (
            stored_message.entry.state,
            stored_message.since,
            stored_message.until
        ),
        (State::Written, None, None)
    );
}
