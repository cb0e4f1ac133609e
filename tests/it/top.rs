//! `witgate top`: the dashboard's first screen, on a real terminal.

use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::termios::LocalModes;
use serde_json::json;

use crate::support::{
    backend::Backend,
    gateway::{Gateway, until},
    pty::Pty,
    traffic::Traffic,
};

const CONFIG: &str = r#"
[registry.list]
plugin = "file"
file = "services.json"

[upstream.orders]
service = "orders"
registry = "list"

[[route]]
path = "/"
upstream = "orders"
"#;

const SIZE: (u16, u16) = (140, 40);

fn gateway(backends: &[&Backend]) -> Gateway {
    let folder = tempfile::tempdir().unwrap();
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
    let list = json!({ "services": { "orders": addresses } });
    std::fs::write(folder.path().join("services.json"), list.to_string()).unwrap();
    Gateway::start_in(folder, CONFIG)
}

fn top(gateway: &Gateway, more: &[&str], variables: &[(&str, &str)]) -> Pty {
    let admin = gateway.admin.to_string();
    let arguments = [&[env!("CARGO_BIN_EXE_witgate"), "top", "--admin", &admin][..], more].concat();
    Pty::start(&arguments, variables, SIZE)
}

/// What it says where standard output is no terminal.
fn piped(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_witgate"));
    let output = command.arg("top").args(arguments).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_how_everything_stands_and_gives_the_terminal_back() {
    let backend = Backend::start("one").await;
    let gateway = gateway(&[&backend]);
    let traffic = Traffic::mixed(gateway.address(), "/", 2);
    traffic.more(20).await;
    for quit in ["q", "\u{3}"] {
        let mut top = top(&gateway, &[], &[]);
        top.until("the verdict is there", |screen| screen.contains("✓ ") && screen.contains("served"));
        // Rates are there from the second time.
        top.until("a rate is there", |screen| {
            let row = screen.lines().find(|line| line.contains("orders") && line.contains("1 / 1"));
            row.is_some_and(|row| row.contains(" %") && row.contains("list live"))
        });
        for part in
            ["REGISTRIES", "list (file): fresh", "LAST CHANGES", "orders: news of list, +1", "q quits"]
        {
            assert!(top.screen().contains(part), "{part}: {}", top.screen());
        }
        assert!(
            top.raw().contains("\u{1b}[38;5;10m") || top.raw().contains("\u{1b}[32m"),
            "there are colours"
        );
        assert!(!top.settings().local_modes.contains(LocalModes::ICANON), "keys come one by one");
        top.type_in(quit);
        assert_eq!(top.ended().code(), Some(0));
        assert!(top.settings().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
        top.until("the screen of before is back", |_| top.raw().contains("\u{1b}[?1049l"));
        assert!(top.raw().contains("\u{1b}[?25h"), "the cursor is back");
    }
    traffic.stop().await.none_failed();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_gives_the_terminal_back_too() {
    let gateway = gateway(&[]);
    let mut top = top(&gateway, &[], &[]);
    top.until("it is there", |screen| screen.contains("q quits"));
    let pid = top.pid().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(top.ended().code(), Some(0));
    assert!(top.settings().local_modes.contains(LocalModes::ICANON | LocalModes::ECHO));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_fits_the_terminal_as_it_is_resized() {
    let gateway = gateway(&[]);
    let top = top(&gateway, &[], &[]);
    top.until("it is there", |screen| screen.contains("q quits"));
    top.resize((20, 6));
    top.until("it is narrow", |screen| fits(screen, (20, 6)) && screen.contains("REGISTRIES"));
    top.resize(SIZE);
    top.until_drawn("q quits");
}

fn fits(screen: &str, (columns, lines): (usize, usize)) -> bool {
    screen.lines().count() <= lines && screen.lines().all(|line| line.chars().count() <= columns)
}

/// Nothing is drawn for the three seconds that an answer is waited for, unless a new size makes it.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_resized_while_a_gateway_that_hangs_is_asked() {
    let gateway = gateway(&[]);
    let mut top = top(&gateway, &[], &[]);
    top.until("it is there", |screen| screen.contains("q quits"));
    gateway.signal("STOP");
    // It is asked again at once then.
    top.until("no answer came", |screen| screen.contains("did not answer"));
    let begun = Instant::now();
    top.resize((20, 6));
    top.until("it is narrow", |screen| fits(screen, (20, 6)));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    top.type_in("q");
    assert_eq!(top.ended().code(), Some(0));
    gateway.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_when_the_gateway_is_gone_and_comes_back_by_itself() {
    let backend = Backend::start("one").await;
    let gateway = gateway(&[&backend]);
    // Where it listens is to be the same again.
    let (folder, admin) = (tempfile::tempdir().unwrap(), gateway.admin);
    let text = format!("[admin]\naddress = \"{admin}\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n");
    let top = top(&gateway, &[], &[]);
    top.until("it is there", |screen| screen.contains("orders"));
    drop(gateway);
    top.until_drawn("no gateway answers at");
    assert!(top.screen().contains("since 20") && top.screen().contains("from before"), "{}", top.screen());
    std::fs::write(folder.path().join("witgate.toml"), text).unwrap();
    let _again = Gateway::run(folder);
    top.until("it is there again", |screen| !screen.contains("no gateway") && screen.contains("q quits"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_terminal_it_says_it_once_as_text() {
    let backend = Backend::start("one").await;
    let gateway = gateway(&[&backend]);
    until("a request is answered", || async { gateway.get("/").await.text() == "one" }).await;
    let admin = gateway.admin.to_string();
    let (code, said) = piped(&["--admin", &admin]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("✓ ") && said.contains("orders") && said.contains("LAST CHANGES"), "{said}");
    assert!(!said.contains('\u{1b}') && !said.contains("q quits"), "{said:?}");
    let mut once = top(&gateway, &["--once"], &[]);
    assert_eq!(once.ended().code(), Some(0));
    once.until("it is said", |_| once.raw().contains("LAST CHANGES"));
    assert!(!once.raw().contains('\u{1b}'), "{:?}", once.raw());
    drop(gateway);
    let (code, said) = piped(&["--admin", &admin]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no gateway answers at") && said.contains(&admin), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_color_is_heeded() {
    let gateway = gateway(&[]);
    let top = top(&gateway, &[], &[("NO_COLOR", "1")]);
    top.until("it is there", |screen| screen.contains("q quits"));
    // What sets a colour or a weight is a row of numbers that ends with this letter.
    let sets = |part: &str| {
        part.trim_start_matches(|c: char| c == '[' || c == ';' || c.is_ascii_digit()).starts_with('m')
    };
    let codes = top.raw().split('\u{1b}').skip(1).any(sets);
    assert!(!codes, "{:?}", top.raw());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_before_the_screen_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret-of-the-test").unwrap();
    std::fs::write(
        folder.path().join("witgate.toml"),
        "[admin]\naddress = \"127.0.0.1:0\"\nread_token_file = \"token\"\n\n[[listener]]\naddress = \"127.0.0.1:0\"\n",
    )
    .unwrap();
    let gateway = Gateway::run(folder);
    let mut refused = top(&gateway, &[], &[]);
    assert_eq!(refused.ended().code(), Some(1));
    refused.until("it says why", |_| refused.raw().contains("--token-file"));
    assert!(!refused.raw().contains("\u{1b}[?1049h"), "{:?}", refused.raw());
    let path: &Path = &gateway.folder().join("token");
    let let_in = top(&gateway, &["--token-file", &path.display().to_string()], &[]);
    let_in.until("it is there", |screen| screen.contains("q quits"));
}
