//! What the client reads from the definitions of tables and columns.

pub mod column_lengths;
pub mod table_names;
