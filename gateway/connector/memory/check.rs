//! What may be registered. Whoever registers is another program and may be wrong.

use super::{Registration, TtlCheck};
use crate::registry::{AddressError, HostPort, OwnAddresses, Unusable};

/// Instances of all services together.
pub(super) const MOST_INSTANCES: usize = 100_000;

/// Bytes of all instances together, with what it takes to hold them: registrations of usual length reach the bound
/// above before this one.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// What an instance and a label cost beside their texts, about.
const INSTANCE_BYTES: usize = 256;
const LABEL_BYTES: usize = 48;
const CHECK_BYTES: usize = 96;

const LONGEST_SERVICE: usize = 128;
const LONGEST_ID: usize = 255;
const LONGEST_FACT: usize = 255;
const MOST_LABELS: usize = 64;
const LONGEST_LABEL_NAME: usize = 128;
const LONGEST_LABEL_VALUE: usize = 1024;
const MOST_CHECKS: usize = 16;
/// The longest text that is kept of what is said with the status of a check.
pub const LONGEST_OUTPUT: usize = 1024;

/// Why a registration is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    #[error(
        "service name {0:?} must be 1 to {LONGEST_SERVICE} letters, digits, `.`, `_`, `-`, `:` or `@`, \
         the first a letter or digit"
    )]
    Service(String),
    #[error("instance id {0:?} must be 1 to {LONGEST_ID} printable ASCII characters without spaces")]
    Id(String),
    #[error("address {0:?} must be `host:port`: an IPv4 address, an IPv6 address in brackets, or a name")]
    Address(String),
    #[error("address {0:?} {1}")]
    UnusableAddress(String, Unusable),
    #[error("address {0:?} is a listener of this gateway")]
    OwnAddress(String),
    #[error("{0} labels are more than {MOST_LABELS}")]
    TooManyLabels(usize),
    #[error("{0} {1:?} must be 1 to {LONGEST_FACT} bytes without control characters")]
    Fact(&'static str, String),
    #[error("label name {0:?} must be 1 to {LONGEST_LABEL_NAME} bytes without control characters")]
    LabelName(String),
    #[error(
        "the value of label {0:?} must be at most {LONGEST_LABEL_VALUE} bytes without control characters"
    )]
    LabelValue(String),
    #[error("{0} checks are more than {MOST_CHECKS}")]
    TooManyChecks(usize),
    #[error("check id {0:?} must be 1 to {LONGEST_FACT} bytes without control characters, and its own")]
    CheckId(String),
    #[error(
        "the name of check {0:?} must be at most {LONGEST_FACT} bytes, and its output {LONGEST_OUTPUT}, without control \
         characters but for line breaks"
    )]
    CheckText(String),
    #[error("the embedded registry is full: it holds {MOST_INSTANCES} instances")]
    Full,
    #[error("the embedded registry is full: its instances would take more than {MOST_BYTES} bytes")]
    FullOfBytes,
}

pub(super) fn check(
    service: &str,
    id: &str,
    registration: &Registration,
    own: &OwnAddresses,
) -> Result<(), Rejected> {
    self::service(service)?;
    self::id(id)?;
    address(&registration.address, own)?;
    fact("hostname", &registration.hostname)?;
    fact("zone", &registration.zone)?;
    labels(&registration.labels)?;
    checks(&registration.checks)
}

pub(super) fn service(name: &str) -> Result<(), Rejected> {
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    let letters = name.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-:@".contains(&c));
    demand(begins && letters && name.len() <= LONGEST_SERVICE, || Rejected::Service(shown(name)))
}

/// What it takes to hold an instance.
pub(super) fn bytes(service: &str, id: &str, registration: &Registration) -> usize {
    let labels = registration.labels.iter().map(|(name, value)| LABEL_BYTES + name.len() + value.len());
    let facts = [&registration.hostname, &registration.zone].into_iter().flatten().map(String::len);
    let texts = service.len() + id.len() + registration.address.len() + facts.sum::<usize>();
    let text = |check: &TtlCheck| check.id.len() + check.name.len() + check.output.len();
    let checks = registration.checks.iter().map(|check| CHECK_BYTES + text(check));
    INSTANCE_BYTES + texts + labels.sum::<usize>() + checks.sum::<usize>()
}

fn id(id: &str) -> Result<(), Rejected> {
    let printable = id.bytes().all(|c| c.is_ascii_graphic());
    demand(printable && (1..=LONGEST_ID).contains(&id.len()), || Rejected::Id(shown(id)))
}

/// What a name comes to is looked at when it is resolved.
fn address(address: &str, own: &OwnAddresses) -> Result<(), Rejected> {
    match address.parse() {
        Ok(HostPort::Ip(ip)) if own.contains(ip) => Err(Rejected::OwnAddress(shown(address))),
        Ok(_) => Ok(()),
        Err(AddressError::Unusable(_, why)) => Err(Rejected::UnusableAddress(shown(address), why)),
        Err(_) => Err(Rejected::Address(shown(address))),
    }
}

fn fact(name: &'static str, value: &Option<String>) -> Result<(), Rejected> {
    let Some(value) = value else { return Ok(()) };
    let good = (1..=LONGEST_FACT).contains(&value.len()) && !value.chars().any(char::is_control);
    demand(good, || Rejected::Fact(name, shown(value)))
}

