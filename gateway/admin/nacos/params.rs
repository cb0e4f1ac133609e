//! What a call of Nacos says: pairs in its query, in its body, or in both.

use std::collections::BTreeMap;

use http::request::Parts as Head;

/// The group that is meant where none is named, and the namespace.
pub(super) const DEFAULT_GROUP: &str = "DEFAULT_GROUP";
pub(super) const PUBLIC: &str = "public";

/// Between a group and a name.
const SPLIT: &str = "@@";

#[derive(Debug, Default, PartialEq)]
pub(in crate::admin) struct Params(BTreeMap<String, String>);

impl Params {
    /// The body counts, where both say something.
    pub(in crate::admin) fn read(head: &Head, content: &[u8]) -> Self {
        let query = form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes());
        Self(query.into_owned().chain(form_urlencoded::parse(content).into_owned()).collect())
    }

    /// None where it is empty, too.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub(super) fn need(&self, name: &str) -> Result<&str, String> {
        self.get(name).ok_or_else(|| format!("{name}: there is none"))
    }

    /// What is written as `otherwise` where it is not there.
    pub(super) fn flag(&self, name: &str, otherwise: bool) -> Result<bool, String> {
        match self.get(name) {
            None => Ok(otherwise),
            Some("true") => Ok(true),
            Some("false") => Ok(false),
            Some(other) => Err(format!("{name}: {other:?} is neither true nor false")),
        }
    }

    pub(super) fn number<T: std::str::FromStr>(&self, name: &str, otherwise: T) -> Result<T, String> {
        match self.get(name) {
            None => Ok(otherwise),
            Some(text) => text.parse().map_err(|_| format!("{name}: {text:?} is no such number")),
        }
    }

    /// The token that somebody sends, or the password, whoever the user is.
    pub(in crate::admin) fn token(&self) -> Option<&str> {
        self.get("accessToken").or_else(|| self.get("password"))
    }

    /// The service that is named.
    pub(super) fn service(&self) -> Result<Name, String> {
        let name = self.need("serviceName")?;
        Ok(Name::new(self.get("namespaceId"), self.get("groupName"), name))
    }
}

/// A service, as Nacos' clients name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub namespace: String,
    pub group: String,
    pub name: String,
}

impl Name {
    /// A name may have the group before it, and then no other is meant.
    pub(super) fn new(namespace: Option<&str>, group: Option<&str>, name: &str) -> Self {
        let (group, name) = name.split_once(SPLIT).unwrap_or((group.unwrap_or(DEFAULT_GROUP), name));
        let namespace = namespace.unwrap_or(PUBLIC);
        Self { namespace: namespace.to_owned(), group: group.to_owned(), name: name.to_owned() }
    }

    /// As the embedded registry has it: the name alone, or what differs from the usual before it.
    pub(super) fn service(&self) -> String {
        let Self { namespace, group, name } = self;
        match (namespace.as_str(), group.as_str()) {
            (PUBLIC, DEFAULT_GROUP) => name.clone(),
            (PUBLIC, group) => format!("{group}{SPLIT}{name}"),
            (namespace, group) => format!("{namespace}{SPLIT}{group}{SPLIT}{name}"),
        }
    }

    /// What a service of the embedded registry is called there.
    pub(super) fn of(service: &str) -> Self {
        let mut parts = service.rsplitn(3, SPLIT);
        let name = parts.next().unwrap_or_default();
        let group = parts.next();
        Self::new(parts.next(), group, name)
    }

    /// As clients write it.
    pub(super) fn grouped(&self) -> String {
        format!("{}{SPLIT}{}", self.group, self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn params(query: &str, body: &str) -> Params {
        let request = hyper::Request::get(format!("/?{query}")).body(()).unwrap();
        Params::read(&request.into_parts().0, body.as_bytes())
    }

    #[test]
    fn pairs_are_in_the_query_and_in_the_body() {
        let read = params("ip=10.0.0.1&port=80&empty=", "port=81&weight=0.5&enabled=false");
        assert_eq!(
            (read.get("ip"), read.get("port"), read.get("empty")),
            (Some("10.0.0.1"), Some("81"), None)
        );
        assert_eq!((read.number("weight", 1.0), read.number("port", 0u16)), (Ok(0.5), Ok(81)));
        assert_eq!((read.flag("enabled", true), read.flag("healthy", true)), (Ok(false), Ok(true)));
        assert_eq!(read.number("ip", 1u16), Err("ip: \"10.0.0.1\" is no such number".to_owned()));
        assert_eq!(read.flag("port", true), Err("port: \"81\" is neither true nor false".to_owned()));
        assert_eq!(read.service(), Err("serviceName: there is none".to_owned()));
        assert_eq!(params("password=a&username=b", "").token(), Some("a"));
    }

    #[test]
    fn the_usual_is_not_written() {
        let service = |namespace, group, name| Name::new(namespace, group, name).service();
        assert_eq!(service(None, None, "orders"), "orders");
        assert_eq!(service(Some("public"), Some("DEFAULT_GROUP"), "DEFAULT_GROUP@@orders"), "orders");
        assert_eq!(service(None, Some("shop"), "orders"), "shop@@orders");
        assert_eq!(service(None, Some("other"), "shop@@orders"), "shop@@orders");
        assert_eq!(service(Some("dev"), None, "orders"), "dev@@DEFAULT_GROUP@@orders");
        assert_eq!(Name::new(None, Some("shop"), "orders").grouped(), "shop@@orders");
    }

    proptest! {
        #[test]
        fn a_service_is_called_what_it_was_registered_as(
            namespace in "[a-z0-9-]{1,8}", group in "[A-Za-z:._-]{1,8}", name in "[a-z:._-]{1,8}",
        ) {
            let known = Name::new(Some(&namespace), Some(&group), &name);
            prop_assert_eq!(Name::of(&known.service()), known);
            let usual = Name::new(None, None, &name);
            prop_assert_eq!(usual.service(), name);
            prop_assert_eq!(Name::of(&usual.service()), usual);
        }
    }
}
