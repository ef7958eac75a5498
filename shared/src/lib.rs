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
//! | Which row has this address, and which record does the email concern? | [`parties`], [`regarding`] |
//! | How is a decision explained later? | [`decision`] |
//! | For which addresses are contacts created, and for which company? | [`contacts`] |
//! | How are duplicates prevented? | [`dedupe`] |
//! | Do a message and a row that share a Message-ID belong together? | [`same_mail`] |
//! | What happens on 429, or on any failure? | [`retry`] |
//! | Does a refusal concern one message or the caller? | [`refusal`] |
//! | How much is sent to Dataverse at a time? | [`governor`] |
//! | What can Dataverse answer, and how is it classified? | [`dataverse::error`] |
//! | What does a queue message contain? | [`sync_request`] |

pub mod aws;
pub mod contact_card;
pub mod contacts;
pub mod dataverse;
pub mod decision;
pub mod dedupe;
pub mod entra;
pub mod env;
pub mod governor;
pub mod http;
pub mod ids;
pub mod keys;
pub mod mailboxes;
pub mod mapping;
pub mod message;
pub mod nylas;
pub mod parties;
pub mod pipeline;

pub mod policy;
pub mod queue;
pub mod refusal;
pub mod regarding;
pub mod retry;
pub mod role_address;
pub mod same_mail;
pub mod secrets;
pub mod sync_request;
pub mod telemetry;
pub(crate) mod text;
