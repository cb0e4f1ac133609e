//! What the table `tcp` of a registry lends: connections to its addresses, and nothing else.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    sync::watch,
};

use crate::support::{
    gateway::{Gateway, until},
    guest::guest,
    service::{becomes, endpoints, source},
};

/// A server that tells each client what the test has it tell, for the service that it asks for.
async fn server() -> (SocketAddr, watch::Sender<String>) {
    let (tell, told) = watch::channel("[\"127.0.0.1:1\"]".to_owned());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut told = told.clone();
            tokio::spawn(async move {
                let mut service = String::new();
                BufReader::new(&mut stream).read_line(&mut service).await.unwrap();
                assert_eq!(service, "orders\n");
                loop {
                    let line = told.borrow_and_update().clone();
                    if line.is_empty() || stream.write_all(format!("{line}\n").as_bytes()).await.is_err() {
                        return;
                    }
                    if told.changed().await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, tell)
}

fn gateway(tcp: &str, settings: &str) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("plugins")).unwrap();
    std::fs::write(folder.path().join("plugins/lines.wasm"), guest("registry-tcp")).unwrap();
    let config = format!(
        "[registry.main]\nplugin = \"lines\"\n{tcp}\nsettings = {settings}\n\n\
         [upstream.orders]\nservice = \"orders\"\nregistry = \"main\"\n\n\
         [[route]]\npath = \"/\"\nupstream = \"orders\"\n"
    );
    // One whose registry fails is long in getting ready.
    Gateway::start_early(folder, &config)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_reads_over_tcp_from_the_addresses_of_its_table() {
    let (address, tell) = server().await;
    for host in ["127.0.0.1", "localhost"] {
        tell.send_replace("[\"127.0.0.1:1\"]".to_owned());
        let gateway = gateway(&format!("tcp = {{ addresses = [\"{host}:{}\"] }}", address.port()), "{}");
        endpoints(&gateway, 1).await;
        tell.send_replace("[\"127.0.0.1:1\", \"127.0.0.1:2\"]".to_owned());
        endpoints(&gateway, 2).await;
        tell.send_replace(String::new());
        becomes(&gateway, "frozen").await;
        endpoints(&gateway, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_do_nothing_that_the_table_does_not_say() {
    let (address, _tell) = server().await;
    let (other, _other) = server().await;
    let tcp = format!("tcp = {{ addresses = [\"{address}\"] }}");
    let cases = [
        (&*tcp, format!("{{ to = \"{other}\" }}"), format!("refused=connection to {other}")),
        (&*tcp, "{ to = \"localhost:1\" }".to_owned(), "refused=lookup of localhost".to_owned()),
        (&*tcp, "{ listen = true }".to_owned(), "`addresses` of `tcp` in [registry.main]".to_owned()),
        (&*tcp, "{ udp = true }".to_owned(), "refused=wasi:sockets/udp-create-socket".to_owned()),
        ("", format!("{{ to = \"{address}\" }}"), "`tcp = { addresses = [".to_owned()),
        ("", "{}".to_owned(), "`tcp = { addresses = [".to_owned()),
    ];
    for (tcp, settings, logged) in cases {
        let gateway = gateway(tcp, &settings);
        gateway.logged(&logged).await;
        until("it fails", || async { source(&gateway).await["failure"]["error"].is_string() }).await;
        assert_eq!(source(&gateway).await["instances"], 0, "{settings}");
    }
}
