//! Listening a little longer to a client that is still sending, so that it gets to read its answer: closing with bytes
//! unread takes the answer away from it.

use std::{cell::Cell, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::net::Stream;

/// For how long, and for how many bytes: what is commonly uploaded to a place that refuses it.
const TIME: Duration = Duration::from_secs(5);
const BYTES: usize = 10 << 20;

/// How many connections of a worker may do so at once.
const MOST: usize = 128;

const BUFFER: usize = 16 * 1024;

/// Those of one worker that linger.
#[derive(Default)]
pub(super) struct Lingering(Cell<usize>);

impl Lingering {
    /// Reads what the client still sends, and forgets it, until it closes. Returns at once when too many do so.
    pub(super) async fn linger(&self, stream: Stream) {
        if self.0.get() < MOST {
            let _one = One::of(&self.0);
            let _ = timeout(TIME, read(stream)).await;
        }
    }
}

async fn read(mut stream: Stream) {
    // The answer is whole: the client may read to its end, and then close.
    if stream.shutdown().await.is_err() {
        return;
    }
    let (mut buffer, mut total) = (vec![0; BUFFER], 0);
    while let Ok(len @ 1..) = stream.read(&mut buffer).await {
        total += len;
        if total > BYTES {
            return;
        }
    }
}

struct One<'a>(&'a Cell<usize>);

impl<'a> One<'a> {
    fn of(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
