//! A queue in memory that fails chosen sends, as SQS does when it throttles or cannot be reached.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use mailverse::clients::aws::queue::{MemoryQueue, QueueError, SyncQueue};

/// How a send fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendFault {
    /// The message is not queued.
    Refused,
    /// The message is queued, and the answer is lost.
    AnswerLost,
}

/// The queue. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailingQueue {
    /// The messages on the queue.
    pub(crate) messages: MemoryQueue,
    faults: Arc<Mutex<Vec<(String, SendFault)>>>,
}

impl FailingQueue {
    /// Makes the next send fail whose body contains `text`.
    pub(crate) fn fail_send_of(&self, text: &str, fault: SendFault) {
        self.faults.lock().unwrap().push((text.to_owned(), fault));
    }

    /// Returns how many faults no send has used up yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.faults.lock().unwrap().len()
    }

    fn take_fault(&self, body: &str) -> Option<SendFault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults.iter().position(|(text, _)| body.contains(text))?;
        Some(faults.remove(at).1)
    }
}

impl SyncQueue for FailingQueue {
    async fn send_body(&self, body: String, delay: Duration) -> Result<(), QueueError> {
        let fault = self.take_fault(&body);
        if fault != Some(SendFault::Refused) {
            self.messages.send_body(body, delay).await?;
        }
        match fault {
            None => Ok(()),
            Some(fault) => Err(QueueError::new(format!("as the test asked: {fault:?}"))),
        }
    }

    async fn hide(&self, receipt: &str, delay: Duration) -> Result<(), QueueError> {
        self.messages.hide(receipt, delay).await
    }

    async fn waiting(&self) -> Result<usize, QueueError> {
        self.messages.waiting().await
    }
}
