//! Keeping an announcement alive.
//!
//! An instance is one key under one lease. When the lease is lost it is announced anew, under a new one. When an
//! operator edits the value, say to `state=inactive`, the edit stays: it is written again when the key must be. An edit
//! may also take the key off its lease, as that of `etcdctl put` does, so that it would outlive the instance; it is put
//! back on.

/// A registry whose keys hang on leases, as much of it as is needed here.
pub trait Registry {
    /// By which keys say what lease they hang on. That of a lease is never the one of keys without.
    type Id: PartialEq;
    type Lease;
    type Failure;

    /// A lease and its id.
    fn grant(&self, ttl_seconds: u32) -> Result<(Self::Id, Self::Lease), Self::Failure>;
    /// The seconds that the lease has now, 0 when it has expired.
    fn keep_alive(&self, lease: &Self::Lease) -> Result<u32, Self::Failure>;
    fn put(&self, lease: &Self::Lease, key: &str, value: &[u8]) -> Result<(), Self::Failure>;
    fn get(&self, lease: &Self::Lease, key: &str) -> Result<Option<Found<Self::Id>>, Self::Failure>;
    fn revoke(&self, lease: &Self::Lease) -> Result<(), Self::Failure>;
}

/// What a key has.
#[derive(Debug, PartialEq)]
pub struct Found<I> {
    pub value: Vec<u8>,
    /// The lease that it hangs on.
    pub on: I,
}

/// An instance that is announced, or will be with the next `renew`.
pub struct Announced<R: Registry> {
    written: Box<Written<R::Id>>,
    ttl_seconds: u32,
    /// What is or was written, by us or by an operator since.
    value: Option<Vec<u8>>,
    held: Option<Held<R>>,
}

/// The key and the value by which clients find the instance, by the id of the lease.
pub type Written<I> = dyn Fn(&I) -> (String, String);

struct Held<R: Registry> {
    id: R::Id,
    lease: R::Lease,
}

/// An announcement that is alive.
#[derive(Debug, PartialEq)]
pub struct Step {
    pub ttl_seconds: u32,
}

impl<R: Registry> Announced<R> {
    pub fn new(ttl_seconds: u32, written: Box<Written<R::Id>>) -> Announced<R> {
        Announced { written, ttl_seconds, value: None, held: None }
    }

    /// Sees to it that the key is there, on a lease that lives.
    pub fn renew(&mut self, registry: &R) -> Result<Step, R::Failure> {
        let alive = match &self.held {
            Some(held) => registry.keep_alive(&held.lease)?,
            None => 0,
        };
        if alive == 0 { self.announce(registry) } else { self.look_after(registry, alive) }
    }

    /// Ends the lease, and the key with it.
    pub fn withdraw(&mut self, registry: &R) -> Result<(), R::Failure> {
        if let Some(held) = &self.held {
            registry.revoke(&held.lease)?;
        }
        // Kept until then: who asks again after a failure means the same lease.
        self.held = None;
        Ok(())
    }

    fn announce(&mut self, registry: &R) -> Result<Step, R::Failure> {
        let ttl_seconds = self.ttl_seconds;
        let (id, lease) = registry.grant(ttl_seconds)?;
        let (key, value) = self.written(&id);
        if let Err(failure) = registry.put(&lease, &key, &value) {
            // The next attempt gets another lease. If this one cannot be given back either, it ends by itself.
            let _ = registry.revoke(&lease);
            return Err(failure);
        }
        self.value = Some(value);
        self.held = Some(Held { id, lease });
        Ok(Step { ttl_seconds })
    }

    fn look_after(&mut self, registry: &R, ttl_seconds: u32) -> Result<Step, R::Failure> {
        let Some(Held { id, lease }) = &self.held else { return Ok(Step { ttl_seconds }) };
        let (key, value) = self.written(id);
        match registry.get(lease, &key)? {
            None => registry.put(lease, &key, &value)?,
            Some(Found { value, on }) => {
                if on != *id {
                    registry.put(lease, &key, &value)?;
                }
                self.value = Some(value);
            }
        }
        Ok(Step { ttl_seconds })
    }

    fn written(&self, lease: &R::Id) -> (String, Vec<u8>) {
        let (key, value) = (self.written)(lease);
        (key, self.value.clone().unwrap_or_else(|| value.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    /// An etcd with nothing but leases and keys.
    #[derive(Default)]
    struct Fake {
        keys: RefCell<BTreeMap<String, (Vec<u8>, i64)>>,
        leases: RefCell<BTreeSet<i64>>,
        granted: RefCell<i64>,
        down: RefCell<bool>,
        read_only: RefCell<bool>,
    }

    impl Fake {
        fn expire(&self, lease: i64) {
            self.leases.borrow_mut().remove(&lease);
            self.keys.borrow_mut().retain(|_, (_, on)| *on != lease);
        }

        fn edit(&self, key: &str, value: &str, lease: i64) {
            self.keys.borrow_mut().insert(key.to_owned(), (value.into(), lease));
        }

        fn content(&self) -> Vec<(String, String, i64)> {
            let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
            self.keys.borrow().iter().map(|(key, (value, on))| (key.clone(), text(value), *on)).collect()
        }

        fn up(&self) -> Result<(), &'static str> {
            if *self.down.borrow() { Err("down") } else { Ok(()) }
        }
    }

    impl Registry for Fake {
        type Id = i64;
        type Lease = i64;
        type Failure = &'static str;

        fn grant(&self, _: u32) -> Result<(i64, i64), &'static str> {
            self.up()?;
            *self.granted.borrow_mut() += 1;
            let id = *self.granted.borrow();
            self.leases.borrow_mut().insert(id);
            Ok((id, id))
        }

        fn keep_alive(&self, lease: &i64) -> Result<u32, &'static str> {
            self.up()?;
            Ok(if self.leases.borrow().contains(lease) { 9 } else { 0 })
        }

        fn put(&self, lease: &i64, key: &str, value: &[u8]) -> Result<(), &'static str> {
            self.up()?;
            if *self.read_only.borrow() {
                return Err("denied");
            }
            assert!(self.leases.borrow().contains(lease));
            self.keys.borrow_mut().insert(key.to_owned(), (value.to_vec(), *lease));
            Ok(())
        }

