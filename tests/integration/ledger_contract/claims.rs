//! Contract of claims: which worker may process a message.

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use mailverse::ledger::messages::{LAST_DELIVERY_UNFINISHED, LedgerError, StoredOutcome};
use mailverse::ledger::{Claim, ClaimRequest, Entry, LEASE, State};

use super::{
    Bench, activity, contract, dead, given_up, internal, key, key_of, last, now, postponed,
    released, requeued, skipped, worker, written,
};

contract! {
    the_first_claim_wins_and_is_the_first_attempt
    an_unclaimed_message_has_no_item
    a_claim_returns_the_number_of_failures_and_the_time_of_the_first_claim
    a_postponed_attempt_is_not_a_failure_but_an_unfinished_one_is
    redeliveries_of_a_given_up_message_are_not_claimed_until_it_is_redriven
    a_second_claim_loses_and_gets_the_end_of_the_first_lease
    a_claim_holds_until_the_last_millisecond_of_its_lease
    an_expired_lease_is_taken_over
    a_repeated_claim_of_the_same_worker_wins_again
    a_released_message_can_be_claimed_at_once
    a_written_or_dead_message_is_final
    a_given_up_message_is_claimed_on_a_new_request_but_a_rejected_one_is_not
    a_message_on_its_last_delivery_is_dead_until_the_attempt_is_settled
    a_claim_on_the_last_delivery_has_a_lease_like_any_other
    a_message_skipped_for_its_folder_is_claimed_again_only_if_it_changed
    a_message_skipped_for_its_people_stays_skipped
    one_of_many_concurrent_workers_claims_a_new_message
    one_of_many_concurrent_workers_takes_over_an_expired_lease
    messages_are_distinguished_by_mailbox_and_letter_case
    a_message_with_the_longest_ids_can_be_claimed
}

async fn the_first_claim_wins_and_is_the_first_attempt(bench: Bench) {
    assert!(bench.claim(worker(1), now()).await.is_won());
    let expected = Entry {
        state: State::Waiting,
        held: Some((worker(1), now() + LEASE)),
        retry_at: None,
        attempts: 1,
        failures: 1,
        since: Some(now()),
        claimable: false,
        awaits_dead_letter: false,
        reason: None,
        activity_id: None,
        changed_at: Some(now()),
    };
    assert_eq!(bench.entry().await, expected);
}

async fn a_claim_returns_the_number_of_failures_and_the_time_of_the_first_claim(bench: Bench) {
    let tries = |failures| Claim::Won {
        failures,
        since: now(),
    };
    assert_eq!(bench.claim(worker(1), now()).await, tries(0));
    bench.settle(worker(1), &released()).await.unwrap();
    let later = now() + TimeDelta::hours(1);
    assert_eq!(bench.claim(worker(2), later).await, tries(1));
    bench.settle(worker(2), &released()).await.unwrap();
    assert_eq!(bench.entry().await.failures, 2);
}

async fn a_postponed_attempt_is_not_a_failure_but_an_unfinished_one_is(bench: Bench) {
    let failures = async |stored_outcome: &StoredOutcome| {
        bench.settled(stored_outcome).await;
        bench.entry().await.failures
    };
    assert_eq!(failures(&released()).await, 1);
    assert_eq!(failures(&postponed()).await, 1, "postponed");
    assert_eq!(
        failures(&requeued(false)).await,
        1,
        "postponed at the last delivery"
    );
    assert_eq!(
        failures(&requeued(true)).await,
        2,
        "failed at the last delivery"
    );
    assert!(bench.claim(worker(1), now()).await.is_won());
    let died = bench.claim(worker(2), now() + LEASE).await;
    assert!(matches!(died, Claim::Won { failures: 3, .. }), "{died:?}");
    bench.settle(worker(2), &given_up()).await.unwrap();
    assert_eq!(bench.entry().await.failures, 0, "the count starts again");
}

async fn redeliveries_of_a_given_up_message_are_not_claimed_until_it_is_redriven(bench: Bench) {
    let delivered_again = ClaimRequest {
        redelivery: true,
        ..ClaimRequest::new(worker(2), now())
    };
    let claim = async || bench.ledger.claim(&key(), &delivered_again).await.unwrap();
    bench.settled(&released()).await;
    assert!(claim().await.is_won(), "the message waits");
    bench.settle(worker(2), &given_up()).await.unwrap();
    assert_eq!(claim().await, Claim::Settled(bench.entry().await));
    assert!(bench.ledger.redrive(&key()).await.unwrap());
    assert!(claim().await.is_won(), "the message was redriven");
    bench.settle(worker(2), &given_up()).await.unwrap();
    assert!(
        bench.claim(worker(1), now()).await.is_won(),
        "a new request names the message"
    );
}

