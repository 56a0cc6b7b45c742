//! Ports that stay free while nobody listens on them.
//!
//! A server that is stopped and started again must find its port. Those that the system hands out, to listeners on port 0
//! and to outgoing connections, begin at 32768; these lie below.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

use rand::RngExt;

const RANGE: std::ops::Range<u16> = 20_000..32_000;

static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// An address of this machine on which nobody listens, and which this run gives to nobody else.
///
/// Two runs at once begin at places of their own, so they hardly meet.
pub(crate) fn free_address() -> SocketAddr {
    let mut taken = TAKEN.lock().unwrap();
    for _ in 0..1000 {
        let port = rand::rng().random_range(RANGE);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if !taken.contains(&port) && TcpListener::bind(address).is_ok() {
            taken.insert(port);
            return address;
        }
    }
    panic!("no free port in {RANGE:?}");
}
