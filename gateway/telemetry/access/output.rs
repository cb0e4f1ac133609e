//! Where the lines of an access log end up.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use super::Destination;

/// How long a socket that nobody listens at is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// A reader that takes nothing for so long is taken for gone.
const STUCK: Duration = Duration::from_secs(5);

/// An output, opened. Used by one thread, which may wait.
pub(super) enum Output {
    Stdout,
    File(Option<File>),
    Socket { to: Option<Socket>, tried: Option<Instant> },
}

pub(super) enum Socket {
    Stream(UnixStream),
    Datagrams(UnixDatagram),
}

impl Output {
    pub(super) fn open(destination: &Destination) -> io::Result<Self> {
        Ok(match destination {
            Destination::Stdout => Self::Stdout,
            Destination::File(path) => Self::File(Some(append_to(path)?)),
            Destination::Socket(_) => Self::Socket { to: None, tried: None },
        })
    }

    /// A file that was moved away is left, and there is another in its place.
    pub(super) fn reopen(&mut self, destination: &Destination) -> io::Result<()> {
        if let (Self::File(file), Destination::File(path)) = (self, destination) {
            *file = Some(append_to(path)?);
        }
        Ok(())
    }

    /// Writes whole lines, or fails. What a failed one has written of them is unknown.
    pub(super) fn write(&mut self, destination: &Destination, lines: &[u8]) -> io::Result<()> {
        match (self, destination) {
            (Self::File(file), Destination::File(path)) => {
                let open = match file {
                    Some(open) => open,
                    None => file.insert(append_to(path)?),
                };
                let written = open.write_all(lines);
                if written.is_err() {
                    *file = None;
                }
                written
            }
            (Self::Socket { to, tried }, Destination::Socket(path)) => {
                let open = match to {
                    Some(open) => open,
                    None if tried.is_some_and(|tried| tried.elapsed() < AGAIN) => {
                        return Err(io::ErrorKind::NotConnected.into());
                    }
                    None => {
                        *tried = Some(Instant::now());
                        to.insert(Socket::connect(path)?)
                    }
                };
                let written = open.write(lines);
                if written.is_err() {
                    *to = None;
                }
                written
            }
            _ => {
                let mut output = io::stdout().lock();
                output.write_all(lines)?;
                output.flush()
            }
        }
    }
}

impl Socket {
    /// As a stream, or for datagrams if that is what is listened for.
    fn connect(path: &Path) -> io::Result<Self> {
        match UnixStream::connect(path) {
            Ok(stream) => {
                stream.set_write_timeout(Some(STUCK))?;
                Ok(Self::Stream(stream))
            }
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(STUCK))?;
                Ok(Self::Datagrams(socket))
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stream(stream) => stream.write_all(lines),
            Self::Datagrams(socket) => {
                lines.split_inclusive(|byte| *byte == b'\n').try_for_each(|line| socket.send(line).map(drop))
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}
