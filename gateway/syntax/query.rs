//! Queries: what is after the `?` of a target.

/// The same query with other values for some parameters, whose names are decoded before they are asked for.
pub fn masked(query: &str, instead: &str, hides: impl Fn(&str) -> bool) -> String {
    let mut masked = String::with_capacity(query.len());
    for (place, pair) in query.split('&').enumerate() {
        if place > 0 {
            masked.push('&');
        }
        let name = pair.split_once('=').map_or(pair, |(name, _)| name);
        // There is none of nothing.
        let decoded = form_urlencoded::parse(name.as_bytes()).next();
        if decoded.is_some_and(|(decoded, _)| hides(&decoded)) {
            masked.push_str(name);
            masked.push('=');
            masked.push_str(instead);
        } else {
            masked.push_str(pair);
        }
    }
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_hidden_parameters_are_left_out_however_their_names_are_written() {
        let masked = |query| masked(query, "***", |name| name == "to ken");
        assert_eq!(masked("a=1&to+ken=x&to%20ken=y=z&b"), "a=1&to+ken=***&to%20ken=***&b");
        assert_eq!(masked("&&to%20ken&=x&a%3db=c"), "&&to%20ken=***&=x&a%3db=c");
        assert_eq!(masked(""), "");
    }
}
