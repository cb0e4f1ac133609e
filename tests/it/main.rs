//! Everything that needs the whole gateway or real sockets.
fn main() {}
