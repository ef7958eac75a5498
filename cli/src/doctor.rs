//! Whether what the sync needs is there.

pub(crate) mod check;
