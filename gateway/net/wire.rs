//! A connection of the control plane, where it does not matter what is behind it.

use tokio::io::{AsyncRead, AsyncWrite};

/// TCP, or TLS on it.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}
