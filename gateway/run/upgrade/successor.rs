//! The new process: what it gets from the old one, and what both wait for.

use std::{
    io::{self, ErrorKind, stdin},
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd as _, OwnedFd},
};

use super::{SocketOf, ToPredecessor, ToSuccessor, VARIABLE, VERSION, channel, channel::Channel};
use crate::{
    files::ReadError,
    server::{Inherited, Listener},
};

/// Why this process does not take over from the one that started it.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    #[error("the running process speaks version {0} of taking over, and this one {VERSION}")]
    Version(u32),
    #[error("the running process has ended, or does without this one")]
    Gone,
    #[error("cannot speak with the running process: {0}")]
    Channel(io::Error),
    #[error("cannot read what is registered: {0}")]
    Registry(String),
}

impl From<io::Error> for SuccessionError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::BrokenPipe => Self::Gone,
            _ => Self::Channel(error),
        }
    }
}

impl From<ReadError> for SuccessionError {
    fn from(error: ReadError) -> Self {
        Self::Registry(error.to_string())
    }
}

/// Taking over from the process that started this one.
#[derive(Debug)]
pub(crate) struct Succession(Channel);

/// What the old process has.
#[derive(Debug, Default)]
pub(crate) struct Estate {
    /// What is registered in the embedded registry.
    pub registry: Vec<u8>,
    /// The upstreams that have endpoints.
    pub upstreams: Vec<String>,
    pub admin: Option<InheritedAdmin>,
    pub registrations: Option<InheritedAdmin>,
    pub listeners: Vec<Inherited>,
}

/// A socket of the admin API.
#[derive(Debug)]
pub(crate) struct InheritedAdmin {
    /// As the configuration says it.
    pub address: SocketAddr,
    pub number: usize,
    pub socket: TcpListener,
}

impl Succession {
    /// None: this process takes over from nobody.
    pub(crate) fn of_this_process() -> Result<Option<Self>, SuccessionError> {
        let parent = rustix::process::getppid().map(|id| id.as_raw_nonzero().to_string());
        match std::env::var(VARIABLE).ok() {
            Some(id) if Some(&id) == parent.as_ref() => {
                Ok(Some(Self(Channel::new(stdin().as_fd().try_clone_to_owned()?)?)))
            }
            _ => Ok(None),
        }
    }

    /// What there is to take over.
    pub(crate) async fn estate(&self) -> Result<Estate, SuccessionError> {
        let mut estate = Estate::default();
        loop {
            let (message, descriptor) = self.0.receive::<ToSuccessor>().await?;
            match message {
                ToSuccessor::Registry { version: VERSION } => estate.registry = channel::text_of(descriptor)?,
                ToSuccessor::Registry { version } => return Err(SuccessionError::Version(version)),
                ToSuccessor::Upstream(name) => estate.upstreams.push(name),
                ToSuccessor::Socket { number, of } => {
                    estate.add(number, of, descriptor.ok_or_else(unexpected)?)
                }
                ToSuccessor::Complete => return Ok(estate),
                ToSuccessor::TakeOver => return Err(unexpected().into()),
            }
        }
    }

    /// What comes of this, unless the old process is gone before.
    pub(crate) async fn unless_gone<T>(&self, wait: impl Future<Output = T>) -> Result<T, SuccessionError> {
        tokio::select! {
            done = wait => Ok(done),
            // It says nothing before it has heard something.
            heard = self.0.receive::<ToSuccessor>() => Err(heard.map_or_else(Into::into, |_| unexpected().into())),
        }
    }

    /// Says that this process could take over, and would accept on the sockets with these numbers. Waits until it is
    /// to, and says what is registered then.
    pub(crate) async fn ready(&self, taken: Vec<usize>) -> Result<Vec<u8>, SuccessionError> {
        self.0.send(&ToPredecessor::Ready { taken }, None).await?;
        match self.0.receive().await? {
            (ToSuccessor::TakeOver, file) => Ok(channel::text_of(file)?),
            _ => Err(unexpected().into()),
        }
    }

    /// Says that this process accepts.
    pub(crate) async fn serving(self) -> Result<(), SuccessionError> {
        Ok(self.0.send(&ToPredecessor::Serving, None).await?)
    }
}

impl Estate {
    fn add(&mut self, number: usize, of: SocketOf, socket: OwnedFd) {
        let socket = TcpListener::from(socket);
        match of {
            SocketOf::Admin(address) => self.admin = Some(InheritedAdmin { address, number, socket }),
            SocketOf::Registrations(address) => {
                self.registrations = Some(InheritedAdmin { address, number, socket });
            }
            SocketOf::Listener { name, wanted, address } => match self.listeners.last_mut() {
                // Those of a listener come one after the other.
                Some(last) if (&*last.name, last.address) == (&*name, address) => {
                    last.sockets.push((number, socket))
                }
                _ => {
                    let sockets = vec![(number, socket)];
                    self.listeners.push(Inherited { name: name.into(), wanted, address, sockets });
                }
            },
        }
    }
}

/// The numbers of the sockets that listeners have of those of the old process.
pub(crate) fn taken(listeners: &[Listener]) -> Vec<usize> {
    listeners.iter().flat_map(Listener::inherited).collect()
}

fn unexpected() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it said something out of turn")
}
