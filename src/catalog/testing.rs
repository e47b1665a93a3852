//! What tests of other modules make catalogs from.

use super::NodeProfile;
use crate::types::{ProtocolRange, StoreId};

/// A node of default weight without labels.
pub fn profile(store: u128) -> NodeProfile {
    NodeProfile {
        store: StoreId(store),
        http: "http:1".into(),
        peer: "peer:1".into(),
        weight: super::NODE_WEIGHT_DEFAULT,
        zone: String::new(),
        host: String::new(),
        protocol: ProtocolRange { min: 1, max: 1 },
        feature_level_max: 1,
    }
}
