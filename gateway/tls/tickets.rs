//! Session tickets: what a client that comes back shows, so that nothing has to be remembered here. All workers share
//! the keys, which are exchanged now and then; with a file of keys so do several gateways, and a gateway after a
//! restart.

use std::{path::Path, time::Duration};

use arc_swap::ArcSwap;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, KeyType, Salt},
};
use rustls::server::ProducesTickets;

use super::certificate::FileError;

/// How long a session can be taken up again.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// How often the process has a new key, if it has no file of them.
pub(super) const ROTATE: Duration = Duration::from_secs(6 * 3600);

/// Keys that open tickets: the newest. More would let sessions live on that should have ended.
const KEYS_MOST: usize = 3;

const SECRET: usize = 32;
const NAME: usize = 16;

/// What keys are made of, the newest last.
#[derive(Clone)]
pub(super) struct Secrets {
    newest_last: Vec<[u8; SECRET]>,
    /// The newest one seals. Otherwise the one before it does, because other gateways may not have the newest yet.
    alone: bool,
}

impl Secrets {
    /// Of this process alone.
    pub(super) fn own() -> Self {
        Self { newest_last: random().into_iter().collect(), alone: true }
    }

    /// The same with a new one.
    pub(super) fn rotated(&self) -> Self {
        let mut newest_last = self.newest_last.clone();
        newest_last.extend(random());
        Self::cut(newest_last, true)
    }

    /// A line each, the newest last; empty lines and what begins with `#` are passed over.
    pub(super) fn read(path: &Path, text: &[u8]) -> Result<Self, FileError> {
        let mut secrets = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let bad = || FileError::TicketKey { path: path.into(), line: index + 1 };
            secrets.push(secret(line).ok_or_else(bad)?);
        }
        if secrets.is_empty() {
            Err(FileError::NoTicketKey(path.into()))
        } else {
            Ok(Self::cut(secrets, false))
        }
    }

    fn cut(mut newest_last: Vec<[u8; SECRET]>, alone: bool) -> Self {
        newest_last.drain(..newest_last.len().saturating_sub(KEYS_MOST));
        Self { newest_last, alone }
    }
}

/// Whether a file of keys can be used.
pub(crate) fn check_keys(path: &Path) -> Result<(), FileError> {
    Secrets::read(path, &super::certificate::read(path)?).map(drop)
}

/// None, and so no tickets, on a system without randomness.
fn random() -> Option<[u8; SECRET]> {
    let mut secret = [0; SECRET];
    getrandom::fill(&mut secret).ok().map(|()| secret)
}

fn secret(digits: &[u8]) -> Option<[u8; SECRET]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let bytes: Option<Vec<u8>> = pairs.iter().map(|[a, b]| Some(digit(*a)? << 4 | digit(*b)?)).collect();
    bytes?.try_into().ok()
}

/// Seals and opens the tickets of one policy: keys are made for it, so that no other policy opens them, even one with
/// the same secrets.
pub(super) struct Tickets {
    policy: [u8; 32],
    keys: ArcSwap<Keys>,
}

struct Keys {
    all: Vec<Key>,
    seals: usize,
}

struct Key {
    name: [u8; NAME],
    key: RandomizedNonceKey,
}

/// The length of what is derived for a key.
struct Length;

impl KeyType for Length {
    fn len(&self) -> usize {
        NAME + 32
    }
}

impl Key {
    /// None if the library refuses, which it does for no secret of this length.
    fn new(secret: &[u8; SECRET], policy: &[u8]) -> Option<Self> {
        let derived = Salt::new(HKDF_SHA256, b"witgate session tickets").extract(secret);
        let mut bytes = [0; NAME + 32];
        derived.expand(&[policy], Length).ok()?.fill(&mut bytes).ok()?;
        let (name, key) = bytes.split_first_chunk()?;
        Some(Self { name: *name, key: RandomizedNonceKey::new(&AES_256_GCM, key).ok()? })
    }
}

