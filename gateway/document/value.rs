//! Values on their own: numbers, durations, names, paths, secrets.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

use super::{Examiner, Secret, Way};
use crate::files;

/// Far enough for every timeout, and no sum of it with the present overflows.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

impl Examiner<'_> {
    pub(crate) fn count(&mut self, way: &Way, number: u64, allowed: RangeInclusive<u64>) -> usize {
        if !allowed.contains(&number) {
            let (least, most) = (allowed.start(), allowed.end());
            let message = format!("{number} is out of range");
            self.wrong(way, message).hint(format!("write a number from {least} to {most}"));
        }
        usize::try_from(number).unwrap_or(usize::MAX)
    }

    pub(crate) fn mebibytes(&mut self, way: &Way, mebibytes: u64) -> usize {
        self.count(way, mebibytes, 1..=4096).saturating_mul(1 << 20)
    }

    /// A time that something may take.
    pub(crate) fn duration_ms(&mut self, way: &Way, milliseconds: u64) -> Duration {
        self.positive(way, Duration::from_millis(milliseconds), milliseconds)
    }

    pub(crate) fn duration_secs(&mut self, way: &Way, seconds: u64) -> Duration {
        self.positive(way, Duration::from_secs(seconds), seconds)
    }

    /// A time that may be none.
    pub(crate) fn delay_ms(&mut self, way: &Way, milliseconds: u64) -> Duration {
        self.bounded(way, Duration::from_millis(milliseconds), milliseconds)
    }

    pub(crate) fn delay_secs(&mut self, way: &Way, seconds: u64) -> Duration {
        self.bounded(way, Duration::from_secs(seconds), seconds)
    }

    /// A time that may be without limit, for which 0 stands.
    pub(crate) fn limit_ms(&mut self, way: &Way, milliseconds: u64) -> Option<Duration> {
        (milliseconds > 0).then(|| self.delay_ms(way, milliseconds))
    }

    fn positive(&mut self, way: &Way, duration: Duration, number: u64) -> Duration {
        if duration.is_zero() {
            self.wrong(way, "0 leaves no time at all").hint("leave it out for the default");
        }
        self.bounded(way, duration, number)
    }

    fn bounded(&mut self, way: &Way, duration: Duration, number: u64) -> Duration {
        if duration > LONGEST {
            self.wrong(way, format!("{number} is too long")).hint("the longest time is 30 days");
        }
        duration
    }

    /// An address to listen on.
    pub(crate) fn listen_address(&mut self, way: &Way, text: &str) -> Option<SocketAddr> {
        let Ok(address) = text.parse() else {
            let hint = match text.rsplit_once(':') {
                Some(("", port)) => format!("for all addresses write `0.0.0.0:{port}` or `[::]:{port}`"),
                Some(("localhost", port)) => format!("write `127.0.0.1:{port}`"),
                _ => "write `IP:PORT`, like `0.0.0.0:8080` or `[::]:8080`".into(),
            };
            self.wrong(way, format!("{text:?} is no address to listen on")).hint(hint);
            return None;
        };
        Some(address)
    }

    /// Servers that answer questions about names, at port 53 where none is given.
    pub(crate) fn dns_servers(&mut self, way: &Way, texts: &[String]) -> Vec<SocketAddr> {
        let servers = texts.iter().enumerate().filter_map(|(index, text)| {
            let at_53 = |ip: IpAddr| SocketAddr::new(ip, 53);
            let server = text.parse().ok().or_else(|| text.parse().ok().map(at_53));
            let server = server.filter(|server| server.port() != 0 && !server.ip().is_unspecified());
            if server.is_none() {
                let hint = "write `IP` or `IP:PORT`, like `10.0.0.53` or `[::1]:5353`";
                self.wrong(&way.index(index), format!("{text:?} is no DNS server")).hint(hint);
            }
            server
        });
        servers.collect()
    }

    /// The name of a registry, an upstream or a listener. It ends up in file names, metrics and paths of the API.
    pub(crate) fn own_name(&mut self, way: &Way, name: &str) {
        let inside = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let good = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(inside);
        if !good || name.len() > 128 {
            let hint =
                "use letters, digits, `.`, `_` and `-`, beginning with a letter or a digit, at most 128";
            self.wrong_key(way, format!("{name:?} cannot be a name")).hint(hint);
        }
    }

    /// A text that says something.
    pub(crate) fn text<'t>(&mut self, way: &Way, text: &'t str) -> Option<&'t str> {
        if text.trim().is_empty() {
            self.wrong(way, "this must not be empty");
            return None;
        }
        Some(text)
    }

    /// A path, relative to the folder of the configuration.
    pub(crate) fn path(&mut self, way: &Way, path: &str) -> Option<PathBuf> {
        self.text(way, path).map(|path| self.folder.join(path))
    }

    /// The secret in a file, without the end of its line.
    pub(crate) fn secret(&mut self, way: &Way, path: &str) -> Option<Secret> {
        let path = self.path(way, path)?;
        let file = path.display();
        let message = match files::read_text(&path, files::SECRET) {
            Ok(secret) if secret.trim_end_matches(['\r', '\n']).is_empty() => format!("{file} is empty"),
            Ok(secret) => return Some(Secret(secret.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => format!("{file} cannot be read: {error}"),
        };
        self.wrong(way, message);
        None
    }
}
