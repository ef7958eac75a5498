//! Contract of mailboxes: their leases and their watermark.

use chrono::{DateTime, TimeDelta, Utc};
use mailverse::ledger::ClaimToken;
use mailverse::ledger::mailbox_state::{Lease, Lists, TASK_LEASE};
use mailverse::model::ids::GrantId;

use super::{Bench, contract, now, worker};

contract! {
    a_task_that_is_delivered_twice_has_one_worker
    a_task_that_comes_back_keeps_its_mailbox_from_other_tasks
    a_mailbox_that_nobody_released_is_free_after_the_lease
    a_released_mailbox_is_free_at_once
    a_worker_that_overran_does_not_release_its_successors_mailbox
    a_worker_can_repeat_its_lease
    the_schedule_and_operators_hold_separate_leases
    a_lease_of_one_mailbox_does_not_concern_another
    a_watermark_never_moves_back
    a_lease_and_the_watermark_do_not_change_each_other
}

const MILLISECOND: TimeDelta = TimeDelta::milliseconds(1);

impl Bench {
    async fn lease(&self, task: &str, worker: ClaimToken, now: DateTime<Utc>) -> Lease {
        self.lease_for(Lists::Schedule, task, worker, now).await
    }

    async fn lease_for(
        &self,
        lists: Lists,
        task: &str,
        worker: ClaimToken,
        now: DateTime<Utc>,
    ) -> Lease {
        self.ledger
            .lease_mailbox(&grant(), lists, task, worker, now)
            .await
            .unwrap()
    }

    async fn release(&self, worker: ClaimToken, kept_until: Option<DateTime<Utc>>) {
        self.ledger
            .release_mailbox(&grant(), Lists::Schedule, worker, kept_until)
            .await
            .unwrap();
    }

    async fn watermark(&self) -> Option<DateTime<Utc>> {
        let records = self.ledger.mailbox_records(&[grant()]).await.unwrap();
        records.get(&grant()).and_then(|record| record.watermark)
    }
}

fn grant() -> GrantId {
    "grant-1".parse().unwrap()
}

fn minutes(n: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(n)
}

async fn a_task_that_is_delivered_twice_has_one_worker(bench: Bench) {
    assert_eq!(bench.lease("task", worker(1), now()).await, Lease::Won);
    let held = Lease::HeldUntil(now() + TASK_LEASE);
    for when in [now(), now() + TASK_LEASE - MILLISECOND] {
        assert_eq!(bench.lease("task", worker(2), when).await, held);
        assert_eq!(bench.lease("other", worker(3), when).await, held);
    }
    bench.release(worker(1), Some(minutes(20))).await;
    assert_eq!(
        bench.lease("task", worker(2), minutes(5)).await,
        Lease::Won,
        "the task came back"
    );
    let held = Lease::HeldUntil(minutes(5) + TASK_LEASE);
    assert_eq!(
        bench.lease("task", worker(3), minutes(5)).await,
        held,
        "the task came back twice"
    );
}

async fn a_task_that_comes_back_keeps_its_mailbox_from_other_tasks(bench: Bench) {
    for comes_back in [true, false] {
        let task = format!("task-{comes_back}");
        let begun = if comes_back { now() } else { minutes(100) };
        assert_eq!(bench.lease(&task, worker(1), begun).await, Lease::Won);
        let kept_until = begun + TimeDelta::minutes(20);
        bench.release(worker(1), Some(kept_until)).await;
        for when in [begun, kept_until - MILLISECOND] {
            assert_eq!(
                bench.lease("other", worker(2), when).await,
                Lease::HeldUntil(kept_until)
            );
        }
        let next = if comes_back { &task } else { "other" };
        assert_eq!(bench.lease(next, worker(2), kept_until).await, Lease::Won);
        bench.release(worker(2), None).await;
    }
}

async fn a_mailbox_that_nobody_released_is_free_after_the_lease(bench: Bench) {
    assert_eq!(bench.lease("task", worker(1), now()).await, Lease::Won);
    let end = now() + TASK_LEASE;
    assert_eq!(
        bench.lease("other", worker(2), end - MILLISECOND).await,
        Lease::HeldUntil(end)
    );
    assert_eq!(bench.lease("other", worker(2), end).await, Lease::Won);
    assert_eq!(
        bench.lease("task", worker(1), end).await,
        Lease::HeldUntil(end + TASK_LEASE)
    );
}

