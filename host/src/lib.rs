//! The floor: what ring3 asks of the host.
