//! The handshake of WebSockets, from both sides.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use h2::ext::Protocol;
use http::{Method, Request};
use sha1::{Digest as _, Sha1};

use super::origin::headers;

/// How a client of HTTP/2 asks for one; or for something else in its place.
pub fn ask(protocol: &'static str) -> Request<()> {
    let request = Request::builder().method(Method::CONNECT).uri("http://test/chat?room=1");
    let request = request.header("sec-websocket-version", "13").header("origin", "http://test");
    request.extension(Protocol::from_static(protocol)).body(()).unwrap()
}

/// How an endpoint agrees to what was asked by HTTP/1.
pub fn agree(head: &str) -> String {
    let key = headers(head, "sec-websocket-key")[0];
    assert_eq!(STANDARD.decode(key).unwrap().len(), 16);
    let hash = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    let accept = STANDARD.encode(hash);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: WebSocket\r\n\
         sec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\n"
    )
}
