//! The process model: which fds are ours.
#![forbid(unsafe_code)]
