//! Tests what readers do if a token expires, is rejected or is missing: no message is lost, and no
//! service is flooded with requests.

use std::time::Duration;

use backfill::Backfill;
use chrono::TimeDelta;
use emulators::Emulators;
use futures_util::future::join_all;
use mailverse::clients::aws::queue::{MemoryQueue, SyncQueue};
use mailverse::clients::entra::token_store::TokenStore;
use mailverse::clients::entra::{Origin, TokenError, TokenSource};
use mailverse::pipeline::application_users::ApplicationUsers;
use mailverse::pipeline::{Outcome, Pipeline, Processed};
use mailverse::rate_limit::Limits;
use secrecy::ExposeSecret;
use serde_json::json;

use super::{Calls, Office, after, now};
use crate::test_organisation::{ADA, TestOrganisation, created, nylas_message, waiting, written};

/// Returns one application user whose token is read from this store.
fn reading(store: TokenStore) -> ApplicationUsers {
    let tokens = TokenSource::new(Origin::Store(store));
    ApplicationUsers::new(Limits::default(), tokens, Vec::new())
}

/// Two workers of one world, each with its own reader of the stored token.
struct TwoWorkers {
    organisation: TestOrganisation,
    other: Pipeline,
    office: Office,
    calls: [Calls; 2],
}

impl TwoWorkers {
    async fn start() -> Self {
        let mut organisation = TestOrganisation::start().await;
        let office = Office::open(&organisation.emulators).await;
        let mut other = organisation.another_pipeline().await;
        let (one, first) = office.reader();
        let (two, second) = office.reader();
        organisation.pipeline.application_users = reading(one);
        other.application_users = reading(two);
        Self {
            organisation,
            other,
            office,
            calls: [first, second],
        }
    }

    async fn refresh(&self) {
        self.office.refresh_at(self.organisation.now).await.unwrap();
    }

    /// Runs each worker once on ten different messages.
    async fn both(&mut self) -> Vec<Outcome> {
        let batch = |range: std::ops::Range<usize>| {
            range
                .map(|n| created(ADA, &format!("m{n}")))
                .collect::<Vec<_>>()
        };
        let (one, two) = (self.organisation.begin(), self.organisation.begin());
        let (one, two) = tokio::join!(
            self.organisation.pipeline.run(batch(0..10), one),
            self.other.run(batch(10..20), two),
        );
        let processed = one.into_iter().chain(two);
        processed.map(|done| done.outcome).collect()
    }

    fn calls(&self) -> [usize; 2] {
        [self.calls[0].made(), self.calls[1].made()]
    }

    fn requests(&self) -> u64 {
        self.organisation.emulators.dataverse().requests().total
    }
}

#[tokio::test]
async fn two_workers_with_a_revoked_token_lose_no_message_and_send_few_requests() {
    let mut workers = TwoWorkers::start().await;
    workers.refresh().await;
    for n in 0..20 {
        workers
            .organisation
            .put(ADA, nylas_message(&format!("m{n}"), &json!({})));
    }
    // The token is revoked before it expires.
    workers.office.entra.revoke_all();
    for outcome in workers.both().await {
        assert_eq!(waiting(&outcome).1, "dataverse refused the token");
    }
    assert_eq!(workers.requests(), 2, "each worker sends the token once");
    assert_eq!(workers.calls(), [1, 1]);
    let nylas = workers.organisation.pipeline.nylas.requests();
    // The messages are delivered five more times within a minute, and the store still has the same
    // token.
    for _ in 0..5 {
        for outcome in workers.both().await {
            let (delay, reason) = waiting(&outcome);
            assert_eq!(delay, TokenError::WAIT);
            assert!(
                reason.starts_with("dataverse rejected the stored token"),
                "{reason}"
            );
        }
        workers.organisation.later(TimeDelta::seconds(10));
    }
    assert_eq!(
        workers.requests(),
        2,
        "the rejected token is not sent again"
    );
    assert_eq!(
        workers.calls(),
        [2, 2],
        "each worker read the store once more"
    );
    assert_eq!(
        workers.organisation.pipeline.nylas.requests(),
        nylas,
        "no message was fetched"
    );

    workers.organisation.later(TimeDelta::minutes(5));
    workers.refresh().await;
    for outcome in workers.both().await {
        written(&outcome);
    }
    assert_eq!(workers.calls(), [3, 3]);
    assert_eq!(workers.organisation.emails().len(), 20);
}