fn labels(labels: &[(String, String)]) -> Result<(), Rejected> {
    demand(labels.len() <= MOST_LABELS, || Rejected::TooManyLabels(labels.len()))?;
    for (name, value) in labels {
        let good = (1..=LONGEST_LABEL_NAME).contains(&name.len()) && !name.chars().any(char::is_control);
        demand(good, || Rejected::LabelName(shown(name)))?;
        let good = value.len() <= LONGEST_LABEL_VALUE && !value.chars().any(char::is_control);
        demand(good, || Rejected::LabelValue(shown(name)))?;
    }
    Ok(())
}

fn checks(checks: &[TtlCheck]) -> Result<(), Rejected> {
    demand(checks.len() <= MOST_CHECKS, || Rejected::TooManyChecks(checks.len()))?;
    let mut ids: Vec<&str> = checks.iter().map(|check| check.id.as_str()).collect();
    ids.sort_unstable();
    let is_text = |text: &str| !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));
    for check in checks {
        let TtlCheck { id, name, output, .. } = check;
        let good = (1..=LONGEST_FACT).contains(&id.len()) && !id.chars().any(char::is_control);
        let is_one = ids.iter().filter(|other| *other == id).count() == 1;
        demand(good && is_one, || Rejected::CheckId(shown(id)))?;
        let good = name.len() <= LONGEST_FACT && output.len() <= LONGEST_OUTPUT;
        demand(good && is_text(name) && is_text(output), || Rejected::CheckText(shown(id)))?;
    }
    Ok(())
}

fn demand(good: bool, otherwise: impl FnOnce() -> Rejected) -> Result<(), Rejected> {
    if good { Ok(()) } else { Err(otherwise()) }
}

/// Enough of a value to recognise it.
fn shown(value: &str) -> String {
    value.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(address: &str) -> Registration {
        Registration { ttl_seconds: 1, ..Registration::at(address) }
    }

    fn check(service: &str, id: &str, registration: &Registration) -> Result<(), Rejected> {
        let own = OwnAddresses::new(["127.0.0.1:9901".parse().unwrap()]);
        super::check(service, id, registration, &own)
    }

    #[test]
    fn addresses() {
        for good in ["10.0.0.1:80", "[::1]:80", "orders-1.orders.svc:8080", "localhost:1", "1host:9"] {
            assert_eq!(check("orders", "a", &with(good)), Ok(()), "{good}");
        }
        for bad in
            ["", "10.0.0.1", "10.0.0.1:65536", "10.0.0:80", "::1:80", "a b:80", ":80", "a:+80", "http://a:80"]
        {
            assert_eq!(check("orders", "a", &with(bad)), Err(Rejected::Address(bad.into())), "{bad}");
        }
        for (bad, why) in [
            ("10.0.0.1:0", Unusable::NoPort),
            ("orders:0", Unusable::NoPort),
            ("0.0.0.0:80", Unusable::Unspecified),
            ("[::ffff:169.254.169.254]:80", Unusable::Metadata),
            ("[fe80::1]:80", Unusable::NoScope),
        ] {
            assert_eq!(check("orders", "a", &with(bad)), Err(Rejected::UnusableAddress(bad.into(), why)));
        }
        for own in ["127.0.0.1:9901", "[::ffff:127.0.0.1]:9901"] {
            assert_eq!(check("orders", "a", &with(own)), Err(Rejected::OwnAddress(own.into())));
        }
    }

    #[test]
    fn names_and_ids() {
        for good in ["orders", "user.rpc", "com.example.Orders:1.0", "0a", "shop@@orders"] {
            assert_eq!(check(good, "tcp@10.0.0.1:80", &with("a:1")), Ok(()), "{good}");
        }
        for bad in ["", ".rpc", "a/b", "a b", "ä", &"a".repeat(129)] {
            assert!(matches!(service(bad), Err(Rejected::Service(_))), "{bad}");
        }
        for bad in ["", "a b", "a\n", "ä"] {
            assert_eq!(check("orders", bad, &with("a:1")), Err(Rejected::Id(bad.into())));
        }
    }

    #[test]
    fn checks_are_bounded() {
        let named = |id: &str| TtlCheck {
            id: id.into(),
            ttl_seconds: 1,
            remove_after_seconds: 0,
            status: Default::default(),
            name: String::new(),
            output: String::new(),
        };
        assert_eq!(checks(&[named("a"), named("b")]), Ok(()));
        assert_eq!(checks(&[named("a"), named("a")]), Err(Rejected::CheckId("a".into())));
        assert_eq!(checks(&[named("")]), Err(Rejected::CheckId("".into())));
        let many: Vec<_> = (0..17).map(|id| named(&id.to_string())).collect();
        assert_eq!(checks(&many), Err(Rejected::TooManyChecks(17)));
        let output = |text: &str| checks(&[TtlCheck { output: text.into(), ..named("a") }]);
        assert_eq!(output("line\nline"), Ok(()));
        assert_eq!(output("\u{1b}"), Err(Rejected::CheckText("a".into())));
        assert_eq!(output(&"x".repeat(LONGEST_OUTPUT + 1)), Err(Rejected::CheckText("a".into())));
    }

    #[test]
    fn labels_are_bounded() {
        let many = vec![("a".to_string(), "b".to_string()); 65];
        assert_eq!(labels(&many), Err(Rejected::TooManyLabels(65)));
        let check = |name: &str, value: &str| labels(&[(name.into(), value.into())]);
        assert_eq!(check("zone", ""), Ok(()));
        assert_eq!(check("", "a"), Err(Rejected::LabelName("".into())));
        assert_eq!(check("a", "\0"), Err(Rejected::LabelValue("a".into())));
        assert_eq!(check("a", &"x".repeat(1025)), Err(Rejected::LabelValue("a".into())));
    }
}
