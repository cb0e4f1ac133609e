//! What somebody may have meant.

use strsim::osa_distance;

/// Lists that are longer say less than they cost to read.
const FEW: usize = 14;

/// A hint towards one of the known names: the one that was probably meant, or all of them if they are few.
pub(crate) fn hint<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<_> = known.into_iter().collect();
    if let Some(meant) = most_similar(wrong, &known) {
        return Some(format!("did you mean `{meant}`?"));
    }
    match known.len() {
        0 => None,
        1 => Some(format!("there is only `{}`", known[0])),
        2..=FEW => Some(format!("there are `{}`", known.join("`, `"))),
        _ => None,
    }
}

/// The name that was probably meant: the nearest one, or the only one that goes on with its unit or kind.
pub(crate) fn most_similar<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let goes_on = |name: &str| name.strip_prefix(wrong).is_some_and(|rest| rest.starts_with('_'));
    let mut longer = known.iter().filter(|name| goes_on(name));
    if let (Some(name), None) = (longer.next(), longer.next()) {
        return Some(name);
    }
    let limit = (wrong.chars().count() / 3).max(1);
    let near = known.iter().map(|name| (osa_distance(wrong, name), *name)).filter(|(far, _)| *far <= limit);
    near.min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_error_finds_the_name_that_was_meant() {
        for (wrong, meant) in [("selctor", "selector"), ("registyr", "registry"), ("Service", "service")] {
            let hint = hint(wrong, ["selector", "registry", "service"]);
            assert_eq!(hint.as_deref(), Some(&*format!("did you mean `{meant}`?")), "{wrong}");
        }
    }

    #[test]
    fn a_name_without_its_unit_finds_the_one_with_it() {
        let hint = hint("connect", ["connect_ms", "response_ms"]);
        assert_eq!(hint.as_deref(), Some("did you mean `connect_ms`?"));
    }

    #[test]
    fn names_without_resemblance_are_listed_while_they_are_few() {
        assert_eq!(hint("x", []), None);
        assert_eq!(hint("other", ["main"]).as_deref(), Some("there is only `main`"));
        assert_eq!(hint("other", ["main", "second"]).as_deref(), Some("there are `main`, `second`"));
        let many: Vec<_> = (0..20).map(|n| format!("name-number-{n}")).collect();
        assert_eq!(hint("other", many.iter().map(String::as_str)), None);
    }
}
