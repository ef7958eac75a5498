//! sync-worker: runs an SQS batch through the pipeline and answers with a partial batch response.
//!
//! | A queue message whose request | The worker |
//! | --- | --- |
//! | reached `written`, `skipped` or `dead` | acknowledges it |
//! | is `waiting` | hides it for the advised delay and reports it as failed, so that it is delivered again |
//! | is `waiting`, but this was its last delivery | queues it again and acknowledges this delivery |
//! | failed [`mailverse::clients::retry::RECEIVE_LIMIT`] times | settles it as `dead` and reports it as failed without a delay, so that it soon moves to the dead-letter queue; deliveries until then are not processed |
//! | cannot be parsed | reports it as failed; it moves to the dead-letter queue unchanged |
//!
//! The event source mapping must have `ReportBatchItemFailures` set. Without it, a failed message
//! would be acknowledged with its batch.

pub mod config;

use std::collections::HashMap;
use std::time::Duration;

use aws_lambda_events::sqs::{BatchItemFailure, SqsBatchResponse, SqsEvent, SqsMessage};
use chrono::Utc;
use mailverse::clients::aws::queue::SyncQueue;
use mailverse::clients::retry::RECEIVE_LIMIT;
use mailverse::model::ids::MessageKey;
use mailverse::model::sync_request::SyncRequest;
use mailverse::pipeline::{Delivery, Invocation, Outcome, Pipeline, Processed};
use mailverse::telemetry::{Count, count};

/// The handler for events of the sync queue.
pub struct Worker<Q> {
    pipeline: Pipeline,
    queue: Q,
}

/// The result of a batch.
pub struct Worked {
    /// The answer for Lambda: the queue messages to keep.
    pub response: SqsBatchResponse,
    /// Every message of the batch, once.
    pub processed: Vec<Processed>,
    /// The error for each queue message that could not be parsed as a sync request.
    pub unreadable: Vec<String>,
}

/// A queue message that was parsed as a sync request.
struct QueueMessage {
    id: String,
    receipt: Option<String>,
    request: SyncRequest,
    receive_count: u32,
}

impl<Q: SyncQueue> Worker<Q> {
    /// Creates a worker that reads its requests from `queue`.
    pub fn new(pipeline: Pipeline, queue: Q) -> Self {
        Self { pipeline, queue }
    }

    /// Processes a batch and decides for every queue message whether the queue keeps it.
    pub async fn work(&self, event: SqsEvent, invocation: Invocation) -> Worked {
        let mut queue_messages = Vec::new();
        let mut failed = Vec::new();
        let mut unreadable = Vec::new();
        // Parse one by one: an unreadable body must not fail the rest of the batch.
        for record in event.records {
            let id = record.message_id.clone().unwrap_or_default();
            match SyncRequest::from_body(record.body.as_deref().unwrap_or_default()) {
                Ok(request) => queue_messages.push(QueueMessage::new(record, request)),
                Err(error) => {
                    tracing::error!(sqs_message_id = id, %error, "failed to parse a queue message; it will move to the dead-letter queue");
                    unreadable.push(error.to_string());
                    failed.push(id);
                }
            }
        }
        count(Count::RequestUnreadable, unreadable.len());
        let work = queue_messages.iter().map(QueueMessage::work).collect();
        // Boxed: with the handler's layers on top, the future's type is too deep for the compiler.
        let processed = Box::pin(self.pipeline.run(work, invocation)).await;
        let outcomes: HashMap<&MessageKey, &Outcome> = processed
            .iter()
            .map(|done| (&done.key, &done.outcome))
            .collect();
        for queue_message in queue_messages {
            if !self
                .is_done(
                    &queue_message,
                    outcomes.get(&queue_message.request.key).copied(),
                )
                .await
            {
                failed.push(queue_message.id);
            }
        }
        let mut response = SqsBatchResponse::default();
        response.batch_item_failures = failed.into_iter().map(failure).collect();
        Worked {
            response,
            processed,
            unreadable,
        }
    }

    /// Returns whether the queue may delete the message. Hides a message that is to be delivered
    /// again for the advised delay.
    async fn is_done(&self, queue_message: &QueueMessage, outcome: Option<&Outcome>) -> bool {
        match outcome {
            Some(
                Outcome::Written { .. }
                | Outcome::Skipped { .. }
                | Outcome::Dead {
                    attempts_exhausted: false,
                    ..
                },
            ) => true,
            Some(Outcome::Waiting { delay, .. })
                if queue_message.receive_count >= RECEIVE_LIMIT =>
            {
                self.requeue(&queue_message.request, *delay).await
            }
            Some(Outcome::Waiting { delay, .. }) => {
                self.hide(queue_message, *delay).await;
                false
            }
            // The message has failed too often, but deliveries may remain. Using them up at once
            // moves it to the dead-letter queue sooner.
            Some(Outcome::Dead {
                attempts_exhausted: true,
                ..
            }) => {
                self.hide(queue_message, Duration::ZERO).await;
                false
            }
            None => false,
        }
    }
}

impl<Q: SyncQueue> Worker<Q> {
    async fn hide(&self, queue_message: &QueueMessage, delay: Duration) {
        if let Some(receipt) = &queue_message.receipt
            && let Err(error) = self.queue.hide(receipt, delay).await
        {
            // The message then reappears after the queue's own visibility timeout.
            tracing::warn!("sync.key" = %queue_message.request.key, %error, "failed to set the visibility timeout; the queue's own timeout applies");
        }
    }

    /// Queues the message again, because it may still be retried and the queue would move it to the
    /// dead-letter queue now. Returns whether that worked.
    ///
    /// If the process dies before the send, the ledger says that the message was given up, and the
    /// dead-letter queue has it. If it dies after the send, there is one request too many, which
    /// the ledger makes harmless.
    async fn requeue(&self, request: &SyncRequest, delay: Duration) -> bool {
        let key = &request.key;
        if let Err(error) = self.queue.send(request, delay).await {
            tracing::error!("sync.key" = %key, %error, "failed to queue the message again; this delivery is reported as failed");
            return false;
        }
        let retry_at = Utc::now() + delay;
        if let Err(error) = self.pipeline.ledger.mark_requeued(key, retry_at).await {
            // The new delivery can claim the message anyway.
            tracing::warn!("sync.key" = %key, %error, "failed to record in the ledger that the message was queued again; its next delivery claims it anyway");
        }
        true
    }
}

impl QueueMessage {
    fn new(record: SqsMessage, request: SyncRequest) -> Self {
        // The attribute is only missing in handmade events.
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

    fn work(&self) -> Delivery {
        Delivery {
            request: self.request.clone(),
            message: None,
            receive_count: self.receive_count,
        }
    }
}

/// Reports a queue message as failed. A record without an id gets an empty one, which makes Lambda
/// keep the whole batch, so nothing is lost.
fn failure(id: String) -> BatchItemFailure {
    let mut failure = BatchItemFailure::default();
    failure.item_identifier = id;
    failure
}
