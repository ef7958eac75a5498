//! Invokes the functions as Nylas, the schedule and Lambda's poller of the queue do.

use aws_sdk_sqs::types::Message;
use chrono::Utc;
use local_aws::events::{delivery, schedule};
use rand::Rng;
use tokio::sync::watch;

use crate::cloud::{Cloud, WEBHOOK_SECRET};
use crate::corpus::Corpus;
use crate::faults::{Faults, Strike};
use crate::plan::{Cell, Plan};
use crate::queue::receive_count;
use crate::worker::{Worker, event_of, succeeded};

/// The deliveries that Lambda waits for before it invokes a worker that found the queue empty, like
/// its batching window.
const BATCH: u64 = 10;

/// Delivers messages. Returns those that have to be delivered again.
pub(crate) async fn deliver(
    receiver: &mut Worker,
    cloud: &Cloud,
    corpus: &Corpus,
    faults: &Faults,
    chunk: Vec<usize>,
    queued: &watch::Sender<(u64, bool)>,
) -> Result<Vec<usize>, String> {
    let mut again = Vec::new();
    for index in chunk {
        let notification = corpus.messages[index].notification(&mut receiver.rng);
        let event = delivery(WEBHOOK_SECRET, &notification);
        let plan = faults.for_delivery(&mut receiver.rng);
        cloud.shared.figures.lock().unwrap().deliveries += 1;
        let answer = receiver.invoke(event, plan, None).await?;
        match answer.as_ref().map(|answer| answer["statusCode"].as_u64()) {
            Some(Some(200)) => {}
            None | Some(Some(503)) => again.push(index),
            Some(_) => return Err(format!("the receiver answered {answer:?}")),
        }
        queued.send_modify(|(count, _)| *count += 1);
    }
    Ok(again)
}

/// Invokes one scheduled run of the backfill and its tasks. Unfinished tasks of the last run become
/// visible first.
pub(crate) async fn list(
    backfill: &mut Worker,
    cloud: &Cloud,
    faults: &Faults,
) -> Result<(), String> {
    cloud.free_mailboxes().await;
    cloud.tasks_come_back().await;
    let event = schedule(&Utc::now().to_rfc3339());
    let planned = backfill.invoke(event, Plan::default(), None).await;
    match planned {
        Ok(planned) => {
            let stranded = planned.and_then(|planned| planned["stranded"].as_u64());
            cloud.shared.figures.lock().unwrap().stranded += stranded.unwrap_or_default();
        }
        // A run that cannot list the mailboxes fails, and the schedule invokes the next one.
        Err(error) if error.contains("failed to list the connected mailboxes") => {}
        Err(error) => return Err(error),
    }
    while let Some(task) = cloud.task().await {
        let batch = std::slice::from_ref(&task);
        let plan = faults.for_listing(&mut backfill.rng);
        let answer = backfill.invoke(event_of(batch), plan, None).await?;
        if answer.is_some_and(|answer| !succeeded(batch, &answer).is_empty()) {
            cloud.task_done(&task).await;
        } else {
            cloud.task_undone(&task);
        }
    }
    Ok(())
}

/// Processes batches from the queue until it is empty and no more deliveries come.
pub(crate) async fn work(
    worker: &mut Worker,
    cloud: &Cloud,
    faults: &Faults,
    queued: &watch::Sender<(u64, bool)>,
) -> Result<(), String> {
    let mut deliveries = queued.subscribe();
    loop {
        // Marked as seen before the queue is read, so that later deliveries are not missed.
        let (count, done) = *deliveries.borrow_and_update();
        let most = worker.rng.random_range(3..=10);
        let batch = cloud.queue.receive(most).await;
        if !batch.is_empty() {
            cloud.shared.figures.lock().unwrap().invocations += 1;
            let tried = batch.iter().map(receive_count).max().unwrap_or(1);
            let drawn = faults.for_batch(worker.seat.mode, tried, &mut worker.rng);
            strike(worker, cloud, &batch, drawn).await?;
        } else if done {
            return Ok(());
        }
        if batch.len() < usize::try_from(most).unwrap() && !done {
            // Wait for enough deliveries for a batch, or for the last one.
            let enough = count + BATCH;
            let more = deliveries.wait_for(|(count, done)| *done || *count >= enough);
            more.await.unwrap();
        }
    }
}

/// Invokes a worker for a batch, and does what Lambda does afterwards.
pub(crate) async fn strike(
    worker: &mut Worker,
    cloud: &Cloud,
    batch: &[Message],
    Strike { plan, short }: Strike,
) -> Result<(), String> {
    let mode = worker.seat.mode;
    let killed = |cell| cloud.shared.figures.lock().unwrap().killed(mode, cell);
    let dies_after = plan
        .kill
        .is_some_and(|(cell, _)| cell == Cell::BeforeDeletion);
    let plan = if dies_after { Plan::default() } else { plan };
    match worker.invoke(event_of(batch), plan, short).await? {
        None if short.is_some() => killed(None),
        None => {}
        Some(_) if dies_after => {
            killed(Some(Cell::BeforeDeletion));
            worker.kill().await;
        }
        Some(answer) => cloud.queue.delete(&succeeded(batch, &answer)).await,
    }
    Ok(())
}
