//! The connected mailboxes: which take part, their addresses and their folders.

mod allow_list;
mod directory;
mod folders;

pub use self::allow_list::{Admission, AllowList, AllowListError, Entry, SETTING};
pub use self::directory::{MailboxDirectory, Mailboxes, Participation};
pub use self::folders::{Folders, Place};
