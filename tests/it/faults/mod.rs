//! What must not cost a request, in short: one fault of each kind, with clients that send throughout. `./dev faults`
//! runs all of them.

mod backends;
mod consul;
mod discovery;
mod dns;
mod etcd;
mod eureka;
mod flapping;
mod gateway;
mod kubernetes;
mod mdns;
mod nacos;
mod network;
mod plugin;
mod zookeeper;
