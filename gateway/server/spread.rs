//! Spreads the connections of a listener over its workers.
//!
//! The kernel deals them out by a hash, which evens out for many of them. A few that carry much, as those of HTTP/2 do, may
//! all come to one worker while others idle: so a worker that has more than its share hands a new one to the worker that has
//! the least to do. That happens before anything is read from it, and once.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// A worker may have so much more than its share, as a part of that: what the kernel does is good enough, and handing over
/// costs both workers.
const SLACK: usize = 8;

/// What the workers of one listener know of each other.
#[derive(Debug)]
pub(super) struct Spread(Box<[Desk]>);

/// One worker, on a line of the processor's cache of its own: it alone writes there, with every request.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Desk {
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Where it takes connections from others; none before it accepts.
    door: Mutex<Option<UnboundedSender<Handed>>>,
}

/// A connection that nothing was read from, and whose it is.
pub(super) struct Handed(TcpStream, SocketAddr);

/// The place of one worker. Lives on it.
pub(super) struct Worker {
    spread: Arc<Spread>,
    index: usize,
}

/// A connection that is counted as the worker's until this is dropped.
pub(super) struct Counted(Rc<Worker>);

/// A request that is, until this is dropped.
pub(super) struct Begun(Rc<Worker>);

/// What a worker has to do.
#[derive(Debug, Clone, Copy)]
struct Load {
    connections: usize,
    requests: usize,
}

impl Spread {
    pub(super) fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Desk::default()).collect())
    }

    fn loads(&self) -> Vec<Load> {
        let load = |desk: &Desk| Load {
            connections: desk.connections.load(Relaxed),
            requests: desk.requests.load(Relaxed),
        };
        self.0.iter().map(load).collect()
    }
}

impl Worker {
    /// Opens the door of a worker. What comes through it is to be taken in like what was accepted.
    pub(super) fn open(spread: Arc<Spread>, index: usize) -> (Rc<Self>, UnboundedReceiver<Handed>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(desk) = spread.0.get(index) {
            *desk.door.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        }
        (Rc::new(Self { spread, index }), receiver)
    }

    /// Gives a new connection to whoever should have it. None: that is done. Otherwise it stays here.
    pub(super) fn place(
        &self,
        socket: tokio::net::TcpStream,
        peer: SocketAddr,
    ) -> Option<tokio::net::TcpStream> {
        let Some(to) = better(&self.spread.loads(), self.index) else { return Some(socket) };
        let door = self.spread.0[to].door.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(door) = door else { return Some(socket) };
        // It fails for what is no socket any more, and that is for nobody.
        let socket = socket.into_std().ok()?;
        // It comes back from a worker that has closed its listener.
        let Err(back) = door.send(Handed(socket, peer)) else { return None };
        tokio::net::TcpStream::from_std(back.0.0).ok()
    }

    /// Counts a connection.
    pub(super) fn count(self: &Rc<Self>) -> Counted {
        if let Some(desk) = self.desk() {
            add(&desk.connections, 1);
        }
        Counted(self.clone())
    }

    /// Counts a request.
    pub(super) fn begin(self: &Rc<Self>) -> Begun {
        if let Some(desk) = self.desk() {
            add(&desk.requests, 1);
        }
        Begun(self.clone())
    }

    fn desk(&self) -> Option<&Desk> {
        self.spread.0.get(self.index)
    }
}

/// Adds to what one worker alone writes; without a lock on the way of a request.
fn add(count: &AtomicUsize, more: usize) {
    count.store(count.load(Relaxed).wrapping_add(more), Relaxed);
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(desk) = self.0.desk() {
            add(&desk.connections, usize::MAX);
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(desk) = self.0.desk() {
            add(&desk.requests, usize::MAX);
        }
    }
}

impl Handed {
    /// In the runtime of whoever got it.
    pub(super) fn register(self) -> io::Result<(tokio::net::TcpStream, SocketAddr)> {
        Ok((tokio::net::TcpStream::from_std(self.0)?, self.1))
    }
}

/// The worker that should have a new connection which came to this one; none if it may stay.
fn better(loads: &[Load], own: usize) -> Option<usize> {
    let all: usize = loads.iter().map(|load| load.connections).sum::<usize>() + 1;
    let share = all.div_ceil(loads.len().max(1));
    let mine = loads.get(own)?.connections + 1;
    if mine <= share + share / SLACK {
        return None;
    }
    // Who has as many would have too many with this one.
    let others = loads.iter().enumerate().filter(|(_, load)| load.connections < share);
    others.min_by_key(|(_, load)| (load.requests, load.connections)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(connections: usize, requests: usize) -> Load {
        Load { connections, requests }
    }

    #[test]
    fn who_has_more_than_its_share_hands_over() {
        let check = |loads: &[(usize, usize)], expected: Option<usize>| {
            let loads: Vec<_> =
                loads.iter().map(|(connections, requests)| load(*connections, *requests)).collect();
            assert_eq!(better(&loads, 0), expected, "{loads:?}");
        };
        check(&[(0, 0)], None);
        check(&[(100, 9)], None);
        check(&[(0, 0), (0, 0)], None);
        check(&[(1, 0), (0, 0)], Some(1));
        check(&[(1, 50), (1, 0)], None);
        check(&[(2, 0), (1, 7)], Some(1));
        check(&[(3, 0), (1, 5), (1, 4)], Some(2));
        check(&[(3, 0), (1, 4), (0, 4)], Some(2));
        // Of many, a few more make no difference.
        check(&[(52, 0), (48, 0)], None);
        check(&[(60, 0), (40, 0)], Some(1));
    }

    proptest! {
        /// Wherever connections come in, they end up spread, and nobody is handed one who has its share.
        #[test]
        fn connections_are_spread(workers in 1usize..9, came in prop::collection::vec(any::<prop::sample::Index>(), 1..200)) {
            let mut loads = vec![load(0, 0); workers];
            for at in came {
                let own = at.index(workers);
                let to = better(&loads, own).unwrap_or(own);
                loads[to].connections += 1;
                let all: usize = loads.iter().map(|load| load.connections).sum();
                let share = all.div_ceil(workers);
                prop_assert!(loads.iter().all(|load| load.connections <= share + share / SLACK), "{:?}", loads);
            }
        }
    }
}
