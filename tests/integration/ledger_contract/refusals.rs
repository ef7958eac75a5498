//! Contract of the pause after a rejection that affects every message, and how such a pause ends.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::clients::refusal::RefusalState;
use mailverse::ledger::pauses::{Pause, Scope};
use mailverse::rate_limit::ApplicationUser;

use super::{Bench, contract, key_of, now};

contract! {
    a_rejection_pauses_its_scope_and_stores_the_cause
    one_of_many_workers_takes_the_probe_after_a_pause
    a_rejected_probe_sets_a_new_end_of_the_pause
    a_returned_probe_can_be_taken_again_at_once
    a_successful_message_ends_the_pause_and_resets_the_rejections
    a_successful_message_does_not_end_a_retry_after_pause
    only_consecutive_rejections_of_different_messages_with_one_code_count
    each_mailbox_and_each_service_has_its_own_pause
}

fn at(seconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::seconds(seconds)
}

fn user() -> Scope {
    Scope::Dataverse(ApplicationUser::primary())
}

fn mailbox(grant: &str) -> Scope {
    Scope::Mailbox(grant.parse().unwrap())
}

impl Bench {
    async fn pause_of(&self, scope: &Scope) -> Pause {
        let scopes = [scope.clone()];
        let mut pauses = self.ledger.pauses(&scopes).await.unwrap();
        pauses.remove(scope).unwrap_or_default()
    }

    async fn refuse(&self, times: u32, until: DateTime<Utc>) {
        let scope = user();
        let refused = self.ledger.pause_refused(&scope, "403 x", times, until);
        refused.await.unwrap();
    }

    async fn takes_probe(&self, seconds: i64) -> bool {
        let (scope, until) = (user(), at(seconds + 180));
        let taken = self.ledger.take_probe(&scope, at(seconds), until);
        taken.await.unwrap()
    }

    async fn in_a_row(&self, code: &str, messages: &[&str]) -> usize {
        let keys: Vec<_> = messages.iter().map(|id| key_of("grant-1", id)).collect();
        let keys: Vec<_> = keys.iter().collect();
        let scope = user();
        let noted = self.ledger.note_refused(&scope, code, &keys, now());
        noted.await.unwrap()
    }
}

async fn a_rejection_pauses_its_scope_and_stores_the_cause(bench: Bench) {
    assert_eq!(bench.pause_of(&user()).await, Pause::default());
    bench.refuse(1, at(60)).await;
    let expected = Pause {
        until: Some(at(60)),
        refused: RefusalState {
            cause: Some("403 x".to_owned()),
            times: 1,
            ..RefusalState::default()
        },
    };
    assert_eq!(bench.pause_of(&user()).await, expected);
    let limiter_state = bench
        .ledger
        .limiter_state(&ApplicationUser::primary())
        .await
        .unwrap();
    assert_eq!(limiter_state.pause(now()), Some(at(60)));
    assert_eq!(limiter_state.refused, expected.refused);
    let listed = bench.ledger.refused().await.unwrap();
    assert_eq!(listed, [("dataverse".to_owned(), expected)]);
}

async fn one_of_many_workers_takes_the_probe_after_a_pause(bench: Bench) {
    assert!(!bench.takes_probe(0).await, "there is no pause to probe");
    bench.refuse(1, at(60)).await;
    assert!(!bench.takes_probe(59).await, "the pause is not over");
    let all = (0..3).map(|_| bench.takes_probe(60));
    let taken = futures_util::future::join_all(all).await;
    assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
    assert_eq!(bench.pause_of(&user()).await.until, Some(at(240)));
    assert!(
        bench.takes_probe(240).await,
        "the worker with the probe died, so another takes it"
    );
}

async fn a_rejected_probe_sets_a_new_end_of_the_pause(bench: Bench) {
    bench.refuse(1, at(60)).await;
    assert!(bench.takes_probe(60).await);
    bench.refuse(2, at(180)).await;
    let pause = bench.pause_of(&user()).await;
    assert_eq!((pause.until, pause.refused.times), (Some(at(180)), 2));
}

async fn a_returned_probe_can_be_taken_again_at_once(bench: Bench) {
    bench.refuse(1, at(60)).await;
    assert!(bench.takes_probe(60).await);
    bench.ledger.return_probe(&user(), at(61)).await.unwrap();
    assert!(bench.takes_probe(61).await);
}

async fn a_successful_message_ends_the_pause_and_resets_the_rejections(bench: Bench) {
    bench.refuse(1, at(60)).await;
    bench.ledger.passed(&user(), at(61)).await.unwrap();
    let pause = bench.pause_of(&user()).await;
    let expected = RefusalState {
        passed_at: Some(at(61)),
        ..RefusalState::default()
    };
    assert_eq!((pause.until, pause.refused), (None, expected.clone()));
    assert_eq!(bench.in_a_row("400 y", &["m1", "m2"]).await, 2);
    bench.ledger.passed(&user(), at(61)).await.unwrap();
    assert_eq!(bench.pause_of(&user()).await.refused, expected);
}

async fn a_successful_message_does_not_end_a_retry_after_pause(bench: Bench) {
    bench.ledger.pause_all(&user(), at(90)).await.unwrap();
    bench.ledger.passed(&user(), at(1)).await.unwrap();
    assert_eq!(bench.pause_of(&user()).await.until, Some(at(90)));
    assert_eq!(bench.ledger.refused().await.unwrap(), []);
}

async fn only_consecutive_rejections_of_different_messages_with_one_code_count(bench: Bench) {
    assert_eq!(bench.in_a_row("400 y", &["m1"]).await, 1);
    assert_eq!(
        bench.in_a_row("400 y", &["m1"]).await,
        1,
        "the same message again"
    );
    assert_eq!(bench.in_a_row("400 y", &["m2", "m3"]).await, 3);
    assert_eq!(bench.in_a_row("400 z", &["m4"]).await, 1, "another code");
    assert_eq!(bench.in_a_row("400 y", &["m5"]).await, 1);
}

async fn each_mailbox_and_each_service_has_its_own_pause(bench: Bench) {
    let scopes = [mailbox("g1"), mailbox("g2"), Scope::Nylas, user()];
    bench.ledger.pause_all(&scopes[0], at(10)).await.unwrap();
    bench.ledger.pause_all(&scopes[2], at(20)).await.unwrap();
    let pauses = bench.ledger.pauses(&scopes).await.unwrap();
    let until = |scope| pauses.get(scope).and_then(|pause: &Pause| pause.until);
    assert_eq!(
        scopes.each_ref().map(until),
        [Some(at(10)), None, Some(at(20)), None]
    );
}
