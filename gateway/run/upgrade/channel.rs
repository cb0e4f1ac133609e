//! Messages between two processes of the gateway, each with a file or a socket if need be.

use std::{
    fs::File,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Seek as _, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream as StdUnixStream,
    },
};

use rustix::{
    fs::{MemfdFlags, memfd_create},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg,
        socketpair,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{io::Interest, net::UnixStream};

use crate::files::{Opened, ReadError};

/// The longest message, in bytes.
const LONGEST: usize = 256 * 1024;

/// The longest text that is passed as a file, in bytes.
const LONGEST_TEXT: u64 = 1 << 29;

/// Room for one descriptor.
const ROOM: usize = rustix::cmsg_space!(ScmRights(1));

/// One end. What is received keeps its order and its bounds: it is a socket for packets, and of the type for streams
/// only to be waited for.
#[derive(Debug)]
pub(super) struct Channel(UnixStream);

impl Channel {
    /// With the other end, for a process that is to be started.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self::new(ours)?, theirs))
    }

    pub(super) fn new(end: OwnedFd) -> io::Result<Self> {
        let end = StdUnixStream::from(end);
        end.set_nonblocking(true)?;
        Ok(Self(UnixStream::from_std(end)?))
    }

    pub(super) async fn send(
        &self,
        message: &impl Serialize,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        let descriptors: Vec<_> = descriptor.into_iter().collect();
        let send = || {
            let mut room = [MaybeUninit::uninit(); ROOM];
            let mut beside = SendAncillaryBuffer::new(&mut room);
            if !descriptors.is_empty() {
                beside.push(SendAncillaryMessage::ScmRights(&descriptors));
            }
            Ok(sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut beside, SendFlags::NOSIGNAL)?)
        };
        self.0.async_io(Interest::WRITABLE, send).await.map(drop)
    }

    /// The next message and what came with it. An error of the kind `UnexpectedEof` says that the other side is gone.
    pub(super) async fn receive<T: DeserializeOwned>(&self) -> io::Result<(T, Option<OwnedFd>)> {
        let mut bytes = vec![0; LONGEST];
        let receive = || {
            let mut room = [MaybeUninit::uninit(); ROOM];
            let mut beside = RecvAncillaryBuffer::new(&mut room);
            let into = &mut [IoSliceMut::new(&mut bytes)];
            let message = recvmsg(&self.0, into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
            if message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
                return Err(io::Error::new(ErrorKind::InvalidData, "a message is too long"));
            }
            let rights = beside.drain().filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
            Ok((message.bytes, rights.flatten().next()))
        };
        let (length, descriptor) = self.0.async_io(Interest::READABLE, receive).await?;
        match length {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => Ok((serde_json::from_slice(&bytes[..length])?, descriptor)),
        }
    }
}

/// A file in memory with this text, to be sent.
pub(super) fn file_of(text: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(memfd_create("witgate-registry", MemfdFlags::CLOEXEC)?);
    file.write_all(text)?;
    // Whoever gets it reads from where it stands.
    file.rewind()?;
    Ok(file.into())
}

/// The text of such a file.
pub(super) fn text_of(file: Option<OwnedFd>) -> Result<Vec<u8>, ReadError> {
    let file = file.ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a file is missing"))?;
    Opened::of(file.into())?.read(LONGEST_TEXT)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, os::fd::AsFd as _};

    use super::*;

    #[tokio::test]
    async fn a_message_arrives_whole_with_its_descriptor_and_the_end_is_told() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        ours.send(&"first", Some(listener.as_fd())).await.unwrap();
        ours.send(&vec!["x".repeat(1000); 100], None).await.unwrap();
        ours.send(&"third", Some(file_of(b"text").unwrap().as_fd())).await.unwrap();
        drop(ours);
        let (message, socket) = theirs.receive::<String>().await.unwrap();
        assert_eq!(message, "first");
        let same = TcpListener::from(socket.unwrap());
        assert_eq!(same.local_addr().unwrap(), listener.local_addr().unwrap());
        let (message, nothing) = theirs.receive::<Vec<String>>().await.unwrap();
        assert!(message.len() == 100 && nothing.is_none());
        assert!(text_of(nothing).is_err());
        let (_, file) = theirs.receive::<String>().await.unwrap();
        assert_eq!(text_of(file).unwrap(), b"text");
        let end = theirs.receive::<String>().await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
    }

    /// More than a socket's buffer holds, as with many upstreams.
    #[tokio::test]
    async fn who_sends_waits_for_who_receives() {
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::new(theirs).unwrap();
        let sending = tokio::spawn(async move {
            for number in 0..20_000 {
                ours.send(&number, None).await.unwrap();
            }
        });
        for number in 0..20_000 {
            assert_eq!(theirs.receive::<u32>().await.unwrap().0, number);
        }
        sending.await.unwrap();
    }
}
