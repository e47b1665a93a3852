//! The layout of every key on disk.
