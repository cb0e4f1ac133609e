//! Where the lines of an access log end up.

use std::{
    fs::File,
    io::{self, ErrorKind, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    fs::{Mode, OFlags, fcntl_getfl, fcntl_setfl, open},
    io::Errno,
};

use super::Destination;

/// How long a socket that nobody listens at is left alone.
const AGAIN: Duration = Duration::from_secs(1);

/// A reader that takes nothing for so long is taken for gone.
const STUCK: Duration = Duration::from_secs(5);

/// An output, opened. Used by one thread, which may wait.
pub(super) enum Output {
    Stdout,
    /// `torn`: it ends in the middle of a line.
    File {
        open: Option<File>,
        torn: bool,
    },
    Socket {
        to: Option<Socket>,
        tried: Option<Instant>,
    },
}

/// Lines could not be written, or not all of them.
#[derive(Debug)]
pub(super) struct WriteError {
    /// So many bytes of them were.
    pub wrote: usize,
    pub error: io::Error,
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self { wrote: 0, error }
    }
}

pub(super) enum Socket {
    Stream(UnixStream),
    Datagrams(UnixDatagram),
}

impl Output {
    pub(super) fn open(destination: &Destination) -> io::Result<Self> {
        Ok(match destination {
            Destination::Stdout => Self::Stdout,
            Destination::File(path) => Self::File { open: Some(append_to(path)?), torn: false },
            Destination::Socket(_) => Self::Socket { to: None, tried: None },
        })
    }

    /// A file that was moved away is left, and there is another in its place.
    pub(super) fn reopen(&mut self, destination: &Destination) -> io::Result<()> {
        if let (Self::File { open, torn }, Destination::File(path)) = (self, destination) {
            (*open, *torn) = (Some(append_to(path)?), false);
        }
        Ok(())
    }

    /// Writes whole lines. One of which a disk that is full has taken a part is ended before the next.
    pub(super) fn write(&mut self, destination: &Destination, lines: &[u8]) -> Result<(), WriteError> {
        match (self, destination) {
            (Self::File { open, torn }, Destination::File(path)) => {
                let file = match open {
                    Some(file) => file,
                    None => open.insert(append_to(path)?),
                };
                if *torn {
                    file.write_all(b"\n")?;
                    *torn = false;
                }
                let written = write_all(file, lines);
                if let Err(WriteError { wrote, .. }) = written {
                    *torn = !lines[..wrote].is_empty() && !lines[..wrote].ends_with(b"\n");
                    *open = None;
                }
                written
            }
            (Self::Socket { to, tried }, Destination::Socket(path)) => {
                let open = match to {
                    Some(open) => open,
                    None if tried.is_some_and(|tried| tried.elapsed() < AGAIN) => {
                        return Err(io::Error::from(ErrorKind::NotConnected).into());
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
                write_all(&mut output, lines)?;
                Ok(output.flush()?)
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
            Err(error) if Errno::from_io_error(&error) == Some(Errno::PROTOTYPE) => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(path)?;
                socket.set_write_timeout(Some(STUCK))?;
                Ok(Self::Datagrams(socket))
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), WriteError> {
        match self {
            Self::Stream(stream) => write_all(stream, lines),
            Self::Datagrams(socket) => {
                let mut wrote = 0;
                for line in lines.split_inclusive(|byte| *byte == b'\n') {
                    socket.send(line).map_err(|error| WriteError { wrote, error })?;
                    wrote += line.len();
                }
                Ok(())
            }
        }
    }
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> Result<(), WriteError> {
    let mut wrote = 0;
    while wrote < bytes.len() {
        match to.write(&bytes[wrote..]) {
            Ok(0) => return Err(WriteError { wrote, error: ErrorKind::WriteZero.into() }),
            Ok(more) => wrote += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(WriteError { wrote, error }),
        }
    }
    Ok(())
}

/// Does not wait for who might read a pipe some day: nothing else would go on meanwhile.
fn append_to(path: &Path) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let opened = open(path, flags, Mode::from_raw_mode(0o666)).map_err(|error| match error {
        Errno::NXIO => {
            io::Error::other("it is a pipe that nobody reads, or a socket, for which there is `socket`")
        }
        other => other.into(),
    })?;
    // Whoever writes may wait.
    fcntl_setfl(&opened, fcntl_getfl(&opened)? - OFlags::NONBLOCK)?;
    Ok(opened.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Read as _};

    use super::*;

    /// Takes so many bytes.
    struct Full(usize);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn it_is_known_how_much_a_full_disk_has_taken() {
        let failed = write_all(&mut Full(7), b"line one\nline two\n").unwrap_err();
        assert_eq!((failed.wrote, failed.error.kind()), (7, ErrorKind::StorageFull));
        assert!(write_all(&mut Full(18), b"line one\nline two\n").is_ok());
    }

    #[test]
    fn a_line_that_was_torn_is_ended_before_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        fs::write(&path, "half a li").unwrap();
        let destination = Destination::File(path.clone());
        let mut output = Output::File { open: None, torn: true };
        for line in [b"one\n", b"two\n"] {
            output.write(&destination, line).unwrap();
        }
        assert_eq!(fs::read_to_string(path).unwrap(), "half a li\none\ntwo\n");
    }

    #[test]
    fn a_pipe_is_opened_at_once_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        let destination = Destination::File(path.clone());
        let error = Output::open(&destination).err().unwrap().to_string();
        assert!(error.contains("nobody reads"), "{error}");
        let reading = open(&path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).map(File::from);
        let mut output = Output::open(&destination).unwrap();
        output.write(&destination, b"line\n").unwrap();
        let mut line = [0; 5];
        reading.unwrap().read_exact(&mut line).unwrap();
        assert_eq!(&line, b"line\n");
    }
}
