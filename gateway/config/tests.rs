//! The whole way from text to what runs.

mod expected;
