//! Whole-system tests of Ringraft.
