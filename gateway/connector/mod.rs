//! Clients that the host lends to registry plugins: etcd, the embedded registry, files.
#![allow(dead_code)]
pub struct EtcdFeed;
pub struct EtcdLease;
pub struct MemoryFeed;
pub struct FileFeed;
