//! The ledger: the DynamoDB table with the state of every message. It prevents duplicate rows.
//!
//! There are four guards. Each one works even if the guards before it fail:
//!
//! 1. **A claim** in the ledger, which has one item for each message of each mailbox
//!    ([`messages`]). A claim is one conditional write; the loser gets the item that it lost to.
//! 2. **A key that Dataverse enforces**: [`activity_id`](crate::model::keys::activity_id), or
//!    [`activity_id_by_content`](crate::model::keys::activity_id_by_content) for a message whose
//!    Message-ID another message of the same sender has ([`crate::lookup::same_message`]).
//!    Dataverse rejects a second row with the same key with 412. So a crash between write and
//!    settle, a wiped ledger, two racing workers or an email in five mailboxes all end in one row.
//! 3. **A lookup by Message-ID** before the write finds rows that server-side synchronization or a
//!    user created.
//! 4. **An invocation processes a message once**, however often its batch names it (the pipeline's
//!    first step).
//!
//! The states of a message and the rule that decides a claim are in [`claim_rule`].

pub mod attention_index;
pub mod backfill_runs;
pub mod claim_rule;
pub mod decisions;
pub mod mailbox_state;
pub mod messages;
pub mod pauses;
pub mod policy_document;
pub mod refusals;
pub mod reservations;
pub mod row_replacement;
pub mod table;

pub use self::claim_rule::{
    Claim, ClaimRequest, ClaimToken, Entry, LEASE, SKIPPED_FOR_NOW, State, decide_claim,
};
