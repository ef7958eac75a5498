//! Tests every rule of the emulator over its sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot continue must fail"
)]

mod rules {
    pub(crate) mod answers;
    pub(crate) mod assertions;
    pub(crate) mod attachments;
    pub(crate) mod batches;
    pub(crate) mod calls;
    pub(crate) mod costs;
    pub(crate) mod csdl;
    pub(crate) mod definition_changes;
    pub(crate) mod definitions;
    pub(crate) mod entra;
    pub(crate) mod facts;
    pub(crate) mod framing;
    pub(crate) mod key_changes;
    pub(crate) mod keys;
    pub(crate) mod nylas;
    pub(crate) mod nylas_messages;
    pub(crate) mod parties;
    pub(crate) mod plans;
    pub(crate) mod privileges;
    pub(crate) mod protection;
    pub(crate) mod queries;
    pub(crate) mod regarding;
    pub(crate) mod states;
    pub(crate) mod tables;
    pub(crate) mod valid_client;
    pub(crate) mod webhooks;
    pub(crate) mod writes;
}