        fn get(&self, _: &i64, key: &str) -> Result<Option<Found<i64>>, &'static str> {
            self.up()?;
            Ok(self.keys.borrow().get(key).cloned().map(|(value, on)| Found { value, on }))
        }

        fn revoke(&self, lease: &i64) -> Result<(), &'static str> {
            self.up()?;
            self.expire(*lease);
            Ok(())
        }
    }

    const KEY: &str = "/b/svc/tcp@a:1";

    fn announced(written: impl Fn(&i64) -> (String, String) + 'static) -> (Announced<Fake>, Fake) {
        (Announced::new(30, Box::new(written)), Fake::default())
    }

    fn rpcx() -> (Announced<Fake>, Fake) {
        announced(|_| (KEY.to_owned(), "weight=2".to_owned()))
    }

    fn check(etcd: &Fake, key: &str, value: &str, lease: i64) {
        assert_eq!(etcd.content(), [(key.to_owned(), value.to_owned(), lease)]);
    }

    #[test]
    fn a_heartbeat_writes_nothing() {
        let (mut announced, etcd) = rpcx();
        assert_eq!(announced.renew(&etcd), Ok(Step { ttl_seconds: 30 }));
        assert_eq!(announced.renew(&etcd), Ok(Step { ttl_seconds: 9 }));
        check(&etcd, KEY, "weight=2", 1);
    }

    #[test]
    fn a_lost_lease_is_replaced() {
        let (mut announced, etcd) = announced(|lease| (format!("svc/{lease}"), "a:1".to_owned()));
        announced.renew(&etcd).unwrap();
        check(&etcd, "svc/1", "a:1", 1);
        etcd.expire(1);
        announced.renew(&etcd).unwrap();
        check(&etcd, "svc/2", "a:1", 2);
    }

    #[test]
    fn a_deleted_key_is_written_again_on_the_same_lease() {
        let (mut announced, etcd) = rpcx();
        announced.renew(&etcd).unwrap();
        etcd.keys.borrow_mut().clear();
        announced.renew(&etcd).unwrap();
        check(&etcd, KEY, "weight=2", 1);
    }

    #[test]
    fn an_edit_stays_and_outlives_the_lease() {
        let (mut announced, etcd) = rpcx();
        announced.renew(&etcd).unwrap();
        etcd.edit(KEY, "state=inactive", 1);
        announced.renew(&etcd).unwrap();
        check(&etcd, KEY, "state=inactive", 1);
        etcd.expire(1);
        announced.renew(&etcd).unwrap();
        check(&etcd, KEY, "state=inactive", 2);
    }

    #[test]
    fn an_edit_without_a_lease_is_put_back_on_it() {
        let (mut announced, etcd) = rpcx();
        announced.renew(&etcd).unwrap();
        etcd.edit(KEY, "weight=5", 0);
        announced.renew(&etcd).unwrap();
        check(&etcd, KEY, "weight=5", 1);
        announced.withdraw(&etcd).unwrap();
        assert!(etcd.content().is_empty());
    }

    #[test]
    fn an_outage_is_survived() {
        let (mut announced, etcd) = rpcx();
        announced.renew(&etcd).unwrap();
        etcd.down.replace(true);
        assert_eq!(announced.renew(&etcd), Err("down"));
        etcd.down.replace(false);
        etcd.expire(1);
        announced.renew(&etcd).unwrap();
        check(&etcd, KEY, "weight=2", 2);
    }

    #[test]
    fn a_lease_of_a_put_that_failed_is_given_back() {
        let (mut announced, etcd) = rpcx();
        etcd.read_only.replace(true);
        for _ in 0..3 {
            assert_eq!(announced.renew(&etcd), Err("denied"));
            assert!(etcd.leases.borrow().is_empty());
        }
        etcd.read_only.replace(false);
        announced.renew(&etcd).unwrap();
        check(&etcd, KEY, "weight=2", 4);
    }

    #[test]
    fn a_withdrawal_that_failed_can_be_asked_for_again() {
        let (mut announced, etcd) = rpcx();
        announced.renew(&etcd).unwrap();
        etcd.down.replace(true);
        assert_eq!(announced.withdraw(&etcd), Err("down"));
        etcd.down.replace(false);
        assert_eq!(announced.withdraw(&etcd), Ok(()));
        assert!(etcd.content().is_empty() && etcd.leases.borrow().is_empty());
    }

    #[test]
    fn withdrawn_twice_is_no_error() {
        let (mut announced, etcd) = rpcx();
        announced.renew(&etcd).unwrap();
        assert_eq!(announced.withdraw(&etcd), Ok(()));
        assert_eq!(announced.withdraw(&etcd), Ok(()));
        assert!(etcd.content().is_empty());
    }
}
