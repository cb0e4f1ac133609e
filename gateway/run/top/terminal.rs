//! The terminal, as it is while it shows a screen, and as it was before.

use std::{
    env,
    io::{self, Read as _, Stdout, Write},
    thread,
};

use crossterm::{
    cursor, queue,
    style::{Attribute, Color, Print, ResetColor, SetAttribute, SetForegroundColor},
    terminal::{
        self, BeginSynchronizedUpdate, Clear, ClearType, DisableLineWrap, EnableLineWrap,
        EndSynchronizedUpdate, EnterAlternateScreen, LeaveAlternateScreen,
    },
};
use tokio::sync::mpsc;

use super::screen::{Line, Style};

/// What a terminal is taken to be that does not say how large it is.
const USUAL: (usize, usize) = (80, 24);

/// Keys that nobody has looked at yet. More of them are more of the same.
const KEYS: usize = 16;

/// A terminal with a screen of ours. Dropping it gives back what was there.
pub(super) struct Terminal {
    out: Stdout,
    colours: bool,
}

impl Terminal {
    pub fn take() -> io::Result<Self> {
        // See no-color.org.
        let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        terminal::enable_raw_mode()?;
        // From here on whatever fails is undone.
        let mut terminal = Self { out: io::stdout(), colours };
        queue!(terminal.out, EnterAlternateScreen, DisableLineWrap, cursor::Hide)?;
        terminal.out.flush()?;
        Ok(terminal)
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        match terminal::size() {
            Ok((columns, lines)) if columns > 0 && lines > 0 => (columns.into(), lines.into()),
            _ => USUAL,
        }
    }

    /// At once, so that nothing flickers. What was there is drawn over.
    pub fn draw(&mut self, lines: &[Line]) -> io::Result<()> {
        queue!(self.out, BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for (at, line) in lines.iter().enumerate() {
            if at > 0 {
                queue!(self.out, Print("\r\n"))?;
            }
            self.line(line)?;
            queue!(self.out, Clear(ClearType::UntilNewLine))?;
        }
        queue!(self.out, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        self.out.flush()
    }

    fn line(&mut self, line: &Line) -> io::Result<()> {
        for (style, text) in &line.0 {
            if self.colours {
                match style {
                    Style::Plain => {}
                    Style::Head => queue!(self.out, SetAttribute(Attribute::Bold))?,
                    Style::Faint => queue!(self.out, SetAttribute(Attribute::Dim))?,
                    Style::Ok => queue!(self.out, SetForegroundColor(Color::Green))?,
                    Style::Degraded => queue!(self.out, SetForegroundColor(Color::Yellow))?,
                    Style::Failing => queue!(self.out, SetForegroundColor(Color::Red))?,
                }
            }
            queue!(self.out, Print(text))?;
            if self.colours && *style != Style::Plain {
                queue!(self.out, ResetColor, SetAttribute(Attribute::Reset))?;
            }
        }
        Ok(())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing back.
        let _ = queue!(self.out, cursor::Show, EnableLineWrap, LeaveAlternateScreen);
        let _ = self.out.flush();
        let _ = terminal::disable_raw_mode();
    }
}

/// What is typed, byte by byte. The thread that waits for it ends with the process.
pub(super) fn keys() -> mpsc::Receiver<u8> {
    let (typed, keys) = mpsc::channel(KEYS);
    thread::spawn(move || {
        let mut key = [0];
        while io::stdin().read(&mut key).is_ok_and(|read| read > 0) {
            if typed.blocking_send(key[0]).is_err() {
                return;
            }
        }
    });
    keys
}
