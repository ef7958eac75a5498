//! What the ledger promises, whatever DynamoDB it talks to.
//!
//! Each sentence takes a [`Bench`], which is made from nothing but a client, so the same sentences hold on every endpoint for
//! which [`contract!`] is given a way to make one.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use mailverse::dedupe::ledger::{Ledger, LedgerError, Settlement};
use mailverse::dedupe::{Claim, ClaimToken, Entry, LEASE, State, decide_claim, table};
use mailverse::ids::{ActivityId, MessageKey};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use uuid::Uuid;

use crate::dynamo;

const TABLE: &str = "ledger";

/// A ledger in an empty table of its own.
struct Bench {
    client: Client,
    ledger: Ledger,
}

impl Bench {
    async fn on(client: Client) -> Self {
        table::create(&client, TABLE).await.unwrap();
        let ledger = Ledger::new(client.clone(), TABLE.to_owned());
        Self { client, ledger }
    }

    async fn claim(&self, worker: ClaimToken, now: DateTime<Utc>) -> Claim {
        self.ledger
            .claim(&key(), worker, now, LEASE, false)
            .await
            .unwrap()
    }

    async fn revisit(&self, worker: ClaimToken, now: DateTime<Utc>) -> Claim {
        self.ledger
            .claim(&key(), worker, now, LEASE, true)
            .await
            .unwrap()
    }

    async fn settle(&self, worker: ClaimToken, settlement: &Settlement) -> Result<(), LedgerError> {
        self.ledger.settle(&key(), worker, now(), settlement).await
    }

    /// Claims and settles.
    async fn settled(&self, settlement: &Settlement) {
        assert_eq!(self.claim(worker(90), now()).await, Claim::Won);
        self.settle(worker(90), settlement).await.unwrap();
    }

    async fn entry(&self) -> Entry {
        self.ledger.entry(&key()).await.unwrap().expect("an item")
    }

    /// The item as the table holds it.
    async fn item(&self) -> HashMap<String, AttributeValue> {
        let found = self
            .client
            .get_item()
            .table_name(TABLE)
            .set_key(Some(item_key()));
        found.send().await.unwrap().item.expect("an item")
    }
}

fn item_key() -> HashMap<String, AttributeValue> {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    HashMap::from([
        ("pk".to_owned(), text("mailbox#grant-1")),
        ("sk".to_owned(), text("message#message-1")),
    ])
}

fn key() -> MessageKey {
    key_of("grant-1", "message-1")
}

fn key_of(grant: &str, message: &str) -> MessageKey {
    MessageKey {
        grant_id: grant.parse().unwrap(),
        message_id: message.parse().unwrap(),
    }
}

fn worker(n: u128) -> ClaimToken {
    ClaimToken::new(Uuid::from_u128(n))
}

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_154_400, 0).unwrap()
}

fn activity() -> ActivityId {
    ActivityId::new(Uuid::from_u128(7))
}

fn written() -> Settlement {
    Settlement::Written {
        activity_id: activity(),
        note: Some("left out: date".to_owned()),
    }
}

fn skipped() -> Settlement {
    Settlement::Skipped {
        rule: "spam".to_owned(),
    }
}

fn internal() -> Settlement {
    Settlement::Skipped {
        rule: "internal_only".to_owned(),
    }
}

fn dead() -> Settlement {
    Settlement::Dead {
        reason: "0x80044331".to_owned(),
    }
}

fn released() -> Settlement {
    Settlement::Released {
        retry_at: now() + TimeDelta::seconds(30),
        reason: "dataverse throttled the call".to_owned(),
    }
}

/// Every sentence as a test of its own, on each kind of endpoint.
macro_rules! contract {
    ($($sentence:ident)*) => {
        mod embedded {
            use super::{Bench, dynamo};

            $(
                #[tokio::test]
                async fn $sentence() {
                    let endpoint = dynamo::start().await;
                    super::$sentence(Bench::on(dynamo::client(&endpoint)).await).await;
                }
            )*
        }
    };
}

contract! {
    the_first_claim_wins_and_is_the_first_attempt
    a_message_that_nobody_claimed_has_no_item
    a_second_claim_loses_and_learns_until_when_the_first_one_holds
    a_claim_holds_until_the_last_millisecond_of_its_lease
    a_lease_that_ran_out_is_taken_over
    a_worker_that_lost_its_claim_cannot_finish
    a_claim_that_is_finished_cannot_be_finished_again
    what_was_never_claimed_cannot_be_settled
    a_released_message_is_free_at_once
    a_repeated_claim_of_the_same_worker_wins_again
    a_written_or_dead_message_is_final
    a_message_skipped_for_its_place_is_claimed_again_only_when_it_changed
    a_message_skipped_for_its_people_stays_skipped
    a_settlement_is_kept_with_its_reason_and_row
    a_long_reason_is_cut_on_a_character
    only_what_is_settled_for_good_may_expire
    an_item_holds_the_documented_attributes_and_no_others
    of_many_racers_one_wins_a_new_message
    of_many_racers_one_takes_over_a_lease_that_ran_out
    messages_differ_by_mailbox_and_by_letter_case
    the_longest_id_has_an_item
    an_item_that_this_build_cannot_read_is_left_alone
    a_table_that_is_missing_is_an_outage_and_not_a_lost_claim
    a_table_that_is_there_stays
    a_random_walk_agrees_with_the_claim_rule
}

