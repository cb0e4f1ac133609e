//! For guests that misbehave on purpose: so many good picks first, so that their self-test passes.

use std::cell::Cell;

use crate::settings;

/// Burns with each pick.
pub struct Fuse(Cell<u32>);

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    /// Picks that go well. Default: 0.
    #[serde(default)]
    after: u32,
}

impl Fuse {
    /// From `{ "after": N }`.
    pub fn read(settings: &str) -> Result<Self, String> {
        let Settings { after } = settings::read(settings)?;
        Ok(Self(Cell::new(after)))
    }

    /// Whether the time for misbehaviour has come. Counts this pick.
    pub fn has_burnt(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fuse_burns_after_so_many_picks() {
        let fuse = Fuse::read(r#"{"after":2}"#).unwrap();
        assert_eq!(
            [fuse.has_burnt(), fuse.has_burnt(), fuse.has_burnt(), fuse.has_burnt()],
            [false, false, true, true]
        );
        assert!(Fuse::read("{}").unwrap().has_burnt());
    }
}
