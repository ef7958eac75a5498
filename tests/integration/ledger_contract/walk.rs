//! Any order of claims and settlements, compared with the pure rule.

use chrono::TimeDelta;
use mailverse::dedupe::ledger::{LAST_DELIVERY_UNFINISHED, LedgerError, Settlement};
use mailverse::dedupe::{Claim, ClaimRequest, Entry, LEASE, State, decide_claim};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    Bench, contract, dead, given_up, internal, key_of, now, released, skipped, worker, written,
};

contract! {
    a_random_walk_agrees_with_the_claim_rule
}

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
            let request = ClaimRequest {
                revisit: random.random_bool(0.3),
                last_delivery: random.random_bool(0.2),
                ..ClaimRequest::new(token, time)
            };
            let decided = decide_claim(expected.as_ref(), &request);
            let claim = bench.ledger.claim(&key, &request);
            assert_eq!(claim.await.unwrap(), decided, "{at}");
            if decided == Claim::Won {
                wins += 1;
                expected = Some(claimed(expected, &request));
            }
        } else {
            // Seldom for good, or there would be little to walk through.
            let settlement = match random.random_range(0..8) {
                0 => [written(), internal(), dead()][random.random_range(0..3)].clone(),
                1..=2 => skipped(),
                3 => given_up(),
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
            .is_some_and(|entry| entry.state != State::Waiting && entry.held.is_none());
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

fn claimed(before: Option<Entry>, request: &ClaimRequest) -> Entry {
    let last = request.last_delivery;
    let old_reason = before.as_ref().and_then(|entry| entry.reason.clone());
    Entry {
        state: if last { State::Dead } else { State::Waiting },
        held: Some((request.token, request.now + LEASE)),
        attempts: before.as_ref().map_or(0, |entry| entry.attempts) + 1,
        // Of the try before, until this one ends.
        reason: if last {
            Some(LAST_DELIVERY_UNFINISHED.to_owned())
        } else {
            old_reason
        },
        gave_up: last,
        activity_id: before.and_then(|entry| entry.activity_id),
    }
}

fn settle_model(entry: &mut Entry, settlement: &Settlement) {
    let (state, reason, activity_id) = match settlement.clone() {
        Settlement::Written { activity_id, note } => (State::Written, note, Some(activity_id)),
        Settlement::Skipped { rule } => (State::Skipped, Some(rule), None),
        Settlement::Dead { reason, .. } => (State::Dead, Some(reason), None),
        Settlement::Released { reason, .. } => (State::Waiting, Some(reason), None),
    };
    *entry = Entry {
        state,
        held: None,
        attempts: entry.attempts,
        gave_up: matches!(settlement, Settlement::Dead { gave_up: true, .. }),
        reason,
        activity_id,
    };
}