#[tokio::test]
async fn a_token_revoked_during_backfill_delays_messages_and_loses_none() {
    let workers = TwoWorkers::start().await;
    workers.refresh().await;
    for n in 0..120 {
        let date = workers.organisation.now.timestamp() - n;
        let message = json!({"date": date, "subject": format!("Kites number {n}.")});
        let message = nylas_message(&format!("m{n}"), &message);
        workers.organisation.put(ADA, message);
    }
    // The token is revoked while the second of three batches is written. The other batches run at
    // the same time, so their outcome is a matter of chance.
    let entra = workers.office.entra.clone();
    let revoked = async move { entra.revoke_all() };
    workers
        .organisation
        .before_dataverse_gets("Kites number 60.", revoked);
    let TwoWorkers {
        mut organisation,
        other,
        office,
        ..
    } = workers;
    let (sync, tasks) = (MemoryQueue::default(), MemoryQueue::default());
    let backfill = Backfill::new(other, sync.clone(), tasks.clone());
    let first = list(&backfill, &mut organisation).await;
    assert!([0, 40, 80].contains(&first.len()), "{}", first.len());
    assert_eq!(organisation.emails().len(), first.len());
    assert_eq!(
        sync.hidden().len() + sync.visible(),
        0,
        "no message went to the sync queue"
    );
    let mut hidden = tasks.hidden();
    let (task, delay) = hidden.remove(0);
    assert_eq!(
        (hidden.len(), delay),
        (0, TokenError::WAIT),
        "the task of the page is delivered again"
    );

    organisation.later(TimeDelta::minutes(5));
    office.refresh_at(organisation.now).await.unwrap();
    tasks.send_body(task.body, Duration::ZERO).await.unwrap();
    list(&backfill, &mut organisation).await;
    assert_eq!(organisation.emails().len(), 120);
}

async fn list(
    backfill: &Backfill<MemoryQueue>,
    organisation: &mut TestOrganisation,
) -> Vec<Processed> {
    let run = organisation.begin();
    let event = json!({"source": "aws.scheduler", "time": organisation.now.to_rfc3339()});
    backfill.run_scheduled(&event, &|| run).await.unwrap().1
}

#[tokio::test]
async fn concurrent_callers_read_the_token_store_once() {
    let emulators = Emulators::start().await.unwrap();
    let office = Office::open(&emulators).await;
    office.refresh_at(now()).await.unwrap();
    let (store, calls) = office.reader();
    let source = TokenSource::new(Origin::Store(store));
    let tokens = join_all((0..20).map(|_| source.token(now()))).await;
    let first = tokens[0].as_ref().unwrap();
    assert!(
        tokens
            .iter()
            .all(|token| token.as_ref().unwrap().expose_secret() == first.expose_secret())
    );
    assert_eq!(calls.made(), 1);
    // All of them report the token as rejected, and the store has a new one by then.
    office.refresh_at(after(1)).await.unwrap();
    join_all((0..20).map(|_| source.refused(first))).await;
    let tokens = join_all((0..20).map(|_| source.token(after(1)))).await;
    assert!(
        tokens
            .iter()
            .all(|token| token.as_ref().unwrap().expose_secret() != first.expose_secret())
    );
    assert_eq!(calls.made(), 2);
}

#[tokio::test]
async fn an_unreadable_token_store_is_read_once_a_minute() {
    let emulators = Emulators::start().await.unwrap();
    let office = Office::open(&emulators).await;
    let calls = Calls::default();
    let source = TokenSource::new(Origin::Store(office.dead_reader(&calls)));
    for (seconds, asked) in [(0, 1), (1, 1), (59, 1), (60, 2), (119, 2)] {
        let error = source.token(now() + TimeDelta::seconds(seconds)).await;
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "secret token: not reachable");
        assert_eq!(calls.made(), asked, "after {seconds} s");
    }
}

