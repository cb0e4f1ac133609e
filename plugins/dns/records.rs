//! What records come to: instances, each with an id of its own.

use guest::entries::Entry;

/// What a record of the kind SRV says.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    /// Empty where there is no such service.
    pub target: String,
}

/// The instances that records of the kind SRV name. Their hosts are names, which the gateway resolves by the same
/// servers.
pub fn of_services(services: Vec<Service>) -> Vec<(String, Entry)> {
    let named = services.into_iter().filter(|service| !service.target.is_empty());
    let mut list: Vec<_> = named
        .map(|Service { priority, weight, port, target }| {
            let address = format!("{}:{port}", target.to_ascii_lowercase());
            // Weight 0 is usual, and means a small share and not none.
            let weight = u32::from(weight).max(1);
            (address.clone(), Entry { weight, priority: priority.into(), ..Entry::plain(&address) })
        })
        .collect();
    // They come in any order, and nobody keeps a record from being there twice: the one that comes first is used.
    list.sort_by(|(one, a), (other, b)| (one, a.priority, b.weight).cmp(&(other, b.priority, a.weight)));
    list.dedup_by(|(later, _), (first, _)| later == first);
    list
}

/// The addresses of a name, as they were known last: a family that nobody answers for keeps its own.
#[derive(Default)]
pub struct Addresses {
    v4: Vec<String>,
    v6: Vec<String>,
}

impl Addresses {
    /// Takes in what was answered for each family; none: nothing was.
    pub fn hear(&mut self, v4: Option<Vec<String>>, v6: Option<Vec<String>>) {
        self.v4 = v4.unwrap_or_else(|| std::mem::take(&mut self.v4));
        self.v6 = v6.unwrap_or_else(|| std::mem::take(&mut self.v6));
    }

    /// The instances at this port.
    pub fn at(&self, port: u16, name: &str) -> Vec<(String, Entry)> {
        let v4 = self.v4.iter().map(|ip| format!("{ip}:{port}"));
        let v6 = self.v6.iter().map(|ip| format!("[{ip}]:{port}"));
        let entry = |address: String| {
            let hostname = Some(name.to_owned());
            let entry = Entry { hostname, ..Entry::plain(&address) };
            (address, entry)
        };
        let mut list: Vec<_> = v4.chain(v6).map(entry).collect();
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        list.dedup();
        list
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
        Service { priority, weight, port, target: target.to_owned() }
    }

    #[test]
    fn records_are_instances_with_their_priority_and_weight() {
        let list = of_services(vec![
            service(20, 0, 9003, "b.test"),
            service(10, 60, 9001, "A.test"),
            // That there is no such service.
            service(0, 0, 0, ""),
        ]);
        let entry = |address: &str, priority, weight| {
            (address.to_owned(), Entry { priority, weight, ..Entry::plain(address) })
        };
        assert_eq!(list, [entry("a.test:9001", 10, 60), entry("b.test:9003", 20, 1)]);
    }

    #[test]
    fn the_same_place_twice_is_one_instance_as_it_comes_first() {
        let twice = [service(20, 9, 80, "a"), service(10, 1, 80, "a"), service(10, 7, 80, "A")];
        let list = of_services(twice.to_vec());
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].1.priority, list[0].1.weight), (10, 7));
    }

    #[test]
    fn a_family_that_nobody_answers_for_keeps_its_addresses() {
        let some = |ips: &[&str]| Some(ips.iter().map(ToString::to_string).collect());
        let mut known = Addresses::default();
        let mut heard = |v4, v6| {
            known.hear(v4, v6);
            let list = known.at(80, "db.test");
            assert!(list.iter().all(|(_, entry)| entry.hostname.as_deref() == Some("db.test")));
            list.into_iter().map(|(id, _)| id).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            heard(some(&["10.0.0.2", "10.0.0.1"]), some(&["::1"])),
            "10.0.0.1:80 10.0.0.2:80 [::1]:80"
        );
        assert_eq!(heard(some(&["10.0.0.3"]), None), "10.0.0.3:80 [::1]:80");
        assert_eq!(heard(None, some(&[])), "10.0.0.3:80");
        assert_eq!(heard(some(&[]), some(&[])), "");
    }

    proptest! {
        #[test]
        fn whatever_the_order_the_list_is_the_same(
            mut records in proptest::collection::vec((0u16..3, 0u16..3, 0u16..3, "[abA]?"), 0..20)
        ) {
            let read = |records: &[(u16, u16, u16, String)]| {
                of_services(records.iter().map(|(p, w, port, target)| service(*p, *w, *port, target)).collect())
            };
            let list = read(&records);
            records.reverse();
            prop_assert_eq!(&list, &read(&records));
            prop_assert!(list.iter().is_sorted_by(|(one, _), (other, _)| one < other));
            prop_assert!(list.iter().all(|(_, entry)| entry.weight > 0));
        }
    }
}
