//! An etcd that forgets its changes before anybody has read them: every list can be had, every watch begins, tells of one
//! change, and then of a compaction beyond it. The real one does so only by chance.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use h2::{SendStream, server::SendResponse};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use super::component;

/// Runs until the runtime of the test ends.
pub struct Forgetful {
    pub endpoint: String,
    lists: Arc<AtomicUsize>,
}

impl Forgetful {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let lists = Arc::new(AtomicUsize::new(0));
        let counted = lists.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, counted.clone()));
            }
        });
        Self { endpoint, lists }
    }

    /// How often it was asked for everything.
    pub fn lists(&self) -> usize {
        self.lists.load(Relaxed)
    }
}

async fn serve(stream: TcpStream, lists: Arc<AtomicUsize>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let is_list = request.uri().path().ends_with("/Range");
        let number = if is_list { lists.fetch_add(1, Relaxed) } else { lists.load(Relaxed) };
        tokio::spawn(answer(request, respond, 10 * number));
    }
}

async fn answer(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    revision: usize,
) -> Option<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut body = respond.send_response(head, false).ok()?;
    // By their numbers in etcd's protocol: cluster and revision.
    let header = |revision| message(1, [number(1, 7), number(3, revision)].concat());
    match request.uri().path() {
        "/etcdserverpb.Watch/Watch" => {
            let mut asked = request.into_body();
            let question = asked.data().await?.ok()?;
            let _ = asked.flow_control().release_capacity(question.len());
            send(&mut body, [header(revision), number(3, 1)].concat())?;
            let pair = [text(1, "s/1"), number(3, revision + 1), text(5, "x")].concat();
            send(&mut body, [header(revision + 1), message(11, message(2, pair))].concat())?;
            send(&mut body, [header(revision + 2), number(4, 1), number(5, revision + 2)].concat())?;
        }
        _ => send(&mut body, header(revision))?,
    }
    let mut end = HeaderMap::new();
    end.insert("grpc-status", "0".parse().unwrap());
    body.send_trailers(end).ok()
}

fn send(body: &mut SendStream<Bytes>, message: Vec<u8>) -> Option<()> {
    let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    body.send_data(framed.into(), false).ok()
}

/// A field that is a number.
fn number(field: u8, value: usize) -> Vec<u8> {
    [vec![field << 3], component::number(value)].concat()
}

/// A field that is a message.
fn message(field: u8, value: Vec<u8>) -> Vec<u8> {
    [vec![field << 3 | 2], component::number(value.len()), value].concat()
}

fn text(field: u8, value: &str) -> Vec<u8> {
    message(field, value.into())
}
