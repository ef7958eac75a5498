//! The connected mailboxes: which take part, their addresses and their folders.

mod allow_list;
mod directory;
mod folders;

pub use self::allow_list::{Admission, AllowList, Entry, SETTING};
pub use self::directory::{MailboxDirectory, Mailboxes, Participation};
pub(crate) use self::folders::Folders;
pub use self::folders::Place;
