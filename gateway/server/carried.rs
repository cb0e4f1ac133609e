//! Connections that are passed on as they are, whatever is spoken over them.

use std::{future::Future, pin::Pin, rc::Rc, sync::Arc};

use tokio::io::AsyncReadExt as _;

use super::{ConnInfo, http1::State, stage::stage};
use crate::{
    config,
    net::Stream,
    telemetry::access::AccessLog,
    tls::{Asked, Hello},
};

/// How much of a first message is read at once. Most are shorter.
const PIECE: usize = 4096;

/// A client whose bytes are to be passed on.
pub struct Carried {
    pub stream: Stream,
    /// What was read of it already.
    pub early: Vec<u8>,
    /// The name that it asked for in TLS, if that is known.
    pub asked: Option<String>,
    pub info: Rc<ConnInfo>,
    pub listener: Arc<config::Listener>,
    /// Of the listener, if it has one.
    pub access_log: Option<Arc<AccessLog>>,
}

/// What passes connections on.
pub trait Carries {
    /// Whether it matters what the clients of a listener ask for in TLS.
    fn want_name(&self, listener: &config::Listener) -> bool;

    /// Passes one on until it has ended. Dropping the future ends it.
    fn carry(self: Rc<Self>, client: Carried) -> Pin<Box<dyn Future<Output = ()>>>;
}

/// Serves one connection until it has ended.
pub(super) async fn serve(
    mut stream: Stream,
    state: &Rc<State>,
    listener: Arc<config::Listener>,
    access_log: Option<Arc<AccessLog>>,
    carries: Rc<dyn Carries>,
) {
    let info = state.info.clone();
    let (mut early, mut asked) = (Vec::new(), None);
    match info.tls() {
        Some(tls) => asked = tls.name.as_deref().map(str::to_ascii_lowercase),
        None if carries.want_name(&listener) => match hello(&mut stream, state).await {
            Some((read, name)) => (early, asked) = (read, name),
            None => return,
        },
        None => {}
    }
    // From now on it may be silent for long, and does not give way to others.
    state.carries();
    let carried = Carried { stream, early, asked, info: info.clone(), listener, access_log };
    info.orders.unless_ended(carries.carry(carried)).await;
}

/// Reads the first message of a client, as long as that may take: what was read, and the name in it. None: it has gone, or has
/// to.
async fn hello(stream: &mut Stream, state: &State) -> Option<(Vec<u8>, Option<String>)> {
    let reading = async {
        let (mut hello, mut read) = (Hello::default(), Vec::new());
        loop {
            let before = read.len();
            read.reserve(PIECE);
            if stream.read_buf(&mut read).await.unwrap_or_default() == 0 {
                return None;
            }
            match hello.read(&read[before..]) {
                Asked::Unknown => {}
                Asked::Name(name) => return Some((read, Some(name))),
                Asked::Nobody => return Some((read, None)),
            }
        }
    };
    stage(state, reading).await?
}
