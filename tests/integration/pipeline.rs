//! The whole pipeline: a message in a mailbox, an email row in Dataverse.
//!
//! | Question | File |
//! | --- | --- |
//! | Does a message become the right row, once? | `delivery.rs` |
//! | Who is on it, what does it concern, who owns it? | `people.rs` |
//! | Who becomes a contact, of which company? | `contacts.rs` |
//! | What becomes of the cards of an address book? | `address_book.rs` |
//! | Which record does it concern, and what does finding out cost? | `regarding.rs` |
//! | What if another client writes the same mail? | `theirs.rs` |
//! | What if two mails have one Message-ID? | `reused.rs` |
//! | What is left out, and by which rule? | `policy.rs` |
//! | What becomes of files? | `attachments.rs` |
//! | What if a service does not answer? | `outages.rs` |
//! | What if Dataverse asks for time halfway through a batch? | `pause.rs` |
//! | Do history and live mail keep to one budget? | `governor.rs` |
//! | Does a batch stay within what Dataverse takes? | `limits.rs` |
//! | How is a mailbox's history worked through? | `history.rs` |
//! | When does a row say that it was made? | `created_on.rs` |
//! | What if the process dies? | `crashes.rs` |
//! | What is kept of a decision? | `decisions.rs` |
//! | What do the settings of the policy do to mail on its way? | `tracking.rs` |
//! | What if something is refused for good? | `refusals.rs` |
//! | What becomes of a mail for each code of Dataverse? | `error_table.rs` |
//! | What if the mail itself is odd? | `odd_mail.rs` |
//! | What if two things look alike, or one is in the way? | `guards.rs` |

mod address_book;
mod attachments;
mod contacts;
mod crashes;
mod created_on;
mod decisions;
mod delivery;
mod error_table;
mod governor;
mod guards;
mod history;
mod impersonation;
mod incidents;
mod lengths;
mod limits;
mod odd_mail;
mod outages;
mod pause;
mod people;
mod policy;
mod refusals;
mod regarding;
mod reused;
mod theirs;
mod tracking;
