//! The environment of the compiled functions, for the end-to-end tests and the chaos harness.
//!
//! | What | File |
//! | --- | --- |
//! | A function as a process, and the Lambda Runtime API | `lambda.rs` |
//! | SQS and Secrets Manager: moto | `moto.rs` |
//! | DynamoDB: dynoxide, in this process | `dynamo.rs` |
//! | The events that AWS and Nylas would send | `events.rs` |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a stage for tests: a value that is not as expected is the failure to report"
)]

pub mod dynamo;
pub mod events;
pub mod lambda;
pub mod moto;
