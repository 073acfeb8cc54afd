//! Workloads and ratios.
