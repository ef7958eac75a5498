//! Contract of the attention index: which messages it lists, and how they are tried again.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::attention_index::Attention;
use mailverse::ledger::messages::StoredOutcome;
use mailverse::ledger::{Claim, ClaimRequest, State};

use super::{
    Bench, contract, dead, given_up, internal, key, key_of, now, released, worker, written,
};

contract! {
    long_waiting_messages_are_listed_longest_first
    a_message_waits_since_its_first_claim_regardless_of_later_attempts
    written_and_skipped_messages_need_no_attention
    dead_messages_are_listed_with_their_reasons
    the_attention_list_is_limited_to_the_requested_number
    filtered_out_messages_do_not_count_towards_the_limit
    a_redriven_dead_message_can_be_claimed
    only_dead_messages_can_be_redriven
    a_given_up_message_is_waiting_once_it_is_queued_again
    a_message_without_a_worker_or_an_expected_delivery_is_stranded
}

impl Bench {
    async fn claim_of(&self, message: &str, at: DateTime<Utc>) {
        let key = key_of("grant-1", message);
        let request = ClaimRequest::new(worker(1), at);
        let claim = self.ledger.claim(&key, &request).await;
        assert!(claim.unwrap().is_won());
    }

    async fn settled_as(&self, message: &str, at: DateTime<Utc>, stored_outcome: &StoredOutcome) {
        self.claim_of(message, at).await;
        let key = key_of("grant-1", message);
        let settled = self.ledger.settle(&key, worker(1), at, stored_outcome);
        settled.await.unwrap();
    }

    async fn listed(&self, state: State, before: DateTime<Utc>) -> Vec<Attention> {
        let listed = self
            .ledger
            .needing_attention(state, before, 1_000, |_| true);
        listed.await.unwrap()
    }
}

fn minutes(n: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(n)
}

fn ids(listed: &[Attention]) -> Vec<&str> {
    listed
        .iter()
        .map(|one| one.key.message_id.as_str())
        .collect()
}

async fn long_waiting_messages_are_listed_longest_first(bench: Bench) {
    bench.settled_as("second", minutes(1), &released()).await;
    bench.claim_of("first", minutes(0)).await;
    bench.claim_of("third", minutes(2)).await;
    let all = bench.listed(State::Waiting, minutes(3)).await;
    assert_eq!(ids(&all), ["first", "second", "third"]);
    assert_eq!(
        all.iter().map(|one| one.since).collect::<Vec<_>>(),
        [minutes(0), minutes(1), minutes(2)]
    );
    assert_eq!(
        all[1].entry.reason.as_deref(),
        Some("dataverse throttled the call")
    );
    let long = bench.listed(State::Waiting, minutes(2)).await;
    assert_eq!(ids(&long), ["first", "second"]);
}

async fn a_message_waits_since_its_first_claim_regardless_of_later_attempts(bench: Bench) {
    for minute in [0, 10, 20] {
        bench.settled_as("m", minutes(minute), &released()).await;
    }
    bench.claim_of("m", minutes(30)).await;
    let listed = bench.listed(State::Waiting, minutes(60)).await;
    assert_eq!((listed[0].since, listed[0].entry.attempts), (minutes(0), 4));
}

async fn written_and_skipped_messages_need_no_attention(bench: Bench) {
    bench.settled_as("m1", minutes(0), &written()).await;
    bench.settled_as("m2", minutes(0), &internal()).await;
    bench.settled_as("m3", minutes(0), &given_up()).await;
    bench.settled_as("m3", minutes(1), &written()).await;
    for state in [State::Waiting, State::Dead, State::Written, State::Skipped] {
        assert_eq!(bench.listed(state, minutes(60)).await, [], "{state:?}");
    }
}

async fn dead_messages_are_listed_with_their_reasons(bench: Bench) {
    bench.settled_as("m1", minutes(0), &released()).await;
    bench.settled_as("m1", minutes(5), &dead()).await;
    bench.settled_as("m2", minutes(1), &given_up()).await;
    let listed = bench.listed(State::Dead, minutes(60)).await;
    assert_eq!(ids(&listed), ["m2", "m1"]);
    assert_eq!(
        listed[1].since,
        minutes(5),
        "`since` is when the message became dead"
    );
    assert_eq!(listed[1].entry.reason.as_deref(), Some("0x80044331"));
    assert!(listed[0].entry.claimable && !listed[1].entry.claimable);
    assert_eq!(bench.listed(State::Waiting, minutes(60)).await, []);
}