async fn an_unclaimed_message_has_no_item(bench: Bench) {
    assert_eq!(bench.ledger.entry(&key()).await.unwrap(), None);
}

async fn a_second_claim_loses_and_gets_the_end_of_the_first_lease(bench: Bench) {
    // Milliseconds, because a lease that is stored with less precision than it was given would end
    // early.
    let began = now() + TimeDelta::milliseconds(137);
    bench.claim(worker(1), began).await;
    let lost = bench.claim(worker(2), began + TimeDelta::seconds(5)).await;
    assert_eq!(lost, Claim::HeldUntil(began + LEASE));
    let entry = bench.entry().await;
    assert_eq!(
        (entry.held, entry.attempts),
        (Some((worker(1), began + LEASE)), 1),
        "the lost claim changed nothing"
    );
}

async fn a_claim_holds_until_the_last_millisecond_of_its_lease(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let late = now() + LEASE - TimeDelta::milliseconds(1);
    assert_eq!(
        bench.claim(worker(2), late).await,
        Claim::HeldUntil(now() + LEASE)
    );
}

async fn an_expired_lease_is_taken_over(bench: Bench) {
    bench.claim(worker(1), now()).await;
    assert!(bench.claim(worker(2), now() + LEASE).await.is_won());
    let entry = bench.entry().await;
    assert_eq!(entry.held, Some((worker(2), now() + LEASE + LEASE)));
    assert_eq!(entry.attempts, 2);
}

async fn a_released_message_can_be_claimed_at_once(bench: Bench) {
    bench.settled(&released()).await;
    let entry = bench.entry().await;
    assert_eq!((entry.state, entry.held), (State::Waiting, None));
    assert_eq!(
        entry.reason.as_deref(),
        Some("dataverse throttled the call")
    );
    // The queue decides when the message comes back. The ledger does not delay it further.
    assert!(bench.claim(worker(2), now()).await.is_won());
    assert_eq!(bench.entry().await.attempts, 2);
}

async fn a_repeated_claim_of_the_same_worker_wins_again(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let later = now() + TimeDelta::seconds(1);
    assert!(bench.claim(worker(1), later).await.is_won());
    assert_eq!(bench.entry().await.held, Some((worker(1), later + LEASE)));
    bench.settle(worker(1), &written()).await.unwrap();
}

async fn a_written_or_dead_message_is_final(bench: Bench) {
    bench.settled(&written()).await;
    let far = now() + TimeDelta::days(365);
    let settled = Entry {
        state: State::Written,
        held: None,
        retry_at: None,
        attempts: 1,
        failures: 0,
        since: None,
        claimable: false,
        awaits_dead_letter: false,
        reason: Some("left out: date".to_owned()),
        activity_id: Some(activity()),
        changed_at: Some(now()),
    };
    for claim in [
        bench.claim(worker(2), far).await,
        bench.revisit(worker(2), far).await,
    ] {
        assert_eq!(claim, Claim::Settled(settled.clone()));
    }

    let other = key_of("grant-1", "message-2");
    bench
        .ledger
        .claim(&other, &ClaimRequest::new(worker(1), now()))
        .await
        .unwrap();
    bench
        .ledger
        .settle(&other, worker(1), now(), &dead())
        .await
        .unwrap();
    for revisit in [false, true] {
        let claim = bench
            .ledger
            .claim(
                &other,
                &ClaimRequest {
                    revisit,
                    ..ClaimRequest::new(worker(2), far)
                },
            )
            .await
            .unwrap();
        let Claim::Settled(entry) = claim else {
            panic!("a dead message was claimed: {claim:?}");
        };
        assert_eq!(
            (entry.state, entry.reason.as_deref()),
            (State::Dead, Some("0x80044331"))
        );
    }
}

async fn a_given_up_message_is_claimed_on_a_new_request_but_a_rejected_one_is_not(bench: Bench) {
    bench.settled(&given_up()).await;
    assert!(bench.entry().await.claimable);
    assert!(bench.claim(worker(2), now()).await.is_won());
    assert!(!bench.entry().await.claimable);
    bench.settle(worker(2), &dead()).await.unwrap();
    assert!(matches!(
        bench.claim(worker(3), now()).await,
        Claim::Settled(_)
    ));
}

