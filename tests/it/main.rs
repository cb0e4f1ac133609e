//! Everything that needs the whole gateway, real sockets, or the repository around the code.

mod docs;
mod layers;
mod source;