async fn the_first_claim_wins_and_is_the_first_attempt(bench: Bench) {
    assert_eq!(bench.claim(worker(1), now()).await, Claim::Won);
    let expected = Entry {
        state: State::Waiting,
        held: Some((worker(1), now() + LEASE)),
        attempts: 1,
        reason: None,
        activity_id: None,
    };
    assert_eq!(bench.entry().await, expected);
}

async fn a_message_that_nobody_claimed_has_no_item(bench: Bench) {
    assert_eq!(bench.ledger.entry(&key()).await.unwrap(), None);
}

async fn a_second_claim_loses_and_learns_until_when_the_first_one_holds(bench: Bench) {
    // Milliseconds, because a lease that is read back coarser than it was written would end early.
    let began = now() + TimeDelta::milliseconds(137);
    bench.claim(worker(1), began).await;
    let lost = bench.claim(worker(2), began + TimeDelta::seconds(5)).await;
    assert_eq!(lost, Claim::HeldUntil(began + LEASE));
    let entry = bench.entry().await;
    assert_eq!(
        (entry.held, entry.attempts),
        (Some((worker(1), began + LEASE)), 1),
        "the loser changed nothing"
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

async fn a_lease_that_ran_out_is_taken_over(bench: Bench) {
    bench.claim(worker(1), now()).await;
    assert_eq!(bench.claim(worker(2), now() + LEASE).await, Claim::Won);
    let entry = bench.entry().await;
    assert_eq!(entry.held, Some((worker(2), now() + LEASE + LEASE)));
    assert_eq!(entry.attempts, 2);
}

async fn a_worker_that_lost_its_claim_cannot_finish(bench: Bench) {
    bench.claim(worker(1), now()).await;
    bench.claim(worker(2), now() + LEASE).await;
    for settlement in [written(), skipped(), dead(), released()] {
        let late = bench.settle(worker(1), &settlement).await;
        assert!(
            matches!(late, Err(LedgerError::ClaimLost)),
            "{settlement:?}"
        );
    }
    assert_eq!(
        bench.entry().await.held,
        Some((worker(2), now() + LEASE + LEASE)),
        "the successor's claim stands"
    );
    bench.settle(worker(2), &written()).await.unwrap();
}

async fn a_claim_that_is_finished_cannot_be_finished_again(bench: Bench) {
    bench.settled(&written()).await;
    let again = bench.settle(worker(90), &dead()).await;
    assert!(matches!(again, Err(LedgerError::ClaimLost)));
    assert_eq!(bench.entry().await.state, State::Written);
}

async fn what_was_never_claimed_cannot_be_settled(bench: Bench) {
    let settled = bench.settle(worker(1), &written()).await;
    assert!(matches!(settled, Err(LedgerError::ClaimLost)));
    assert_eq!(bench.ledger.entry(&key()).await.unwrap(), None);
}

async fn a_released_message_is_free_at_once(bench: Bench) {
    bench.settled(&released()).await;
    let entry = bench.entry().await;
    assert_eq!((entry.state, entry.held), (State::Waiting, None));
    assert_eq!(
        entry.reason.as_deref(),
        Some("dataverse throttled the call")
    );
    // The queue decides when it comes back; the ledger does not stand in the way before.
    assert_eq!(bench.claim(worker(2), now()).await, Claim::Won);
    assert_eq!(bench.entry().await.attempts, 2);
}

async fn a_repeated_claim_of_the_same_worker_wins_again(bench: Bench) {
    bench.claim(worker(1), now()).await;
    let later = now() + TimeDelta::seconds(1);
    assert_eq!(bench.claim(worker(1), later).await, Claim::Won);
    assert_eq!(bench.entry().await.held, Some((worker(1), later + LEASE)));
    bench.settle(worker(1), &written()).await.unwrap();
}

async fn a_written_or_dead_message_is_final(bench: Bench) {
    bench.settled(&written()).await;
    let far = now() + TimeDelta::days(365);
    let settled = Entry {
        state: State::Written,
        held: None,
        attempts: 1,
        reason: Some("left out: date".to_owned()),
        activity_id: Some(activity()),
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
        .claim(&other, worker(1), now(), LEASE, false)
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
            .claim(&other, worker(2), far, LEASE, revisit)
            .await
            .unwrap();
        let Claim::Settled(entry) = claim else {
            panic!("a dead message was given out: {claim:?}");
        };
        assert_eq!(
            (entry.state, entry.reason.as_deref()),
            (State::Dead, Some("0x80044331"))
        );
    }
}

async fn a_message_skipped_for_its_place_is_claimed_again_only_when_it_changed(bench: Bench) {
    bench.settled(&skipped()).await;
    let Claim::Settled(entry) = bench.claim(worker(2), now()).await else {
        panic!("a skipped message was given out unchanged");
    };
    assert_eq!(
        (entry.state, entry.reason.as_deref()),
        (State::Skipped, Some("spam"))
    );
    assert_eq!(bench.revisit(worker(2), now()).await, Claim::Won);
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

async fn a_settlement_is_kept_with_its_reason_and_row(bench: Bench) {
    bench.settled(&released()).await;
    bench.settled(&written()).await;
    let expected = Entry {
        state: State::Written,
        held: None,
        attempts: 2,
        reason: Some("left out: date".to_owned()),
        activity_id: Some(activity()),
    };
    assert_eq!(bench.entry().await, expected);
    assert!(
        !bench.item().await.contains_key("retry_at_ms"),
        "what is written is not retried"
    );
}

async fn a_long_reason_is_cut_on_a_character(bench: Bench) {
    // 'ä' has two bytes and the limit of 500 falls into the middle of one.
    let reason = format!("x{}", "ä".repeat(400));
    bench
        .settled(&Settlement::Dead {
            reason: reason.clone(),
        })
        .await;
    let kept = bench.entry().await.reason.unwrap();
    assert!(
        reason.starts_with(&kept) && kept.len() == 499,
        "{} bytes",
        kept.len()
    );
}

async fn only_what_is_settled_for_good_may_expire(bench: Bench) {
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
    let kept = expires(&bench.item().await).expect("skipped");
    assert!(
        kept >= 365 * 86_400,
        "longer than a year of history: {kept} s"
    );
    bench.revisit(worker(90), now()).await;
    assert_eq!(expires(&bench.item().await), None, "claimed again");
    bench.settle(worker(90), &written()).await.unwrap();
    assert_eq!(expires(&bench.item().await), Some(kept), "written");

    bench
        .client
        .delete_item()
        .table_name(TABLE)
        .set_key(Some(item_key()))
        .send()
        .await
        .unwrap();
    bench.settled(&dead()).await;
    assert_eq!(
        expires(&bench.item().await),
        None,
        "dead waits for a person"
    );
}

async fn an_item_holds_the_documented_attributes_and_no_others(bench: Bench) {
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
        expected(&["claim_token", "lease_until_ms"])
    );
    bench.settle(worker(90), &released()).await.unwrap();
    assert_eq!(
        names(bench.item().await),
        expected(&["reason", "retry_at_ms"])
    );
    bench.settled(&written()).await;
    assert_eq!(
        names(bench.item().await),
        expected(&["reason", "activity_id", "expires_at"])
    );
}

async fn of_many_racers_one_wins_a_new_message(bench: Bench) {
    race(&bench, now()).await;
}

async fn of_many_racers_one_takes_over_a_lease_that_ran_out(bench: Bench) {
    bench.claim(worker(90), now()).await;
    race(&bench, now() + LEASE).await;
}

/// 32 workers claim at once.
async fn race(bench: &Bench, at: DateTime<Utc>) {
    let claims = join_all((1..=32).map(|n| bench.claim(worker(n), at))).await;
    let winners: Vec<usize> = (0..32).filter(|n| claims[*n] == Claim::Won).collect();
    assert_eq!(winners.len(), 1, "winners: {winners:?}");
    let losers = claims
        .iter()
        .filter(|claim| **claim == Claim::HeldUntil(at + LEASE));
    assert_eq!(losers.count(), 31);
    let winner = worker(winners[0] as u128 + 1);
    assert_eq!(bench.entry().await.held, Some((winner, at + LEASE)));
}

async fn messages_differ_by_mailbox_and_by_letter_case(bench: Bench) {
    for key in [
        key_of("grant-1", "AAMkAD="),
        key_of("grant-1", "AAMkad="),
        key_of("grant-2", "AAMkAD="),
        key_of("grant-1", "AAMkAD=#"),
    ] {
        let claim = bench
            .ledger
            .claim(&key, worker(1), now(), LEASE, false)
            .await
            .unwrap();
        assert_eq!(claim, Claim::Won);
        let entry = bench.ledger.entry(&key).await.unwrap().unwrap();
        assert_eq!(entry.attempts, 1, "{key} was somebody else's");
    }
}

async fn the_longest_id_has_an_item(bench: Bench) {
    let key = key_of(&"g".repeat(1_000), &"ä".repeat(500));
    let claim = bench
        .ledger
        .claim(&key, worker(1), now(), LEASE, false)
        .await
        .unwrap();
    assert_eq!(claim, Claim::Won);
}

async fn an_item_that_this_build_cannot_read_is_left_alone(bench: Bench) {
    let mut item = item_key();
    item.insert("state".to_owned(), AttributeValue::S("parked".to_owned()));
    bench
        .client
        .put_item()
        .table_name(TABLE)
        .set_item(Some(item.clone()))
        .send()
        .await
        .unwrap();
    let claim = bench
        .ledger
        .claim(&key(), worker(1), now(), LEASE, true)
        .await;
    assert!(
        matches!(claim, Err(LedgerError::Unavailable(_))),
        "{claim:?}"
    );
    assert!(bench.ledger.entry(&key()).await.is_err());
    assert_eq!(bench.item().await, item);
}

async fn a_table_that_is_missing_is_an_outage_and_not_a_lost_claim(bench: Bench) {
    let ledger = Ledger::new(bench.client, "another".to_owned());
    let claim = ledger.claim(&key(), worker(1), now(), LEASE, false).await;
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

async fn a_table_that_is_there_stays(bench: Bench) {
    bench.settled(&written()).await;
    table::create(&bench.client, TABLE).await.unwrap();
    assert_eq!(bench.entry().await.state, State::Written);
}

/// Claims and settlements in any order do what [`decide_claim`] and the table of states say.
async fn a_random_walk_agrees_with_the_claim_rule(bench: Bench) {
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    let (mut messages, mut wins) = (0, 0);
    let mut expected: Option<Entry> = None;
    let mut time = now();
    for step in 0..300 {
        let key = key_of("grant-1", &format!("message-{messages}"));
        let at = format!("seed {seed}, step {step}, {key}");
        time += TimeDelta::seconds(random.random_range(0..100));
        let token = worker(random.random_range(1..=3));
        if random.random_bool(0.6) {
            let revisit = random.random_bool(0.3);
            let decided = decide_claim(expected.as_ref(), token, time, revisit);
            let claim = bench.ledger.claim(&key, token, time, LEASE, revisit);
            assert_eq!(claim.await.unwrap(), decided, "{at}");
            if decided == Claim::Won {
                wins += 1;
                expected = Some(claimed(expected, token, time));
            }
        } else {
            // Seldom for good, or there would be little to walk through.
            let settlement = match random.random_range(0..8) {
                0 => [written(), internal(), dead()][random.random_range(0..3)].clone(),
                1..=3 => skipped(),
                _ => released(),
            };
            let done = bench.ledger.settle(&key, token, time, &settlement).await;
            let holds = |entry: &&mut Entry| entry.held.is_some_and(|(holder, _)| holder == token);
            match expected.as_mut().filter(holds) {
                Some(entry) => {
                    done.unwrap_or_else(|error| panic!("{at}: {error}"));
                    settle_model(entry, &settlement);
                }
                None => assert!(matches!(done, Err(LedgerError::ClaimLost)), "{at}"),
            }
        }
        assert_eq!(bench.ledger.entry(&key).await.unwrap(), expected, "{at}");
        let settled = expected
            .as_ref()
            .is_some_and(|entry| entry.state != State::Waiting);
        if settled && random.random_bool(0.2) {
            messages += 1;
            expected = None;
        }
    }
    assert!(
        messages > 3 && wins > 30,
        "the walk went nowhere: {messages} messages, {wins} wins"
    );
}

fn claimed(before: Option<Entry>, token: ClaimToken, at: DateTime<Utc>) -> Entry {
    Entry {
        state: State::Waiting,
        held: Some((token, at + LEASE)),
        attempts: before.as_ref().map_or(0, |entry| entry.attempts) + 1,
        // Of the try before, until this one ends.
        reason: before.as_ref().and_then(|entry| entry.reason.clone()),
        activity_id: before.and_then(|entry| entry.activity_id),
    }
}

fn settle_model(entry: &mut Entry, settlement: &Settlement) {
    let (state, reason, activity_id) = match settlement.clone() {
        Settlement::Written { activity_id, note } => (State::Written, note, Some(activity_id)),
        Settlement::Skipped { rule } => (State::Skipped, Some(rule), None),
        Settlement::Dead { reason } => (State::Dead, Some(reason), None),
        Settlement::Released { reason, .. } => (State::Waiting, Some(reason), None),
    };
    *entry = Entry {
        state,
        held: None,
        attempts: entry.attempts,
        reason,
        activity_id,
    };
}
