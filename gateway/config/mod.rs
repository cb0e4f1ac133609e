//! What the user wrote (`file`) and what runs (`running`): two types, and the checks between them.

mod running;

pub use running::*;
