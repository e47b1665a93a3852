//! What the calls to other nodes measure, by lane: labels are few whatever the size of the cluster.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::Lane;
use crate::meters::{Meters, SHORT_TIMES};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct LaneLabels {
    lane: &'static str,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct PeerMeters {
    round_trips: Family<LaneLabels, Histogram>,
    failed: Family<LaneLabels, Counter>,
}

impl Default for PeerMeters {
    fn default() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(SHORT_TIMES);
        let meters = Self { round_trips: Family::new_with_constructor(histogram), failed: Family::default() };
        // There from the start, so that a rate has something to begin at.
        for lane in Lane::ALL {
            drop(meters.round_trips.get_or_create(&labels(lane)));
            drop(meters.failed.get_or_create(&labels(lane)));
        }
        meters
    }
}

fn labels(lane: Lane) -> LaneLabels {
    let lane = match lane {
        Lane::Control => "control",
        Lane::Data => "data",
        Lane::Bulk => "bulk",
    };
    LaneLabels { lane }
}

impl Meters for PeerMeters {
    fn register(&self, registry: &mut Registry) {
        let help = "Time of a call to another node until its answer is here, with what the other node does for it; on \
                    the control lane that is next to nothing";
        registry.register_with_unit("peer_round_trip", help, Unit::Seconds, self.round_trips.clone());
        let help = "Calls to other nodes without an answer: no connection, a broken one, or none in time";
        registry.register("peer_calls_failed", help, self.failed.clone());
    }
}

impl PeerMeters {
    pub(super) fn answered(&self, lane: Lane, time: Duration) {
        self.round_trips.get_or_create(&labels(lane)).observe(time.as_secs_f64());
    }

    pub(super) fn failed(&self, lane: Lane) {
        self.failed.get_or_create(&labels(lane)).inc();
    }
}
