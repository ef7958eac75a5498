//! Tests of the compiled functions as Lambda runs them: an HTTP event in, a completed email row
//! out.
//!
//! Each function is a separate process with its own environment. It speaks the Lambda Runtime API
//! with `local_aws/lambda.rs`, SQS and Secrets Manager with moto (`cloud.rs`), DynamoDB with the
//! embedded one, and Dataverse, Nylas and Entra with the emulators, each over its real protocol.

mod application_users;
mod budgets;
mod canary;
mod cloud;
mod command;
mod events;
mod explaining;
mod failures;
mod files;
mod flow;
mod guessed_tokens;
mod importing;
mod incidents;
mod invoking;
mod operating;
mod participation;
mod shared_message_ids;
mod stack;
mod throttled;
mod webhook_path;
mod what_if;

use local_aws::{lambda, moto};
