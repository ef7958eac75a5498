//! mailverse: tracks email from any mailbox that Nylas can read as completed email activities in
//! Dynamics 365.
//!
//! The functions and the command are thin shells around this crate. A module uses only its own
//! layer and the layers to its left: env, telemetry, model ← clients ← mailboxes ← rate_limit ←
//! ledger ← lookup ← policy ← resolve ← mapping ← decision_record ← pipeline.
//! `shared/tests/layers.rs` checks this, and names the layer of each module.
//!
//! | Question | Module |
//! | --- | --- |
//! | What happens to a message, in order? | [`pipeline`] |
//! | How is an email mapped? | [`mapping`] |
//! | Which messages are tracked, and why was a message skipped? | [`policy`] |
//! | Which row has this address, and which record does the email concern? | [`resolve::parties`], [`resolve::regarding`] |
//! | How is a decision explained later? | [`decision_record`] |
//! | For which addresses are contacts created, and for which company? | [`resolve::contacts`] |
//! | How are duplicates prevented? | [`ledger`] |
//! | Do a message and a row that share a Message-ID belong together? | [`lookup::same_message`] |
//! | What happens on 429, or on any failure? | [`clients::retry`] |
//! | Does a refusal concern one message or the caller? | [`clients::refusal`] |
//! | How much is sent to Dataverse at a time? | [`rate_limit`] |
//! | What can Dataverse answer, and how is it classified? | [`clients::dataverse::error`] |
//! | What does a queue message contain? | [`model::sync_request`] |

pub mod clients;
pub mod decision_record;
pub mod env;
pub mod ledger;
pub mod lookup;
pub mod mailboxes;
pub mod mapping;
pub mod model;
pub mod pipeline;
pub mod policy;
pub mod rate_limit;
pub mod resolve;
pub mod telemetry;
