//! The fuzz targets: what each does with an input, whatever that is. A body panics if a promise of
//! the code does not hold.
//!
//! `fuzz/fuzz_targets/` hands each body to libFuzzer (`cargo fuzz run NAME`, nightly). `make
//! fuzz-smoke` runs all of them on stable Rust for a bounded number of mutated inputs ([`smoke`]).
//!
//! | Target | Input |
//! | --- | --- |
//! | [`batch_answer`] | what Dataverse answers to a `$batch` |
//! | [`notification`] | what somebody who has the webhook secret posts |
//! | [`saved_event`] | a file that somebody saved as an event of the receiver |
//! | [`message_rows`] | a message as Nylas gives it, up to the rows that are written |
//! | [`references`] | the headers In-Reply-To and References, and the tracking tokens of a subject |
//! | [`importer`] | a file that somebody imports |

pub mod batch_answer;
pub mod importer;
pub mod message_rows;
pub mod notification;
pub mod references;
pub mod saved_event;
#[expect(dead_code, reason = "reading from a path is the command's")]
#[path = "../../../cli/src/import/saved_files.rs"]
mod saved_files;
pub mod smoke;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, as in `cargo fuzz run` and as its folder of the corpus.
    pub name: &'static str,
    /// What it does with an input.
    pub body: fn(&[u8]),
}

/// Every target.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "batch_answer",
        body: batch_answer::run,
    },
    Target {
        name: "notification",
        body: notification::run,
    },
    Target {
        name: "saved_event",
        body: saved_event::run,
    },
    Target {
        name: "message_rows",
        body: message_rows::run,
    },
    Target {
        name: "references",
        body: references::run,
    },
    Target {
        name: "importer",
        body: importer::run,
    },
];
