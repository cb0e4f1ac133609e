//! Clients that come when they come, whatever becomes of those before them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::timeout};

use crate::support::origin::read_head;

pub struct Load {
    gateway: SocketAddr,
    patience: Duration,
    begun: Instant,
    running: JoinSet<Sent>,
}

/// One request: when it was sent, and how long its answer took if it was a good one and came in time.
struct Sent {
    at: Duration,
    took: Option<Duration>,
}

/// What came of all requests, second by second.
pub struct Course(Vec<Second>);

#[derive(Default)]
pub struct Second {
    pub sent: u32,
    /// How long good answers took, in order.
    took: Vec<Duration>,
}

impl Load {
    pub fn new(gateway: SocketAddr, patience: Duration) -> Self {
        Self { gateway, patience, begun: Instant::now(), running: JoinSet::new() }
    }

    /// Sends so many requests per second for so long, by chance, each on a connection of its own.
    pub async fn send(&mut self, per_second: u32, time: Duration) {
        let mut next = tokio::time::Instant::now();
        let end = next + time;
        loop {
            let pause = -(1.0 - fastrand::f64()).ln() / f64::from(per_second);
            next += Duration::from_secs_f64(pause);
            if next >= end {
                return tokio::time::sleep_until(end).await;
            }
            tokio::time::sleep_until(next).await;
            let (gateway, patience, at) = (self.gateway, self.patience, self.begun.elapsed());
            self.running.spawn(async move {
                let sent = Instant::now();
                let good = timeout(patience, request(gateway)).await.unwrap_or(false);
                Sent { at, took: good.then(|| sent.elapsed()) }
            });
        }
    }

    /// Waits until all have been answered or have given up.
    pub async fn end(self) -> Course {
        let mut course = Course(Vec::new());
        for Sent { at, took } in self.running.join_all().await {
            let second = at.as_secs() as usize;
            course.0.resize_with(course.0.len().max(second + 1), Second::default);
            course.0[second].sent += 1;
            course.0[second].took.extend(took);
        }
        course.0.iter_mut().for_each(|second| second.took.sort_unstable());
        course
    }
}

async fn request(gateway: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(gateway).await else { return false };
    if stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.is_err() {
        return false;
    }
    let head = read_head(&mut stream, &mut Vec::new()).await;
    head.is_some_and(|head| head.starts_with("HTTP/1.1 200"))
}

impl Course {
    pub fn seconds(&self) -> &[Second] {
        &self.0
    }

    /// What came of the time of overload: good answers per second, and how long the slowest hundredth of them took.
    pub fn summary(&self, calm: Duration, overload: Duration) -> String {
        let during = self.0.iter().skip(calm.as_secs() as usize).take(overload.as_secs() as usize);
        let mut took: Vec<Duration> = during.flat_map(|second| second.took.iter().copied()).collect();
        took.sort_unstable();
        let goodput = took.len() as f64 / overload.as_secs_f64();
        format!("{goodput:.0} good answers per second, 99 of 100 within {:.0?}", last_of_hundred(&took))
    }
}

impl Second {
    pub fn good(&self) -> usize {
        self.took.len()
    }

    pub fn p99(&self) -> Option<Duration> {
        (!self.took.is_empty()).then(|| last_of_hundred(&self.took))
    }
}

fn last_of_hundred(ordered: &[Duration]) -> Duration {
    let last = ordered.len().saturating_mul(99) / 100;
    ordered.get(last.min(ordered.len().saturating_sub(1))).copied().unwrap_or_default()
}
