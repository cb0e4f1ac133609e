//! How long the requests of a route took, by where they went, how they asked and what came of it.

use std::sync::OnceLock;

use http::Method;

use super::histogram::{Histogram, Latencies, Native, Took};

/// Classes of statuses, 1xx to 5xx.
const CLASSES: usize = 5;

/// A method, if it is a common one: clients can make up others without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KnownMethod {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Trace,
    Connect,
    Query,
    #[default]
    Other,
}

impl KnownMethod {
    pub const ALL: [Self; 11] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
        Self::Options,
        Self::Trace,
        Self::Connect,
        Self::Query,
        Self::Other,
    ];

    pub fn of(method: &Method) -> Self {
        match *method {
            Method::GET => Self::Get,
            Method::HEAD => Self::Head,
            Method::POST => Self::Post,
            Method::PUT => Self::Put,
            Method::PATCH => Self::Patch,
            Method::DELETE => Self::Delete,
            Method::OPTIONS => Self::Options,
            Method::TRACE => Self::Trace,
            Method::CONNECT => Self::Connect,
            Method::QUERY => Self::Query,
            _ => Self::Other,
        }
    }

    /// As OpenTelemetry has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Connect => "CONNECT",
            Self::Query => "QUERY",
            Self::Other => "_OTHER",
        }
    }
}

/// The requests of one route to one upstream. Each worker writes its own, so a count is a plain load and store.
#[derive(Debug)]
pub struct RouteTimes {
    workers: Box<[WorkerTimes]>,
}

/// Made when there is the first of its kind.
#[derive(Debug, Default)]
#[repr(align(64))]
struct WorkerTimes([[OnceLock<Box<Histogram>>; CLASSES]; KnownMethod::ALL.len()]);

impl RouteTimes {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers: (0..workers).map(|_| WorkerTimes::default()).collect() }
    }

    /// A request was answered with this status, whose head was there after so long.
    pub fn answered(&self, worker: usize, method: KnownMethod, status: u16, took: Took) {
        let class = (status / 100).clamp(1, 5) as usize - 1;
        self.workers[worker].0[method as usize][class].get_or_init(Box::default).count(took);
    }

    /// What there was: methods, classes of statuses by their number, and times.
    pub fn counts(&self) -> Vec<(KnownMethod, usize, Latencies, Native)> {
        let mut counts = Vec::new();
        for method in KnownMethod::ALL {
            for class in 0..CLASSES {
                let (mut latencies, mut native) = (Latencies::default(), Native::default());
                for worker in self.workers.iter().filter_map(|worker| worker.0[method as usize][class].get())
                {
                    latencies.collect(worker);
                    native.collect(worker);
                }
                if latencies.count() > 0 {
                    counts.push((method, class, latencies, native));
                }
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_method_is_known_by_its_name_or_is_another() {
        for method in KnownMethod::ALL {
            assert_eq!(KnownMethod::ALL[method as usize], method);
            let name = Method::from_bytes(method.as_str().as_bytes()).unwrap();
            assert_eq!(KnownMethod::of(&name), method, "{name}");
        }
    }

    #[test]
    fn times_are_kept_by_method_and_class_and_only_those_that_there_are() {
        let times = RouteTimes::new(2);
        let made_up = Method::from_bytes(b"MADE-UP").unwrap();
        for (worker, method, status) in
            [(0, Method::GET, 200), (1, Method::GET, 204), (1, Method::POST, 503), (0, made_up, 200)]
        {
            times.answered(worker, KnownMethod::of(&method), status, Took::of(Duration::from_millis(3)));
        }
        let counts: Vec<_> = times
            .counts()
            .into_iter()
            .map(|(method, class, of, native)| (method.as_str(), class, of.count(), native.count()))
            .collect();
        assert_eq!(counts, [("GET", 1, 2, 2), ("POST", 4, 1, 1), ("_OTHER", 1, 1, 1)]);
        assert_eq!(times.counts()[0].2.sum, Duration::from_millis(6));
    }
}
