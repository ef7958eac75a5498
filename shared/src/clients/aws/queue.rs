//! The sync queue and the backfill queue: on SQS, or in memory for `replay`.
//!
//! [`SyncQueue`] is the only trait of this project, because it has two real implementations. It
//! does not receive messages: Lambda receives from SQS and passes a batch to the worker.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName;

use crate::clients::aws;
use crate::model::sync_request::SyncRequest;

/// The longest delay of a new message.
///
/// Source: Amazon SQS API Reference, SendMessage, `DelaySeconds`.
const LONGEST_DELAY: Duration = Duration::from_secs(15 * 60);

/// The queue could not be reached or rejected the call.
///
/// Answer 503, or let the batch be redelivered: nothing is lost.
#[derive(Debug, thiserror::Error)]
#[error("the queue did not answer or rejected the call: {source}")]
pub struct QueueError {
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl QueueError {
    /// Wraps the failure `source`.
    pub fn new(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self {
            source: source.into(),
        }
    }
}

/// A queue of sync requests for the worker, or of tasks for the backfill.
pub trait SyncQueue: Send + Sync {
    /// Adds a request, to be delivered after `delay`. SQS allows at most 15 minutes; a longer delay
    /// is cut to that. Once this returns `Ok`, the request will be delivered at least once.
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

    /// Adds a message that is not a sync request, such as a backfill task; otherwise like
    /// [`Self::send`].
    ///
    /// # Errors
    /// [`QueueError`]: the message may or may not be queued; send it again.
    fn send_body(
        &self,
        body: String,
        delay: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Hides a received message, identified by its receipt handle, for `delay`.
    ///
    /// The delay is rounded up to whole seconds and is at most 12 hours.
    ///
    /// # Errors
    /// [`QueueError`]: the message is redelivered after the queue's own visibility timeout instead.
    fn hide(
        &self,
        receipt: &str,
        delay: Duration,
    ) -> impl Future<Output = Result<(), QueueError>> + Send;

    /// Returns about how many messages are available to a worker now. Hidden messages and messages
    /// in flight do not count.
    ///
    /// # Errors
    /// [`QueueError`]: the number is unknown.
    fn waiting(&self) -> impl Future<Output = Result<usize, QueueError>> + Send;
}

/// A queue on Amazon SQS.
#[derive(Debug, Clone)]
pub struct SqsQueue {
    client: aws_sdk_sqs::Client,
    url: String,
}

impl SqsQueue {
    /// Creates the queue at `url`.
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
            .ok_or_else(|| QueueError::new("the answer has no message count"))
    }
}

/// Converts to the whole seconds that SQS counts in. Rounds up, because a message that comes back
/// too early would only have to wait again.
fn whole_seconds(delay: Duration) -> i32 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// A message as returned by [`MemoryQueue::receive`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The JSON of a [`SyncRequest`].
    pub body: String,
    /// Identifies this message to [`SyncQueue::hide`] and [`MemoryQueue::delete`].
    pub receipt: String,
    /// The receive count: 1 on the first delivery.
    pub receive_count: u32,
}

/// A queue in the memory of the process. Clones share the same queue.
///
/// A hidden message stays hidden: the queue has no clock.
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
    /// Receives up to `max` messages, oldest first. Each stays in flight until it is deleted or
    /// hidden.
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

    /// Returns how many messages can be received.
    #[must_use]
    pub fn visible(&self) -> usize {
        self.lock().visible.len()
    }

    /// Returns the messages that a worker hid or that were sent with a delay, with their delays.
    #[must_use]
    pub fn hidden(&self) -> Vec<(Received, Duration)> {
        self.lock().hidden.clone()
    }

    // A panic elsewhere leaves the queue consistent: each change here is one push or one removal.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_rounded_up_to_whole_seconds() {
        for (delay, seconds) in [
            (Duration::ZERO, 0),
            (Duration::from_nanos(1), 1),
            (Duration::from_millis(200), 1),
            (Duration::from_millis(999), 1),
            (Duration::from_secs(1), 1),
            (Duration::from_millis(1_001), 2),
            (
                LONGEST_DELAY.checked_sub(Duration::from_nanos(1)).unwrap(),
                900,
            ),
            (LONGEST_DELAY, 900),
        ] {
            assert_eq!(whole_seconds(delay), seconds, "{delay:?}");
        }
    }
}
