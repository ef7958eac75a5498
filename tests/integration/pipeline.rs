//! Tests of the whole pipeline: a message in a mailbox becomes an email row in Dataverse.
//!
//! | Question | File |
//! | --- | --- |
//! | Does a message become the right row, once? | `delivery.rs` |
//! | Which parties does it have, what does it concern, who owns it? | `people.rs` |
//! | Who becomes a contact, and of which company? | `contacts.rs` |
//! | How are the contacts of an address book imported? | `contact_import.rs` |
//! | Which record does it concern, and how many requests does the answer take? | `regarding.rs` |
//! | What if another client writes the same message? | `reconcile.rs` |
//! | What if two messages have one Message-ID? | `shared_message_ids.rs` |
//! | Which mailboxes take part? | `participation.rs` |
//! | What is skipped, and by which rule? | `policy.rs` |
//! | What happens to attachments? | `attachments.rs` |
//! | What if a service does not answer? | `outages.rs` |
//! | What if Dataverse asks for a pause halfway through a batch? | `pause.rs` |
//! | Do backfill and live mail keep within one rate limit? | `rate_limit.rs` |
//! | Does a batch stay within the limits of Dataverse? | `limits.rs` |
//! | How is the history of a mailbox processed? | `backfill.rs` |
//! | What if a queue refuses a task or a message of a backfill? | `backfill_queues.rs` |
//! | Which creation time does a row have? | `created_on.rs` |
//! | What if the process dies? | `crashes.rs` |
//! | What is stored of a decision? | `decisions.rs` |
//! | What do the settings of the policy do to a message? | `tracking.rs` |
//! | What if a message is rejected for good? | `refusals.rs` |
//! | What happens to a message for each error code of Dataverse? | `error_table.rs` |
//! | What if the message itself is odd? | `odd_messages.rs` |
//! | What does the worker report to the queue? | `sync_worker.rs` |
//! | What if two things look alike, or something is in the way? | `guards.rs` |

mod attachments;
mod backfill;
mod backfill_queues;
mod contact_import;
mod contacts;
mod crashes;
mod created_on;
mod decisions;
mod delivery;
mod error_table;
mod guards;
mod impersonation;
mod incidents;
mod lengths;
mod limits;
mod odd_messages;
mod outages;
mod participation;
mod pause;
mod people;
mod policy;
mod rate_limit;
mod reconcile;
mod refusals;
mod regarding;
mod shared_message_ids;
mod sync_worker;
mod tracking;
