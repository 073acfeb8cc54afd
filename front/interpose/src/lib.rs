//! The process model: which fds are ours.
