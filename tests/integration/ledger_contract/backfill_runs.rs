//! Contract of backfill runs: the saved position and the counts of a task, and how long they are
//! stored.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::backfill_runs::{
    Coverage, Position, Progress, RunId, Saved, Settled, TaskKey, TaskState,
};
use mailverse::ledger::{ClaimToken, LEASE};
use uuid::Uuid;

use super::connection::{Fault, FaultyConnection};
use super::{Bench, contract, now, worker};

contract! {
    a_task_that_nobody_began_has_no_progress
    a_slower_worker_cannot_set_a_position_back
    of_two_workers_that_settle_one_page_the_first_saves_it
    a_page_with_a_lost_response_is_saved_once
    a_saved_page_replaces_the_whole_position
    a_settled_page_forgives_the_earlier_failures_of_nylas
    an_overtaken_page_forgives_nothing
    the_run_of_an_operator_is_stored_for_ninety_days_and_one_of_the_schedule_for_seven
    a_failure_before_the_first_page_does_not_shorten_the_run_of_an_operator
    a_finished_task_keeps_its_state
}

impl Bench {
    async fn progress(&self) -> Progress {
        self.ledger.progress(&task()).await.unwrap()
    }

    async fn save(&self, after: u64, position: &Position, by: ClaimToken) -> Saved {
        let settled = page(after, position);
        self.ledger
            .save_page(&task(), &settled, by, now())
            .await
            .unwrap()
    }

    /// Returns how long an item of the run is stored.
    async fn stored_for(&self, sk: &str) -> TimeDelta {
        let call = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(HashMap::from([
                (
                    "pk".to_owned(),
                    AttributeValue::S(format!("run#{}", task().run_id)),
                ),
                ("sk".to_owned(), AttributeValue::S(sk.to_owned())),
            ])));
        let item = call.send().await.unwrap().item.unwrap();
        let seconds: i64 = item["expires_at"].as_n().unwrap().parse().unwrap();
        DateTime::from_timestamp(seconds, 0).unwrap() - now()
    }
}

fn task() -> TaskKey {
    TaskKey {
        run_id: RunId::new(Uuid::from_u128(5)),
        grant_id: "grant-1".parse().unwrap(),
    }
}

fn at(name: &str) -> Position {
    Position {
        part: Some("folder".to_owned()),
        cursor: Some((name.to_owned(), now())),
        before: Some(1_795_000_000),
        reached: Some(1_794_000_000),
    }
}

const ONE_PAGE: Coverage = Coverage {
    listed: 10,
    written: 4,
    skipped: 3,
    waiting: 2,
    dead: 1,
    repaired: 5,
};

const fn page(after: u64, position: &Position) -> Settled<'_> {
    Settled {
        after,
        position,
        coverage: &ONE_PAGE,
        state: TaskState::Queued,
        scheduled: false,
    }
}

fn after_days(days: i64) -> DateTime<Utc> {
    now() + TimeDelta::days(days)
}

async fn a_task_that_nobody_began_has_no_progress(bench: Bench) {
    assert_eq!(bench.progress().await, Progress::none());
}

async fn a_slower_worker_cannot_set_a_position_back(bench: Bench) {
    assert_eq!(bench.save(0, &at("a"), worker(1)).await, Saved::Saved);
    assert_eq!(bench.save(1, &at("b"), worker(2)).await, Saved::Saved);
    let before = bench.progress().await;
    assert_eq!((before.pages, &before.position), (2, &at("b")));
    // The page that it began with, and the one that it would have saved next.
    for after in [0, 1] {
        let saved = bench.save(after, &at("slow"), worker(1)).await;
        assert_eq!(saved, Saved::Overtaken, "after {after}");
        assert_eq!(bench.progress().await, before);
    }
    assert_eq!(
        bench.save(3, &at("ahead"), worker(1)).await,
        Saved::Overtaken,
        "a page before it is missing"
    );
    assert_eq!(bench.save(2, &at("c"), worker(2)).await, Saved::Saved);
    assert_eq!(bench.progress().await.position, at("c"));
}

async fn of_two_workers_that_settle_one_page_the_first_saves_it(bench: Bench) {
    for after in 0..3 {
        let (first, second) = (at("first"), at("second"));
        let both = futures_util::join!(
            bench.save(after, &first, worker(1)),
            bench.save(after, &second, worker(2))
        );
        let winner = match both {
            (Saved::Saved, Saved::Overtaken) => first,
            (Saved::Overtaken, Saved::Saved) => second,
            other => panic!("after {after}: {other:?}"),
        };
        let progress = bench.progress().await;
        assert_eq!((progress.pages, progress.position), (after + 1, winner));
        assert_eq!(progress.coverage.listed, 10 * (after + 1));
    }
}

