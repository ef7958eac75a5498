//! The whole pipeline: a message in a mailbox, an email row in Dataverse.
//!
//! | Question | File |
//! | --- | --- |
//! | Does a message become the right row, once? | `delivery.rs` |
//! | Who is on it, what does it concern, who owns it? | `people.rs` |
//! | What is left out, and by which rule? | `policy.rs` |
//! | What becomes of files? | `attachments.rs` |
//! | What if a service fails, or the process dies? | `failures.rs` |
//! | What if the mail itself is odd? | `odd_mail.rs` |

mod attachments;
mod delivery;
mod failures;
mod odd_mail;
mod people;
mod policy;
