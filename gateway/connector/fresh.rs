//! A secret that is exchanged in its file while the gateway runs.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use crate::{connector::lock, document::Secret, files};

/// A secret is read again when it is older.
const FRESH: Duration = Duration::from_secs(10);

/// How long somebody waits for that. What there was is used if a file system hangs.
const READING: Duration = Duration::from_secs(2);

/// A secret in use. Its file is read when somebody needs it and it is not fresh, or was refused; one that cannot be read,
/// or is empty, leaves the secret that there was.
pub(super) struct FreshSecret {
    /// None: there is no other.
    file: Option<PathBuf>,
    read: Mutex<Read>,
}

struct Read {
    secret: Secret,
    /// When it was read, or is. None: somebody else did, at another time, or it was refused since.
    at: Option<Instant>,
    /// One thread reads at a time, however long that takes it.
    reading: bool,
}

impl FreshSecret {
    /// `secret` is what the file held when the configuration was read.
    pub fn new(file: impl Into<Option<PathBuf>>, secret: Secret) -> Arc<Self> {
        Arc::new(Self { file: file.into(), read: Mutex::new(Read { secret, at: None, reading: false }) })
    }

    /// Waits for the file two seconds at most.
    pub async fn current(self: &Arc<Self>) -> Secret {
        if self.begins_to_read() {
            let secret = self.clone();
            let reading = tokio::task::spawn_blocking(move || secret.read_again());
            let _ = timeout(READING, reading).await;
        }
        lock(&self.read).secret.clone()
    }

    /// It was refused: whoever needs it next gets what the file holds then.
    pub fn refused(&self) {
        lock(&self.read).at = None;
    }

    /// Whether it is time to read the file, and nobody does.
    fn begins_to_read(&self) -> bool {
        let mut read = lock(&self.read);
        let begins = self.file.is_some() && !read.reading && read.at.is_none_or(|at| at.elapsed() > FRESH);
        if begins {
            (read.at, read.reading) = (Some(Instant::now()), true);
        }
        begins
    }

    fn read_again(&self) {
        let Some(file) = &self.file else { return };
        let text = files::read_text(file, files::SECRET);
        let mut read = lock(&self.read);
        read.reading = false;
        let text = text.ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            read.secret = Secret(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_exchanged_is_used_soon_and_one_that_is_gone_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "one\n").unwrap();
        let secret = FreshSecret::new(file.clone(), Secret("of the configuration".into()));
        assert_eq!(secret.current().await.0, "one");
        std::fs::write(&file, "two\n").unwrap();
        assert_eq!(secret.current().await.0, "one", "it is fresh");
        tokio::time::advance(FRESH * 2).await;
        assert_eq!(secret.current().await.0, "two");
        for gone in [std::fs::write(&file, "\n"), std::fs::remove_file(&file)] {
            gone.unwrap();
            tokio::time::advance(FRESH * 2).await;
            assert_eq!(secret.current().await.0, "two");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_was_refused_is_not_fresh() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "one").unwrap();
        let secret = FreshSecret::new(file.clone(), Secret(String::new()));
        assert_eq!(secret.current().await.0, "one");
        std::fs::write(&file, "two").unwrap();
        secret.refused();
        assert_eq!(secret.current().await.0, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn one_reads_at_a_time_and_nobody_else_waits_for_it() {
        let secret = FreshSecret::new(PathBuf::new(), Secret("s".into()));
        assert!(secret.begins_to_read(), "it may have been read long ago");
        tokio::time::advance(FRESH * 2).await;
        assert!(!secret.begins_to_read(), "that one has not ended");
        secret.read_again();
        assert!(secret.begins_to_read());
    }
}
