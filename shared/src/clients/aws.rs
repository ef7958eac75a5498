//! Secrets Manager and SQS, and how errors of the AWS SDK are described. The ledger's table has a
//! layer of its own ([`crate::ledger`]).

pub mod error;
pub mod queue;
pub mod secrets;

pub use self::error::describe;