async fn the_attention_list_is_limited_to_the_requested_number(bench: Bench) {
    for n in 0..5 {
        bench.claim_of(&format!("m{n}"), minutes(n)).await;
    }
    let some = bench
        .ledger
        .needing_attention(State::Waiting, minutes(60), 2, |_| true);
    assert_eq!(ids(&some.await.unwrap()), ["m0", "m1"]);
}

async fn filtered_out_messages_do_not_count_towards_the_limit(bench: Bench) {
    for n in 0..5 {
        bench.claim_of(&format!("m{n}"), minutes(n)).await;
    }
    let some = bench
        .ledger
        .needing_attention(State::Waiting, minutes(60), 2, |one| {
            one.since >= minutes(2)
        });
    assert_eq!(ids(&some.await.unwrap()), ["m2", "m3"]);
}

async fn a_redriven_dead_message_can_be_claimed(bench: Bench) {
    bench.settled(&dead()).await;
    assert!(matches!(
        bench.claim(worker(2), now()).await,
        Claim::Settled(_)
    ));
    assert!(bench.ledger.redrive(&key()).await.unwrap());
    let entry = bench.entry().await;
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Dead, Some("0x80044331")),
        "the message stays dead until it is claimed"
    );
    assert!(bench.claim(worker(2), now()).await.is_won());
}

async fn only_dead_messages_can_be_redriven(bench: Bench) {
    assert!(!bench.ledger.redrive(&key()).await.unwrap());
    assert_eq!(bench.ledger.entry(&key()).await.unwrap(), None);
    for stored_outcome in [released(), written()] {
        bench.settled(&stored_outcome).await;
        let before = bench.item().await;
        assert!(!bench.ledger.redrive(&key()).await.unwrap());
        assert_eq!(bench.item().await, before);
    }
}

async fn a_given_up_message_is_waiting_once_it_is_queued_again(bench: Bench) {
    bench.settled_as("given-up", minutes(0), &given_up()).await;
    bench.settled_as("refused", minutes(0), &dead()).await;
    bench.settled_as("written", minutes(0), &written()).await;
    bench.settled_as("taken-up", minutes(0), &given_up()).await;
    bench.claim_of("taken-up", minutes(1)).await;
    let mark_requeued = async |message: &str| {
        let key = key_of("grant-1", message);
        bench.ledger.mark_requeued(&key, minutes(5)).await.unwrap()
    };
    for message in ["refused", "written", "taken-up", "unknown"] {
        assert!(!mark_requeued(message).await, "{message}");
    }
    assert!(mark_requeued("given-up").await);
    assert_eq!(
        ids(&bench.listed(State::Dead, minutes(9)).await),
        ["refused"]
    );
    let waiting = bench.listed(State::Waiting, minutes(9)).await;
    assert_eq!(ids(&waiting), ["given-up", "taken-up"]);
    assert_eq!(waiting[0].entry.retry_at, Some(minutes(5)));
    assert!(!waiting[0].entry.claimable);
    bench.claim_of("given-up", minutes(6)).await;
}

async fn a_message_without_a_worker_or_an_expected_delivery_is_stranded(bench: Bench) {
    bench.claim_of("claimed", minutes(0)).await;
    bench.settled_as("released", minutes(0), &released()).await;
    let stranded = async |at| {
        let listed = bench.listed(State::Waiting, minutes(600)).await;
        let stranded = listed.into_iter().filter(|one| one.is_stranded(at));
        let ids = stranded.map(|one| one.key.message_id.to_string());
        let mut ids = ids.collect::<Vec<_>>();
        // The index may list two messages with equal times in either order.
        ids.sort_unstable();
        ids
    };
    // A message is stranded one hour after the delivery that was expected at the end of the lease
    // or of the delay.
    assert_eq!(stranded(minutes(60)).await, [""; 0]);
    assert_eq!(stranded(minutes(62)).await, ["released"]);
    assert_eq!(stranded(minutes(64)).await, ["claimed", "released"]);

    let key = key_of("grant-1", "claimed");
    assert!(
        !bench
            .ledger
            .expect_delivery(&key, minutes(1))
            .await
            .unwrap(),
        "a worker holds the message"
    );
    assert!(
        bench
            .ledger
            .expect_delivery(&key, minutes(64))
            .await
            .unwrap()
    );
    assert_eq!(stranded(minutes(120)).await, ["released"]);
    assert_eq!(stranded(minutes(125)).await, ["claimed", "released"]);
    bench.settled_as("released", minutes(70), &written()).await;
    let key = key_of("grant-1", "released");
    assert!(
        !bench
            .ledger
            .expect_delivery(&key, minutes(200))
            .await
            .unwrap(),
        "the message is written"
    );
}
