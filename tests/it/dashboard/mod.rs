//! The dashboard in a real browser, on gateways with real registries that are killed, plugins that fail and endpoints
//! that die. Pictures of each view are kept in `target/dashboard`.

mod hostile;
mod many;
mod orders;
mod page;
mod views;

use std::net::SocketAddr;

use crate::support::{
    browser::{Browser, DESKTOP, PHONE},
    gateway::Gateway,
};

/// An expression that is true when nothing is wider than the screen.
const FITS: &str = "document.documentElement.scrollWidth <= innerWidth";

/// Opens a view, and waits until it shows its document.
async fn open(browser: &Browser, gateway: &Gateway, place: &str) {
    browser.open(gateway.admin, place).await;
    browser.until("document.getElementById('link')?.innerText === 'Live'").await;
}

/// The row of a table whose name begins with this text, as an expression.
fn row(begins: impl AsRef<str>) -> String {
    let begins = serde_json::json!(begins.as_ref());
    format!(
        "([...document.querySelectorAll('tbody tr')].find((row) => \
         (row.cells[0].querySelector('a, strong, .address') ?? row.cells[0]).innerText.startsWith({begins})))"
    )
}

/// Whether that row says this, as an expression.
fn says(begins: impl AsRef<str>, text: &str) -> String {
    format!("Boolean({}?.innerText.includes({}))", row(begins), serde_json::json!(text))
}

/// Keeps pictures of what is shown, for a desk and a phone, light and dark, and checks that nothing is too wide.
async fn pictures(browser: &Browser, name: &str) {
    for (screen, on) in [(DESKTOP, "desktop"), (PHONE, "phone")] {
        for (screen, colours) in [(screen, "light"), (screen.dark(), "dark")] {
            browser.look(screen).await;
            browser.until(FITS).await;
            browser.picture(&format!("{name}-{on}-{colours}")).await;
        }
    }
    browser.look(DESKTOP).await;
}

/// An upstream in the embedded registry, and everything goes there.
fn memory(name: &str) -> String {
    format!(
        "[upstream.{name}]\nservice = \"{name}\"\nregistry = \"memory\"\n[[route]]\npath = \"/{name}\"\nupstream = \"{name}\"\n"
    )
}

/// Sends so many requests, over several connections so that all workers take part.
async fn send(gateway: &Gateway, path: &str, requests: usize) {
    for _ in 0..requests.div_ceil(10) {
        let mut session = gateway.session();
        for _ in 0..10 {
            session.get(path).await;
        }
    }
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], crate::support::etcd::free_port()))
}
