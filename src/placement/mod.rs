//! Where replicas and leaders should be. `plan` is pure: a catalog in, the wanted placement out.

mod plan;

pub use self::plan::{LOAD_SLACK_PERCENT, founders, wanted, wanted_leaders};
