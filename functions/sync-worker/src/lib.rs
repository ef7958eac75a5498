//! sync-worker: an SQS batch through the pipeline, with a partial batch response.
//!
//! | A queue message whose request | is |
//! | --- | --- |
//! | reached `written`, `skipped` or `dead` | acknowledged |
//! | is `waiting` | hidden for the advised delay and reported failed, so that it is delivered again |
//! | is `waiting` although this was its last delivery | queued again, and acknowledged |
//! | failed [`mailverse::retry::RECEIVE_LIMIT`] times | settled `dead` and reported failed, so that it moves to the dead-letter queue; what is left of its deliveries comes at once and is left alone |
//! | cannot be read | reported failed, and ends in the dead-letter queue unchanged |
//!
//! The event source has to be set to `ReportBatchItemFailures`; without it a failed message would be acknowledged with its batch.

pub mod config;

use std::collections::HashMap;
use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use chrono::Utc;
use mailverse::ids::MessageKey;
use mailverse::pipeline::{Fate, Handled, Pipeline, Run, Work};
use mailverse::queue::SyncQueue;
use mailverse::retry::RECEIVE_LIMIT;
use mailverse::sync_request::SyncRequest;
use mailverse::telemetry::{Count, count};

/// The handler.
pub struct Worker<Q> {
    pipeline: Pipeline,
    queue: Q,
}

/// What a batch came to.
pub struct Worked {
    /// For Lambda: which queue messages to keep.
    pub response: SqsBatchResponse,
    /// Each message of the batch once.
    pub handled: Vec<Handled>,
    /// Queue messages that hold no request, and why.
    pub unreadable: Vec<String>,
}

/// A queue message that holds a request.
struct Delivery {
    id: String,
    receipt: Option<String>,
    request: SyncRequest,
    receive_count: u32,
}

impl<Q: SyncQueue> Worker<Q> {
    /// A worker that takes its requests from `queue`.
    pub fn new(pipeline: Pipeline, queue: Q) -> Self {
        Self { pipeline, queue }
    }

    /// Works through a batch.
    pub async fn work(&self, event: SqsEvent, run: Run) -> Worked {
        let mut deliveries = Vec::new();
        let mut failed = Vec::new();
        let mut unreadable = Vec::new();
        // One by one: a body that cannot be read must not fail its neighbours.
        for record in event.records {
            let id = record.message_id.clone().unwrap_or_default();
            match SyncRequest::from_body(record.body.as_deref().unwrap_or_default()) {
                Ok(request) => deliveries.push(Delivery::new(record, request)),
                Err(error) => {
                    tracing::error!(sqs_message_id = id, %error, "queue message cannot be read");
                    unreadable.push(error.to_string());
                    failed.push(id);
                }
            }
        }
        count(Count::RequestUnreadable, unreadable.len());
        let work = deliveries.iter().map(Delivery::work).collect();
        // Boxed, because the handler's own layers on top make the type deeper than the compiler lays out.
        let handled = Box::pin(self.pipeline.run(work, run)).await;
        let fates: HashMap<&MessageKey, &Fate> =
            handled.iter().map(|done| (&done.key, &done.fate)).collect();
        for delivery in deliveries {
            if !self
                .is_done(&delivery, fates.get(&delivery.request.key).copied())
                .await
            {
                failed.push(delivery.id);
            }
        }
        let mut response = SqsBatchResponse::default();
        response.batch_item_failures = failed.into_iter().map(failure).collect();
        Worked {
            response,
            handled,
            unreadable,
        }
    }

    /// Whether the queue may forget the message. One that is to come back is hidden for as long as advised.
    async fn is_done(&self, delivery: &Delivery, fate: Option<&Fate>) -> bool {
        match fate {
            Some(
                Fate::Written { .. } | Fate::Skipped { .. } | Fate::Dead { gave_up: false, .. },
            ) => true,
            Some(Fate::Waiting { delay, .. }) if delivery.receive_count >= RECEIVE_LIMIT => {
                self.queue_anew(&delivery.request, *delay).await
            }
            Some(Fate::Waiting { delay, .. }) => {
                self.hide(delivery, *delay).await;
                false
            }
            // Its failures are used up and its deliveries may not be: the sooner they are, the sooner
            // the queue moves it to the dead-letter queue.
            Some(Fate::Dead { gave_up: true, .. }) => {
                self.hide(delivery, Duration::ZERO).await;
                false
            }
            None => false,
        }
    }
}

impl<Q: SyncQueue> Worker<Q> {
    async fn hide(&self, delivery: &Delivery, delay: Duration) {
        if let Some(receipt) = &delivery.receipt
            && let Err(error) = self.queue.hide(receipt, delay).await
        {
            // It comes back after the queue's own visibility timeout instead.
            tracing::warn!("sync.key" = %delivery.request.key, %error, "message could not be hidden");
        }
    }

    /// The queue would move the message to the dead-letter queue now, although it may still be tried. Whether it is on the queue once more.
    ///
    /// Should the process die before that, the ledger says that it was given up, and the dead-letter queue has it; after it, there is one request too many,
    /// which the ledger makes harmless.
    async fn queue_anew(&self, request: &SyncRequest, delay: Duration) -> bool {
        let key = &request.key;
        if let Err(error) = self.queue.send(request, delay).await {
            tracing::error!("sync.key" = %key, %error, "message could not be queued anew");
            return false;
        }
        let retry_at = Utc::now() + delay;
        if let Err(error) = self.pipeline.ledger.queued_anew(key, retry_at).await {
            // Its delivery claims it all the same.
            tracing::warn!("sync.key" = %key, %error, "the ledger could not be told that the message is queued anew");
        }
        true
    }
}

impl Delivery {
    fn new(record: SqsMessage, request: SyncRequest) -> Self {
        // Absent only in events made by hand.
        let receive_count = record
            .attributes
            .get("ApproximateReceiveCount")
            .and_then(|n| n.parse().ok())
            .unwrap_or(1);
        Self {
            id: record.message_id.unwrap_or_default(),
            receipt: record.receipt_handle,
            request,
            receive_count,
        }
    }

    fn work(&self) -> Work {
        Work {
            request: self.request.clone(),
            message: None,
            receive_count: self.receive_count,
        }
    }
}

/// An empty id, of a record that came without one, makes Lambda keep the whole batch: nothing is lost.
fn failure(id: String) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = id;
    failure
}
