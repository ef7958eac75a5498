//! Maps a message to the rows of an email (`email`, `attachment`). Pure: a message and its
//! findings in, rows out.

mod attachment;
mod column_limits;
mod email;
#[cfg(test)]
mod tests;

pub(crate) use self::attachment::attachment_key;
pub use self::attachment::{attachment_row, file_name};
pub use self::column_limits::{LENGTHS, TABLES, fit};
pub use self::email::{Direction, Findings, body, email, limit};
pub(crate) use self::email::{
    move_to, note_missing_attachment, set_created_on, without_created_on, without_message_id,
    without_owner,
};
