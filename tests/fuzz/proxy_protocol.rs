//! How a connection begins that comes from a proxy. What is read of it must not depend on how it is cut, nor on what comes behind
//! it, and what is written of it is read as the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use witgate::net::proxy_protocol::{ProxyHeader, ProxyVersion, parse};

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    // The first answer that is one is the answer to all that is longer.
    let first = (0..=data.len()).map(|end| parse(&data[..end])).find(|read| *read != Ok(None));
    assert_eq!(first.unwrap_or(Ok(None)), whole);
    let Ok(Some((header, length))) = whole else { return };
    assert!(length <= data.len());
    assert_eq!(parse(&data[..length]), whole);
    for version in ProxyVersion::ALL {
        let written = match header {
            ProxyHeader::Own => version.own_header(),
            ProxyHeader::Client(proxied) => proxied.header(version),
        };
        let Ok(Some((read, length))) = parse(&written) else { panic!("{written:?}") };
        assert_eq!(length, written.len());
        match (read, header) {
            (ProxyHeader::Client(read), ProxyHeader::Client(proxied)) => {
                assert_eq!(read.client.port(), proxied.client.port());
                assert_eq!(read.client.ip().to_canonical(), proxied.client.ip().to_canonical());
                assert_eq!(read.server.ip().to_canonical(), proxied.server.ip().to_canonical());
            }
            (read, header) => assert_eq!(read, header),
        }
    }
});
