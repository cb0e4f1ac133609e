//! `witgate top`: the dashboard's first screen in a terminal.
//!
//! It is a client of the admin API like the dashboard, and asks for the same document, once a second.

mod screen;
mod terminal;

use std::{
    io::{self, IsTerminal as _},
    pin::pin,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Interval, MissedTickBehavior, interval, sleep, timeout},
};

use self::{
    screen::{Line, Shown, screen},
    terminal::Terminal,
};
use super::{Gateway, OperateError, Signals, StartError, operate};
use crate::{
    admin::client::{AskError, Client},
    telemetry::rfc3339,
};

/// How often the screen is drawn anew. Rates are there from the second time.
const PACE: Duration = Duration::from_secs(1);

/// A gateway that does not answer within this is shown as one that is gone.
const PATIENCE: Duration = Duration::from_secs(3);

const OVERVIEW: &str = "/api/v1/overview";

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    #[error(transparent)]
    Gateway(#[from] OperateError),
    #[error("cannot draw on this terminal: print it by --once")]
    Terminal(#[source] io::Error),
}

impl From<StartError> for TopError {
    fn from(error: StartError) -> Self {
        Self::Gateway(error.into())
    }
}

/// Shows how a gateway stands, until `q`, Ctrl-C or a signal ends it; with `once`, or where standard output is no
/// terminal, says it once and gives back the text.
pub fn top(gateway: Gateway, once: bool) -> Result<Option<String>, TopError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(StartError::Threads)?;
    let is_terminal = io::stdout().is_terminal() && io::stdin().is_terminal();
    let outcome = runtime.block_on(async {
        let address = gateway.admin.clone();
        let client = operate::client(gateway)?;
        if once || !is_terminal {
            return Ok(Some(say(&client).await?));
        }
        Watching { address, latest: None, gone: None }.run(client).await.map(|()| None)
    });
    // A key that is waited for is of no use to anybody any more.
    runtime.shutdown_background();
    outcome
}

/// The whole of it as text.
async fn say(client: &Client) -> Result<String, TopError> {
    let ask = || async { client.get(OVERVIEW).await.map_err(OperateError::from) };
    ask().await?;
    // Rates are differences between two looks.
    sleep(PACE).await;
    let overview = ask().await?;
    let lines = screen(&Shown { overview: Some(&overview), gone: None, address: &client.address }, None);
    Ok(lines.iter().map(|line| line.text() + "\n").collect())
}

/// What is on the screen.
struct Watching {
    address: String,
    latest: Option<Value>,
    /// Since when there is no answer, and why.
    gone: Option<(SystemTime, String)>,
}

impl Watching {
    async fn run(mut self, client: Client) -> Result<(), TopError> {
        let mut signals = Signals::new().map_err(StartError::Threads)?;
        let mut resized = signal(SignalKind::window_change()).map_err(StartError::Threads)?;
        // A refusal, such as for want of a token, is told before the screen is taken.
        match ask(&client).await {
            Err(error @ AskError::Refused { .. }) => return Err(OperateError::from(error).into()),
            asked => self.take(asked),
        }
        let mut terminal = Terminal::take().map_err(TopError::Terminal)?;
        let mut keys = terminal::keys();
        tokio::select! {
            drawn = self.draw_on(&mut terminal, &client, &mut resized, &mut keys) => drawn.map_err(TopError::Terminal),
            () = signals.stop() => Ok(()),
        }
    }

    /// Until a key says that it is enough.
    async fn draw_on(
        &mut self,
        terminal: &mut Terminal,
        client: &Client,
        resized: &mut Signal,
        keys: &mut mpsc::Receiver<u8>,
    ) -> io::Result<()> {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pace.tick().await;
        // It is waited for beside the terminal, which is drawn anew and obeyed however long an answer takes.
        let mut next = pin!(ask_in_time(client, pace));
        loop {
            terminal.draw(&self.lines(terminal.size()))?;
            tokio::select! {
                (asked, pace) = &mut next => {
                    self.take(asked);
                    next.set(ask_in_time(client, pace));
                }
                _ = resized.recv() => {}
                () = until_quit(keys) => return Ok(()),
            }
        }
    }

    fn take(&mut self, asked: Result<Value, AskError>) {
        match asked {
            Ok(overview) => (self.latest, self.gone) = (Some(overview), None),
            Err(error) => {
                let cause =
                    std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
                let since = self.gone.take().map_or_else(SystemTime::now, |(since, _)| since);
                self.gone = Some((since, format!("{error}{cause}")));
            }
        }
    }

    fn lines(&self, size: (usize, usize)) -> Vec<Line> {
        let gone = self
            .gone
            .as_ref()
            .map(|(since, why)| format!("{why}, since {}", screen::moment(&rfc3339(*since))));
        let shown = Shown { overview: self.latest.as_ref(), gone: gone.as_deref(), address: &self.address };
        screen(&shown, Some(size))
    }
}

/// Asks when it is time for that, and gives back what says when the next time is.
async fn ask_in_time(client: &Client, mut pace: Interval) -> (Result<Value, AskError>, Interval) {
    pace.tick().await;
    (ask(client).await, pace)
}

async fn ask(client: &Client) -> Result<Value, AskError> {
    let asked = timeout(PATIENCE, client.get(OVERVIEW)).await;
    asked.unwrap_or_else(|_| Err(AskError::TooSlow { address: client.address.clone(), within: PATIENCE }))
}

/// Waits for `q`, or Ctrl-C or Ctrl-D, which are keys like others there. For ever, where there are no keys.
async fn until_quit(keys: &mut mpsc::Receiver<u8>) {
    const CTRL_C: u8 = 3;
    const CTRL_D: u8 = 4;
    loop {
        match keys.recv().await {
            Some(b'q' | b'Q' | CTRL_C | CTRL_D) => return,
            Some(_) => {}
            None => std::future::pending().await,
        }
    }
}
