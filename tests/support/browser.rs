//! Chromium without a screen, driven by its DevTools protocol over a pipe.
//!
//! Needs the program and nothing else, and no port; Chromium ends when its pipe does, so also when a test is killed.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::timeout};

use super::gateway::{PATIENCE, until};

/// How Debian and others call it.
const PROGRAMS: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "chrome"];

/// One browser, which looks at one page. Ended when dropped.
pub struct Browser {
    process: Child,
    commands: Mutex<ChildStdin>,
    next: AtomicU64,
    heard: Arc<Heard>,
    session: String,
    _profile: tempfile::TempDir,
}

#[derive(Default)]
struct Heard {
    /// Who waits for the answer to a command.
    waiting: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    /// What the page complained about: exceptions, and errors of the console, a broken policy among them.
    complaints: Mutex<Vec<String>>,
}

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

pub const DESKTOP: Screen = Screen { width: 1360, height: 860, dark: false };
pub const PHONE: Screen = Screen { width: 360, height: 740, dark: false };

impl Screen {
    pub fn dark(self) -> Self {
        Self { dark: true, ..self }
    }
}

fn program() -> PathBuf {
    let named = env::var_os("WITGATE_CHROMIUM").map(PathBuf::from);
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path).flat_map(|folder| PROGRAMS.map(|name| folder.join(name)));
    named.into_iter().chain(installed).find(|program| program.exists()).unwrap_or_else(|| {
        panic!("no Chromium: install Debian's package chromium, or set WITGATE_CHROMIUM to the program")
    })
}