async fn a_page_with_a_lost_response_is_saved_once(bench: Bench) {
    for after in 0..2 {
        let connection = FaultyConnection::new(&bench, [Fault::LostAnswer]);
        let position = at("a");
        let settled = page(after, &position);
        let saved = connection
            .ledger
            .save_page(&task(), &settled, worker(1), now())
            .await;
        assert_eq!(saved.unwrap(), Saved::Saved);
        assert_eq!(connection.left(), 0);
        let progress = bench.progress().await;
        assert_eq!(
            (progress.pages, progress.coverage.listed),
            (after + 1, 10 * (after + 1))
        );
    }
}

async fn a_saved_page_replaces_the_whole_position(bench: Bench) {
    let positions = [
        at("a"),
        Position::default(),
        Position {
            part: Some("next".to_owned()),
            ..Position::default()
        },
        Position {
            cursor: Some(("b".to_owned(), now() + LEASE)),
            reached: Some(-1),
            ..Position::default()
        },
        Position {
            before: Some(0),
            ..Position::default()
        },
    ];
    for (after, position) in (0..).zip(&positions) {
        assert_eq!(bench.save(after, position, worker(1)).await, Saved::Saved);
        assert_eq!(&bench.progress().await.position, position);
    }
}

async fn a_settled_page_forgives_the_earlier_failures_of_nylas(bench: Bench) {
    for after in 0..2 {
        for failures in [1, 2, 3] {
            let noted = bench.ledger.note_nylas_failure(&task(), now()).await;
            assert_eq!(noted.unwrap(), failures);
            assert_eq!(bench.progress().await.nylas_failures, failures);
        }
        assert_eq!(bench.save(after, &at("a"), worker(1)).await, Saved::Saved);
        assert_eq!(bench.progress().await.nylas_failures, 0);
    }
}

async fn an_overtaken_page_forgives_nothing(bench: Bench) {
    assert_eq!(bench.save(0, &at("a"), worker(1)).await, Saved::Saved);
    let noted = bench.ledger.note_nylas_failure(&task(), now()).await;
    assert_eq!(noted.unwrap(), 1);
    assert_eq!(bench.save(0, &at("b"), worker(2)).await, Saved::Overtaken);
    assert_eq!(bench.progress().await.nylas_failures, 1);
}

async fn the_run_of_an_operator_is_stored_for_ninety_days_and_one_of_the_schedule_for_seven(
    bench: Bench,
) {
    let position = at("a");
    for (n, scheduled, days) in [(1, false, 90), (2, true, 7)] {
        let grant_id = format!("grant-{n}").parse().unwrap();
        let task = TaskKey { grant_id, ..task() };
        let sk = format!("mailbox#{}", task.grant_id);
        for after in 0..2 {
            let settled = Settled {
                scheduled,
                ..page(after, &position)
            };
            // Stored from the first write on, not from the last.
            let when = after_days(i64::try_from(after).unwrap());
            let saved = bench.ledger.save_page(&task, &settled, worker(1), when);
            assert_eq!(saved.await.unwrap(), Saved::Saved);
            assert_eq!(bench.stored_for(&sk).await, TimeDelta::days(days));
        }
    }
    let opened = bench.ledger.open_run(task().run_id, "{}", now());
    opened.await.unwrap();
    assert_eq!(bench.stored_for("run").await, TimeDelta::days(90));
}

async fn a_failure_before_the_first_page_does_not_shorten_the_run_of_an_operator(bench: Bench) {
    // An operator's task has a state before it is on its queue.
    bench
        .ledger
        .set_task(&task(), TaskState::Queued, None, now())
        .await
        .unwrap();
    let noted = bench.ledger.note_nylas_failure(&task(), now()).await;
    assert_eq!(noted.unwrap(), 1);
    assert_eq!(bench.save(0, &at("a"), worker(1)).await, Saved::Saved);
    assert_eq!(
        bench.stored_for("mailbox#grant-1").await,
        TimeDelta::days(90)
    );
}

async fn a_finished_task_keeps_its_state(bench: Bench) {
    for (n, finished) in [TaskState::Done, TaskState::Failed].into_iter().enumerate() {
        let task = TaskKey {
            grant_id: format!("grant-{n}").parse().unwrap(),
            ..task()
        };
        let set = async |state, reason| {
            let set = bench.ledger.set_task(&task, state, Some(reason), now());
            set.await.unwrap();
            let progress = bench.ledger.progress(&task).await.unwrap();
            (progress.state, progress.reason.unwrap())
        };
        let all = [
            TaskState::Queued,
            TaskState::Parked,
            TaskState::Done,
            TaskState::Failed,
        ];
        for state in [TaskState::Parked, TaskState::Queued, finished] {
            assert_eq!(set(state, "before").await, (state, "before".to_owned()));
        }
        for state in all {
            assert_eq!(set(state, "after").await, (finished, "before".to_owned()));
        }
    }
}
