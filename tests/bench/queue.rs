//! Queues that behave like SQS: hidden or delayed messages become visible when their time is up, in
//! whole seconds.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mailverse::clients::aws::queue::{QueueError, SyncQueue};
use tokio::sync::Notify;

/// A message of the queue.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) id: u64,
    pub(crate) body: String,
    pub(crate) receive_count: u32,
    visible_at: Instant,
    in_flight: bool,
}

/// A queue; clones share their messages.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Inner>);

#[derive(Default)]
struct Inner {
    messages: Mutex<Vec<Message>>,
    sent: Notify,
}

impl Queue {
    /// Receives up to this many messages, as soon as there is one.
    pub(crate) async fn receive(&self, most: usize) -> Vec<Message> {
        loop {
            let sent = self.0.sent.notified();
            let wait = {
                let mut messages = self.0.messages.lock().unwrap();
                let now = Instant::now();
                let due = messages
                    .iter_mut()
                    .filter(|one| !one.in_flight && one.visible_at <= now);
                let batch: Vec<Message> = due
                    .take(most)
                    .map(|one| {
                        one.in_flight = true;
                        one.receive_count += 1;
                        one.clone()
                    })
                    .collect();
                if !batch.is_empty() {
                    return batch;
                }
                let hidden = messages.iter().filter(|one| !one.in_flight);
                let next = hidden.map(|one| one.visible_at).min();
                next.map_or(Duration::from_secs(3_600), |next| next - now)
            };
            // A new message or the due time of a hidden one, whichever comes first.
            let _sent_or_due = tokio::time::timeout(wait, sent).await;
        }
    }

    /// Deletes these messages, as Lambda does after an invocation.
    pub(crate) fn delete(&self, ids: &[u64]) {
        let mut messages = self.0.messages.lock().unwrap();
        messages.retain(|one| !ids.contains(&one.id));
    }

    /// Returns whether its worker has hidden the message.
    pub(crate) fn is_hidden(&self, id: u64) -> bool {
        let messages = self.0.messages.lock().unwrap();
        messages.iter().any(|one| one.id == id && !one.in_flight)
    }

    /// Returns whether no message is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.messages.lock().unwrap().is_empty()
    }
}

/// Returns the time after a delay, which is rounded up to whole seconds.
fn after(delay: Duration) -> Instant {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    Instant::now() + Duration::from_secs(seconds)
}

impl SyncQueue for Queue {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        let mut messages = self.0.messages.lock().unwrap();
        let id = messages.last().map_or(1, |last| last.id + 1);
        messages.push(Message {
            id,
            body,
            receive_count: 0,
            visible_at: after(delay),
            in_flight: false,
        });
        self.0.sent.notify_one();
        Ok(())
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        let id: u64 = receipt.parse().map_err(QueueError::new)?;
        let mut messages = self.0.messages.lock().unwrap();
        let hidden = messages.iter_mut().filter(|one| one.id == id);
        for message in hidden {
            message.visible_at = after(delay);
            message.in_flight = false;
        }
        self.0.sent.notify_one();
        Ok(())
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        let now = Instant::now();
        let messages = self.0.messages.lock().unwrap();
        let visible = messages
            .iter()
            .filter(|one| !one.in_flight && one.visible_at <= now);
        Ok(visible.count())
    }
}