#[tokio::test]
async fn messages_wait_while_the_token_store_is_unreadable_and_are_then_written() {
    let mut workers = TwoWorkers::start().await;
    workers.refresh().await;
    for n in 0..20 {
        workers
            .organisation
            .put(ADA, nylas_message(&format!("m{n}"), &json!({})));
    }
    let (living, _) = workers.office.reader();
    let calls = Calls::default();
    let dead = workers.office.dead_reader(&calls);
    workers.organisation.pipeline.application_users = reading(dead.clone());
    workers.other.application_users = reading(dead);
    for _ in 0..5 {
        for outcome in workers.both().await {
            let told = ("secret token: not reachable", TokenError::WAIT);
            assert_eq!((waiting(&outcome).1, waiting(&outcome).0), told);
        }
        workers.organisation.later(TimeDelta::seconds(10));
    }
    assert_eq!(workers.requests(), 0);
    assert_eq!(
        calls.made(),
        2,
        "the store is read once a minute in each process"
    );
    workers.organisation.later(TimeDelta::minutes(5));
    workers.organisation.pipeline.application_users = reading(living.clone());
    workers.other.application_users = reading(living);
    for outcome in workers.both().await {
        written(&outcome);
    }
    assert_eq!(workers.organisation.emails().len(), 20);
}

/// Runs a worker with a wrong clock for two hours, with a new message and a delivery every minute.
/// Returns the number of messages that were delivered again, and the number of reads of the store.
async fn two_hours_with_a_clock_that_is_off_by(off: TimeDelta) -> (usize, usize) {
    let mut workers = TwoWorkers::start().await;
    let clock = workers.organisation.emulators.clock().clone();
    clock.stop();
    let (mut came_back, mut again) = (0, None);
    for minute in 0..120 {
        if minute % 20 == 0 {
            // The refresher's clock is right.
            workers.office.refresh_at(clock.now()).await.unwrap();
        }
        workers.organisation.now = clock.now() + off;
        let id = format!("m{minute}");
        workers
            .organisation
            .put(ADA, nylas_message(&id, &json!({})));
        for id in [again.take(), Some(id)].into_iter().flatten() {
            let outcome = workers.organisation.deliver_one(ADA, &id).await;
            if let Outcome::Waiting { reason, .. } = &outcome {
                assert_eq!(reason, "dataverse refused the token");
                came_back += 1;
                again = Some(id);
            } else {
                written(&outcome);
            }
        }
        clock.advance(Duration::from_secs(60));
    }
    assert_eq!(again, None);
    assert_eq!(workers.organisation.emails().len(), 120);
    (came_back, workers.calls()[0])
}

#[tokio::test]
async fn a_clock_that_is_ten_minutes_off_causes_few_redeliveries_and_loses_no_message() {
    // A clock that is ahead: the token seems to expire early, and the store has a newer one by
    // then.
    let (came_back, reads) = two_hours_with_a_clock_that_is_off_by(TimeDelta::minutes(10)).await;
    assert_eq!(came_back, 0);
    assert!(reads <= 5, "{reads}");
    // A clock that is behind: the token is used after it expired and rejected once, and the store
    // has a newer one.
    let (came_back, reads) = two_hours_with_a_clock_that_is_off_by(TimeDelta::minutes(-10)).await;
    assert!((1..=2).contains(&came_back), "{came_back}");
    assert!(reads <= 5, "{reads}");
}

#[tokio::test]
async fn each_application_user_has_its_own_token_in_the_shared_secret() {
    let emulators = Emulators::start().await.unwrap();
    let office = Office::open(&emulators).await;
    let second = office.entra.register();
    let credential = json!({
        "client_secret": office.entra.client_secret(),
        "application_users": {"second": {"client_id": second, "client_secret": office.entra.client_secret_of(&second)}},
    });
    office.put(super::CREDENTIAL, &credential).await;
    office.refresh_at(now()).await.unwrap();
    let read = async |store: TokenStore| store.read().await.map(|token| token.access_token);
    let primary = read(office.reader().0).await.unwrap();
    let other = read(office.reader().0.of("second".to_owned()))
        .await
        .unwrap();
    assert_ne!(primary.expose_secret(), other.expose_secret());
    let nobody = read(office.reader().0.of("third".to_owned())).await;
    assert!(
        nobody
            .unwrap_err()
            .to_string()
            .contains("contains no token yet")
    );
}
