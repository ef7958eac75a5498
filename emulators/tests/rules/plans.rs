//! Random faults. The same seed produces the same faults.

use emulators::{FaultPlan, Injected};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::batches::{change_set, send, statuses};
use super::valid_client::{ValidClient, error};

/// Sends `requests` creates under a fault plan.
///
/// Returns the outcome of each create, the outcomes of those creates whose row was stored, and the
/// number of injected faults. An outcome is the HTTP status, or 0 if the connection broke. After a
/// 401 the next create uses a new token.
async fn run(plan: FaultPlan, requests: u128) -> (Vec<u16>, Vec<u16>, Injected) {
    let mut client = ValidClient::new().await;
    client.emulators.clock().stop();
    client.emulators.dataverse().set_fault_plan(plan);
    let mut outcomes = Vec::new();
    let mut stored = Vec::new();
    for number in 0..requests {
        let id = Uuid::from_u128(number + 1);
        let post = client
            .request(Method::POST, "emails")
            .json(&json!({"activityid": id}));
        let outcome = post
            .send()
            .await
            .map_or(0, |answer| answer.status().as_u16());
        if outcome == 401 {
            let url = client.emulators.dataverse().url();
            client.token = client.emulators.entra().issue_token(&url, 600);
        }
        if client.emulators.dataverse().row("email", id).is_some() {
            stored.push(outcome);
        }
        outcomes.push(outcome);
    }
    (outcomes, stored, client.emulators.dataverse().injected())
}

fn count(outcomes: &[u16], wanted: impl Fn(u16) -> bool) -> u64 {
    outcomes.iter().filter(|outcome| wanted(**outcome)).count() as u64
}

const EVERYTHING: FaultPlan = FaultPlan {
    seed: 4711,
    server_error: 80,
    server_error_after_commit: 80,
    reset_before: 80,
    reset_after_commit: 80,
    slow: 80,
    slow_milliseconds: 30_000,
    token_expired: 80,
    deadlock: 80,
};

#[tokio::test]
async fn the_seed_determines_which_request_gets_which_fault() {
    let first = run(EVERYTHING, 150).await;
    assert_eq!(run(EVERYTHING, 150).await, first);
    let other = FaultPlan {
        seed: 4712,
        ..EVERYTHING
    };
    assert_ne!(run(other, 150).await.0, first.0);
}

#[tokio::test]
async fn every_kind_of_fault_is_injected_and_counted() {
    let (outcomes, stored, done) = run(EVERYTHING, 150).await;
    assert_eq!(done.requests, 150);
    for number in [
        done.server_errors,
        done.server_errors_after_commit,
        done.resets_before,
        done.resets_after_commit,
        done.slow,
        done.tokens_expired,
        done.deadlocks,
    ] {
        assert!(number > 0, "{done:?}");
    }
    let broken = done.resets_before + done.resets_after_commit;
    assert_eq!(count(&outcomes, |outcome| outcome == 0), broken);
    assert_eq!(
        count(&outcomes, |outcome| outcome == 401),
        done.tokens_expired
    );
    // The client does not see a deadlock if the connection breaks as well, so it may have
    // seen fewer errors than were injected.
    let errors = count(&outcomes, |outcome| outcome >= 500);
    let injected = done.server_errors + done.server_errors_after_commit;
    assert!(errors >= injected && errors <= injected + done.deadlocks);
    // A create whose answer was lost after the commit is stored, unless a deadlock came first.
    assert!(count(&stored, |outcome| outcome == 0) > 0);
    assert!(count(&stored, |outcome| outcome >= 500) > 0);
    assert_eq!(
        count(&stored, |outcome| outcome == 204),
        count(&outcomes, |outcome| outcome == 204)
    );
}

