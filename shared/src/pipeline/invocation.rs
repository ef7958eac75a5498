//! One call of a function: what it has to process, its time and its randomness.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::ledger::ClaimToken;
use crate::model::ids::MessageKey;
use crate::model::message::Message;
use crate::model::sync_request::SyncRequest;

/// A delivery: a message to bring to a final state.
pub struct Delivery {
    /// The grant id and message id, and what triggered the request.
    pub request: SyncRequest,
    /// The message itself, if a list already returned it.
    pub message: Option<Message>,
    /// How often the queue has delivered the request; 1 on the first delivery.
    pub receive_count: u32,
}

/// The time that the longest step and settling its result may take: a call ends after 15 seconds of
/// silence.
const LAST_STEP: Duration = Duration::from_secs(30);

/// The time and randomness of one invocation.
#[derive(Debug, Clone, Copy)]
pub struct Invocation {
    /// The claim token, drawn at random.
    pub token: ClaimToken,
    /// When the run began.
    pub now: DateTime<Utc>,
    /// The same moment on `clock`.
    pub begun: Instant,
    /// The monotonic clock that measures the time since `begun`.
    pub clock: fn() -> Instant,
    /// When the process is stopped, even in the middle of a call.
    pub deadline: DateTime<Utc>,
    /// The application user that requests are sent as: 0 is the primary user, which sends all live
    /// mail; 1 and above are the further users.
    pub application_user: usize,
    /// The most by which a delay is lengthened, in percent, 0 to 25. The claim token and the
    /// message id determine the actual value, so that failed messages do not all return at the same
    /// time.
    pub jitter_percent: u32,
}

impl Invocation {
    /// Starts a run now, with a random token, in an invocation that ends at `deadline`.
    ///
    /// Only entry points call this; everything below receives the run as a value.
    #[must_use]
    pub fn begin(deadline: DateTime<Utc>) -> Self {
        Self {
            token: ClaimToken::new(uuid::Uuid::new_v4()),
            now: Utc::now(),
            begun: Instant::now(),
            clock: Instant::now,
            deadline,
            application_user: 0,
            jitter_percent: 25,
        }
    }

    /// Returns whether too little time is left to begin a step, because it could not be settled.
    pub(super) fn is_nearly_over(&self) -> bool {
        self.time() + LAST_STEP > self.deadline
    }

    /// Returns the current time.
    pub(super) fn time(&self) -> DateTime<Utc> {
        self.now + (self.clock)().saturating_duration_since(self.begun)
    }

    /// Returns the jitter of one message in percent; it differs by message and by run.
    pub(super) fn jitter_percent_of(&self, key: &MessageKey) -> u32 {
        let drawn = self.token.to_string() + key.message_id.as_str();
        let sum = drawn.bytes().fold(0_u32, |sum, byte| {
            sum.wrapping_mul(31).wrapping_add(u32::from(byte))
        });
        sum % (self.jitter_percent + 1)
    }
}
