//! Which instances of a type are asked for, by their names.

/// The literal parts of a name, in order. Anything may stand between two; one alone is the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names(Vec<String>);

impl Names {
    /// None: without parts, nothing could fit.
    pub fn new(mut parts: Vec<String>) -> Option<Self> {
        parts.iter_mut().for_each(|part| part.make_ascii_lowercase());
        (!parts.is_empty()).then_some(Self(parts))
    }

    /// Case means nothing in names of DNS.
    pub fn fit(&self, name: &str) -> bool {
        let name = name.to_ascii_lowercase();
        match &self.0[..] {
            [] => false,
            [whole] => name.strip_prefix(&**whole).is_some_and(|rest| rest.is_empty() || is_number(rest)),
            [first, between @ .., last] => {
                let inner = name.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last));
                let end = between.iter().try_fold(inner, |rest, part| {
                    rest.map(|rest| Some(&rest[rest.find(&**part)? + part.len()..]))
                });
                matches!(end, Some(Some(_)))
            }
        }
    }
}

/// What responders put behind a name that somebody else has already: ` (2)`, or ` #2` by avahi.
fn is_number(rest: &str) -> bool {
    let number =
        rest.strip_prefix(" #").or_else(|| rest.strip_prefix(" (").and_then(|rest| rest.strip_suffix(')')));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_when_its_parts_are_there_in_order() {
        for (parts, fits, others) in [
            (
                &["orders"][..],
                &["orders", "Orders", "orders (2)", "orders #12"][..],
                &["orders-2", "orders ()", "my orders", "orders #x"][..],
            ),
            (&["", ""], &["", "anything"], &[]),
            (&["orders", ""], &["orders", "orders at web-1"], &["my orders"]),
            (&["", " orders"], &["web-1 Orders"], &["orders", "web-1 orders (2)"]),
            (&["a", "b", "c"], &["abc", "a-b-c"], &["ac", "acb", "a-c-b"]),
            (&["aa", "aa"], &["aaaa", "aa aa"], &["aaa"]),
        ] {
            let names = Names::new(parts.iter().map(ToString::to_string).collect()).unwrap();
            assert!(fits.iter().all(|name| names.fit(name)), "{parts:?}");
            assert!(!others.iter().any(|name| names.fit(name)), "{parts:?}");
        }
        assert_eq!(Names::new(Vec::new()), None);
    }
}