#[tokio::test]
async fn an_error_before_the_commit_stores_nothing_and_one_after_it_stores_everything() {
    let before = FaultPlan {
        server_error: 1_000,
        ..FaultPlan::default()
    };
    let (outcomes, stored, _) = run(before, 30).await;
    assert!(outcomes.iter().all(|outcome| *outcome >= 500) && stored.is_empty());
    for status in [500, 502, 503, 504] {
        assert!(outcomes.contains(&status), "{status}");
    }
    let after = FaultPlan {
        server_error_after_commit: 1_000,
        ..FaultPlan::default()
    };
    let (outcomes, stored, _) = run(after, 10).await;
    assert_eq!((outcomes.len(), stored.len()), (10, 10));
    assert!(outcomes.iter().all(|outcome| *outcome >= 500));
}

#[tokio::test]
async fn a_gateway_error_is_not_json() {
    let client = ValidClient::new().await;
    let plan = FaultPlan {
        server_error: 1_000,
        ..FaultPlan::default()
    };
    client.emulators.dataverse().set_fault_plan(plan);
    for _ in 0..20 {
        let answer = client.get("WhoAmI").await;
        if answer.status == 500 {
            assert_eq!(answer.error(), error(500, "0x80044151"));
        } else {
            assert_eq!(answer.header("content-type"), "text/html");
        }
    }
}

#[tokio::test]
async fn a_slow_response_is_late_and_correct() {
    let client = ValidClient::new().await;
    client.emulators.clock().stop();
    let plan = FaultPlan {
        slow: 1_000,
        slow_milliseconds: 45_000,
        ..FaultPlan::default()
    };
    client.emulators.dataverse().set_fault_plan(plan);
    let before = client.emulators.clock().now();
    assert_eq!(client.get("WhoAmI").await.status, 200);
    assert_eq!((client.emulators.clock().now() - before).num_seconds(), 45);
}

#[tokio::test]
async fn a_token_that_a_fault_expired_stays_rejected() {
    let client = ValidClient::new().await;
    let plan = FaultPlan {
        token_expired: 1_000,
        ..FaultPlan::default()
    };
    client.emulators.dataverse().set_fault_plan(plan);
    assert_eq!(client.get("WhoAmI").await.status, 401);
    client
        .emulators
        .dataverse()
        .set_fault_plan(FaultPlan::default());
    assert_eq!(client.get("WhoAmI").await.status, 401);
    assert_eq!(
        client.emulators.dataverse().injected(),
        Injected {
            requests: 1,
            ..Injected::default()
        }
    );
}

#[tokio::test]
async fn a_deadlock_fails_one_operation_and_its_whole_change_set() {
    let client = ValidClient::new().await;
    let email = "POST /api/data/v9.2/emails";
    let sets: Vec<String> = (0..40)
        .map(|_| change_set(&[("1", email, json!({})), ("2", email, json!({}))]))
        .collect();
    let plan = FaultPlan {
        seed: 3,
        deadlock: 200,
        ..FaultPlan::default()
    };
    client.emulators.dataverse().set_fault_plan(plan);
    let answer = send(&client, &sets, "odata.continue-on-error").await;
    let statuses = statuses(&answer);
    let failed = statuses.iter().filter(|status| **status == 500).count();
    assert!(answer.body.contains("0x80044150"));
    assert_eq!(
        failed as u64,
        client.emulators.dataverse().injected().deadlocks
    );
    assert!(failed > 0 && failed < 40);
    assert_eq!(
        client.emulators.dataverse().rows("email").len(),
        2 * (40 - failed)
    );
}

#[tokio::test]
async fn queued_faults_are_injected_first_and_do_not_advance_the_plan() {
    let client = ValidClient::new().await;
    let plan = FaultPlan {
        token_expired: 1_000,
        ..FaultPlan::default()
    };
    client.emulators.dataverse().set_fault_plan(plan);
    client
        .emulators
        .dataverse()
        .fail_next(emulators::Fault::ResetBefore);
    assert!(client.request(Method::GET, "WhoAmI").send().await.is_err());
    assert_eq!(client.emulators.dataverse().injected().requests, 0);
    assert_eq!(client.get("WhoAmI").await.status, 401);
}