impl Keys {
    fn new(secrets: &Secrets, policy: &[u8]) -> Self {
        let all: Vec<_> = secrets.newest_last.iter().filter_map(|secret| Key::new(secret, policy)).collect();
        let newest = all.len().saturating_sub(1);
        let seals = if secrets.alone { newest } else { newest.saturating_sub(1) };
        Self { all, seals }
    }
}

impl Tickets {
    /// `policy` is a digest of all that a session must not outlive.
    pub(super) fn new(secrets: &Secrets, policy: [u8; 32]) -> Self {
        Self { policy, keys: ArcSwap::from_pointee(Keys::new(secrets, &policy)) }
    }

    /// What was sealed by keys that are no longer there cannot be opened from now on.
    pub(super) fn set(&self, secrets: &Secrets) {
        self.keys.store(Keys::new(secrets, &self.policy).into());
    }
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tickets")
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        LIFETIME.as_secs() as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys.load();
        let Key { name, key } = keys.all.get(keys.seals)?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.keys.load();
        let key = keys.all.iter().find(|key| key.name == *name)?;
        let mut opened = sealed.to_vec();
        let len = key.key.open_in_place(Nonce::from(nonce), Aad::from(name), &mut opened).ok()?.len();
        opened.truncate(len);
        Some(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(lines: &[&str]) -> Secrets {
        Secrets::read(Path::new("keys"), lines.join("\n").as_bytes()).unwrap()
    }

    fn line(digit: char) -> String {
        String::from(digit).repeat(64)
    }

    #[test]
    fn a_ticket_is_opened_by_who_has_its_key_and_the_same_policy() {
        let [a, b, c, d, e] = ['a', 'b', 'c', 'd', 'e'].map(line);
        let sealed = Tickets::new(&keys(&[&a, &b, &c]), [1; 32]).encrypt(b"session").unwrap();
        let opens = |lines: &[&str], policy| Tickets::new(&keys(lines), policy).decrypt(&sealed);
        assert_eq!(opens(&[&b], [1; 32]).as_deref(), Some(&b"session"[..]), "the last but one seals");
        assert_eq!(opens(&[&b, &c, &d], [1; 32]).as_deref(), Some(&b"session"[..]));
        assert_eq!(opens(&[&a, &c], [1; 32]), None);
        assert_eq!(opens(&[&b, &c, &d, &e], [1; 32]), None, "three keys open");
        assert_eq!(opens(&[&a, &b, &c], [2; 32]), None, "another policy");
        let mut broken = sealed.clone();
        *broken.last_mut().unwrap() ^= 1;
        let tickets = Tickets::new(&keys(&[&a, &b, &c]), [1; 32]);
        assert_eq!(tickets.decrypt(&broken), None);
        assert_eq!(tickets.decrypt(&sealed[..10]), None);
        tickets.set(&keys(&[&c, &d]));
        assert_eq!(tickets.decrypt(&sealed), None, "its key is gone");
    }

    #[test]
    fn a_process_alone_seals_with_its_newest_key_and_opens_with_those_before() {
        let first = Secrets::own();
        let tickets = Tickets::new(&first, [0; 32]);
        let sealed = tickets.encrypt(b"x").unwrap();
        let second = first.rotated();
        tickets.set(&second);
        assert!(tickets.decrypt(&sealed).is_some());
        assert_ne!(tickets.encrypt(b"x").unwrap()[..NAME], sealed[..NAME]);
        tickets.set(&second.rotated().rotated());
        assert_eq!(tickets.decrypt(&sealed), None);
    }

    #[test]
    fn a_file_of_keys_has_a_line_for_each() {
        let text = format!("# made by openssl rand -hex 32\n\n{}\r\n{}\n", line('0'), line('F'));
        assert_eq!(Secrets::read(Path::new("k"), text.as_bytes()).unwrap().newest_last, [[0; 32], [255; 32]]);
        let wrong = |text: &str| Secrets::read(Path::new("k"), text.as_bytes()).err().unwrap().to_string();
        assert_eq!(wrong(""), "there is no key in k");
        assert_eq!(wrong(&format!("{}\nabc", line('a'))), "line 2 of k is no key of 64 hexadecimal digits");
        assert_eq!(wrong(&line('g')), "line 1 of k is no key of 64 hexadecimal digits");
    }
}