async fn a_released_mailbox_is_free_at_once(bench: Bench) {
    assert_eq!(bench.lease("task", worker(1), now()).await, Lease::Won);
    bench.release(worker(1), None).await;
    assert_eq!(bench.lease("other", worker(2), now()).await, Lease::Won);
}

async fn a_worker_that_overran_does_not_release_its_successors_mailbox(bench: Bench) {
    for (n, kept_until) in [None, Some(now()), Some(minutes(1_000))]
        .into_iter()
        .enumerate()
    {
        let begun = minutes(100 * i64::try_from(n).unwrap());
        assert_eq!(bench.lease("task", worker(1), begun).await, Lease::Won);
        let taken_over = begun + TASK_LEASE;
        assert_eq!(bench.lease("task", worker(2), taken_over).await, Lease::Won);
        bench.release(worker(1), kept_until).await;
        for (task, late) in [("task", worker(1)), ("other", worker(3))] {
            assert_eq!(
                bench.lease(task, late, taken_over).await,
                Lease::HeldUntil(taken_over + TASK_LEASE),
                "{kept_until:?}"
            );
        }
        bench.release(worker(2), None).await;
    }
}

async fn a_worker_can_repeat_its_lease(bench: Bench) {
    // The response to its first call may have been lost.
    for when in [now(), minutes(1)] {
        assert_eq!(bench.lease("task", worker(1), when).await, Lease::Won);
    }
    assert_eq!(
        bench.lease("other", worker(2), now()).await,
        Lease::HeldUntil(minutes(1) + TASK_LEASE)
    );
}

async fn the_schedule_and_operators_hold_separate_leases(bench: Bench) {
    let lists = [Lists::Schedule, Lists::Operator];
    for (n, lists) in lists.into_iter().enumerate() {
        let when = now() + MILLISECOND * i32::try_from(n).unwrap();
        assert_eq!(
            bench.lease_for(lists, "task", worker(1), when).await,
            Lease::Won
        );
    }
    bench.release(worker(1), None).await;
    let operators = bench.lease_for(Lists::Operator, "other", worker(2), now());
    assert_eq!(
        operators.await,
        Lease::HeldUntil(now() + MILLISECOND + TASK_LEASE)
    );
    assert_eq!(bench.lease("other", worker(2), now()).await, Lease::Won);
}

async fn a_lease_of_one_mailbox_does_not_concern_another(bench: Bench) {
    assert_eq!(bench.lease("task", worker(1), now()).await, Lease::Won);
    let other = "grant-2".parse().unwrap();
    let lease = bench
        .ledger
        .lease_mailbox(&other, Lists::Schedule, "other", worker(2), now());
    assert_eq!(lease.await.unwrap(), Lease::Won);
}

async fn a_watermark_never_moves_back(bench: Bench) {
    assert_eq!(bench.watermark().await, None);
    let mut latest = now();
    for listed in [
        now(),
        minutes(10),
        minutes(5),
        minutes(10) - MILLISECOND,
        minutes(10),
        minutes(10) + MILLISECOND,
        now(),
    ] {
        bench
            .ledger
            .advance_watermark(&grant(), listed)
            .await
            .unwrap();
        latest = latest.max(listed);
        assert_eq!(bench.watermark().await, Some(latest));
    }
}

async fn a_lease_and_the_watermark_do_not_change_each_other(bench: Bench) {
    bench
        .ledger
        .advance_watermark(&grant(), now())
        .await
        .unwrap();
    assert_eq!(bench.lease("task", worker(1), now()).await, Lease::Won);
    bench
        .ledger
        .advance_watermark(&grant(), minutes(1))
        .await
        .unwrap();
    assert_eq!(
        bench.lease("other", worker(2), now()).await,
        Lease::HeldUntil(now() + TASK_LEASE)
    );
    bench.release(worker(1), None).await;
    assert_eq!(bench.watermark().await, Some(minutes(1)));
}
