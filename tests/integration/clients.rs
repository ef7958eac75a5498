//! Each client against a failing service: one test for each status that the client treats
//! differently.

mod dataverse;
mod entra;
mod nylas;
pub(crate) mod secrets;

use std::time::Duration;

use mailverse::clients::retry::RetryAdvice;

/// The retry advice of a 429 with `Retry-After`.
fn after(seconds: u64) -> RetryAdvice {
    RetryAdvice::Postpone(Duration::from_secs(seconds))
}
