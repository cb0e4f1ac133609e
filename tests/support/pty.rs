//! A program on a terminal of its own. Ends with the test.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::fd::OwnedFd,
    process::{Child, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Instant,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Termios, Winsize, tcgetattr, tcsetwinsize},
};

use super::gateway::{PATIENCE, bound_to_test};

pub struct Pty {
    process: Child,
    master: File,
    /// Kept open, so that what the program leaves of its settings can be seen.
    terminal: OwnedFd,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Pty {
    /// Starts a program with these arguments and variables, on a terminal with so many columns and lines.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)], size: (u16, u16)) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let terminal = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        resize(&master, size);
        let mut command = bound_to_test();
        // What is drawn anew when the size changes hears of that by a signal, which goes to who has the terminal.
        command
            .args(["setsid", "--ctty"])
            .args(arguments)
            .env_remove("NO_COLOR")
            .envs(variables.iter().copied());
        let stdio = || Stdio::from(terminal.try_clone().unwrap());
        let process = command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().unwrap();
        let master = File::from(master);
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let (mut from, into) = (master.try_clone().unwrap(), written.clone());
        std::thread::spawn(move || {
            let mut part = [0; 4096];
            while let Ok(read) = from.read(&mut part).map(|read| &part[..read]) {
                into.lock().unwrap().extend_from_slice(read);
            }
        });
        Self { process, master, terminal, written }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, size: (u16, u16)) {
        resize(&self.master, size);
    }

    /// Everything that was written, with what a terminal obeys.
    pub fn raw(&self) -> String {
        String::from_utf8_lossy(&self.written.lock().unwrap()).into_owned()
    }

    /// What was drawn last, as text in lines.
    pub fn screen(&self) -> String {
        let raw = self.raw();
        let last = raw.rsplit("\u{1b}[1;1H").next().unwrap_or_default();
        plain(last)
    }

    /// Forgets what was written, and waits for something that is drawn from now on.
    pub fn until_drawn(&self, what: &str) {
        self.written.lock().unwrap().clear();
        self.until(what, |screen| screen.contains(what));
    }

    pub fn until(&self, what: &str, fact: impl Fn(&str) -> bool) {
        let begun = Instant::now();
        while !fact(&self.screen()) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// How the terminal is set.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.terminal).unwrap()
    }

    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it goes on: {}", self.screen());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn resize(master: impl std::os::fd::AsFd, (columns, lines): (u16, u16)) {
    let size = Winsize { ws_col: columns, ws_row: lines, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

/// Text without the sequences that a terminal obeys.
fn plain(raw: &str) -> String {
    let mut parts = raw.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut text, part| {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |end| end + 1);
        text.push_str(&part[end..]);
        text
    })
}