async fn a_message_on_its_last_delivery_is_dead_until_the_attempt_is_settled(bench: Bench) {
    let claim = bench.ledger.claim(&key(), &last(worker(1), now())).await;
    assert!(claim.unwrap().is_won());
    let entry = bench.entry().await;
    assert_eq!(
        (entry.state, entry.claimable, entry.reason.as_deref()),
        (State::Dead, true, Some(LAST_DELIVERY_UNFINISHED))
    );
    // The settlement of the attempt replaces that state, whichever it is.
    bench.settle(worker(1), &released()).await.unwrap();
    let entry = bench.entry().await;
    assert_eq!((entry.state, entry.claimable), (State::Waiting, false));
    let claim = bench.ledger.claim(&key(), &last(worker(2), now())).await;
    assert!(claim.unwrap().is_won());
    bench.settle(worker(2), &written()).await.unwrap();
    let entry = bench.entry().await;
    assert_eq!((entry.state, entry.claimable), (State::Written, false));
}

async fn a_claim_on_the_last_delivery_has_a_lease_like_any_other(bench: Bench) {
    let claim = bench.ledger.claim(&key(), &last(worker(1), now())).await;
    assert!(claim.unwrap().is_won());
    assert_eq!(
        bench.claim(worker(2), now()).await,
        Claim::HeldUntil(now() + LEASE)
    );
    // The worker died and a new request names the message.
    assert!(bench.claim(worker(2), now() + LEASE).await.is_won());
    assert_eq!(bench.entry().await.state, State::Waiting);
    let late = bench.settle(worker(1), &written()).await;
    assert!(matches!(late, Err(LedgerError::ClaimLost)), "{late:?}");
}

async fn a_message_skipped_for_its_folder_is_claimed_again_only_if_it_changed(bench: Bench) {
    bench.settled(&skipped()).await;
    let Claim::Settled(entry) = bench.claim(worker(2), now()).await else {
        panic!("a skipped message was claimed although it did not change");
    };
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Skipped, Some("spam"))
    );
    assert!(bench.revisit(worker(2), now()).await.is_won());
    // From then on it is a claim like any other.
    assert_eq!(
        bench.revisit(worker(3), now()).await,
        Claim::HeldUntil(now() + LEASE)
    );
}

async fn a_message_skipped_for_its_people_stays_skipped(bench: Bench) {
    bench.settled(&internal()).await;
    for claim in [
        bench.claim(worker(2), now()).await,
        bench.revisit(worker(2), now()).await,
    ] {
        assert!(matches!(claim, Claim::Settled(_)), "{claim:?}");
    }
    assert_eq!(bench.entry().await.attempts, 1);
}

async fn one_of_many_concurrent_workers_claims_a_new_message(bench: Bench) {
    race(&bench, now()).await;
}

async fn one_of_many_concurrent_workers_takes_over_an_expired_lease(bench: Bench) {
    bench.claim(worker(90), now()).await;
    race(&bench, now() + LEASE).await;
}

async fn race(bench: &Bench, at: DateTime<Utc>) {
    let claims = join_all((1..=32).map(|n| bench.claim(worker(n), at))).await;
    let winners: Vec<usize> = (0..32).filter(|n| claims[*n].is_won()).collect();
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    let losers = claims
        .iter()
        .filter(|claim| **claim == Claim::HeldUntil(at + LEASE));
    assert_eq!(losers.count(), 31);
    let winner = worker(winners[0] as u128 + 1);
    assert_eq!(bench.entry().await.held, Some((winner, at + LEASE)));
}

async fn messages_are_distinguished_by_mailbox_and_letter_case(bench: Bench) {
    for key in [
        key_of("grant-1", "AAMkAD="),
        key_of("grant-1", "AAMkad="),
        key_of("grant-2", "AAMkAD="),
        key_of("grant-1", "AAMkAD=#"),
    ] {
        let claim = bench
            .ledger
            .claim(&key, &ClaimRequest::new(worker(1), now()))
            .await
            .unwrap();
        assert!(claim.is_won());
        let entry = bench.ledger.entry(&key).await.unwrap().unwrap();
        assert_eq!(entry.attempts, 1, "{key} shares its item with another key");
    }
}

async fn a_message_with_the_longest_ids_can_be_claimed(bench: Bench) {
    let key = key_of(&"g".repeat(1_000), &"ä".repeat(500));
    let claim = bench
        .ledger
        .claim(&key, &ClaimRequest::new(worker(1), now()))
        .await
        .unwrap();
    assert!(claim.is_won());
}
