//! Datagrams between all hosts, some of each every second: what arrives shows who reaches whom and how long it takes, by
//! the same links that carry everything else. A fault of the network counts only if it shows here.

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

use turmoil::net::UdpSocket;

use super::clocks;

const PORT: u16 = 9;
/// Between two datagrams of one host to one other.
pub(super) const INTERVAL: Duration = Duration::from_millis(40);
const DATAGRAM_BYTES: usize = 16;

/// A host by its place among all that probe.
pub(super) type Place = usize;

/// From one host to another, in order.
pub(super) type Way = (Place, Place);

/// What went over one way.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// When each datagram of the last [`KEPT`] left, and when it arrived.
    sent: std::collections::VecDeque<(Duration, Option<Duration>)>,
    /// Datagrams that are no longer kept.
    forgotten: u64,
}

/// Datagrams kept of each way: more than a minute's.
const KEPT: usize = 2048;

/// Everything that was probed. One for all hosts of a simulation.
#[derive(Clone)]
pub(super) struct Probes {
    names: Rc<Vec<String>>,
    seen: Rc<RefCell<Vec<Seen>>>,
}

/// What was seen of some ways in some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) sent: u64,
    /// Of those, the ones that arrived within that time.
    pub(super) arrived: u64,
    /// The longest way of one that arrived.
    pub(super) slowest: Duration,
}

impl Probes {
    pub(super) fn new(names: Vec<String>) -> Self {
        let ways = names.len() * names.len();
        Self { names: Rc::new(names), seen: Rc::new(RefCell::new(vec![Seen::default(); ways])) }
    }

    fn way(&self, (from, to): Way) -> usize {
        from * self.names.len() + to
    }

    /// Sends and receives for as long as the host of this place lives.
    pub(super) async fn run(self, place: Place) -> turmoil::Result {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).await?;
        let mut ticks = tokio::time::interval(INTERVAL);
        let mut datagram = [0; DATAGRAM_BYTES];
        loop {
            tokio::select! {
                biased;
                received = socket.recv_from(&mut datagram) => {
                    if let Ok((DATAGRAM_BYTES, _)) = received {
                        self.received(place, datagram);
                    }
                }
                _ = ticks.tick() => self.send(place, &socket).await,
            }
        }
    }

    async fn send(&self, place: Place, socket: &UdpSocket) {
        for (to, name) in self.names.iter().enumerate().filter(|(to, _)| *to != place) {
            let number = {
                let seen = &mut self.seen.borrow_mut()[self.way((place, to))];
                seen.sent.push_back((clocks::sim_time(), None));
                if seen.sent.len() > KEPT {
                    seen.sent.pop_front();
                    seen.forgotten += 1;
                }
                seen.forgotten + seen.sent.len() as u64 - 1
            };
            let mut datagram = [0; DATAGRAM_BYTES];
            datagram[..8].copy_from_slice(&(place as u64).to_be_bytes());
            datagram[8..].copy_from_slice(&number.to_be_bytes());
            // A host that is not there yet refuses; that shows as one that did not arrive.
            let _ = socket.send_to(&datagram, (name.as_str(), PORT)).await;
        }
    }

    fn received(&self, to: Place, datagram: [u8; DATAGRAM_BYTES]) {
        let (from, number) = datagram.split_at(8);
        let read = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
        let from = usize::try_from(read(from)).expect("a place");
        let seen = &mut self.seen.borrow_mut()[self.way((from, to))];
        let at = read(number).checked_sub(seen.forgotten).and_then(|at| usize::try_from(at).ok());
        if let Some((_, arrived)) = at.and_then(|at| seen.sent.get_mut(at)) {
            *arrived = Some(clocks::sim_time());
        }
    }

    /// What left at `from` or later and before `to`, and arrived before `to`.
    pub(super) fn tally(&self, ways: &[Way], from: Duration, to: Duration) -> Tally {
        let mut tally = Tally::default();
        let seen = self.seen.borrow();
        for way in ways {
            for (sent, arrived) in &seen[self.way(*way)].sent {
                if *sent < from || *sent >= to {
                    continue;
                }
                tally.sent += 1;
                if let Some(arrived) = arrived.filter(|arrived| *arrived < to) {
                    tally.arrived += 1;
                    tally.slowest = tally.slowest.max(arrived - *sent);
                }
            }
        }
        tally
    }
}
