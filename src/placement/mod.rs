//! Where replicas and leaders should be, and the steps that get them there. `plan` is pure: a catalog in, the wanted
//! placement out; `reconcile` walks, `remains` clears up behind it, `liveness` finds the dead.

pub mod liveness;
mod membership;
mod operate;
pub mod plan;
pub mod reconcile;
pub mod remains;
mod splits;

pub use self::plan::{LOAD_SLACK_PERCENT, founders, wanted, wanted_leaders};
