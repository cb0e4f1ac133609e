//! The real binary as a child process: started on a configuration in a folder of its own, watched line by line.

use std::{
    collections::VecDeque,
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// How long the process may take for anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running gateway. Dropping it kills the process and takes its folder away.
pub struct Process {
    child: Child,
    lines: Receiver<Line>,
    /// Lines that no wait has found yet.
    unseen: VecDeque<Line>,
    said: Said,
    folder: PathBuf,
    _owned: Option<TempDir>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Out(String),
    Err(String),
}

/// What a process said on each of its streams.
#[derive(Debug, Default, Clone)]
pub struct Said {
    pub out: String,
    pub err: String,
}

/// A process that has ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs `witgate` with these arguments in `folder` until it ends by itself.
pub fn witgate(folder: &Path, arguments: &[&str]) -> Ended {
    Process::spawn(folder.to_owned(), None, arguments).wait()
}

impl Process {
    /// `witgate run` on this configuration. Relative paths in it are below the process's folder.
    pub fn run(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the gateway");
        fs::write(folder.path().join("witgate.toml"), config).expect("its configuration");
        Self::start(folder, &["run"])
    }

    /// `witgate` with these arguments, in `folder`.
    pub fn start(folder: TempDir, arguments: &[&str]) -> Self {
        Self::spawn(folder.path().to_owned(), Some(folder), arguments)
    }

    fn spawn(folder: PathBuf, owned: Option<TempDir>, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_witgate"));
        command.args(arguments).current_dir(&folder).env_remove("WITGATE_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the gateway starts");
        let (sender, lines) = channel();
        forward(child.stdout.take(), Line::Out, sender.clone());
        forward(child.stderr.take(), Line::Err, sender);
        let (unseen, said) = (VecDeque::new(), Said::default());
        Self { child, lines, unseen, said, folder, _owned: owned }
    }

    /// Where the configuration is, and whatever the gateway writes.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Another text for the configuration, exchanged in one step.
    pub fn configure(&self, config: &str) {
        let (new, current) = (self.path("witgate.toml.new"), self.path("witgate.toml"));
        fs::write(&new, config).expect("the new configuration");
        fs::rename(new, current).expect("the exchange of the configuration");
    }

    /// Waits for the line `listening KIND ADDRESS` on standard output: the address with its real port.
    pub fn listening(&mut self, kind: &str) -> SocketAddr {
        let start = format!("listening {kind} ");
        let line = self.wait_for(|line| matches!(line, Line::Out(text) if text.starts_with(&start)), &start);
        line.text()[start.len()..].trim().parse().unwrap_or_else(|_| panic!("no address in {line:?}"))
    }

    /// Waits for a line, on either stream, that contains `text`. Each line is found once.
    pub fn says(&mut self, text: &str) -> String {
        self.wait_for(|line| line.text().contains(text), text).text().to_owned()
    }

    /// Sends a signal by its name: `TERM`, `HUP`, `KILL`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        // The standard library sends none but KILL, and calling libc would need `unsafe`.
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} of the gateway");
    }

    /// Waits for the end of the process.
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        // Its streams end with it.
        while let Some(line) = self.next(deadline, "its end") {
            self.take(line);
        }
        let status = self.child.wait().expect("how the gateway ended");
        let Said { out, err } = std::mem::take(&mut self.said);
        Ended { code: status.code(), out, err }
    }

    /// Everything it has said so far.
    pub fn said(&mut self) -> Said {
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
        self.said.clone()
    }

    fn wait_for(&mut self, wanted: impl Fn(&Line) -> bool, what: &str) -> Line {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.unseen.iter().position(&wanted).and_then(|at| self.unseen.remove(at)) {
                return line;
            }
            match self.next(deadline, what) {
                Some(line) => self.take(line),
                None => panic!("ended without {what:?}: {:#?}", self.said),
            }
        }
    }

    /// The next line; none when the process has ended.
    fn next(&mut self, deadline: Instant, what: &str) -> Option<Line> {
        match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Timeout) => panic!("no {what:?} within {PATIENCE:?}: {:#?}", self.said),
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn take(&mut self, line: Line) {
        let (Line::Out(text) | Line::Err(text)) = &line;
        let said = if matches!(line, Line::Out(_)) { &mut self.said.out } else { &mut self.said.err };
        said.push_str(text);
        said.push('\n');
        self.unseen.push_back(line);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Line {
    fn text(&self) -> &str {
        match self {
            Self::Out(text) | Self::Err(text) => text,
        }
    }
}

fn forward(stream: Option<impl Read + Send + 'static>, make: fn(String) -> Line, lines: Sender<Line>) {
    let stream = BufReader::new(stream.expect("the stream is piped"));
    thread::spawn(move || {
        for text in stream.lines().map_while(Result::ok) {
            // A test that has ended listens no more, but the pipe must not fill up.
            let _ = lines.send(make(text));
        }
    });
}
