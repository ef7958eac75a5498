//! The sync queue and the backfill queue: SQS, or one in memory for `replay`.
//!
//! The one trait of this project, because it has two real implementations. Receiving is no part of it: Lambda receives
//! from SQS for us and hands the worker a batch.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;

use crate::aws;
use crate::sync_request::SyncRequest;

/// Longest delay of a new message.
///
/// Source: Amazon SQS API Reference, SendMessage, `DelaySeconds`.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// The queue could not be reached or refused the call. Answer 503, or let the batch come back: nothing was lost.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not take the call: {source}")]
pub struct QueueError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl QueueError {
    /// The failure that `source` was.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            source: source.into(),
        }
    }
}

/// Where requests wait for the worker, and tasks for the backfill.
pub trait SyncQueue: Send + Sync {
    /// Adds a request, to be delivered after `delay` (SQS: 15 minutes at most, and no more is waited). Once this returns `Ok`, the request will be delivered at least once.
    ///
    /// # Errors
    /// [`QueueError`]: the request may or may not be queued; send it again.
    fn send(
        &self,
        request: &SyncRequest,
        delay: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send {
        self.send_body(request.to_body(), delay)
    }

    /// The same for another queue's messages, which are no sync requests.
    ///
    /// # Errors
    /// [`QueueError`]: the message may or may not be queued; send it again.
    fn send_body(
        &self,
        body: String,
        delay: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Hides a message that is being worked on, named by its receipt handle, for `delay` (whole seconds, rounded up, at most 12 hours).
    ///
    /// # Errors
    /// [`QueueError`]: the message comes back after the queue's own visibility timeout instead.
    fn hide(
        &self,
        receipt: &str,
        delay: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// About how many messages wait for a worker now; those that are hidden or being worked on do not count.
    ///
    /// # Errors
    /// [`QueueError`]: nothing is known.
    fn waiting(&self) -> impl Future<Output = Result<usize, QueueError>> + Send;
}

/// A queue on Amazon SQS.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl SqsQueue {
    /// The queue at `url`.
    #[must_use]
    pub fn new(client: aws_sdk_sqs::Client, url: String) -> Self {
        Self { client, url }
    }
}

impl SyncQueue for SqsQueue {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        let delay = whole_seconds(delay.min(LONGEST_DELAY));
        let call = self
            .client
            .send_message()
            .queue_url(&self.url)
            .message_body(body)
            .delay_seconds(delay);
        call.send()
            .await
            .map(drop)
            .map_err(|e| QueueError::new(aws::describe(&e)))
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        let call = self.client.change_message_visibility().queue_url(&self.url);
        call.receipt_handle(receipt)
            .visibility_timeout(whole_seconds(delay))
            .send()
            .await
            .map(drop)
            .map_err(|e| QueueError::new(aws::describe(&e)))
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        const WAITING: QueueAttributeName = QueueAttributeName::ApproximateNumberOfMessages;
        let call = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = call.attribute_names(WAITING).send().await;
        let answer = answer.map_err(|e| QueueError::new(aws::describe(&e)))?;
        let waiting = answer.attributes().and_then(|all| all.get(&WAITING));
        waiting
            .and_then(|n| n.parse().ok())
            .ok_or_else(|| QueueError::new("it did not say how many messages wait"))
    }
}

/// What SQS counts in, rounded up: what comes back too early would only have to wait once more.
fn whole_seconds(delay: Duration) -> i32 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// A message as [`MemoryQueue::receive`] hands it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// A [`SyncRequest`] as text.
    pub body: String,
    /// Names this message to [`SyncQueue::hide`] and [`MemoryQueue::delete`].
    pub receipt: String,
    /// 1 on first delivery.
    pub receive_count: u32,
}

/// A queue within the process; clones are the same queue. A hidden message stays hidden: nothing here waits for time to pass.
#[derive(Debug, Clone, Default)]
pub struct MemoryQueue {
    inner: Arc<Mutex<Messages>>,
}

#[derive(Debug, Default)]
struct Messages {
    visible: VecDeque<Received>,
    in_flight: Vec<Received>,
    hidden: Vec<(Received, Duration)>,
    sent: u64,
}

impl MemoryQueue {
    /// Takes up to `max` messages, oldest first. Each stays in flight until it is deleted or hidden.
    #[must_use]
    pub fn receive(&self, max: usize) -> Vec<Received> {
        let mut queue = self.lock();
        let count = max.min(queue.visible.len());
        let batch: Vec<Received> = queue
            .visible
            .drain(..count)
            .map(|message| Received {
                receive_count: message.receive_count + 1,
                ..message
            })
            .collect();
        queue.in_flight.extend_from_slice(&batch);
        batch
    }

    /// Acknowledges a message.
    pub fn delete(&self, receipt: &str) {
        self.lock()
            .in_flight
            .retain(|message| message.receipt != receipt);
    }

    /// How many messages wait to be received.
    #[must_use]
    pub fn visible(&self) -> usize {
        self.lock().visible.len()
    }

    /// The messages that a worker hid or that were sent with a delay, and for how long.
    #[must_use]
    pub fn hidden(&self) -> Vec<(Received, Duration)> {
        self.lock().hidden.clone()
    }

    // A panic elsewhere leaves the queue whole: each change here is one push or one removal.
    fn lock(&self) -> MutexGuard<'_, Messages> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SyncQueue for MemoryQueue {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        let mut queue = self.lock();
        queue.sent += 1;
        let receipt = queue.sent.to_string();
        let message = Received {
            body,
            receipt,
            receive_count: 0,
        };
        if delay.is_zero() {
            queue.visible.push_back(message);
        } else {
            queue.hidden.push((message, delay));
        }
        Ok(())
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        let mut queue = self.lock();
        let Some(at) = queue
            .in_flight
            .iter()
            .position(|message| message.receipt == receipt)
        else {
            return Err(QueueError::new(format!(
                "no message in flight has the receipt {receipt}"
            )));
        };
        let message = queue.in_flight.swap_remove(at);
        queue.hidden.push((message, delay));
        Ok(())
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        Ok(self.visible())
    }
}