impl Browser {
    pub async fn start(screen: Screen) -> Self {
        let profile = tempfile::tempdir().unwrap();
        // It reads commands from descriptor 3 and answers on 4.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "sh"])
            .arg(program())
            .args([
                "--headless=new",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--no-first-run",
                "--mute-audio",
            ])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-extensions", "--hide-scrollbars", "--lang=en"])
            .args(["--force-color-profile=srgb", "--font-render-hinting=none"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Chromium starts");
        let commands = Mutex::new(process.stdin.take().unwrap());
        let heard = Arc::<Heard>::default();
        let (mut answers, to) = (BufReader::new(process.stdout.take().unwrap()), heard.clone());
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                to.hear(serde_json::from_slice(&message).unwrap_or_default());
                message.clear();
            }
            // Nobody gets an answer any more.
            to.waiting.lock().unwrap().clear();
        });
        let mut browser = Self {
            process,
            commands,
            next: AtomicU64::new(1),
            heard,
            session: String::new(),
            _profile: profile,
        };
        let target = browser.tell("Target.createTarget", json!({ "url": "about:blank" })).await;
        let target = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = browser.tell("Target.attachToTarget", target).await;
        browser.session = attached["sessionId"].as_str().unwrap().to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.tell(&format!("{domain}.enable"), json!({})).await;
        }
        browser.look(screen).await;
        browser
    }

    /// Looks from another screen.
    pub async fn look(&self, Screen { width, height, dark }: Screen) {
        let metrics =
            json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600 });
        self.tell("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if dark { "dark" } else { "light" };
        let media = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.tell("Emulation.setEmulatedMedia", media).await;
    }

    /// Opens the dashboard at what stands behind `#`, from the beginning.
    pub async fn open(&self, admin: SocketAddr, place: &str) {
        self.navigate("about:blank").await;
        self.navigate(&format!("http://{admin}/{place}")).await;
    }

    pub async fn navigate(&self, url: &str) {
        let done = self.tell("Page.navigate", json!({ "url": url })).await;
        assert_eq!(done["errorText"], Value::Null, "{url}");
    }

    /// What an expression of JavaScript comes to.
    pub async fn eval(&self, expression: &str) -> Value {
        // As the page itself could.
        let asked = json!({
            "expression": expression, "returnByValue": true, "awaitPromise": true, "allowUnsafeEvalBlockedByCSP": false,
        });
        let done = self.tell("Runtime.evaluate", asked).await;
        assert_eq!(done["exceptionDetails"], Value::Null, "{expression}");
        done["result"]["value"].clone()
    }

    /// The text of the page as a person sees it.
    pub async fn text(&self) -> String {
        self.eval("document.body?.innerText ?? ''").await.as_str().unwrap().to_owned()
    }

    /// Waits until an expression is true.
    pub async fn until(&self, expression: &str) {
        let last = Mutex::new(String::new());
        let fact = async {
            until(expression, || async {
                let is_so = self.eval(expression).await == true;
                if !is_so {
                    *last.lock().unwrap() = self.text().await;
                }
                is_so
            })
            .await
        };
        let long = PATIENCE * 9 / 10;
        if timeout(long, fact).await.is_err() {
            let (last, complaints) = (last.lock().unwrap(), self.complaints());
            panic!("not within {long:?}: {expression}; complaints: {complaints:?}; the page says:\n{last}");
        }
    }

    /// Waits until the page says this.
    pub async fn until_says(&self, text: &str) {
        self.until(&format!("(document.body?.innerText ?? '').includes({})", json!(text))).await;
    }

    /// Clicks on the button or link with this text.
    pub async fn click(&self, text: &str) {
        let text = json!(text);
        let find = format!(
            "[...document.querySelectorAll('button, a, summary')].find((of) => of.innerText.trim() === {text} && \
             of.checkVisibility())"
        );
        self.until(&format!("Boolean({find})")).await;
        self.eval(&format!("({find}).click()")).await;
    }

    /// Presses a key, such as `Tab` or `a`.
    pub async fn press(&self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, None),
            "Enter" => (13, Some("\r")),
            "Escape" => (27, None),
            other => (0, Some(other)),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "code": key, "windowsVirtualKeyCode": code });
        if let Some(text) = text {
            event["text"] = json!(text);
        }
        self.tell("Input.dispatchKeyEvent", event).await;
        let event = json!({ "type": "keyUp", "key": key, "code": key, "windowsVirtualKeyCode": code });
        self.tell("Input.dispatchKeyEvent", event).await;
    }

    /// Keeps a picture of the whole page as `target/dashboard/NAME.png`.
    pub async fn picture(&self, name: &str) {
        let size = self.eval("[innerWidth, Math.min(document.documentElement.scrollHeight, 2400)]").await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let asked = json!({ "format": "png", "captureBeyondViewport": true, "clip": clip });
        let picture = self.tell("Page.captureScreenshot", asked).await;
        let bytes = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/dashboard");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), bytes).unwrap();
    }

    /// What the page complained about so far, other than that a gateway did not answer.
    pub fn complaints(&self) -> Vec<String> {
        self.heard.complaints.lock().unwrap().clone()
    }

    async fn tell(&self, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Relaxed);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let (sender, answer) = oneshot::channel();
        self.heard.waiting.lock().unwrap().insert(id, sender);
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.lock().unwrap().write_all(&bytes).expect("Chromium runs");
        let answer = timeout(PATIENCE, answer).await.unwrap_or_else(|_| panic!("no answer to {message}"));
        let answer = answer.unwrap_or_else(|_| panic!("Chromium ended at {message}"));
        assert_eq!(answer["error"], Value::Null, "{message}");
        answer["result"].clone()
    }
}

impl Heard {
    fn hear(&self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            let waiting = self.waiting.lock().unwrap().remove(&id);
            // Who asked may have given up.
            let _ = waiting.map(|waiting| waiting.send(message));
            return;
        }
        let params = &message["params"];
        let complaint = match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => &params["exceptionDetails"],
            Some("Runtime.consoleAPICalled") if params["type"] == "error" => &params["args"],
            // What the network does is told by the page itself.
            Some("Log.entryAdded")
                if params["entry"]["level"] == "error" && params["entry"]["source"] != "network" =>
            {
                &params["entry"]["text"]
            }
            _ => return,
        };
        self.complaints.lock().unwrap().push(complaint.to_string());
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("complaints of the page: {:?}", self.complaints());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
